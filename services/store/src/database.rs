//! The connection pool, and the one place that reads SQLSTATE.

use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Transaction,
};
use talaria_runtime::error::Reason;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};

/// How long one trip to the database may take, waiting for a connection included.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What went wrong between the store and its database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database URL is not valid")]
    Url(#[source] tokio_postgres::Error),
    #[error("building the connection pool")]
    Pool(#[from] deadpool_postgres::BuildError),
    #[error("getting a connection")]
    Connect(#[from] deadpool_postgres::PoolError),
    #[error("the database did not answer within {} s", DEADLINE.as_secs())]
    Deadline,
    #[error("running a statement")]
    Query(#[from] tokio_postgres::Error),
    #[error("applying migrations")]
    Migrate(#[from] refinery::Error),
    /// Our own bug, or a damaged database.
    #[error("{table} of {id} is broken: {reason}")]
    BrokenRow {
        table: &'static str,
        id: uuid::Uuid,
        reason: String,
    },
}

impl Error {
    /// Whether a row that is referred to is not there.
    pub fn is_missing_reference(&self) -> bool {
        match self {
            Self::Query(error) => error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION),
            _ => false,
        }
    }

    /// Whether repeating the same call may succeed: the outcome is unknown, or the database cannot take it now.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Deadline => true,
            Self::Query(error) => is_transient(error),
            Self::Url(_) | Self::Pool(_) | Self::Migrate(_) | Self::BrokenRow { .. } => false,
        }
    }
}

fn is_transient(error: &tokio_postgres::Error) -> bool {
    let Some(state) = error.code() else {
        // No SQLSTATE: the connection broke.
        return true;
    };
    // 08 connection, 53 out of resources, 57P shutdown and restart, 58 system error.
    let classes = ["08", "53", "57P", "58"];
    classes.iter().any(|class| state.code().starts_with(class))
        || [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(state)
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let cause = error_chain(&error);
        if error.is_transient() {
            tracing::warn!(error = cause, "the database is not available");
            Reason::StoreUnavailable.status("The store is not available right now.")
        } else {
            tracing::error!(error = cause, "a statement failed");
            tonic::Status::internal("The store failed.")
        }
    }
}

/// The error and its causes in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Connections to one database.
#[derive(Clone, Debug)]
pub struct Database {
    pool: Pool,
}

impl Database {
    /// Prepares up to `connections` connections; none is opened yet.
    pub fn new(url: &str, connections: usize) -> Result<Self, Error> {
        let mut config: tokio_postgres::Config = url.parse().map_err(Error::Url)?;
        if config.get_application_name().is_none() {
            config.application_name("talaria");
        }
        config.connect_timeout(Duration::from_secs(3));
        config.keepalives_idle(Duration::from_secs(5));
        config.tcp_user_timeout(Duration::from_secs(10));
        // A frozen process must not block others for longer than this. Every statement finds its rows by key, so the
        // plan of an empty table would be wrong for a full one, and planning again each time is wasted.
        let mut options = config.get_options().unwrap_or_default().to_owned();
        options.push_str(
            " -c statement_timeout=5s -c lock_timeout=2s \
              -c idle_in_transaction_session_timeout=5s -c synchronous_commit=on \
              -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off",
        );
        config.options(options.trim());
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
        let pool = Pool::builder(manager)
            .max_size(connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(Duration::from_secs(3)))
            .create_timeout(Some(Duration::from_secs(5)))
            .build()?;
        Ok(Self { pool })
    }

    /// A connection.
    pub async fn connection(&self) -> Result<Object, Error> {
        Ok(self.pool.get().await?)
    }
}

/// Bounds a trip to the database.
pub async fn within_deadline<T>(trip: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(DEADLINE, trip)
        .await
        .unwrap_or(Err(Error::Deadline))
}

/// Runs a read, and once more if its connection turns out to be dead: a restarted database breaks every idle one.
pub async fn read(
    database: &Database,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    within_deadline(async {
        let connection = database.connection().await?;
        match query(&connection, sql, params).await {
            Err(error) if error.is_transient() && connection.is_closed() => {
                drop(connection);
                query(&database.connection().await?, sql, params).await
            }
            answer => answer,
        }
    })
    .await
}

/// Runs a statement that is prepared once per connection.
pub async fn query(
    connection: &Object,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    let statement = connection.prepare_cached(sql).await?;
    Ok(connection.query(&statement, params).await?)
}

/// The same inside a transaction.
pub async fn query_in_tx(
    transaction: &Transaction<'_>,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    let statement = transaction.prepare_cached(sql).await?;
    Ok(transaction.query(&statement, params).await?)
}
