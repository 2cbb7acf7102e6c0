//! What goes wrong, and when: a schedule made from a seed, and how each fault is done.

mod act;

use std::time::Duration;

use serde::Serialize;

use crate::cluster::{Kind, PartId};
use crate::proxy::{Mode, Way};
use crate::random::Random;

pub use self::act::{Done, act};

/// Kinds of faults that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    Kill,
    Freeze,
    Terminate,
    Partition,
    Edge,
    Postgres,
    Backends,
    KillAll,
    Rolling,
}

impl FaultKind {
    /// How often it is chosen, compared with others.
    fn weight(self) -> usize {
        match self {
            Self::Kill => 4,
            Self::Freeze | Self::KillAll | Self::Partition => 2,
            Self::Terminate | Self::Edge | Self::Postgres | Self::Backends | Self::Rolling => 1,
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// SIGKILL, and the process is started again after this time.
    Kill(PartId, Duration),
    /// SIGSTOP, and SIGCONT after this time.
    Freeze(PartId, Duration),
    /// SIGTERM, and the process is started again when it has ended.
    Terminate(PartId),
    /// All of a process's edges, for this time.
    Partition(PartId, Mode, Duration),
    /// The proxy with this place in the list, for this time.
    Edge(usize, Mode, Duration),
    Postgres(PostgresFault),
    /// This many connections are ended by the server.
    Terminations(usize),
    /// SIGSTOP for one of Postgres' processes that serve connections.
    FreezeBackend(Duration),
    /// SIGKILL for all of a kind at once, which start again after this time.
    KillAll(Kind, Duration),
    /// All parts of all kinds are asked to end and start again, one after the other.
    Rolling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresFault {
    /// An orderly restart.
    Fast,
    /// A restart that has to recover.
    Immediate,
    /// SIGKILL for all of its processes, and a pause before it starts again.
    Kill9(Duration),
}

/// A fault and when it begins, counted from the beginning of the faults.
#[derive(Clone, Debug)]
pub struct Planned {
    pub after: Duration,
    pub fault: Fault,
}

/// What there is to break.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    pub parts: &'a [PartId],
    pub edges: usize,
}

/// 2 to 6 faults within `length`, or at most `most`.
pub fn schedule(
    random: &mut Random,
    world: World<'_>,
    kinds: &[FaultKind],
    length: Duration,
    most: u64,
) -> Vec<Planned> {
    let count = random.between(2, 6).min(most);
    let kinds: Vec<FaultKind> = kinds
        .iter()
        .flat_map(|kind| std::iter::repeat_n(*kind, kind.weight()))
        .collect();
    let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let mut planned: Vec<Planned> = (0..count)
        .map(|_| {
            let after = random.millis(0, length_ms * 3 / 4);
            let kind = *random.pick(&kinds);
            let fault = fault(random, world, kind);
            Planned { after, fault }
        })
        .collect();
    planned.sort_by_key(|planned| planned.after);
    planned
}

fn fault(random: &mut Random, world: World<'_>, kind: FaultKind) -> Fault {
    // Most of what there is to see happens in orchestrators.
    let orchestrators: Vec<PartId> = world
        .parts
        .iter()
        .copied()
        .filter(|part| part.kind == Kind::Orchestrator)
        .collect();
    let part = if random.chance(55) {
        *random.pick(&orchestrators)
    } else {
        *random.pick(world.parts)
    };
    match kind {
        FaultKind::Kill => Fault::Kill(part, random.millis(0, 4000)),
        FaultKind::Freeze => {
            let longest = *random.pick(&[500, 3000, 8000, 15_000]);
            Fault::Freeze(part, Duration::from_millis(longest))
        }
        FaultKind::Terminate => Fault::Terminate(part),
        FaultKind::Partition => {
            let way = *random.pick(&[Way::Out, Way::Back, Way::Both, Way::Both]);
            let mode = *random.pick(&[Mode::Cut, Mode::Blackhole(way)]);
            let longest = *random.pick(&[1000, 4000, 12_000]);
            Fault::Partition(part, mode, random.millis(500, longest))
        }
        FaultKind::Edge => {
            let mode = match random.below(6) {
                0 => Mode::Cut,
                1 => Mode::Blackhole(*random.pick(&[Way::Out, Way::Back, Way::Both])),
                2 | 3 => Mode::Delay(random.millis(5, 300)),
                4 => Mode::Slice,
                _ => Mode::CloseAfter(random.between(100, 50_000)),
            };
            Fault::Edge(random.index(world.edges), mode, random.millis(500, 8000))
        }
        FaultKind::Postgres => Fault::Postgres(match random.below(3) {
            0 => PostgresFault::Fast,
            1 => PostgresFault::Immediate,
            _ => PostgresFault::Kill9(random.millis(0, 2000)),
        }),
        FaultKind::Backends => {
            if random.chance(70) {
                Fault::Terminations(random.index(8) + 1)
            } else {
                Fault::FreezeBackend(random.millis(500, 6000))
            }
        }
        FaultKind::KillAll => Fault::KillAll(*random.pick(&Kind::ALL), random.millis(0, 2000)),
        FaultKind::Rolling => Fault::Rolling,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn the_same_seed_breaks_the_same_things() {
        let parts = [
            PartId {
                kind: Kind::Orchestrator,
                index: 0,
            },
            PartId {
                kind: Kind::Store,
                index: 1,
            },
        ];
        let world = World {
            parts: &parts,
            edges: 3,
        };
        let made = |seed| {
            let planned = schedule(
                &mut Random::new(seed),
                world,
                FaultKind::value_variants(),
                Duration::from_secs(15),
                6,
            );
            format!("{planned:?}")
        };

        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
    }
}
