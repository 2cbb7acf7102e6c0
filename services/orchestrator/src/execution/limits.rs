//! How far a run may go: what its agent allows and what its request asks for, whichever is less.

use std::time::Duration;

use serde_json::Value;
use talaria_domain::model::Object;
use talaria_domain::run::{Limits, Run};
use tokio::time::{Instant, sleep_until};

use super::Execution;

impl Execution {
    pub(super) fn limits(&self) -> Limits {
        let asked = |name: &str| self.parameters.get(name).and_then(Value::as_u64);
        let max_tool_calls =
            asked("max_tool_calls").map(|calls| u32::try_from(calls).unwrap_or(u32::MAX));
        Limits {
            max_steps: self.agent.max_steps,
            max_tool_calls: lesser(max_tool_calls, self.agent.max_tool_calls),
            max_total_tokens: self.agent.max_total_tokens,
            max_output_tokens: asked("max_output_tokens"),
        }
    }

    /// How long the run may go on: its time counts on in whatever process executes it.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let max_run = self.agent.max_run?;
        let snapshot = self.run.snapshot();
        let created_ms = snapshot.base().created_at.saturating_mul(1000);
        let now_ms = u64::try_from((self.now)().saturating_sub(created_ms)).unwrap_or(0);
        let spent = Duration::from_millis(snapshot.spent_ms(now_ms));
        Some(max_run.saturating_sub(spent))
    }
}

/// Returns when this much time is over; never if it is not limited.
pub(super) async fn over(time_left: Option<Duration>) {
    match time_left.and_then(|left| Instant::now().checked_add(left)) {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Lets the model call write no more than the calls before it left.
pub(super) fn pass_on_rest(run: &Run, parameters: &mut Object) {
    if let Some(left) = run.output_tokens_left() {
        parameters.insert("max_output_tokens".to_owned(), left.into());
    }
}

fn lesser<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lesser_of_two_limits_holds() {
        assert_eq!(lesser(Some(1), Some(2)), Some(1));
        assert_eq!(lesser(Some(1), None), Some(1));
        assert_eq!(lesser::<u32>(None, None), None);
    }
}
