use super::*;

/// The default target.
const TARGET: Duration = Duration::from_millis(10);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A process that does one second of work in a second, first come, first served. The work of a run does not come at
/// once, but over `SPREAD`.
struct Plant {
    throttle: Throttle,
    start: Instant,
    millis: u64,
    /// Seconds of work that wait.
    backlog: f64,
    /// What else runs that were admitted will ask for, by millisecond.
    coming: Vec<f64>,
    arrivals: f64,
}

const SPREAD: u32 = 40;
/// Work of a run, in seconds.
const RUN: f64 = 0.001;

/// What happened in a time.
#[derive(Debug, Default)]
struct Seen {
    offered: u32,
    refused: u32,
    longest_ms: f64,
    /// Over all its milliseconds.
    sum_ms: f64,
    millis: u32,
}

impl Plant {
    fn new() -> Self {
        Self::with_target(TARGET)
    }

    fn with_target(target: Duration) -> Self {
        Self {
            throttle: Throttle::new(target),
            start: Instant::now(),
            millis: 0,
            backlog: 0.0,
            coming: vec![0.0; SPREAD as usize],
            arrivals: 0.0,
        }
    }

    /// Offers `load` times what it can do, for so many milliseconds.
    fn offer(&mut self, load: f64, millis: u64) -> Seen {
        let mut seen = Seen::default();
        for _ in 0..millis {
            self.arrivals += load * 0.001 / RUN;
            while self.arrivals >= 1.0 {
                self.arrivals -= 1.0;
                self.ask(&mut seen);
            }
            self.pass(0.001, &mut seen);
        }
        seen
    }

    fn ask(&mut self, seen: &mut Seen) {
        seen.offered += 1;
        if self.throttle.admit() {
            for work in &mut self.coming {
                *work += RUN / f64::from(SPREAD);
            }
        } else {
            seen.refused += 1;
        }
    }

    /// A millisecond in which so many seconds of work are done.
    fn pass(&mut self, work: f64, seen: &mut Seen) {
        self.backlog = (self.backlog + self.coming.remove(0) - work).max(0.0);
        self.coming.push(0.0);
        self.millis += 1;
        let delay = Duration::from_secs_f64(self.backlog);
        // Whoever is late observes late.
        if self.millis.is_multiple_of(5) {
            let now = self.start + ms(self.millis);
            self.throttle.observe(now, delay);
        }
        seen.longest_ms = seen.longest_ms.max(self.backlog * 1000.0);
        seen.sum_ms += self.backlog * 1000.0;
        seen.millis += 1;
    }
}

impl Seen {
    fn refused_share(&self) -> f64 {
        f64::from(self.refused) / f64::from(self.offered)
    }

    fn mean_ms(&self) -> f64 {
        self.sum_ms / f64::from(self.millis)
    }
}

#[test]
fn nothing_is_refused_of_what_can_be_done() {
    let mut plant = Plant::new();
    for load in [0.1, 0.5, 0.9, 0.97] {
        let seen = plant.offer(load, 5_000);
        assert_eq!(seen.refused, 0, "{load}: {}", seen.longest_ms);
    }
}

#[test]
fn of_too_much_as_much_is_refused_as_has_to_be_and_the_delay_stays_at_its_target() {
    for (target_ms, load) in [
        (10, 1.2),
        (10, 2.0),
        (10, 4.0),
        (10, 10.0),
        (5, 10.0),
        (25, 2.0),
        (25, 10.0),
    ] {
        let mut plant = Plant::with_target(ms(target_ms));
        plant.offer(0.5, 1_000);
        plant.offer(load, 2_000);
        let lasts = plant.offer(load, 10_000);

        let needed = 1.0 - 1.0 / load;
        let target = ms(target_ms).as_secs_f64() * 1000.0;
        let (share, mean, longest) = (lasts.refused_share(), lasts.mean_ms(), lasts.longest_ms);
        let what = format!("{target_ms} ms, {load}: {share}, {mean} ms, {longest} ms");
        assert!((share - needed).abs() < 0.01, "{what}");
        assert!((mean - target).abs() < 1.0, "{what}");
        assert!(longest < target + 10.0, "{what}");
    }
}

#[test]
fn a_step_to_twice_the_load_is_answered_within_a_fifth_of_a_second() {
    let mut plant = Plant::new();
    plant.offer(0.5, 1_000);
    let begins = plant.offer(2.0, 200);
    let share = plant.throttle.share();
    assert!((0.4..0.9).contains(&share), "{share}");
    assert!(begins.longest_ms < 150.0, "{}", begins.longest_ms);
}

#[test]
fn when_the_load_ends_everything_is_admitted_within_a_second() {
    for load in [2.0, 10.0] {
        let mut plant = Plant::new();
        plant.offer(load, 5_000);
        plant.offer(0.5, 1_000);
        let after = plant.offer(0.5, 5_000);
        assert_eq!(after.refused, 0, "{load}");
    }
}

#[test]
fn a_crowd_that_comes_at_once_to_an_idle_process_is_admitted() {
    let mut plant = Plant::new();
    plant.offer(0.1, 1_000);
    let mut seen = Seen::default();
    for _ in 0..64 {
        plant.ask(&mut seen);
    }
    let after = plant.offer(0.5, 2_000);
    assert_eq!(seen.refused, 0);
    // Of the thousand that come while the crowd is worked off, and after it.
    assert!(after.refused <= 1, "{}", after.refused);
}

#[test]
fn a_process_that_stood_still_refuses_nothing() {
    let mut plant = Plant::new();
    plant.offer(0.3, 1_000);
    // Only the next observation sees it: it is late by a minute.
    plant.start += Duration::from_mins(1);
    let now = plant.start + ms(plant.millis);
    plant.throttle.observe(now, Duration::from_mins(1));
    let seen = plant.offer(0.3, 1_000);
    assert_eq!(seen.refused, 0);
}

#[test]
fn a_stall_refuses_for_a_moment_at_most() {
    let mut plant = Plant::new();
    plant.offer(0.5, 1_000);
    // Nothing is done for a third of a second, and more comes all the time.
    let mut stalled = Seen::default();
    for n in 0..300 {
        if n % 2 == 0 {
            plant.ask(&mut stalled);
        }
        plant.pass(0.0, &mut stalled);
    }
    plant.offer(0.5, 1_000);
    let after = plant.offer(0.5, 2_000);
    assert_eq!(after.refused, 0);
}

#[test]
fn refusals_are_spread_evenly() {
    let mut throttle = Throttle::new(TARGET);
    throttle.pressure = 4.0_f64.ln();
    throttle.was_late = true;
    throttle.burst_left = Duration::ZERO;

    let admitted: Vec<bool> = (0..12).map(|_| throttle.admit()).collect();

    let at: Vec<usize> = (0..12).filter(|n| admitted[*n]).collect();
    assert_eq!(at, [0, 4, 8]);
}
