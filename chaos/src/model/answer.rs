//! One answer of the model, as the events of the Responses API.

use bytes::Bytes;
use serde_json::{Value, json};
use talaria_testkit::upstream::response_object;
use uuid::Uuid;

use crate::plan::{Place, Plan, Tool, token};

/// The event that has a pause before it.
const DELTA: &str = "response.output_text.delta";

/// What is to be said.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub plan: &'a Plan,
    pub step: usize,
    pub attempt: u32,
    /// Calls to make; without any, this is the last answer.
    pub missing: &'a [(Place, Tool)],
    pub background: bool,
}

/// An answer in pieces, each an event whose number is its place.
#[derive(Debug)]
pub struct Pieces {
    pub id: String,
    pub frames: Vec<Frame>,
}

#[derive(Debug)]
pub struct Frame {
    pub bytes: Bytes,
    /// A pause comes before it.
    pub paced: bool,
}

impl Answer<'_> {
    pub fn pieces(&self) -> Pieces {
        let id = format!("resp_{}", Uuid::now_v7().simple());
        let mut frames = Vec::new();
        let mut emit = |kind: &str, mut data: Value| {
            data["type"] = kind.into();
            data["sequence_number"] = frames.len().into();
            let paced = kind == DELTA;
            let bytes = Bytes::from(format!("event: {kind}\ndata: {data}\n\n"));
            frames.push(Frame { bytes, paced });
        };
        let snapshot = |status: &str, output: &[Value]| {
            let mut response = response_object(&id, status, output);
            response["background"] = self.background.into();
            json!({ "response": response })
        };
        emit("response.created", snapshot("in_progress", &[]));
        emit("response.in_progress", snapshot("in_progress", &[]));
        let mut output = Vec::new();
        output.push(self.message(&mut emit));
        for (place, tool) in self.missing {
            output.push(self.call(output.len(), *place, *tool, &mut emit));
        }
        emit("response.completed", snapshot("completed", &output));
        Pieces { id, frames }
    }

    fn message(&self, emit: &mut impl FnMut(&str, Value)) -> Value {
        let count = self.plan.tokens_of(self.step);
        let item_id = format!("msg_{}", Uuid::now_v7().simple());
        let item = |status: &str, content: Value| json!({ "id": item_id, "type": "message", "status": status, "role": "assistant", "content": content });
        let part = |text: &str| json!({ "type": "output_text", "annotations": [], "logprobs": [], "text": text });
        let place = |name: &str, value: Value| json!({ "item_id": item_id, "output_index": 0, "content_index": 0, "logprobs": [], name: value });
        emit(
            "response.output_item.added",
            json!({ "output_index": 0, "item": item("in_progress", json!([])) }),
        );
        emit("response.content_part.added", place("part", part("")));
        let mut text = String::new();
        for number in 0..count {
            let token = token(&self.plan.run, self.step, self.attempt, number);
            text.push_str(&token);
            emit(DELTA, place("delta", token.into()));
        }
        emit(
            "response.output_text.done",
            place("text", text.clone().into()),
        );
        emit("response.content_part.done", place("part", part(&text)));
        let item = item("completed", json!([part(&text)]));
        emit(
            "response.output_item.done",
            json!({ "output_index": 0, "item": item }),
        );
        item
    }

    fn call(
        &self,
        output_index: usize,
        place: Place,
        tool: Tool,
        emit: &mut impl FnMut(&str, Value),
    ) -> Value {
        let item_id = format!("fc_{}", Uuid::now_v7().simple());
        let call_id = format!(
            "call_{}_{}_{}_{}",
            self.plan.run, place.step, place.call, self.attempt
        );
        let item = |status: &str, arguments: &str| {
            json!({ "id": item_id, "type": "function_call", "status": status, "call_id": call_id,
                "name": tool.name(), "arguments": arguments })
        };
        let field = |name: &str, value: &str| json!({ "item_id": item_id, "output_index": output_index, name: value });
        emit(
            "response.output_item.added",
            json!({ "output_index": output_index, "item": item("in_progress", "") }),
        );
        let arguments = self.plan.arguments(place, self.attempt).to_string();
        let (first, rest) = arguments.split_at(arguments.len() / 2);
        for delta in [first, rest] {
            emit(
                "response.function_call_arguments.delta",
                field("delta", delta),
            );
        }
        emit(
            "response.function_call_arguments.done",
            field("arguments", &arguments),
        );
        let item = item("completed", &arguments);
        emit(
            "response.output_item.done",
            json!({ "output_index": output_index, "item": item }),
        );
        item
    }
}
