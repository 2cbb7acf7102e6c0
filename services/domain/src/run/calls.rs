//! The loop of model and tools: what comes next, and where it stops.

use super::ledger::{MadeCall, Progress};
use super::{Approvals, End, Outcome, Run, Step, ToolCall, index_u32};

/// The same call in this many steps in a row may be patience; in one more, the model is going round in circles.
const SAME_CALLS: usize = 3;
/// After this many steps in a row with nothing but calls that were refused, the model will not learn.
const REFUSED_STEPS: usize = 3;

impl Run {
    /// What to do next, from the log and how the last model call ended. Answers the calls that must not run.
    pub fn next_step(&mut self) -> Step {
        let is_over = match &self.outcome {
            Some(Outcome::Incomplete { reason }) => {
                return Step::Finish(End::Incomplete {
                    reason: reason.clone(),
                });
            }
            Some(Outcome::Failed(error)) => return Step::Finish(End::Failed(error.clone())),
            Some(Outcome::Completed) => true,
            // The model has not said all yet.
            None if self.link().is_some() => return Step::CallModel,
            None => false,
        };
        let asked = self.settle_approvals();
        let mut calls = self.calls();
        self.refuse_calls(&mut calls);
        if waiting(&calls).next().is_some() {
            return match self.runnable(&calls) {
                Ok(runnable) => Step::RunTools(runnable),
                Err(reason) => self.stop(reason),
            };
        }
        if !asked.is_empty() {
            return match self.server_tools.approvals {
                Approvals::Waits => Step::Wait(asked),
                Approvals::InNextRequest | Approvals::Impossible => Step::Finish(End::Completed),
            };
        }
        let step_start = self.snapshot.step_starts().last().copied().unwrap_or(0);
        let call_start = self.call_start;
        let has_call = |from: usize, ours: bool| {
            let mut calls = calls.iter().rev().take_while(|call| call.index >= from);
            calls.any(|call| call.effect.is_some() == ours)
        };
        let is_answer = if is_over {
            !has_call(call_start, true) && !self.has_asked_since(call_start)
        } else {
            !self.snapshot.is_answered() && self.holds_answer()
        };
        // Asked again, the model would make a client's call a second time.
        if is_answer || has_call(step_start, false) {
            return Step::Finish(End::Completed);
        }
        if self.snapshot.is_answered()
            && let Some(reason) = self.reason_to_stop(&calls)
        {
            return self.stop(reason);
        }
        if let Some(reason) = self.used_up() {
            return self.stop(reason);
        }
        self.outcome = None;
        self.call_start = self.snapshot.items().len();
        Step::CallModel
    }

    /// The calls that may run now; the reason to stop if none may.
    fn runnable(&self, calls: &[MadeCall]) -> Result<Vec<ToolCall>, &'static str> {
        let begun = calls.iter().filter(|call| {
            call.effect.is_some() && call.progress != Progress::Made && !call.refused
        });
        let limit = self.limits.max_tool_calls;
        let mut room = limit.map_or(usize::MAX, |limit| {
            (limit as usize).saturating_sub(begun.count())
        });
        let is_circle = self.is_circle(calls);
        let mut runnable = Vec::new();
        for call in waiting(calls) {
            let repetition = call.progress == Progress::Begun;
            if !repetition {
                if is_circle || room == 0 {
                    continue;
                }
                room -= 1;
            }
            let (Some(effect), Some(arguments)) = (call.effect, call.arguments.clone()) else {
                continue;
            };
            runnable.push(ToolCall {
                output_index: index_u32(call.index),
                call_id: call.call_id.clone(),
                name: call.name.clone(),
                arguments,
                effect,
                repetition,
            });
        }
        match runnable.is_empty() {
            false => Ok(runnable),
            true if is_circle => Err("repeated_calls"),
            true => Err("max_tool_calls"),
        }
    }

    /// Whether a call waits that each of the steps before made as well.
    fn is_circle(&self, calls: &[MadeCall]) -> bool {
        let steps = self.snapshot.step_starts();
        let Some(last) = steps.len().checked_sub(1) else {
            return false;
        };
        let Some(first) = last.checked_sub(SAME_CALLS) else {
            return false;
        };
        let made_in = |step: usize, wanted: &MadeCall| {
            let (from, to) = (steps[step], steps[step + 1]);
            let mut calls = calls.iter().filter(|call| (from..to).contains(&call.index));
            calls.any(|call| call.name == wanted.name && call.arguments == wanted.arguments)
        };
        waiting(calls)
            .filter(|call| call.progress == Progress::Made)
            .any(|call| (first..last).all(|step| made_in(step, call)))
    }

    /// Why the model is not asked again after its calls have their results.
    fn reason_to_stop(&self, calls: &[MadeCall]) -> Option<&'static str> {
        let steps = self.snapshot.step_starts();
        if steps.len() >= self.limits.max_steps as usize {
            return Some("max_steps");
        }
        let mut end = self.snapshot.items().len();
        let mut last = steps.iter().rev().take(REFUSED_STEPS).copied();
        let only_refused = last.all(|from| {
            let step = from..std::mem::replace(&mut end, from);
            let of_step = calls.iter().filter(|call| step.contains(&call.index));
            let mut ours = of_step.filter(|call| call.effect.is_some()).peekable();
            ours.peek().is_some() && ours.all(|call| call.refused || call.arguments.is_none())
        });
        (only_refused && steps.len() >= REFUSED_STEPS).then_some("invalid_tool_calls")
    }

    fn stop(&mut self, reason: &str) -> Step {
        let reason = reason.to_owned();
        self.leave_calls_out();
        self.outcome = Some(Outcome::Incomplete {
            reason: reason.clone(),
        });
        Step::Finish(End::Incomplete { reason })
    }
}

/// The server's calls that have no result.
fn waiting(calls: &[MadeCall]) -> impl Iterator<Item = &MadeCall> {
    calls
        .iter()
        .filter(|call| call.effect.is_some() && call.progress != Progress::Answered)
}
