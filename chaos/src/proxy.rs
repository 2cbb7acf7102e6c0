//! A TCP proxy on one edge between two processes, which can be told to misbehave.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::random::Random;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 16 << 10;
/// How long a listener that cannot be opened again is retried after.
const REOPEN: Duration = Duration::from_millis(10);

/// Where a proxy leads to.
#[derive(Clone, Debug)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What a proxy does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// All connections are reset, and new ones refused.
    Cut,
    /// What is sent this way is held back until another mode is set, as on a network that loses everything.
    Blackhole(Way),
    /// Every piece is this much later.
    Delay(Duration),
    /// Everything comes in pieces of 1 to 7 bytes.
    Slice,
    /// Each connection is reset after this many bytes.
    CloseAfter(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the one that connects.
    Out,
    /// To the one that connects.
    Back,
    Both,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// Whether there is anybody behind: if not, connections are refused as by a machine without the process.
    up: bool,
}

/// A proxy with an address of its own, for as long as it lives.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// Starts a proxy that passes everything.
    pub async fn start(address: SocketAddr, target: Target) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on {address}"))?;
        let state = watch::Sender::new(State {
            mode: Mode::Pass,
            up: true,
        });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, address, target, state.subscribe()));
        Ok(Self {
            address,
            state,
            _task: task,
        })
    }

    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    /// Says whether the process behind it runs.
    pub fn set_up(&self, up: bool) {
        self.state.send_modify(|state| state.up = up);
    }
}

/// Accepts connections while there is somebody to pass them on to.
async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    target: Target,
    mut state: watch::Receiver<State>,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    let mut number = 0;
    loop {
        let current = *state.borrow_and_update();
        let open = current.up && current.mode != Mode::Cut;
        match (&listener, open) {
            (Some(_), false) => listener = None,
            (None, true) => {
                listener = TcpListener::bind(address).await.ok();
                if listener.is_none() {
                    tokio::time::sleep(REOPEN).await;
                    continue;
                }
            }
            (Some(_), true) | (None, false) => {}
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            accepted = accepted(listener.as_ref()) => if let Ok(client) = accepted {
                number += 1;
                connections.spawn(connection(client, target.clone(), state.clone(), number));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accepted(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// Passes one connection on until either side ends it or it is cut.
async fn connection(
    mut client: TcpStream,
    target: Target,
    state: watch::Receiver<State>,
    number: u64,
) {
    let passed = match target {
        Target::Tcp(address) => match TcpStream::connect(address).await {
            Ok(mut server) => {
                let _ = server.set_nodelay(true);
                let passed = pass(&mut client, server.split(), state, number).await;
                if passed.is_err() {
                    let _ = server.set_zero_linger();
                }
                passed
            }
            Err(error) => Err(error),
        },
        Target::Unix(path) => match UnixStream::connect(path).await {
            Ok(mut server) => pass(&mut client, server.split(), state, number).await,
            Err(error) => Err(error),
        },
    };
    if passed.is_err() {
        // A reset rather than an orderly end.
        let _ = client.set_zero_linger();
    }
}

async fn pass(
    client: &mut TcpStream,
    (from_server, to_server): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    state: watch::Receiver<State>,
    number: u64,
) -> io::Result<()> {
    let _ = client.set_nodelay(true);
    let (from_client, to_client) = client.split();
    let passed = Arc::new(AtomicU64::new(0));
    let out = pump(
        from_client,
        to_server,
        Way::Out,
        state.clone(),
        Arc::clone(&passed),
        Random::new(number),
    );
    let back = pump(
        from_server,
        to_client,
        Way::Back,
        state,
        passed,
        Random::new(!number),
    );
    // Each direction ends by itself, since one side may say that it will send no more and still read.
    tokio::try_join!(out, back).map(drop)
}

/// Passes one direction on; an error if the connection is to be reset.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    mut state: watch::Receiver<State>,
    passed: Arc<AtomicU64>,
    mut random: Random,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mode = state.borrow_and_update().mode;
        let held = match mode {
            Mode::Cut => return Err(io::ErrorKind::ConnectionReset.into()),
            Mode::Blackhole(Way::Both) => true,
            Mode::Blackhole(blocked) => blocked == way,
            Mode::Pass | Mode::Delay(_) | Mode::Slice | Mode::CloseAfter(_) => false,
        };
        let count = tokio::select! {
            changed = state.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                continue;
            }
            count = from.read(&mut buffer), if !held => count?,
        };
        if count == 0 {
            return to.shutdown().await;
        }
        let total = passed.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        let piece = &buffer[..count];
        match mode {
            Mode::Delay(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(piece).await?;
            }
            Mode::Slice => {
                let mut rest = piece;
                while !rest.is_empty() {
                    let length = rest.len().min(random.index(7) + 1);
                    to.write_all(&rest[..length]).await?;
                    rest = &rest[length..];
                    tokio::task::yield_now().await;
                }
            }
            Mode::CloseAfter(limit) if total > limit => {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Mode::Pass | Mode::CloseAfter(_) | Mode::Cut | Mode::Blackhole(_) => {
                to.write_all(piece).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use talaria_testkit::deadline::within;

    use super::*;

    async fn echo() -> anyhow::Result<(SocketAddr, JoinSet<()>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut echoes = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                echoes.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Ok((address, task))
    }

    async fn free_address() -> anyhow::Result<SocketAddr> {
        Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
    }

    async fn told(stream: &mut TcpStream, text: &str) -> anyhow::Result<String> {
        within("the echo", async {
            stream.write_all(text.as_bytes()).await?;
            let mut answer = vec![0; text.len()];
            stream.read_exact(&mut answer).await?;
            Ok(String::from_utf8(answer)?)
        })
        .await?
    }

    #[tokio::test]
    async fn everything_arrives_whole_in_whatever_pieces() -> anyhow::Result<()> {
        let (address, _echo) = echo().await?;
        let proxy = Proxy::start(free_address().await?, Target::Tcp(address)).await?;
        let mut stream = TcpStream::connect(proxy.address).await?;

        for mode in [
            Mode::Pass,
            Mode::Slice,
            Mode::Delay(Duration::from_millis(1)),
        ] {
            proxy.set(mode);
            assert_eq!(told(&mut stream, "a sentence").await?, "a sentence");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_cut_resets_and_refuses_until_it_is_mended() -> anyhow::Result<()> {
        let (address, _echo) = echo().await?;
        let proxy = Proxy::start(free_address().await?, Target::Tcp(address)).await?;
        let mut stream = TcpStream::connect(proxy.address).await?;
        assert_eq!(told(&mut stream, "hello").await?, "hello");

        proxy.set(Mode::Cut);
        let read = within("the reset", stream.read(&mut [0; 8])).await?;
        assert_eq!(
            read.map_err(|error| error.kind()),
            Err(io::ErrorKind::ConnectionReset)
        );
        within("a refusal", async {
            while TcpStream::connect(proxy.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await?;

        proxy.set(Mode::Pass);
        let mut stream = within("the proxy to open again", async {
            loop {
                if let Ok(stream) = TcpStream::connect(proxy.address).await {
                    return stream;
                }
                tokio::task::yield_now().await;
            }
        })
        .await?;
        assert_eq!(told(&mut stream, "again").await?, "again");
        Ok(())
    }

    #[tokio::test]
    async fn a_black_hole_gives_back_what_it_held() -> anyhow::Result<()> {
        let (address, _echo) = echo().await?;
        let proxy = Proxy::start(free_address().await?, Target::Tcp(address)).await?;
        let mut stream = TcpStream::connect(proxy.address).await?;
        assert_eq!(told(&mut stream, "hello").await?, "hello");

        proxy.set(Mode::Blackhole(Way::Back));
        stream.write_all(b"held").await?;
        let early = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0; 8])).await;
        assert!(early.is_err(), "{early:?}");

        proxy.set(Mode::Pass);
        let mut answer = [0; 4];
        within("what was held", stream.read_exact(&mut answer)).await??;
        assert_eq!(&answer, b"held");
        Ok(())
    }
}
