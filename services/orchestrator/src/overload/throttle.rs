//! Which share of new runs is refused, from how late the process is. Decides alone: no clock and no chance in it.
//!
//! PIE (RFC 8033): every 15 ms the share moves by how far the delay is from its target and by whether it grows or
//! falls. Its gains and their table are made for TCP, whose senders slow down when something is lost. Here nobody does,
//! and a share of a half at twice the load has to move as easily as nine tenths at ten times. So what is moved is the
//! *pressure* `x`, of which the admitted share is `exp(-x)`: near its balance a backlog then answers to `x` in the same
//! way whatever the load.
//!
//! A backlog `d` (seconds of work) grows by what is admitted beyond what is done: `d' = load * exp(-x) - 1`, which near
//! the balance is `d' = -dx`. With `x' = ALPHA * (d - target) + BETA * d'` that is an oscillator of the frequency
//! `sqrt(ALPHA)` with the damping `BETA / (2 * sqrt(ALPHA))`. Work shows up to 50 ms after it was admitted, so the
//! frequency must stay well below 20 per second: 8 it is, with a damping of 0.75, and what a step to twice the load needs
//! (`x = 0.7`) is there when the delay has grown for some 60 ms.

use std::time::{Duration, Instant};

/// From one update of the share to the next at least; `T_UPDATE` of the RFC.
const UPDATE: Duration = Duration::from_millis(15);
/// The most time that one update accounts for.
const LONGEST_UPDATE: Duration = Duration::from_millis(60);
/// Pressure for each second of delay beyond the target, in each second.
const ALPHA: f64 = 64.0;
/// Pressure for each second by which the delay grows.
const BETA: f64 = 12.0;
/// For so long nothing is refused when a delay begins: what comes at once is soon done. `MAX_BURST` of the RFC, which has
/// 150 ms.
const BURST: Duration = Duration::from_millis(100);
/// A delay counts as this at most, or as four targets, so that a process that stood still for seconds does not pay for them.
const MOST_DELAY: Duration = Duration::from_millis(100);
/// 99 of 100 are refused.
const MOST_PRESSURE: f64 = 4.6;
/// What is left of the pressure after each update without a delay: half of it after a fifth of a second.
const DECAY: f64 = 0.95;
/// Below this share nothing is refused while there was no delay a moment ago.
const SMALL_SHARE: f64 = 0.2;

/// What a delay counts as at most where `target` is aimed at.
pub fn most_delay(target: Duration) -> Duration {
    MOST_DELAY.max(target.saturating_mul(4))
}

/// The controller. Fed with delays by whoever measures them, and asked about every new run.
#[derive(Debug)]
pub struct Throttle {
    target: f64,
    most_delay: Duration,
    pressure: f64,
    /// Of the last update.
    delay: f64,
    was_late: bool,
    updated: Option<Instant>,
    /// Delays since then: their sum in seconds, and how many.
    sum: f64,
    count: u32,
    burst_left: Duration,
    /// The part of a refusal that was not made yet.
    owed: f64,
}

impl Throttle {
    /// A throttle that holds delays at about `target`, which is not zero.
    pub fn new(target: Duration) -> Self {
        Self {
            target: target.as_secs_f64(),
            most_delay: most_delay(target),
            pressure: 0.0,
            delay: 0.0,
            was_late: false,
            updated: None,
            sum: 0.0,
            count: 0,
            burst_left: BURST,
            owed: 0.0,
        }
    }

    /// Takes in how late the process was at `now`. Times only go forward.
    pub fn observe(&mut self, now: Instant, delay: Duration) {
        self.sum += delay.min(self.most_delay).as_secs_f64();
        self.count += 1;
        let Some(updated) = self.updated else {
            self.updated = Some(now);
            return;
        };
        let passed = now.saturating_duration_since(updated);
        if passed >= UPDATE {
            let delay = self.sum / f64::from(self.count);
            (self.sum, self.count) = (0.0, 0);
            self.updated = Some(now);
            self.update(delay, passed.min(LONGEST_UPDATE));
        }
    }

    /// Whether a new run may begin. Every refusal that the share asks for is made, at even distances.
    pub fn admit(&mut self) -> bool {
        if !self.burst_left.is_zero() || (!self.was_late && self.share() < SMALL_SHARE) {
            return true;
        }
        self.owed += self.share();
        let refused = self.owed >= 1.0;
        if refused {
            self.owed -= 1.0;
        }
        !refused
    }

    /// The share of new runs that is refused, from 0 to 0.99.
    pub fn share(&self) -> f64 {
        1.0 - (-self.pressure).exp()
    }

    /// How late the process is, smoothed over a few observations, and no more than counts.
    pub fn delay(&self) -> Duration {
        Duration::from_secs_f64(self.delay)
    }

    fn update(&mut self, delay: f64, passed: Duration) {
        let trend = delay - self.delay;
        self.pressure += ALPHA * (delay - self.target) * passed.as_secs_f64() + BETA * trend;
        let is_late = delay >= self.target / 2.0;
        let is_calm = !is_late && !self.was_late;
        if is_calm {
            self.pressure *= DECAY;
        }
        self.pressure = self.pressure.clamp(0.0, MOST_PRESSURE);
        if self.pressure > 0.0 || !is_calm {
            self.burst_left = self.burst_left.saturating_sub(passed);
        } else {
            self.burst_left = BURST;
            self.owed = 0.0;
        }
        self.delay = delay;
        self.was_late = is_late;
    }
}

#[cfg(test)]
mod tests;
