//! What stores keep: responses and their events, how long; turns in memory, how many.

use super::sources::Sources;

const DEFAULT_RETENTION_DAYS: u32 = 30;
const DEFAULT_EVENT_RETENTION_HOURS: u32 = 24;
const DEFAULT_TURN_CACHE_MB: u32 = 64;

/// What is forgotten by itself, where 0 stands for never, and what is kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// How many responses one tenant may have; above that, the least recently used go first.
    pub max_responses: u64,
    /// Since the last write.
    pub retention_days: u32,
    /// For exact replay; a later one is rebuilt from the final response.
    pub event_retention_hours: u32,
    /// MB of memory for turns that were continued from lately. 0 for none.
    pub turn_cache_mb: u32,
}

pub fn keeping(sources: &Sources<'_>) -> Keeping {
    let section = sources.file.map(|file| &file.content.store);
    Keeping {
        max_responses: section
            .and_then(|store| store.max_responses)
            .unwrap_or_default(),
        retention_days: section
            .and_then(|store| store.retention_days)
            .unwrap_or(DEFAULT_RETENTION_DAYS),
        event_retention_hours: section
            .and_then(|store| store.event_retention_hours)
            .unwrap_or(DEFAULT_EVENT_RETENTION_HOURS),
        turn_cache_mb: section
            .and_then(|store| store.turn_cache_mb)
            .unwrap_or(DEFAULT_TURN_CACHE_MB),
    }
}
