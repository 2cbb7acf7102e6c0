//! Tool calls as they grow, delta by delta.

use serde_json::{Value, json};
use talaria_domain::model::{Field, ItemKey, ModelEvent, Object};

use crate::upstreams::lenient;

/// The key of the first tool call; those below belong to the reasoning and the message.
pub const FIRST_KEY: u64 = 2;

/// The tool calls of one model call, in the order in which they began.
#[derive(Debug)]
pub struct ToolCalls {
    calls: Vec<ToolCall>,
    /// Sets apart the ids made here from those made in earlier calls of the same run.
    turn: usize,
}

#[derive(Debug, Default)]
struct ToolCall {
    index: Option<u64>,
    id: String,
    name: String,
    /// Arguments that came before the name.
    waiting: String,
    opened: bool,
    has_arguments: bool,
}

impl ToolCalls {
    pub fn new(turn: usize) -> Self {
        Self {
            calls: Vec::new(),
            turn,
        }
    }

    /// Takes one element of `tool_calls`.
    pub fn push(&mut self, mut delta: Object, events: &mut Vec<ModelEvent>) {
        let mut function = lenient::take_object(&mut delta, "function").unwrap_or_default();
        let index = delta.get("index").and_then(Value::as_u64);
        let id = lenient::take_text(&mut delta, "id").unwrap_or_default();
        self.push_function(index, id, &mut function, events);
    }

    /// Takes what a delta says about the function of a call.
    pub fn push_function(
        &mut self,
        index: Option<u64>,
        id: String,
        function: &mut Object,
        events: &mut Vec<ModelEvent>,
    ) {
        let name = lenient::take_text(function, "name").unwrap_or_default();
        let arguments = lenient::take_text(function, "arguments").unwrap_or_default();
        let position = self.position(index, &id, &name);
        let call = &mut self.calls[position];
        if call.id.is_empty() {
            call.id = id;
        }
        // The item is announced with its name, so it waits until no more of the name comes.
        let name_goes_on = call.take_name(&name);
        call.waiting.push_str(&arguments);
        if !call.waiting.is_empty() && !call.name.is_empty() && (!name_goes_on || name.is_empty()) {
            self.flush(position, events);
        }
    }

    /// Announces what is still held back; a call without arguments has the empty object. A call
    /// without a name is left out, since nobody can run it; false if there are no others.
    pub fn finish(&mut self, events: &mut Vec<ModelEvent>) -> bool {
        for position in 0..self.calls.len() {
            let call = &mut self.calls[position];
            if call.name.is_empty() {
                continue;
            }
            if !call.has_arguments && call.waiting.trim().is_empty() {
                call.waiting.push_str("{}");
            }
            self.flush(position, events);
        }
        self.calls.is_empty() || self.calls.iter().any(|call| !call.name.is_empty())
    }

    /// The call that a delta belongs to, made if it is new.
    ///
    /// Some upstreams give no index, or the same one to every call; then another id with a name is another call.
    fn position(&mut self, index: Option<u64>, id: &str, name: &str) -> usize {
        let found = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None if !id.is_empty() => self.calls.iter().rposition(|call| call.id == id),
            None => self.calls.len().checked_sub(1),
        };
        if let Some(position) = found {
            let call = &self.calls[position];
            let other_id = !id.is_empty() && !call.id.is_empty() && call.id != id;
            let other_name = index.is_none() && id.is_empty() && call.has_arguments;
            if name.is_empty() || !(other_id || other_name && call.name != name) {
                return position;
            }
        }
        self.calls.push(ToolCall {
            index,
            ..ToolCall::default()
        });
        self.calls.len() - 1
    }

    fn flush(&mut self, position: usize, events: &mut Vec<ModelEvent>) {
        // Calls stand in the output in the order in which they began, also those without arguments so far.
        for earlier in 0..position {
            if !self.calls[earlier].name.is_empty() {
                self.open(earlier, events);
            }
        }
        self.open(position, events);
        let call = &mut self.calls[position];
        let delta = std::mem::take(&mut call.waiting);
        if !delta.is_empty() {
            call.has_arguments = true;
            let (key, field) = (key(position), Field::Arguments);
            events.push(ModelEvent::Delta {
                key,
                field,
                part: 0,
                delta,
                logprobs: Vec::new(),
            });
        }
    }

    fn open(&mut self, position: usize, events: &mut Vec<ModelEvent>) {
        let call = &mut self.calls[position];
        if call.opened {
            return;
        }
        call.opened = true;
        if call.id.is_empty() {
            call.id = format!("call_{}_{position}", self.turn);
        }
        let item = json!({
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
        });
        let Value::Object(item) = item else {
            unreachable!("it is written as an object")
        };
        let key = key(position);
        events.push(ModelEvent::ItemAdded { key, item });
    }
}

fn key(position: usize) -> ItemKey {
    ItemKey(FIRST_KEY + position as u64)
}

impl ToolCall {
    /// Takes a name that is repeated, repeated and longer, or goes on; returns whether it became another one.
    fn take_name(&mut self, name: &str) -> bool {
        if self.opened || name.is_empty() || self.name == name {
            return false;
        }
        let begins = self.name.is_empty();
        if name.starts_with(&self.name) {
            name.clone_into(&mut self.name);
        } else {
            self.name.push_str(name);
        }
        !begins
    }
}
