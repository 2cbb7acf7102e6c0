//! The calls of the client's own tools, as a stream gives them away piece by piece.

use serde_json::{Value, json};

use super::frames::Frames;
use crate::chat::ending::Left;
use crate::chat::parts::{Call, CallKind};

/// The calls that a stream has given away. None of them can be taken back.
#[derive(Debug)]
pub struct ToolCalls {
    is_legacy: bool,
    given: Vec<Given>,
    /// A call was cut off after it was begun: what follows would be taken for a second one.
    is_broken: bool,
}

#[derive(Debug)]
struct Given {
    output_index: u32,
    kind: CallKind,
    /// Bytes of its arguments or input.
    shown: usize,
}

impl ToolCalls {
    /// `is_legacy` for a request with deprecated `functions`, which takes one `function_call`.
    pub fn new(is_legacy: bool) -> Self {
        Self {
            is_legacy,
            given: Vec::new(),
            is_broken: false,
        }
    }

    /// Says that a call begins: its id and name.
    pub fn begin(&mut self, out: &mut String, frames: &Frames, output_index: u32, call: &Call) {
        let is_one_too_many = self.is_legacy && !self.given.is_empty();
        if self.is_broken || is_one_too_many {
            return;
        }
        let nothing_yet = Call {
            text: String::new(),
            ..call.clone()
        };
        let delta = if self.is_legacy {
            json!({"function_call": nothing_yet.to_function_call()})
        } else {
            let mut first = json!({"index": self.given.len()});
            if let (Value::Object(first), Value::Object(call)) = (&mut first, nothing_yet.to_json())
            {
                first.extend(call);
            }
            json!({"tool_calls": [first]})
        };
        frames.delta(out, &delta);
        self.given.push(Given {
            output_index,
            kind: call.kind,
            shown: 0,
        });
    }

    /// Shows more of a call's arguments.
    pub fn delta(&mut self, out: &mut String, frames: &Frames, output_index: u32, text: &str) {
        let Some(index) = self.position(output_index) else {
            return;
        };
        if text.is_empty() {
            return;
        }
        let given = &mut self.given[index];
        given.shown += text.len();
        let (member, text_member) = given.kind.members();
        let delta = if self.is_legacy {
            json!({"function_call": {"arguments": text}})
        } else {
            json!({"tool_calls": [{"index": index, (member): {(text_member): text}}]})
        };
        frames.delta(out, &delta);
    }

    /// Shows what is missing of a call that is whole, or notes that it was cut off.
    pub fn done(
        &mut self,
        out: &mut String,
        frames: &Frames,
        output_index: u32,
        call: &Call,
        is_cut: bool,
    ) {
        if self.position(output_index).is_none() && !is_cut {
            self.begin(out, frames, output_index, call);
        }
        let Some(index) = self.position(output_index) else {
            return;
        };
        if let Some(rest) = call.text.get(self.given[index].shown..) {
            self.delta(out, frames, output_index, rest);
        }
        self.is_broken |= is_cut;
    }

    /// What a completed run leaves to the client.
    pub fn left(&self) -> Left {
        match (self.given.is_empty(), self.is_broken, self.is_legacy) {
            (true, ..) => Left::Nothing,
            (false, true, _) => Left::HalfACall,
            (false, false, true) => Left::FunctionCall,
            (false, false, false) => Left::ToolCalls,
        }
    }

    fn position(&self, output_index: u32) -> Option<usize> {
        let mut given = self.given.iter();
        given.position(|given| given.output_index == output_index)
    }
}
