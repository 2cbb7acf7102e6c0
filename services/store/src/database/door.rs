//! Opening connections: to which host, how many at once, and none while the database is known to be away.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::ClientWrapper;
use tokio::sync::Semaphore;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

/// How long one address may take to answer, and how long a name may take to be resolved.
const ONE_HOST: Duration = Duration::from_secs(3);
/// Connections that are opened at the same time: opening one costs the server a process.
const AT_ONCE: usize = 2;
/// Where Postgres listens if nothing else is said.
const PORT: u16 = 5432;
/// How long after an outage connections are opened with pauses, and the longest of these: everybody comes back then.
const RETURN: Duration = Duration::from_secs(3);
const RETURN_PAUSE: Duration = Duration::from_millis(40);
/// Pauses between looking whether a database is back: the first, and the longest.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Why there is no new connection.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    #[error("the database is away, and was asked a moment ago")]
    Away,
    #[error("the server did not answer within {} s", ONE_HOST.as_secs())]
    Silent,
    #[error("the server is a standby")]
    Standby,
    #[error("resolving the name of a host")]
    Unresolved(#[source] std::io::Error),
    #[error(transparent)]
    Failed(#[from] tokio_postgres::Error),
}

impl NotOpened {
    /// Whether nobody gets a connection at the moment, rather than not this one.
    fn is_outage(&self) -> bool {
        match self {
            Self::Away => false,
            Self::Silent | Self::Standby | Self::Unresolved(_) => true,
            Self::Failed(error) => error
                .code()
                .is_none_or(|state| *state == SqlState::CANNOT_CONNECT_NOW),
        }
    }
}

/// Where connections to one database come from. All that connect to it go through the same.
#[derive(Debug)]
pub struct Door {
    hosts: Hosts,
    opening: Semaphore,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open {
        /// When the last outage ended.
        back: Option<Instant>,
    },
    /// The database did not let anybody in. At `next_look` one may try again, and all others are told so at once.
    Away { failures: u32, next_look: Instant },
}

/// What someone who wants a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Open,
    /// See whether the database is back.
    Look,
}

impl Door {
    /// Opens nothing yet.
    pub fn new(config: &Config) -> Self {
        Self {
            hosts: Hosts::of(config),
            opening: Semaphore::new(AT_ONCE),
            state: Mutex::new(State::Open { back: None }),
        }
    }

    /// A new connection, or at once none where the database is known to be away.
    pub async fn open(&self) -> Result<ClientWrapper, NotOpened> {
        let turn = self.turn()?;
        // The semaphore is never closed.
        let _permit = self.opening.acquire().await.map_err(|_| NotOpened::Away)?;
        if turn == Turn::Open {
            let pause = self.pause()?;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        let opened = self.hosts.open().await;
        self.note(opened.as_ref().err());
        opened.map(|(client, _)| client)
    }

    /// Whether somebody who asks for a connection would be told that the database is away.
    pub fn is_shut(&self) -> bool {
        matches!(*self.state(), State::Away { next_look, .. } if Instant::now() < next_look)
    }

    fn turn(&self) -> Result<Turn, NotOpened> {
        let now = Instant::now();
        match &mut *self.state() {
            State::Open { .. } => Ok(Turn::Open),
            State::Away { next_look, .. } if now < *next_look => Err(NotOpened::Away),
            State::Away { next_look, .. } => {
                // Whoever looks may go away before it has seen anything: then another looks.
                *next_look = now + self.hosts.longest();
                Ok(Turn::Look)
            }
        }
    }

    /// How long to wait before a connection is opened. None is while others found the database to be away.
    fn pause(&self) -> Result<Duration, NotOpened> {
        match *self.state() {
            State::Open { back: Some(back) } if back.elapsed() < RETURN => {
                Ok(RETURN_PAUSE.mul_f64(fastrand::f64()))
            }
            State::Open { .. } => Ok(Duration::ZERO),
            State::Away { .. } => Err(NotOpened::Away),
        }
    }

    fn note(&self, error: Option<&NotOpened>) {
        let mut state = self.state();
        *state = match (*state, error) {
            (State::Away { .. }, None) => {
                tracing::info!("the database is back");
                State::Open {
                    back: Some(Instant::now()),
                }
            }
            (before, Some(error)) if error.is_outage() => {
                let failures = match before {
                    State::Open { .. } => 0,
                    State::Away { failures, .. } => failures + 1,
                };
                if failures == 0 {
                    tracing::warn!(%error, "the database is away");
                }
                let longest = LOOKS.0 * 2_u32.saturating_pow(failures.min(8));
                let pause = longest.min(LOOKS.1).mul_f64(0.5 + fastrand::f64() / 2.0);
                State::Away {
                    failures,
                    next_look: Instant::now() + pause,
                }
            }
            // It answers: what it says is for the one who asked.
            (State::Away { .. }, Some(_)) => State::Open {
                back: Some(Instant::now()),
            },
            (open @ State::Open { .. }, _) => open,
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hosts of a URL.
#[derive(Debug)]
struct Hosts {
    /// One for each.
    configs: Vec<Config>,
    wants_primary: bool,
    /// The one that let somebody in last: it is asked first.
    latest: Mutex<Option<Latest>>,
    /// How many addresses they had when they were last looked up.
    addresses: AtomicU32,
}

/// Where somebody was let in.
#[derive(Clone, Debug)]
struct Latest {
    /// Of the host.
    index: usize,
    /// With its address, if it has one.
    config: Config,
}

impl Hosts {
    fn of(config: &Config) -> Self {
        let hosts = config.get_hosts();
        let ports = config.get_ports();
        let addresses = config.get_hostaddrs();
        let one = |index: usize| {
            let mut one = Config::new();
            copy_session(config, &mut one);
            if let Some(host) = hosts.get(index) {
                match host {
                    Host::Tcp(name) => one.host(name),
                    Host::Unix(path) => one.host_path(path),
                };
            }
            if let Some(address) = addresses.get(index) {
                one.hostaddr(*address);
            }
            if let Some(port) = ports.get(index).or(ports.first()) {
                one.port(*port);
            }
            one
        };
        let count = hosts.len().max(addresses.len()).max(1);
        Self {
            // Where there is none, connecting says so.
            configs: (0..count).map(one).collect(),
            wants_primary: config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite,
            latest: Mutex::new(None),
            addresses: AtomicU32::new(u32::try_from(count).unwrap_or(1)),
        }
    }

    /// How long it takes at most to ask them all.
    fn longest(&self) -> Duration {
        ONE_HOST * self.addresses.load(Ordering::Relaxed)
    }

    /// A connection to the first address that lets one in and, where a primary is wanted, is one; and the way to it.
    async fn open(&self) -> Result<(ClientWrapper, Config), NotOpened> {
        let latest = self.latest().clone();
        let first = latest.as_ref().map_or(0, |latest| latest.index);
        let count = self.configs.len();
        let mut asked = 0;
        let mut error = NotOpened::Silent;
        for index in (0..count).map(|step| (first + step) % count) {
            let mut addresses = match addresses(&self.configs[index]).await {
                Ok(addresses) => addresses,
                Err(unresolved) => {
                    error = unresolved;
                    continue;
                }
            };
            addresses.sort_by_key(|config| latest.as_ref().is_none_or(|it| it.config != *config));
            for config in addresses {
                asked += 1;
                // Boxed, because connecting is a large state machine that would be a part of every caller's.
                let opening = Box::pin(session_open(&config, self.wants_primary));
                match tokio::time::timeout(ONE_HOST, opening).await {
                    Ok(Ok(client)) => {
                        *self.latest() = Some(Latest {
                            index,
                            config: config.clone(),
                        });
                        return Ok((client, config));
                    }
                    Ok(Err(failed)) => error = failed,
                    Err(_) => error = NotOpened::Silent,
                }
            }
        }
        self.addresses.store(asked.max(1), Ordering::Relaxed);
        Err(error)
    }

    fn latest(&self) -> MutexGuard<'_, Option<Latest>> {
        // Nothing panics while it holds the lock.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ways to one host: one for each address of its name.
///
/// Each is asked by itself, because behind one name there may be a machine that is gone, or a standby.
async fn addresses(config: &Config) -> Result<Vec<Config>, NotOpened> {
    let (Some(Host::Tcp(name)), []) = (config.get_hosts().first(), config.get_hostaddrs()) else {
        return Ok(vec![config.clone()]);
    };
    let port = config.get_ports().first().copied().unwrap_or(PORT);
    let lookup = tokio::net::lookup_host((name.as_str(), port));
    let found = tokio::time::timeout(ONE_HOST, lookup).await;
    let found = found
        .map_err(|_| NotOpened::Silent)?
        .map_err(NotOpened::Unresolved)?;
    let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let mut seen = HashSet::new();
    found.retain(|address| seen.insert(*address));
    Ok(found
        .into_iter()
        .map(|address| {
            let mut one = config.clone();
            one.hostaddr(address);
            one
        })
        .collect())
}

/// The configuration of the one host that lets somebody in now, for whoever connects by itself.
pub async fn host_that_answers(config: &Config) -> Result<Config, NotOpened> {
    let (_, answering) = Hosts::of(config).open().await?;
    Ok(answering)
}

/// Copies all but the hosts, and what is asked of them.
fn copy_session(from: &Config, to: &mut Config) {
    if let Some(user) = from.get_user() {
        to.user(user);
    }
    if let Some(password) = from.get_password() {
        to.password(password);
    }
    if let Some(name) = from.get_dbname() {
        to.dbname(name);
    }
    if let Some(options) = from.get_options() {
        to.options(options);
    }
    if let Some(name) = from.get_application_name() {
        to.application_name(name);
    }
    if let Some(timeout) = from.get_connect_timeout() {
        to.connect_timeout(*timeout);
    }
    if let Some(timeout) = from.get_tcp_user_timeout() {
        to.tcp_user_timeout(*timeout);
    }
    to.keepalives(from.get_keepalives());
    to.keepalives_idle(from.get_keepalives_idle());
    if let Some(interval) = from.get_keepalives_interval() {
        to.keepalives_interval(interval);
    }
    if let Some(retries) = from.get_keepalives_retries() {
        to.keepalives_retries(retries);
    }
    to.ssl_mode(from.get_ssl_mode());
    to.ssl_negotiation(from.get_ssl_negotiation());
    to.channel_binding(from.get_channel_binding());
    to.load_balance_hosts(from.get_load_balance_hosts());
}

/// Settings that not every server has: `transaction_timeout` came with version 17, and watching for clients that are
/// gone needs Linux. Asked in the same trip: whether the server is a standby.
const BEGIN: &str = "
    SELECT pg_is_in_recovery(),
           CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL
               THEN set_config('transaction_timeout', '10s', false) END,
           CASE WHEN version() LIKE '%linux%'
               THEN set_config('client_connection_check_interval', '2s', false) END";

async fn session_open(config: &Config, wants_primary: bool) -> Result<ClientWrapper, NotOpened> {
    let (client, connection) = config.connect(NoTls).await?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the client ends the task of its connection when it is dropped"
    )]
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database broke");
        }
    });
    let client = ClientWrapper::new(client, driver);
    let answer = client.simple_query(BEGIN).await?;
    if wants_primary && says_true(&answer) {
        return Err(NotOpened::Standby);
    }
    Ok(client)
}

/// Whether a connection still leads to a server, and to one that may take writes if that is wanted.
pub async fn session_check(client: &ClientWrapper) -> bool {
    let answer = client.simple_query("SELECT pg_is_in_recovery()").await;
    answer.is_ok_and(|answer| !says_true(&answer))
}

fn says_true(answer: &[SimpleQueryMessage]) -> bool {
    answer
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_of_a_url_has_its_port_and_the_rest_is_theirs_in_common() {
        let url = "postgres://ada:geheim@one,two:7/db?target_session_attrs=read-write\
                   &options=-c%20work_mem%3D1MB&tcp_user_timeout=9";
        let config: Config = url.parse().unwrap();

        let hosts = Hosts::of(&config);

        let alone = |host: &str| -> Config {
            let rest = "?options=-c%20work_mem%3D1MB&tcp_user_timeout=9";
            format!("postgres://ada:geheim@{host}/db{rest}")
                .parse()
                .unwrap()
        };
        assert_eq!(hosts.configs, [alone("one:5432"), alone("two:7")]);
        assert!(hosts.wants_primary);
    }

    #[tokio::test]
    async fn each_address_of_a_name_is_a_way_of_its_own() {
        let config = |url: &str| -> Config { url.parse().unwrap() };
        let named = config("postgres://ada@localhost:7/db");
        let mut found = addresses(&named).await.unwrap();

        let local: Config = config("postgres://ada@localhost:7/db?hostaddr=127.0.0.1");
        found.retain(|way| way.get_hostaddrs()[0].is_ipv4());
        assert_eq!(found, std::slice::from_ref(&local));
        assert_eq!(addresses(&local).await.unwrap(), [local]);
        let socket = config("postgres://ada@%2Frun/db");
        assert_eq!(addresses(&socket).await.unwrap(), [socket]);
        let nowhere = addresses(&config("postgres://ada@nowhere.invalid/db")).await;
        assert!(matches!(nowhere, Err(NotOpened::Unresolved(_))));
    }

    #[tokio::test]
    async fn while_the_database_is_away_one_looks_and_the_others_are_told_at_once() {
        // Nobody listens on port 1.
        let door = Door::new(&"postgres://ada@127.0.0.1:1/db".parse().unwrap());

        let first = door.open().await;
        assert!(
            matches!(first, Err(NotOpened::Failed(_))),
            "{:?}",
            first.err()
        );
        assert!(door.is_shut());
        let second = door.open().await;
        assert!(matches!(second, Err(NotOpened::Away)));

        while door.is_shut() {
            tokio::task::yield_now().await;
        }
        assert_eq!(door.turn().ok(), Some(Turn::Look));
        assert!(door.is_shut(), "one looks");
    }
}
