//! What is written down: responses, the event log, turns and conversations, on Postgres.
//!
//! The only part of Talaria that speaks SQL. Every append is one statement that compares and sets, so whoever lost its
//! run changes nothing; what is acknowledged is durable.

mod abandoned;
mod admit;
mod append;
mod approval;
mod cancel;
mod claim;
mod codec;
mod context;
mod conversation;
mod database;
mod delete;
mod events;
mod finish;
mod import;
mod items;
mod keys;
mod lane;
mod lease;
mod line;
mod list;
mod maintenance;
mod migrate;
mod orphans;
mod parse;
mod response;
mod retention;
mod service;
mod touch;
mod whole;

pub use database::Error;
pub use import::{Imported, ImportedConversation, ImportedResponse, Importer};
pub use migrate::{migrate, migrate_to};
pub use retention::Sweep;
pub use service::Store;

/// What a store needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `postgres://…`, Postgres 14 or newer.
    pub database_url: String,
    /// Connections for reading; whatever writes has its own.
    pub read_connections: usize,
    /// Statements of one lane (admissions, appends, ends) that may be in flight at once.
    pub writers_per_lane: usize,
    /// Bytes of memory for chains of turns that were continued from lately, so that they need not be read again. 0 for
    /// none.
    pub turn_cache_bytes: u64,
    /// Ended responses that each tenant may keep: beyond that the least recently used go. 0 for no cap.
    pub max_responses: u64,
    /// Days after its end for which a response is kept. 0 for ever.
    pub retention_days: u32,
    /// Hours after its end for which a response's event log is kept for exact replay. 0 for ever.
    pub event_retention_hours: u32,
}

impl Config {
    pub fn new(database_url: String) -> Self {
        Self {
            database_url,
            read_connections: 16,
            writers_per_lane: 1,
            turn_cache_bytes: 64_000_000,
            max_responses: 0,
            retention_days: 0,
            event_retention_hours: 0,
        }
    }
}
