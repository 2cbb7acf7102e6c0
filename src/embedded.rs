//! A private Postgres for `talaria serve`, so that the first command works with nothing prepared.
//!
//! It belongs to one data directory and to the process that holds its lock, listens on a Unix socket only, and ends
//! with that process however that ends.

mod binaries;
mod cluster;
mod guard;
mod home;
mod leftover;
mod lock;
mod server;
mod socket;
mod user;

use std::fs;
use std::path::Path;

use anyhow::Context;
use tracing::info;

pub use self::guard::{GUARD_COMMAND, GuardArgs, become_postgres};
pub use self::lock::InUse;

use self::home::Home;
use self::lock::Lock;
use self::server::Server;
use self::user::User;

/// A running private Postgres.
///
/// Dropping it without [`Embedded::stop`] leaves the server to end with this process.
pub struct Embedded {
    server: Server,
    database_url: String,
    // Last, so that it is given back only when the server is gone.
    _lock: Lock,
}

impl Embedded {
    /// Starts the Postgres of `data_dir`, made on first use.
    ///
    /// On Linux the server ends when the *thread* that called this ends, so it must be called on the main thread.
    pub async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(data_dir)
            .with_context(|| format!("creating the data directory {}", data_dir.display()))?;
        let data_dir = fs::canonicalize(data_dir)
            .with_context(|| format!("opening the data directory {}", data_dir.display()))?;
        let lock = Lock::take(&data_dir)?;

        let home = Home::find(&data_dir)?;
        let user = User::for_cluster(&home.cluster)?;
        let home = home.reachable_by(&user)?;
        leftover::stop(&home.cluster).await?;

        let made_by = cluster::version(&home.cluster)?;
        let binaries = binaries::find(&home, &user, made_by).await?;
        if made_by.is_none() {
            info!(path = %home.cluster.display(), "creating the private Postgres");
            cluster::create(&home, &user, &binaries).await?;
        }

        let socket_dir = socket::prepare(&home, &user)?;
        let log = data_dir.join("postgres.log");
        let server = Server::start(&home, &user, &binaries, &socket_dir, log).await?;
        Ok(Self {
            server,
            database_url: socket::database_url(&socket_dir),
            _lock: lock,
        })
    }

    /// Where to connect: a URL with a Unix socket as its host.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Waits until the server ends by itself, which it should not, and says why.
    ///
    /// May be dropped and called again.
    pub async fn ended(&mut self) -> anyhow::Error {
        self.server.ended().await
    }

    /// Stops the server: breaks its connections, writes everything down, waits for the end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.server.stop().await
    }
}
