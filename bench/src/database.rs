//! Sessions with the Postgres of a Talaria that was started here.

use std::path::Path;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls};

/// An open session; it ends when this is dropped.
pub struct Session {
    _client: Client,
    /// Does the session's I/O.
    _io: JoinSet<()>,
}

impl Session {
    /// Opens a session through the socket in this directory.
    pub async fn open(socket: &Path) -> anyhow::Result<Self> {
        let (client, connection) = config(socket)
            .connect(NoTls)
            .await
            .context("connecting to Postgres")?;
        let mut io = JoinSet::new();
        // Why it ended is told to whoever uses the client.
        io.spawn(async { drop(connection.await) });
        Ok(Self {
            _client: client,
            _io: io,
        })
    }
}

/// Does some work with a session whose I/O is done by the same task, which saves a wake-up per answer.
pub async fn with_session<T>(
    socket: &Path,
    work: impl AsyncFnOnce(Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (client, connection) = config(socket)
        .connect(NoTls)
        .await
        .context("connecting to Postgres")?;
    // The connection ends when the work drops its client.
    let (result, ended) = tokio::join!(work(client), connection);
    let result = result?;
    ended.context("speaking to Postgres")?;
    Ok(result)
}

fn config(socket: &Path) -> Config {
    let mut config = Config::new();
    config.host_path(socket).user("talaria").dbname("postgres");
    config
}
