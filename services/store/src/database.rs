//! The connections to the database, and trips to it.

mod door;
mod error;
mod pool;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool_postgres::Transaction;
#[cfg(feature = "failpoints")]
use talaria_runtime::failpoint;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Row};

use self::door::Door;
pub use self::door::host_that_answers;
pub use self::error::{Error, error_chain, unavailable};
pub use self::pool::Object;
use self::pool::{GivenUp, Manager, Pool, TRIP, Trust};

/// How long one trip to the database may take, waiting for a connection included.
///
/// A server that works has answered by then: it ends statements after five seconds.
pub const DEADLINE: Duration = Duration::from_secs(8);
/// The same for a read: somebody waits for it, and is told soon that there is no database.
pub const READ: Duration = Duration::from_millis(4500);
/// How long somebody waits for a connection, and how many may.
const WAIT: Duration = Duration::from_secs(3);
const WAITING: usize = 1024;
/// How often a statement is made that others were in the way of, or whose connection broke.
const TRIES: u32 = 3;
/// A trip that was given up before it took this long says nothing about its connection.
const PATIENCE: Duration = Duration::from_millis(250);

/// How one database is reached: all pools of a process share it.
#[derive(Clone, Debug)]
pub struct Server {
    door: Arc<Door>,
    trust: Arc<Trust>,
}

impl Server {
    /// Reads the URL; connects to nothing.
    ///
    /// With several hosts and `target_session_attrs=read-write`, connections go to the one that is no standby.
    pub fn new(url: &str) -> Result<Self, Error> {
        let mut config: Config = url.parse().map_err(Error::Url)?;
        if config.get_application_name().is_none() {
            config.application_name("talaria");
        }
        // Each side notices within ten seconds that the other is gone without a word.
        config.keepalives_idle(Duration::from_secs(5));
        config.keepalives_interval(Duration::from_secs(2));
        config.keepalives_retries(2);
        config.tcp_user_timeout(Duration::from_secs(8));
        // A frozen process must not block others for longer than this. Every statement finds its rows by key, so the
        // plan of an empty table would be wrong for a full one, and planning again each time is wasted.
        let mut options = config.get_options().unwrap_or_default().to_owned();
        options.push_str(
            " -c statement_timeout=5s -c lock_timeout=2s \
              -c idle_in_transaction_session_timeout=3s -c synchronous_commit=on \
              -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=2 \
              -c tcp_user_timeout=8000 \
              -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off",
        );
        config.options(options.trim());
        Ok(Self {
            door: Arc::new(Door::new(&config)),
            trust: Arc::new(Trust::default()),
        })
    }

    /// Prepares up to `connections` connections; none is opened yet.
    pub fn pool(&self, connections: usize) -> Result<Database, Error> {
        let manager = Manager {
            door: self.door.clone(),
            trust: self.trust.clone(),
        };
        let pool = Pool::builder(manager)
            .max_size(connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT))
            .build()?;
        Ok(Database {
            server: self.clone(),
            pool,
        })
    }
}

/// Connections to one database.
#[derive(Clone, Debug)]
pub struct Database {
    server: Server,
    pool: Pool,
}

impl Database {
    /// A connection. Fails at once where the database is known to be away, or too many wait already.
    pub async fn connection(&self) -> Result<Object, Error> {
        let status = self.pool.status();
        if status.waiting >= WAITING {
            return Err(Error::Busy);
        }
        if status.available == 0 && self.server.door.is_shut() {
            return Err(door::NotOpened::Away.into());
        }
        Ok(Object::new(self.pool.get().await?))
    }

    /// Whether nobody gets a new connection at the moment.
    pub fn is_away(&self) -> bool {
        self.server.door.is_shut()
    }

    /// Bounds a trip to the database. One that nobody heard the end of takes its connections out of their pool: they may
    /// lead nowhere, or still be busy.
    pub async fn trip<T>(&self, trip: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.trip_within(DEADLINE, trip).await
    }

    /// The same with a time of its own.
    pub async fn trip_within<T>(
        &self,
        longest: Duration,
        trip: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let given_up = GivenUp::default();
        let mut trip = pin!(TRIP.scope(given_up.clone(), trip));
        // Declared after the trip: if the caller goes away, this is dropped first, and the trip's connections know.
        let mut unheard = Unheard {
            trust: &self.server.trust,
            given_up,
            began: Instant::now(),
            ended: false,
        };
        let in_time = tokio::time::timeout(longest, trip.as_mut()).await;
        let outcome = in_time.unwrap_or_else(|_| {
            unheard.given_up.set();
            Err(Error::Deadline)
        });
        unheard.ended = true;
        if outcome.as_ref().is_err_and(Error::casts_doubt) {
            self.server.trust.doubt();
        }
        outcome
    }
}

/// A trip whose caller may go away before its end.
struct Unheard<'a> {
    trust: &'a Trust,
    given_up: GivenUp,
    began: Instant,
    ended: bool,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        if !self.ended && self.began.elapsed() > PATIENCE {
            self.given_up.set();
            self.trust.doubt();
        }
    }
}

/// How often a write has been tried whose repetition changes nothing.
#[derive(Debug, Default)]
pub struct Tries {
    failed: u32,
    /// An earlier try may have been stored: nobody heard how it ended.
    pub maybe_stored: bool,
}

impl Tries {
    /// Whether to try again after this.
    pub fn go_on(&mut self, error: &Error) -> bool {
        self.failed += 1;
        self.maybe_stored |= error.is_ambiguous();
        self.failed < TRIES && error.is_of_the_moment()
    }
}

/// Runs a read; again if its connection turns out to be dead, since a restarted database breaks every idle one, or if
/// others were in its way.
pub async fn read(
    database: &Database,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    read_within(READ, database, sql, params).await
}

/// The same in a time of its own.
pub async fn read_within(
    longest: Duration,
    database: &Database,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    database
        .trip_within(longest, repeated(database, sql, params))
        .await
}

/// The same for a write that is the same however often it is made.
pub async fn write(
    database: &Database,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    database.trip(repeated(database, sql, params)).await
}

async fn repeated(
    database: &Database,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    let mut tries = Tries::default();
    loop {
        let connection = database.connection().await?;
        match query(&connection, sql, params).await {
            Err(error) if tries.go_on(&error) => {}
            answer => return answer,
        }
    }
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

/// Runs one statement; where the failpoint is armed, in a transaction that passes it before it commits.
pub async fn query_before(
    point: &'static str,
    connection: &mut Object,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    #[cfg(feature = "failpoints")]
    if failpoint::is_armed(point) {
        let transaction = connection.transaction().await?;
        let rows = query_in_tx(&transaction, sql, params).await?;
        if failpoint::hit(point).await {
            return Err(Error::Deadline);
        }
        transaction.commit().await?;
        return Ok(rows);
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = point;
    query(connection, sql, params).await
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

#[cfg(test)]
mod tests;
