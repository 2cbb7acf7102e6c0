//! Turns that were continued from lately, kept in memory.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use talaria_proto::v1::{ContextItem, Turn};
use uuid::Uuid;

/// How long a turn is kept that nobody continues from: so memory is given back, and what was deleted is not held for long.
const IDLE: Duration = Duration::from_mins(10);
/// How long it is kept at most.
const LONGEST: Duration = Duration::from_hours(1);
/// What a turn and each of its items take besides their text, about.
const TURN_BYTES: usize = 256;
const ITEM_BYTES: usize = size_of::<ContextItem>() + 48;
/// A chain that would fill more than this part of the room is read each time: it would drive out many others.
const LARGEST_PART: u64 = 4;

/// A turn with what it continues from.
#[derive(Debug)]
pub struct ReadTurn {
    pub tenant: String,
    pub parent: Option<Uuid>,
    pub turn: Turn,
}

impl ReadTurn {
    /// Bytes of memory that it takes, about.
    fn size_bytes(&self) -> usize {
        let items = self.turn.input.iter().chain(&self.turn.output);
        let items = items.map(|item| ITEM_BYTES + item.item.len() + item.upstream_id.len());
        TURN_BYTES + self.tenant.len() + items.sum::<usize>()
    }
}

/// Turns that were continued from lately, so that the next one that continues from them need not read them again.
///
/// A turn never changes, and is in the database for as long as one that continues from it. So whoever found the turn that
/// a chain ends with there may take those before it from here. Clones share the turns.
#[derive(Clone, Debug)]
pub struct KnownTurns {
    turns: Cache<Uuid, Arc<ReadTurn>>,
    largest_chain: u64,
}

impl KnownTurns {
    /// Room for so many bytes of turns; with 0 none is kept.
    pub fn new(bytes: u64) -> Self {
        let weight =
            |_: &Uuid, turn: &Arc<ReadTurn>| u32::try_from(turn.size_bytes()).unwrap_or(u32::MAX);
        let turns = Cache::builder()
            .weigher(weight)
            .max_capacity(bytes)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(IDLE)
            .time_to_live(LONGEST)
            .build();
        Self {
            turns,
            largest_chain: bytes / LARGEST_PART,
        }
    }

    /// The tenant's turn of this id, if it is known.
    pub fn get(&self, tenant: &str, id: Uuid) -> Option<Arc<ReadTurn>> {
        self.turns.get(&id).filter(|turn| turn.tenant == tenant)
    }

    /// Keeps turns that were read for one chain.
    pub fn keep(&self, read: &[(Uuid, Arc<ReadTurn>)]) {
        let bytes: usize = read.iter().map(|(_, turn)| turn.size_bytes()).sum();
        if bytes as u64 > self.largest_chain {
            return;
        }
        for (id, turn) in read {
            self.turns.insert(*id, Arc::clone(turn));
        }
    }
}
