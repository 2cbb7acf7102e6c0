//! Points that are armed by the environment.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use super::Bug;

/// The armed points of this process.
static ARMED: LazyLock<Armed> = LazyLock::new(|| {
    let text = std::env::var("TALARIA_FAILPOINTS").unwrap_or_default();
    Armed::parse(&text)
});
static BUG: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("TALARIA_KNOWN_BUG").ok());

#[derive(Debug, PartialEq, Default)]
struct Armed {
    points: HashMap<String, Vec<Point>>,
    random: Mutex64,
}

/// The state of a small random generator.
#[derive(Debug, Default)]
struct Mutex64(Mutex<u64>);

impl PartialEq for Mutex64 {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Mutex64 {
    fn get(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    /// Cases of 100,000.
    chance: u64,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Crash,
    Sleep(Duration),
    Error,
}

/// Passes a point. True: the caller is to act as if it had failed here.
pub async fn hit(point: &'static str) -> bool {
    match ARMED.choose(point) {
        None => false,
        Some(Action::Crash) => {
            eprintln!("failpoint {point}: the process aborts");
            std::process::abort()
        }
        Some(Action::Sleep(duration)) => {
            eprintln!("failpoint {point}: waits {duration:?}");
            tokio::time::sleep(duration).await;
            false
        }
        Some(Action::Error) => {
            eprintln!("failpoint {point}: fails");
            true
        }
    }
}

/// Whether anything may happen at a point.
pub fn is_armed(point: &str) -> bool {
    ARMED.points.contains_key(point)
}

/// Whether this process has the bug.
pub fn has(bug: Bug) -> bool {
    BUG.as_deref() == Some(bug.name())
}

impl Armed {
    /// Reads what is armed. What cannot be read arms nothing: it is the harness' to write it well.
    fn parse(text: &str) -> Self {
        let mut armed = Self::default();
        for part in text.split(';') {
            let Some((name, value)) = part.split_once('=') else {
                continue;
            };
            if name == "seed" {
                armed.random = Mutex64(Mutex::new(value.parse().unwrap_or_default()));
            } else if let Some(point) = Point::parse(value) {
                armed.points.entry(name.to_owned()).or_default().push(point);
            }
        }
        armed
    }

    fn choose(&self, name: &str) -> Option<Action> {
        let points = self.points.get(name)?;
        let fired = points.iter().find(|point| self.roll() < point.chance)?;
        Some(fired.action)
    }

    /// A number below 100,000.
    fn roll(&self) -> u64 {
        let mut state = self.random.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % 100_000
    }
}

impl Point {
    /// Reads `percent:action`.
    fn parse(text: &str) -> Option<Self> {
        let (percent, action) = text.split_once(':')?;
        let percent: f64 = percent.parse().ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped"
        )]
        let chance = (percent.clamp(0.0, 100.0) * 1000.0) as u64;
        let action = match action.split_once(' ') {
            None if action == "crash" => Action::Crash,
            None if action == "error" => Action::Error,
            Some(("sleep", ms)) => Action::Sleep(Duration::from_millis(ms.parse().ok()?)),
            _ => return None,
        };
        Some(Self { chance, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_from_the_environment() {
        let armed = Armed::parse("seed=7;a=100:error;a=1:crash;b=0.5:sleep 20;c=x:crash;d");

        let point = |chance, action| Point { chance, action };
        let expected = HashMap::from([
            (
                "a".to_owned(),
                vec![point(100_000, Action::Error), point(1000, Action::Crash)],
            ),
            (
                "b".to_owned(),
                vec![point(500, Action::Sleep(Duration::from_millis(20)))],
            ),
        ]);
        assert_eq!((armed.points.clone(), armed.random.get()), (expected, 7));
        assert_eq!(armed.choose("a"), Some(Action::Error));
        assert_eq!(armed.choose("c"), None);
    }
}
