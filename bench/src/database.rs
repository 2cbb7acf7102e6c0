//! Sessions with the Postgres of a Talaria that was started here.

use std::path::Path;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls};

/// An open session; it ends when this is dropped.
pub struct Session {
    pub client: Client,
    /// Does the session's I/O.
    _io: JoinSet<()>,
}

/// Bytes that were written to the tables, and ahead of them.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Of all tables, with their indexes and what is stored out of line.
    pub tables: i64,
    /// Of these, the event log's.
    pub event_log: i64,
    /// Where the write-ahead log ends.
    pub wal: i64,
}

/// What has been committed, as far as the sessions have told; each does so about once a second.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// Also those that only read.
    pub transactions: i64,
    /// How often the write-ahead log was forced to the disk. Postgres 18 tells it elsewhere.
    pub wal_flushes: Option<i64>,
}

/// How large a database is, and how much it is used.
pub struct Size {
    pub mib: f64,
    pub connections: f64,
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
        Ok(Self { client, _io: io })
    }

    /// Writes all pages out, so that what follows does not pay for what was before.
    pub async fn checkpoint(&self) -> anyhow::Result<()> {
        let done = self.client.batch_execute("CHECKPOINT").await;
        done.context("writing a checkpoint")
    }

    /// How much has been written so far.
    pub async fn written(&self) -> anyhow::Result<Written> {
        const SQL: &str = "
            -- bench_written
            SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint,
                   coalesce(sum(pg_total_relation_size(oid)) FILTER (WHERE relname LIKE 'event_chunk%'), 0)::bigint,
                   (pg_current_wal_insert_lsn() - '0/0')::bigint
            FROM pg_class
            WHERE relkind = 'r'
              AND relnamespace = 'public'::regnamespace";
        let row = self.client.query_one(SQL, &[]).await;
        let row = row.context("reading the sizes of the tables")?;
        Ok(Written {
            tables: row.get(0),
            event_log: row.get(1),
            wal: row.get(2),
        })
    }

    /// How much has been committed so far.
    pub async fn committed(&self) -> anyhow::Result<Committed> {
        const SQL: &str = "
            -- bench_committed
            SELECT (SELECT sum(xact_commit)::bigint FROM pg_stat_database),
                   (SELECT (to_jsonb(w)->>'wal_sync')::bigint FROM pg_stat_wal w)";
        let row = self.client.query_one(SQL, &[]).await;
        let row = row.context("reading what was committed")?;
        Ok(Committed {
            transactions: row.get(0),
            wal_flushes: row.get(1),
        })
    }

    /// How large the database is, and how many connections others have to it.
    pub async fn size(&self) -> anyhow::Result<Size> {
        const SQL: &str = "
            -- bench_size
            SELECT pg_database_size(current_database()),
                   (SELECT count(*)
                    FROM pg_stat_activity
                    WHERE backend_type = 'client backend'
                      AND pid <> pg_backend_pid())";
        let row = self.client.query_one(SQL, &[]).await;
        let row = row.context("reading the size of the database")?;
        Ok(Size {
            mib: counted(row.get(0)) / f64::from(1 << 20),
            connections: counted(row.get(1)),
        })
    }

    /// What Postgres calls its own version.
    pub async fn version(&self) -> anyhow::Result<String> {
        let row = self.client.query_one("SHOW server_version", &[]).await;
        Ok(row.context("asking for Postgres' version")?.get(0))
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

/// A number that Postgres counted, for arithmetic: exact up to some petabytes.
#[expect(
    clippy::cast_precision_loss,
    reason = "no measurement writes petabytes"
)]
pub fn counted(count: i64) -> f64 {
    count as f64
}

fn config(socket: &Path) -> Config {
    let mut config = Config::new();
    config.host_path(socket).user("talaria").dbname("postgres");
    config
}
