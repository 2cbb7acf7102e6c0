//! The frames of a completion's stream: one chunk each, all with the same head.

use serde::Serialize;
use serde_json::Value;
use talaria_domain::json::push_string;
use talaria_proto::v1::{Response, Usage};

use crate::chat::ending::{Ending, FinishReason, Trouble};
use crate::chat::parts::{ChatUsage, completion_id};

/// Where the tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageFrame {
    /// On the finish chunk, as Hermes does.
    WithFinish,
    /// In a chunk of its own with no choices, as `stream_options.include_usage` asks for.
    OfItsOwn,
}

/// Writes the chunks of one completion.
#[derive(Debug)]
pub struct Frames {
    /// Everything before the choices.
    head: String,
    usage: UsageFrame,
}

/// The `error` of a finish chunk.
#[derive(Serialize)]
struct StreamError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

impl Frames {
    pub fn new(response: &Response, usage: UsageFrame) -> Self {
        let mut head = String::from("data: {\"id\":");
        push_string(&mut head, &completion_id(response));
        head.push_str(",\"object\":\"chat.completion.chunk\",\"created\":");
        head.push_str(&response.created_at.to_string());
        head.push_str(",\"model\":");
        push_string(&mut head, &response.model);
        Self { head, usage }
    }

    /// A chunk with one text: `content`, `refusal` or `reasoning_content`. `logprobs` is a JSON array or empty.
    pub fn text(&self, frames: &mut String, member: &str, text: &str, logprobs: &[u8]) {
        let mut delta = String::with_capacity(text.len() + 16);
        delta.push('{');
        push_string(&mut delta, member);
        delta.push(':');
        push_string(&mut delta, text);
        delta.push('}');
        self.open(frames, &delta);
        match std::str::from_utf8(logprobs) {
            Ok(tokens) if !tokens.is_empty() => {
                frames.push_str(",\"logprobs\":{\"content\":");
                frames.push_str(tokens);
                frames.push_str(",\"refusal\":null}");
            }
            _ => frames.push_str(",\"logprobs\":null"),
        }
        frames.push_str(",\"finish_reason\":null}]");
        self.close(frames);
    }

    /// A chunk with any other delta.
    pub fn delta(&self, frames: &mut String, delta: &Value) {
        self.open(frames, &delta.to_string());
        frames.push_str(",\"logprobs\":null,\"finish_reason\":null}]");
        self.close(frames);
    }

    /// The finish chunk, the usage and `[DONE]`.
    pub fn end(&self, frames: &mut String, ending: &Ending, usage: Usage) {
        let usage = json(&ChatUsage::from(usage));
        self.open(frames, "{}");
        frames.push_str(",\"logprobs\":null,\"finish_reason\":");
        frames.push_str(&json(&ending.finish));
        frames.push_str("}]");
        match self.usage {
            UsageFrame::WithFinish => push_member(frames, "usage", &usage),
            UsageFrame::OfItsOwn => push_member(frames, "usage", "null"),
        }
        if let Some(trouble) = &ending.trouble {
            push_trouble(frames, ending.finish, trouble);
        }
        frames.push_str("}\n\n");
        if self.usage == UsageFrame::OfItsOwn {
            frames.push_str(&self.head);
            push_member(frames, "choices", "[]");
            push_member(frames, "usage", &usage);
            frames.push_str("}\n\n");
        }
        frames.push_str(crate::render::DONE);
    }

    fn open(&self, frames: &mut String, delta: &str) {
        frames.push_str(&self.head);
        frames.push_str(",\"choices\":[{\"index\":0,\"delta\":");
        frames.push_str(delta);
    }

    fn close(&self, frames: &mut String) {
        if self.usage == UsageFrame::OfItsOwn {
            push_member(frames, "usage", "null");
        }
        frames.push_str("}\n\n");
    }
}

/// OpenAI's SDKs raise whatever has an `error`, so an answer that is only cut off has none.
fn push_trouble(frames: &mut String, finish: FinishReason, trouble: &Trouble) {
    if let (FinishReason::Error, Some(message)) = (finish, &trouble.error) {
        let error = StreamError {
            message,
            r#type: "server_error",
            param: None,
            code: trouble.error_code,
        };
        push_member(frames, "error", &json(&error));
    }
    push_member(frames, "hermes", &json(trouble));
}

fn push_member(frames: &mut String, name: &str, value: &str) {
    frames.push(',');
    push_string(frames, name);
    frames.push(':');
    frames.push_str(value);
}

/// Plain structs of ours always serialise.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
