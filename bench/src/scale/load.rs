//! Loads on a Talaria of many gateways, of which only what happens in a window counts.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::load::{self, Plan, Request, Sample, Until};
use crate::stage::Talaria;

/// A load, by as many clients at each gateway as at any other.
pub struct Load {
    pub request: Request,
    pub workers: u32,
    pub stagger: Duration,
    pub until: Until,
    /// From the start of the load to that of the window: until everything goes on steadily.
    pub lead: Duration,
    pub window: Duration,
}

/// What a load came to.
pub struct Seen<T> {
    pub samples: Vec<Sample>,
    /// What was to be looked at, when the window began and when it ended.
    pub looks: [T; 2],
    begin: Instant,
    end: Instant,
}

impl Load {
    /// Clients that ask again when they were answered, for somewhat longer than the window.
    pub fn again_and_again(request: Request, workers: u32, window: Duration) -> Self {
        let lead = window / 5;
        Self {
            request,
            workers,
            stagger: Duration::ZERO,
            until: Until::Elapsed(lead + window + lead / 2),
            lead,
            window,
        }
    }

    /// Puts it on all gateways and looks at the beginning and the end of the window.
    pub async fn put_on<T>(
        self,
        talaria: &Talaria,
        look: impl AsyncFn() -> anyhow::Result<T>,
    ) -> anyhow::Result<Seen<T>> {
        let looking = async {
            sleep(self.lead).await;
            let first = look().await?;
            let begin = Instant::now();
            sleep(self.window).await;
            let end = Instant::now();
            Ok(([first, look().await?], begin, end))
        };
        let (samples, (looks, begin, end)) = tokio::try_join!(self.run(talaria), looking)?;
        Ok(Seen {
            samples,
            looks,
            begin,
            end,
        })
    }

    async fn run(&self, talaria: &Talaria) -> anyhow::Result<Vec<Sample>> {
        let addresses = talaria.addresses();
        let gateways = u32::try_from(addresses.len()).context("counting gateways")?;
        let mut loads = JoinSet::new();
        for (address, number) in addresses.into_iter().zip(0..) {
            loads.spawn(load::run(Plan {
                address,
                request: self.request.clone(),
                // The first ones have the rest.
                workers: (self.workers + gateways - 1 - number) / gateways,
                stagger: self.stagger * gateways,
                until: self.until,
            }));
        }
        let mut samples = Vec::new();
        while let Some(ended) = loads.join_next().await {
            samples.extend(ended.context("a load")??.samples);
        }
        Ok(samples)
    }
}

impl<T> Seen<T> {
    /// How many answers fell into the window, those at its edges in parts.
    pub fn answers(&self) -> f64 {
        let share = |sample: &Sample| {
            let from = sample.sent.max(self.begin);
            let to = (sample.sent + sample.whole).min(self.end);
            let inside = to.saturating_duration_since(from).as_secs_f64();
            inside / sample.whole.as_secs_f64().max(1e-9)
        };
        self.samples.iter().map(share).sum()
    }

    /// The length of the window in seconds.
    pub fn seconds(&self) -> f64 {
        (self.end - self.begin).as_secs_f64()
    }
}
