//! An upstream that needs no network and no key, so that a newcomer's first command works.

mod errand;
mod reply;

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::json;
use talaria_domain::model::{Field, ItemKey, ModelCall, ModelEvent, Outcome};
use talaria_proto::v1::Usage;
use tokio::time::{Instant, sleep_until};

pub use self::reply::{Call, Reply, reply};

/// How long a word takes, unless another pace is asked for.
pub const DEFAULT_PACE: Duration = Duration::from_millis(30);

/// How much longer a word of a slow reply takes.
const SLOWNESS: u32 = 4;

/// A reply on its way, word by word.
#[derive(Debug)]
pub struct Stream {
    steps: VecDeque<ModelEvent>,
    pace: Duration,
    next_at: Instant,
}

impl Stream {
    /// The reply to `call`, one word every `pace`.
    pub fn new(call: &ModelCall, pace: Duration) -> Self {
        let reply = reply(call);
        let pace = if reply.is_slow() {
            pace * SLOWNESS
        } else {
            pace
        };
        Self {
            steps: steps(call, reply),
            pace,
            next_at: Instant::now(),
        }
    }

    /// Appends the next word to `events`; false at the end. Cancel-safe.
    pub async fn next(&mut self, events: &mut Vec<ModelEvent>) -> bool {
        sleep_until(self.next_at).await;
        let Some(step) = self.steps.pop_front() else {
            return false;
        };
        events.push(step);
        // The last word is followed by the end at once.
        if self.steps.len() > 1 {
            self.next_at = Instant::now() + self.pace;
        }
        true
    }
}

/// Everything that a reply says, in order.
fn steps(call: &ModelCall, reply: Reply) -> VecDeque<ModelEvent> {
    let (mut steps, text) = match reply {
        Reply::Text { text, .. } => (said_in_words(&text), text),
        Reply::Calls(calls) => {
            let place = call.context.len() as u64;
            let called = (place..).zip(&calls);
            let steps = called.flat_map(|(key, call)| function_called(ItemKey(key), call));
            let arguments: Vec<&str> = calls.iter().map(|call| call.arguments.as_str()).collect();
            (steps.collect(), arguments.join(" "))
        }
    };
    let usage = Some(usage(call, &text));
    let output = Vec::new();
    steps.push_back(ModelEvent::Finished {
        outcome: Outcome::Completed,
        usage,
        output,
    });
    steps
}

fn said_in_words(text: &str) -> VecDeque<ModelEvent> {
    let words = text.split_inclusive(' ').map(|word| ModelEvent::Delta {
        key: ItemKey(0),
        field: Field::Text,
        part: 0,
        delta: word.to_owned(),
        logprobs: Vec::new(),
    });
    words.collect()
}

/// The place of a call in the conversation makes its id, so that no two of one conversation have the same.
fn function_called(key: ItemKey, call: &Call) -> [ModelEvent; 2] {
    let id = format!("call_demo_{}", key.0);
    let item = json!({"type": "function_call", "call_id": id, "name": call.name, "arguments": ""});
    let item = item.as_object().cloned().unwrap_or_default();
    [
        ModelEvent::ItemAdded { key, item },
        ModelEvent::Delta {
            key,
            field: Field::Arguments,
            part: 0,
            delta: call.arguments.clone(),
            logprobs: Vec::new(),
        },
    ]
}

/// A word counts as a token.
fn usage(call: &ModelCall, text: &str) -> Usage {
    let words = |text: &str| text.split_whitespace().count() as u64;
    let context = reply::items(call);
    let input: u64 = context
        .iter()
        .map(|item| words(&reply::text_of(item)))
        .sum();
    let input_tokens = input + call.instructions.as_deref().map_or(0, words);
    let output_tokens = words(text);
    let total_tokens = input_tokens + output_tokens;
    Usage {
        input_tokens,
        output_tokens,
        total_tokens,
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use talaria_domain::model::CallItem;

    use super::*;

    #[tokio::test]
    async fn a_reply_comes_word_by_word_and_counts_them() {
        let user = json!({"role": "user", "content": "Reply with exactly: one two"});
        let call = ModelCall {
            model: "demo".to_owned(),
            instructions: Some("Be brief.".to_owned()),
            context: vec![CallItem {
                json: user.to_string().into(),
                upstream_id: None,
            }],
            parameters: serde_json::Map::new(),
        };
        let mut stream = Stream::new(&call, Duration::ZERO);
        let mut events = Vec::new();
        while stream.next(&mut events).await {}

        let mut expected: Vec<ModelEvent> = said_in_words("one two").into();
        expected.push(ModelEvent::Finished {
            outcome: Outcome::Completed,
            usage: Some(Usage {
                input_tokens: 7,
                output_tokens: 2,
                total_tokens: 9,
                ..Usage::default()
            }),
            output: Vec::new(),
        });
        assert_eq!(events, expected);
        assert_eq!(expected.len(), 3);
    }
}
