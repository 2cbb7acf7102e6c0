//! What goes wrong between the store and its database, and the one place that reads SQLSTATE.

use refinery::error::Kind;
use talaria_runtime::error::Reason;
use tokio_postgres::error::SqlState;

use super::door::NotOpened;

/// What went wrong between the store and its database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database URL is not valid")]
    Url(#[source] tokio_postgres::Error),
    #[error("building the connection pool")]
    Pool(#[from] deadpool::managed::BuildError),
    #[error("getting a connection")]
    Connect(#[from] deadpool::managed::PoolError<NotOpened>),
    #[error("connecting")]
    Open(#[from] NotOpened),
    /// More callers wait for a connection than will get one in time.
    #[error("too many callers wait for a connection")]
    Busy,
    #[error("the database did not answer in time")]
    Deadline,
    #[error("running a statement")]
    Query(#[from] tokio_postgres::Error),
    /// A write was committed, and then it could not be read what became of it.
    #[error("reading what became of a write")]
    Unsettled(#[source] Box<Error>),
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
    /// The same for what was asked after a write had been committed.
    #[must_use]
    pub fn after_commit(self) -> Self {
        Self::Unsettled(Box::new(self))
    }

    /// Whether a row that is referred to is not there.
    pub fn is_missing_reference(&self) -> bool {
        self.state() == Some(&SqlState::FOREIGN_KEY_VIOLATION)
    }

    /// Whether repeating the same call may succeed: the outcome is unknown, or the database cannot take it now.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Open(_) | Self::Busy | Self::Deadline => true,
            // Without SQLSTATE the connection broke.
            Self::Query(error) => error.code().is_none_or(is_transient),
            Self::Unsettled(error) => error.is_transient(),
            Self::Url(_) | Self::Pool(_) | Self::Migrate(_) | Self::BrokenRow { .. } => false,
        }
    }

    /// Whether a write that failed so may have been stored all the same: nobody heard how it ended.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Deadline | Self::Unsettled(_) => true,
            Self::Query(error) => error.code().is_none_or(leaves_commit_open),
            Self::Connect(_)
            | Self::Open(_)
            | Self::Busy
            | Self::Url(_)
            | Self::Pool(_)
            | Self::Migrate(_)
            | Self::BrokenRow { .. } => false,
        }
    }

    /// Whether the same statement may succeed at once on another connection, or when those before it are through.
    pub fn is_of_the_moment(&self) -> bool {
        match self {
            Self::Query(error) => error
                .code()
                .is_none_or(|state| leaves_commit_open(state) || is_contention(state)),
            _ => false,
        }
    }

    /// Whether connections are not to be trusted any more: they may lead nowhere, or to a server that only reads.
    pub fn casts_doubt(&self) -> bool {
        match self {
            Self::Deadline => true,
            Self::Query(error) => error.code().is_none_or(|state| {
                leaves_commit_open(state) || *state == SqlState::READ_ONLY_SQL_TRANSACTION
            }),
            Self::Unsettled(error) => error.casts_doubt(),
            _ => false,
        }
    }

    /// Whether others were in the way.
    pub fn is_contention(&self) -> bool {
        self.state().is_some_and(is_contention)
    }

    fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Query(error) => error.code(),
            Self::Migrate(error) => match error.kind() {
                Kind::Connection(_, cause) => cause.downcast_ref::<tokio_postgres::Error>()?.code(),
                _ => None,
            },
            _ => None,
        }
    }
}

fn is_transient(state: &SqlState) -> bool {
    // 08 connection, 25P timeouts between statements, 53 out of resources, 57P shutdown and restart, 58 system error.
    let classes = ["08", "25P", "53", "57P", "58"];
    classes.iter().any(|class| state.code().starts_with(class))
        || is_contention(state)
        || [
            SqlState::QUERY_CANCELED,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(state)
}

/// Whether others were in the way.
fn is_contention(state: &SqlState) -> bool {
    [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ]
    .contains(state)
}

/// Whether a server that said this may have committed before: it, or its connection, was ended.
fn leaves_commit_open(state: &SqlState) -> bool {
    state.code().starts_with("08")
        || state.code().starts_with("57P")
        || *state == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let cause = error_chain(&error);
        if error.is_transient() {
            tracing::warn!(error = cause, "the database is not available");
            unavailable(&error)
        } else {
            tracing::error!(error = cause, "a statement failed");
            tonic::Status::internal("The store failed.")
        }
    }
}

/// What callers are told of a transient error: whether anything may have been stored, and no more.
pub fn unavailable(error: &Error) -> tonic::Status {
    let reason = if error.is_ambiguous() {
        Reason::StoreUnavailable
    } else {
        Reason::StoreRefused
    };
    reason.status("The store is not available right now.")
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
