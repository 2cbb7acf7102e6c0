//! Chains of turns that were continued from lately, kept in memory.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use talaria_proto::v1::{ContextItem, Turn};
use uuid::Uuid;

/// How long a chain is kept that nobody continues from: so memory is given back, and what was deleted is not held for long.
const IDLE: Duration = Duration::from_mins(10);
/// What a chain, a turn and an item take besides their text, about.
const CHAIN_BYTES: usize = 512;
const TURN_BYTES: usize = 512;
const ITEM_BYTES: usize = size_of::<ContextItem>() + 32;
/// A chain that would fill more than this part of the room is read each time: it would drive out many others.
const LARGEST_PART: usize = 4;

/// A turn as it was read.
#[derive(Debug)]
pub struct ReadTurn {
    turn: Turn,
    bytes: usize,
}

impl ReadTurn {
    pub fn new(mut turn: Turn) -> Self {
        turn.input.shrink_to_fit();
        turn.output.shrink_to_fit();
        let items = turn.input.iter().chain(&turn.output);
        let items = items.map(|item| ITEM_BYTES + item.item.len() + item.upstream_id.len());
        let bytes = TURN_BYTES + items.sum::<usize>();
        Self { turn, bytes }
    }
}

/// Turns from the first to one that runs continue from.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    oldest_first: Vec<Arc<ReadTurn>>,
    bytes: usize,
}

impl Turns {
    pub fn push(&mut self, turn: Arc<ReadTurn>) {
        self.bytes += turn.bytes + size_of::<Arc<ReadTurn>>();
        self.oldest_first.push(turn);
    }

    /// All of them, for whoever asked.
    pub fn shown(&self) -> Vec<Turn> {
        let turns = self.oldest_first.iter();
        turns.map(|read| read.turn.clone()).collect()
    }
}

/// Chains that were continued from lately, so that the next one that continues from them need not read them again.
///
/// A turn never changes, and is in the database for as long as one that continues from it. So whoever found a turn there
/// may take it and those before it from here. A chain is known by its last turn; the one that is longer by a turn shares
/// the others with it, but counts as if it did not, so that memory is rather less than the room. Clones share the chains.
#[derive(Clone, Debug)]
pub struct KnownTurns {
    chains: Cache<Uuid, Arc<Known>>,
    largest: usize,
}

#[derive(Debug)]
struct Known {
    tenant: String,
    turns: Turns,
}

impl KnownTurns {
    /// Room for so many bytes; with 0 nothing is kept.
    pub fn new(bytes: u64) -> Self {
        let weight = |_: &Uuid, known: &Arc<Known>| {
            u32::try_from(CHAIN_BYTES + known.turns.bytes).unwrap_or(u32::MAX)
        };
        let chains = Cache::builder()
            .weigher(weight)
            .max_capacity(bytes)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(IDLE)
            .build();
        let largest = usize::try_from(bytes).unwrap_or(usize::MAX) / LARGEST_PART;
        Self { chains, largest }
    }

    /// The tenant's chain that ends with this turn, if it is known.
    pub fn get(&self, tenant: &str, head: Uuid) -> Option<Turns> {
        let known = self.chains.get(&head)?;
        (known.tenant == tenant).then(|| known.turns.clone())
    }

    /// Keeps the tenant's chain that ends with this turn.
    pub fn keep(&self, tenant: &str, head: Uuid, turns: &Turns) {
        if turns.bytes < self.largest {
            let (tenant, turns) = (tenant.to_owned(), turns.clone());
            self.chains.insert(head, Arc::new(Known { tenant, turns }));
        }
    }

    /// Lets go of what has been idle for too long. Otherwise that is done only when something is read or kept.
    pub fn forget_idle(&self) {
        self.chains.run_pending_tasks();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use talaria_runtime::ids;

    use super::*;

    fn turns(count: usize, bytes: usize) -> Turns {
        let mut turns = Turns::default();
        for _ in 0..count {
            let item = ContextItem {
                item: Bytes::from(vec![b' '; bytes]),
                upstream_id: String::new(),
            };
            turns.push(Arc::new(ReadTurn::new(Turn {
                input: vec![item],
                output: Vec::new(),
            })));
        }
        turns
    }

    #[test]
    fn a_chain_is_for_its_tenant_only() {
        let known = KnownTurns::new(100_000);
        let head = ids::new_id();
        known.keep("a", head, &turns(3, 100));

        let found = known.get("a", head).unwrap();
        assert_eq!(found.shown(), turns(3, 100).shown());
        assert!(known.get("b", head).is_none());
        assert!(known.get("a", ids::new_id()).is_none());
    }

    #[test]
    fn there_is_never_more_than_there_is_room_for_and_what_was_used_last_stays() {
        let known = KnownTurns::new(100_000);
        let (first, last) = (ids::new_id(), ids::new_id());
        known.keep("a", first, &turns(1, 1_000));
        for _ in 0..1_000 {
            known.keep("a", ids::new_id(), &turns(2, 5_000));
            assert!(known.get("a", first).is_some());
            known.forget_idle();
        }
        known.keep("a", last, &turns(2, 5_000));
        known.forget_idle();

        assert!(known.chains.weighted_size() <= 100_000);
        assert!(known.chains.entry_count() > 5);
        assert!(known.get("a", first).is_some());
        assert!(known.get("a", last).is_some());
        let large = ids::new_id();
        known.keep("a", large, &turns(5, 5_000));
        assert!(known.get("a", large).is_none(), "more than a quarter");
    }
}
