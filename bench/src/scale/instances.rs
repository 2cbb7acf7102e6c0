//! What a second and a third of each part add, where the part is what everything else waits for.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use super::load::Load;
use super::quota::{self, Quota};
use super::usage::cpu;
use crate::cli::ScaleArgs;
use crate::load::Request;
use crate::points::Points;
use crate::processes::Group;
use crate::report::Rounds;
use crate::stage::{Instances, Part, Shape, Stage, Talaria};

const COUNTS: [u32; 3] = [1, 2, 3];
const RUN_TOKENS: u32 = 20;
const STREAM_TOKENS: u32 = 200;
/// Enough that no instance of a part ever waits for clients.
const WORKERS: u32 = 64;
const WARM_UP: Duration = Duration::from_secs(1);

/// Something that is asked for again and again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Streams,
    Runs,
}

/// What one load came to.
#[derive(Clone, Copy)]
struct Came {
    /// Runs or tokens a second.
    rate: f64,
    /// How much of the CPU time that the part had it used, in per cent.
    used: f64,
}

/// Measures it and returns a table for each part. A load that fails leaves its cells empty, and is told in `failures`.
pub async fn measure(
    args: &ScaleArgs,
    failures: &mut Vec<anyhow::Error>,
) -> anyhow::Result<Vec<Points>> {
    let [limited, free] = quota::cores()?;
    // What is started from here on is where we are, unless it is moved.
    quota::pin_self(free)?;
    let stage = Stage::set(args.common.server.as_deref(), &[]).await?;
    let mut came: BTreeMap<(Part, u32, Asked), Vec<Came>> = BTreeMap::new();
    for round in 0..args.rounds.get() {
        for part in Part::ALL {
            for count in COUNTS {
                let name = part.name();
                eprintln!("round {} of {}: {name} × {count}", round + 1, args.rounds);
                let shape = Shape::Apart(Instances::of(part, count));
                let talaria = stage.start_talaria(shape).await?;
                let limits = Limits {
                    part,
                    count,
                    share: args.share,
                    core: limited,
                    window: args.seconds,
                };
                let quotas = limits.set(&talaria).await?;
                for asked in Asked::ALL {
                    let seen = limits.seen(&talaria, asked).await;
                    match seen.with_context(|| format!("{count} × {name}, {}", asked.name())) {
                        Ok(one) => came.entry((part, count, asked)).or_default().push(one),
                        Err(error) => failures.push(error),
                    }
                }
                // What has to stop soon is not limited any more.
                drop(quotas);
                talaria.stop().await?;
            }
        }
    }
    stage.clear().await?;
    Ok(Part::ALL
        .into_iter()
        .map(|part| points(part, args.share, &came))
        .collect())
}

/// What is limited, and to what.
struct Limits {
    part: Part,
    count: u32,
    /// Of each instance, in per cent of a core.
    share: u32,
    core: usize,
    window: Duration,
}

impl Limits {
    /// Limits the part, once it is warm: whatever is slow at first would be much slower with a small share.
    async fn set(&self, talaria: &Talaria) -> anyhow::Result<Vec<Quota>> {
        let load = Load::again_and_again(Asked::Streams.request(), WORKERS, WARM_UP);
        load.put_on(talaria, async || Ok(())).await?;
        let group = talaria.part(self.part);
        quota::pin(&group, self.core)?;
        self.quotas(&group)
    }

    async fn seen(&self, talaria: &Talaria, asked: Asked) -> anyhow::Result<Came> {
        let load = Load::again_and_again(asked.request(), WORKERS, self.window);
        let seen = load.put_on(talaria, async || cpu(talaria)).await?;
        let [before, after] = &seen.looks;
        let used = after[&self.part].saturating_sub(before[&self.part]);
        let had = seen.seconds() * f64::from(self.share * self.count) / 100.0;
        Ok(Came {
            rate: seen.answers() * asked.counts_for() / seen.seconds(),
            used: used.as_secs_f64() / had * 100.0,
        })
    }

    /// One for each instance; for Postgres, one that is as large as so many.
    fn quotas(&self, group: &Group) -> anyhow::Result<Vec<Quota>> {
        if self.part == Part::Postgres {
            let quota = Quota::new("postgres", self.share, self.count)?;
            quota.hold(group)?;
            return Ok(vec![quota]);
        }
        let held = |&pid: &u32| {
            let quota = Quota::new(&pid.to_string(), self.share, 1)?;
            quota.hold(&Group {
                services: vec![pid],
                postgres: None,
            })?;
            Ok(quota)
        };
        group.services.iter().map(held).collect()
    }
}

impl Asked {
    const ALL: [Self; 2] = [Self::Streams, Self::Runs];

    fn request(self) -> Request {
        match self {
            Self::Runs => Request::run(RUN_TOKENS, true),
            Self::Streams => Request::stream(STREAM_TOKENS, Duration::ZERO, true),
        }
    }

    /// How much one answer counts for.
    fn counts_for(self) -> f64 {
        match self {
            Self::Runs => 1.0,
            Self::Streams => f64::from(STREAM_TOKENS),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Runs => "short runs",
            Self::Streams => "tokens of streams",
        }
    }
}

/// The medians for one part.
fn points(part: Part, share: u32, came: &BTreeMap<(Part, u32, Asked), Vec<Came>>) -> Points {
    let mut points = Points::new(part.name(), part.name(), u64::MAX);
    for count in COUNTS {
        points.begin(count);
        for asked in Asked::ALL {
            let median = |count, figure: fn(&Came) -> f64| {
                let rounds = came.get(&(part, count, asked))?.iter().map(figure);
                Some(Rounds::of(&rounds.collect::<Vec<_>>()).median)
            };
            let Some(rate) = median(count, |came| came.rate) else {
                continue;
            };
            let name = asked.name();
            points.note(name, "1/s", rate);
            if let Some(one) = median(1, |came| came.rate) {
                points.note(format!("{name}, × one"), "", rate / one);
            }
            if let Some(used) = median(count, |came| came.used) {
                points.note(format!("{name}, used of its CPU"), "%", used);
            }
        }
    }
    let what = match part {
        Part::Postgres => "One Postgres with so many times",
        Part::Gateway | Part::Orchestrator | Part::Store => "Each with",
    };
    points.remark(format!(
        "{what} {share} % of a core; everything else with another core to itself."
    ));
    points
}
