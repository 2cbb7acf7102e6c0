//! A proxy before a Postgres server that loses its answers, keeps them back, or goes silent.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream, tcp};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::config::Host;

use crate::deadline::within;

/// Stands between the product and a server that listens on a Unix socket. Ends with all its connections at drop.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    faults: Arc<Faults>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Statements after whose commit the next connections are cut.
    cuts: Mutex<VecDeque<String>>,
    weather: watch::Sender<Weather>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Nothing passes, in either direction.
    frozen: bool,
    /// How late each answer comes.
    delay: Duration,
    /// How many connections were cut.
    cut: usize,
}

impl Proxy {
    /// Listens on a port of its own for the database of `url`.
    pub async fn start(url: &str) -> anyhow::Result<Self> {
        let config: tokio_postgres::Config = url.parse()?;
        let Some(Host::Unix(directory)) = config.get_hosts().first() else {
            bail!("{url} names no Unix socket");
        };
        let socket = directory.join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!(
            "postgres://{}@{}/{}",
            config.get_user().context("no user")?,
            listener.local_addr()?,
            config.get_dbname().context("no database")?
        );
        let faults = Arc::new(Faults::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, socket, Arc::clone(&faults)));
        Ok(Self {
            url,
            faults,
            _tasks: tasks,
        })
    }

    /// Where the product connects to.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Cuts the connection that makes a statement whose SQL contains `statement`, once, when what it wrote is committed
    /// and before anybody hears so.
    pub fn cut_after_commit(&self, statement: &str) {
        self.faults.cuts().push_back(statement.to_owned());
    }

    /// Waits until `count` connections have been cut since the start.
    pub async fn has_cut(&self, count: usize) -> anyhow::Result<()> {
        let mut weather = self.faults.weather.subscribe();
        let cut = weather.wait_for(|weather| weather.cut >= count);
        within("a connection to be cut", cut).await??;
        Ok(())
    }

    /// Lets nothing pass any more, as a cable that was pulled out.
    pub fn freeze(&self) {
        self.faults.weather.send_modify(|it| it.frozen = true);
    }

    /// Lets everything pass again, what was held back first.
    pub fn thaw(&self) {
        self.faults.weather.send_modify(|it| it.frozen = false);
    }

    /// Has each answer come so much later.
    pub fn delay(&self, delay: Duration) {
        self.faults.weather.send_modify(|it| it.delay = delay);
    }
}

impl Faults {
    fn cuts(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the cut that is meant for this statement.
    fn take_cut(&self, sql: &str) -> bool {
        let mut cuts = self.cuts();
        let place = cuts.iter().position(|statement| sql.contains(statement));
        place.and_then(|place| cuts.remove(place)).is_some()
    }

    async fn pass(&self) {
        let mut weather = self.weather.subscribe();
        // The sender is in `self`.
        let _ = weather.wait_for(|weather| !weather.frozen).await;
    }
}

async fn accept(listener: TcpListener, socket: PathBuf, faults: Arc<Faults>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (socket, faults) = (socket.clone(), Arc::clone(&faults));
        connections.spawn(async move {
            faults.pass().await;
            if let Ok(server) = UnixStream::connect(socket).await {
                // What breaks shows on both sides.
                let _ = connect(client, server, &faults).await;
            }
        });
    }
}

async fn connect(client: TcpStream, server: UnixStream, faults: &Faults) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whether the connection is cut at its next commit.
    let (hit, is_hit) = watch::channel(false);
    tokio::select! {
        asked = ask(from_client, to_server, faults, &hit) => asked,
        answered = answer(from_server, to_client, faults, &is_hit) => answered,
    }
}

/// Passes on what the client says, and notices what it is about.
async fn ask(
    mut from: tcp::OwnedReadHalf,
    mut to: OwnedWriteHalf,
    faults: &Faults,
    hit: &watch::Sender<bool>,
) -> std::io::Result<()> {
    // The first message has no type.
    let mut startup = vec![0; 4];
    from.read_exact(&mut startup).await?;
    let length = usize::try_from(u32::from_be_bytes([
        startup[0], startup[1], startup[2], startup[3],
    ]))
    .unwrap_or_default();
    startup.resize(length.max(4), 0);
    from.read_exact(&mut startup[4..]).await?;
    to.write_all(&startup).await?;
    let mut prepared: HashMap<Vec<u8>, String> = HashMap::new();
    loop {
        let message = read_message(&mut from).await?;
        let mut words = message[5..].split(|byte| *byte == 0);
        let (first, second) = (words.next(), words.next());
        match message[0] {
            b'P' => {
                let sql = String::from_utf8_lossy(second.unwrap_or_default()).into_owned();
                prepared.insert(first.unwrap_or_default().to_vec(), sql);
            }
            b'B' => {
                let sql = prepared.get(second.unwrap_or_default());
                if sql.is_some_and(|sql| faults.take_cut(sql)) {
                    hit.send_replace(true);
                }
            }
            _ => {}
        }
        faults.pass().await;
        to.write_all(&message).await?;
    }
}

/// Passes on what the server says, whole answers at a time; not the one that says that what hit was committed.
async fn answer(
    mut from: OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    faults: &Faults,
    is_hit: &watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut answer = Vec::new();
    loop {
        let message = read_message(&mut from).await?;
        answer.extend_from_slice(&message);
        let is_ready = message[0] == b'Z';
        if is_ready && message.last() == Some(&b'I') && *is_hit.borrow() {
            faults.weather.send_modify(|weather| weather.cut += 1);
            return Ok(());
        }
        // Authentication waits for an answer that is no whole one.
        if is_ready || message[0] == b'R' {
            let delay = faults.weather.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            faults.pass().await;
            to.write_all(&answer).await?;
            answer.clear();
        }
    }
}

async fn read_message(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message).await?;
    let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]);
    let length = usize::try_from(length).unwrap_or_default().max(4);
    message.resize(1 + length, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}
