//! What is written down: responses, the event log, turns and conversations, on Postgres.
//!
//! The only part of Talaria that speaks SQL. Every append is one statement that compares and sets, so whoever lost its
//! run changes nothing; what is acknowledged is durable.

mod admit;
mod append;
mod codec;
mod context;
mod database;
mod delete;
mod events;
mod finish;
mod lane;
mod lease;
mod maintenance;
mod migrate;
mod response;
mod service;

pub use database::Error;
pub use migrate::migrate;
pub use service::Store;

/// What a store needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `postgres://…`, Postgres 14 or newer.
    pub database_url: String,
    /// Connections for reading and for single writes; the write lanes have their own.
    pub read_connections: usize,
    /// Statements of one lane (admissions, appends, ends) that may be in flight at once.
    pub writers_per_lane: usize,
}

impl Config {
    pub fn new(database_url: String) -> Self {
        Self {
            database_url,
            read_connections: 16,
            writers_per_lane: 1,
        }
    }
}
