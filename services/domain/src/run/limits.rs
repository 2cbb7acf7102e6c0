//! How far a run may go: the tokens and the time of all its model calls together.

use super::ledger::Progress;
use super::{End, Run, ToolResult};

const MAX_TOTAL_TOKENS: &str = "max_total_tokens";
const MAX_OUTPUT_TOKENS: &str = "max_output_tokens";
const MAX_RUN_SECONDS: &str = "max_run_seconds";

const TIME_IS_UP: &str =
    "The time of this run was up before the tool ended. It may or may not have taken effect.";

impl Run {
    /// Ends the calls that run, because the run's time is up, and says how the run ends.
    pub fn time_is_up(&mut self) -> End {
        for call in self.calls() {
            if call.effect.is_some() && call.progress == Progress::Begun && !call.refused {
                let result = ToolResult::error(TIME_IS_UP);
                self.record_end(call.index, &call.call_id, result);
            }
        }
        End::Incomplete {
            reason: MAX_RUN_SECONDS.to_owned(),
        }
    }

    /// How many tokens the model may still write, if that is limited. What broken calls used is not known.
    pub fn output_tokens_left(&self) -> Option<u64> {
        let written = self.usage.map_or(0, |usage| usage.output_tokens);
        let limit = self.limits.max_output_tokens?;
        Some(limit.saturating_sub(written))
    }

    /// Why the model cannot be asked again: nothing is left of its tokens.
    pub(super) fn used_up(&self) -> Option<&'static str> {
        let used = self.usage?;
        let is_reached = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used >= limit);
        if is_reached(self.limits.max_total_tokens, used.total_tokens) {
            return Some(MAX_TOTAL_TOKENS);
        }
        is_reached(self.limits.max_output_tokens, used.output_tokens).then_some(MAX_OUTPUT_TOKENS)
    }
}
