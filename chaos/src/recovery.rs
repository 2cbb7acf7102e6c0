//! How long runs stood still after each fault.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cluster::{Kind, PartId};
use crate::nemesis::{Done, Fault, PostgresFault};
use crate::sampler::{Moment, Samples};

/// Longer ones are counted as this: the run had other troubles.
const LONGEST: Duration = Duration::from_mins(1);

/// What runs waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    Kill,
    Freeze,
    Partition,
    Drain,
    Postgres,
}

impl Cause {
    pub const ALL: [Self; 5] = [
        Self::Kill,
        Self::Freeze,
        Self::Partition,
        Self::Drain,
        Self::Postgres,
    ];
}

/// How long one run waited for its next event.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Wait {
    pub cause: Cause,
    pub seconds: f64,
    /// Nothing else was broken meanwhile.
    pub alone: bool,
}

/// The waits of all runs that each fault met. `address` says where an orchestrator is reached.
pub fn waits(done: &[Done], samples: &Samples, address: impl Fn(PartId) -> String) -> Vec<Wait> {
    let mut waits = Vec::new();
    for (place, fault) in done.iter().enumerate() {
        let Some((cause, victims)) = victims(&fault.fault) else {
            continue;
        };
        let addresses: Vec<String> = victims.into_iter().map(&address).collect();
        for moments in samples.runs.values() {
            // Postgres answers for all; its runs are met when it is back.
            let from = if cause == Cause::Postgres {
                fault.to
            } else {
                fault.from
            };
            let Some(met) = before(moments, from) else {
                continue;
            };
            let owner = met.owner.and_then(|owner| samples.addresses.get(&owner));
            let is_victim = owner.is_some_and(|owner| addresses.contains(owner));
            if !met.is_active() || !(is_victim || cause == Cause::Postgres && met.owner.is_some()) {
                continue;
            }
            let Some(waited) = waited(cause, moments, met, from) else {
                continue;
            };
            let until = from + waited;
            let alone = done.iter().enumerate().all(|(other, broken)| {
                other == place || broken.from > until || broken.to + Duration::from_secs(3) < from
            });
            waits.push(Wait {
                cause,
                seconds: waited.min(LONGEST).as_secs_f64(),
                alone,
            });
        }
    }
    waits
}

fn victims(fault: &Fault) -> Option<(Cause, Vec<PartId>)> {
    let orchestrator = |id: &PartId| id.kind == Kind::Orchestrator;
    let (cause, id) = match fault {
        Fault::Kill(id, _) => (Cause::Kill, id),
        Fault::Freeze(id, length) if *length >= Duration::from_secs(12) => (Cause::Freeze, id),
        Fault::Partition(id, ..) => (Cause::Partition, id),
        Fault::Terminate(id) => (Cause::Drain, id),
        Fault::Postgres(PostgresFault::Kill9(_) | PostgresFault::Immediate) => {
            return Some((Cause::Postgres, Vec::new()));
        }
        Fault::Freeze(..)
        | Fault::Edge(..)
        | Fault::Postgres(PostgresFault::Fast)
        | Fault::Terminations(_)
        | Fault::FreezeBackend(_)
        | Fault::KillAll(..)
        | Fault::Rolling => return None,
    };
    orchestrator(id).then(|| (cause, vec![*id]))
}

/// The run as it was last seen before `at`.
fn before(moments: &[Moment], at: Instant) -> Option<Moment> {
    let earlier = moments.iter().rev();
    earlier.copied().find(|moment| moment.at <= at)
}

/// How long after `from` the run went on.
fn waited(cause: Cause, moments: &[Moment], met: Moment, from: Instant) -> Option<Duration> {
    let mut later = moments.iter().filter(|moment| moment.at > from);
    match cause {
        // What was written just before is seen just after; only a new owner's writes count.
        Cause::Kill | Cause::Freeze => {
            let claimed_at_seq = later
                .clone()
                .take_while(|moment| moment.epoch == met.epoch)
                .last()
                .map_or(met.next_seq, |moment| moment.next_seq);
            later
                .find(|moment| moment.epoch > met.epoch && moment.next_seq > claimed_at_seq)
                .map(|moment| moment.at - from)
        }
        // The old owner goes on for a while; what counts is the pause between the two.
        Cause::Drain => {
            let last = later
                .clone()
                .take_while(|moment| moment.epoch == met.epoch && moment.is_active())
                .last()
                .copied()
                .unwrap_or(met);
            let next =
                later.find(|moment| moment.epoch > met.epoch && moment.next_seq > last.next_seq)?;
            Some(next.at - last.at.max(from))
        }
        Cause::Partition | Cause::Postgres => later
            .find(|moment| {
                moment.next_seq > met.next_seq && moment.at > from + Duration::from_millis(150)
            })
            .map(|moment| moment.at - from),
    }
}

/// Middle, 99th percentile and longest of some waits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Sums up waits; none if there are none.
pub fn summary(mut seconds: Vec<f64>) -> Option<Summary> {
    seconds.sort_by(f64::total_cmp);
    let at = |percent: usize| seconds[(seconds.len() * percent / 100).min(seconds.len() - 1)];
    (!seconds.is_empty()).then(|| Summary {
        count: seconds.len(),
        p50: at(50),
        p99: at(99),
        max: at(100),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_summed_up() {
        let seconds = (1..=200).rev().map(f64::from).collect();

        let summed = summary(seconds).expect("there are some");

        assert_eq!((summed.count, summed.max), (200, 200.0));
        assert_eq!((summed.p50, summed.p99), (101.0, 199.0));
        assert_eq!(summary(Vec::new()), None);
    }
}
