//! From a response that has ended to the body of a chat completion.

use serde_json::{Value, json};
use talaria_proto::v1::{Response, Status};

use super::chunks::SEPARATOR;
use super::ending::{Ending, FinishReason, Left, Trouble};
use super::parts::{
    Call, ChatUsage, OwnTools, annotation, completion_id, is_cut, part_texts, text,
};

/// The answer to a request that did not stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// The body, and what the headers say of an answer that is not whole.
    Answer {
        body: Value,
        trouble: Option<Trouble>,
    },
    /// The run failed before it said anything.
    Nothing(Trouble),
}

impl Completion {
    /// `is_legacy` for a request with deprecated `functions`.
    pub fn of(response: &Response, is_legacy: bool) -> Self {
        let message = Message::of(response);
        let ending = Ending::of(response, message.left(is_legacy));
        let Ending { finish, trouble } = ending;
        if finish == FinishReason::Error && message.is_empty() {
            return Self::Nothing(trouble.unwrap_or_else(no_trouble));
        }
        let mut body = json!({
            "id": completion_id(response),
            "object": "chat.completion",
            "created": response.created_at,
            "model": response.model,
            "choices": [{
                "index": 0,
                "message": message.to_json(is_legacy),
                "logprobs": message.logprobs(),
                "finish_reason": finish,
            }],
            "usage": ChatUsage::from(response.usage.unwrap_or_default()),
        });
        if let Some(trouble) = &trouble {
            body["hermes"] = json!(trouble);
        }
        Self::Answer { body, trouble }
    }
}

/// Every ending with an error has its trouble; this one says as little as it knows.
fn no_trouble() -> Trouble {
    Trouble {
        completed: false,
        partial: false,
        failed: true,
        error: None,
        error_code: "agent_error",
    }
}

/// The assistant's message, put together from the items of the output.
#[derive(Debug, Default)]
struct Message {
    content: Vec<String>,
    refusal: Vec<String>,
    reasoning: Vec<String>,
    annotations: Vec<Value>,
    logprobs: Vec<Value>,
    calls: Vec<Call>,
    characters: usize,
}

impl Message {
    fn of(response: &Response) -> Self {
        let own = OwnTools::of(response);
        let items: Vec<Value> = response
            .output
            .iter()
            .filter_map(|item| serde_json::from_slice(item).ok())
            .collect();
        let (mut message, mut made_up) = (Self::default(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            let followers = &items[index + 1..];
            match text(item, "type") {
                "message" if !is_said_again(item, followers) => message.push_message(item),
                "reasoning" if !is_said_again(item, followers) => message.push_reasoning(item),
                _ => {}
            }
            if let Some(call) = Call::read(item) {
                // Half a call is only shown where the limit cut it off, as the last thing.
                let is_last_of_cut =
                    followers.is_empty() && response.status() == Status::Incomplete;
                if is_cut(item) && !is_last_of_cut {
                    continue;
                }
                if own.contain(&call.name) {
                    message.calls.push(call);
                } else if !is_answered(&call, followers) {
                    made_up.push(call);
                }
            }
        }
        // The model made a name up: the client is the one who can say so.
        if response.status() == Status::Completed && !own.are_none() {
            message.calls.extend(made_up);
        }
        message
    }

    fn push_message(&mut self, item: &Value) {
        let refusals = part_texts(item, "content", "refusal", "refusal");
        let refusal: String = refusals.map(|(_, text)| text).collect();
        if !refusal.is_empty() {
            self.refusal.push(refusal);
        }
        let mut content = String::new();
        for (part, text) in part_texts(item, "content", "output_text", "text") {
            if content.is_empty() && !text.is_empty() && !self.content.is_empty() {
                self.characters += SEPARATOR.len();
            }
            let part = &item["content"][part];
            let annotations = part["annotations"].as_array().into_iter().flatten();
            let nested = annotations.map(|value| annotation(value, self.characters));
            self.annotations.extend(nested);
            self.logprobs
                .extend(part["logprobs"].as_array().into_iter().flatten().cloned());
            self.characters += text.chars().count();
            content.push_str(text);
        }
        if !content.is_empty() {
            self.content.push(content);
        }
    }

    fn push_reasoning(&mut self, item: &Value) {
        let summaries = part_texts(item, "summary", "summary_text", "text");
        let thoughts = part_texts(item, "content", "reasoning_text", "text");
        let texts = summaries.chain(thoughts).map(|(_, text)| text.to_owned());
        self.reasoning.extend(texts.filter(|text| !text.is_empty()));
    }

    fn is_empty(&self) -> bool {
        self.content.is_empty() && self.refusal.is_empty() && self.calls.is_empty()
    }

    fn left(&self, is_legacy: bool) -> Left {
        match (self.calls.is_empty(), is_legacy) {
            (true, _) => Left::Nothing,
            (false, true) => Left::FunctionCall,
            (false, false) => Left::ToolCalls,
        }
    }

    fn logprobs(&self) -> Value {
        if self.logprobs.is_empty() {
            return Value::Null;
        }
        json!({"content": self.logprobs, "refusal": null})
    }

    fn to_json(&self, is_legacy: bool) -> Value {
        let joined = |texts: &[String]| (!texts.is_empty()).then(|| texts.join(SEPARATOR));
        let says_otherwise = !self.calls.is_empty() || !self.refusal.is_empty();
        let content = joined(&self.content).or((!says_otherwise).then(String::new));
        let mut message = json!({
            "role": "assistant",
            "content": content,
            "refusal": joined(&self.refusal),
            "annotations": self.annotations,
        });
        if let Some(reasoning) = joined(&self.reasoning) {
            message["reasoning_content"] = reasoning.into();
        }
        match self.calls.first() {
            Some(call) if is_legacy => message["function_call"] = call.to_function_call(),
            Some(_) => message["tool_calls"] = self.calls.iter().map(Call::to_json).collect(),
            None => {}
        }
        message
    }
}

/// Whether an item was cut off and a later attempt said it again.
fn is_said_again(item: &Value, followers: &[Value]) -> bool {
    let again = |later: &Value| later["type"] == item["type"];
    is_cut(item) && followers.iter().any(again)
}

fn is_answered(call: &Call, followers: &[Value]) -> bool {
    let mut outputs = followers.iter().filter(|item| {
        let kind = text(item, "type");
        kind == "function_call_output" || kind == "custom_tool_call_output"
    });
    outputs.any(|output| text(output, "call_id") == call.id)
}

#[cfg(test)]
mod tests;
