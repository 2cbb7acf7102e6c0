//! Calls that the server answers without running them, so that the model can do better.

use super::ledger::{MadeCall, Progress};
use super::{Effect, Run, ToolCall, ToolResult};
use crate::marker::Marker;

const UNREADABLE: &str = "The arguments are not a JSON object. The tool was not called.";
const NOT_ALLOWED: &str = "The request's tool_choice does not allow this tool. It was not called.";
const ONE_AT_A_TIME: &str = "Only one call at a time is allowed: parallel_tool_calls is false. The tool was not called; \
                             make this call alone, in a step of its own.";
/// For what was refused by rules that are no longer known.
const REFUSED: &str = "The call was refused. The tool was not called.";

impl Run {
    /// Records that a call is not run, and why, for the model to read. It counts as one that was not made well.
    pub fn tool_refused(&mut self, call: &ToolCall, why: impl Into<String>) {
        self.record_refusal(call.output_index as usize, &call.call_id, false, why.into());
    }

    /// Whether a tool of the server's was run, or began to.
    pub fn has_run_tools(&self) -> bool {
        self.calls().iter().any(has_run)
    }

    /// Answers the calls that must not run.
    pub(super) fn refuse_calls(&mut self, calls: &mut [MadeCall]) {
        for at in 0..calls.len() {
            let Some(why) = self.why_not(calls, at) else {
                continue;
            };
            let call = &mut calls[at];
            let is_open = call.progress == Progress::Begun;
            (call.progress, call.refused) = (Progress::Answered, true);
            let (index, call_id) = (call.index, call.call_id.clone());
            self.record_refusal(index, &call_id, is_open, why);
        }
    }

    /// Why a call of the server's must not run.
    fn why_not(&self, calls: &[MadeCall], at: usize) -> Option<String> {
        let call = &calls[at];
        call.effect?;
        let is_unreadable = call.arguments.is_none();
        match call.progress {
            Progress::Answered => return None,
            // It was let through when it began.
            Progress::Begun if !call.refused && !is_unreadable => return None,
            Progress::Begun | Progress::Made => {}
        }
        if is_unreadable {
            return Some(UNREADABLE.to_owned());
        }
        let why = self
            .against_the_rules(calls, at)
            .or_else(|| self.refusal_for_want_of_a_person(&call.name, &call.call_id));
        if let Some(why) = why {
            return Some(why.to_owned());
        }
        let tools = &self.server_tools.tools;
        if !tools.is_empty() && !tools.contains_key(&call.name) {
            return Some(format!("There is no tool named \"{}\".", call.name));
        }
        call.refused.then(|| REFUSED.to_owned())
    }

    /// Which rule of the request a call breaks. What a person agreed to breaks none.
    fn against_the_rules(&self, calls: &[MadeCall], at: usize) -> Option<&'static str> {
        let call = &calls[at];
        if self.agreed_server(&call.call_id).is_some() {
            return None;
        }
        let step_start = self.step_start_of(call.index);
        let has_run = calls[..at]
            .iter()
            .any(|earlier| earlier.index < step_start && has_run(earlier));
        let is_first = calls[..at]
            .last()
            .is_none_or(|call| call.index < step_start);
        if !self.rules.allow(&call.name, &self.server_tools, has_run) {
            return Some(NOT_ALLOWED);
        }
        (self.rules.one_at_a_time && !is_first).then_some(ONE_AT_A_TIME)
    }

    /// Where the step begins in which the item at `index` was said.
    fn step_start_of(&self, index: usize) -> usize {
        let starts = self.snapshot.step_starts().iter().rev().copied();
        starts
            .into_iter()
            .find(|start| *start <= index)
            .unwrap_or(0)
    }

    /// `is_open`: a process died after it had begun to write this.
    fn record_refusal(&mut self, index: usize, call_id: &str, is_open: bool, why: String) {
        let result = ToolResult::error(why);
        if self.mcp_call_at(index).is_some() {
            // It never begins.
            return self.mcp_call_ended(index, result);
        }
        if !is_open {
            let marker = Marker {
                refused: true,
                ..Marker::of(Effect::Pure)
            };
            self.open_output(call_id, &marker);
        }
        self.record_end(index, call_id, result);
    }
}

/// Whether the server ran the call, or began to.
fn has_run(call: &MadeCall) -> bool {
    call.effect.is_some()
        && call.progress != Progress::Made
        && !call.refused
        && call.arguments.is_some()
}
