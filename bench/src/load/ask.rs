//! The bodies of requests.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::mock::answer::Text;
use crate::mock::asked::Pace;

/// What asks the mock for a text at a pace.
pub fn input(text: Text, pace: Pace) -> String {
    let Text { tokens, seed } = text;
    let mut input = format!("tokens={tokens} pace_ms={}", pace.tick.as_millis());
    if seed != 0 {
        let _ = write!(input, " seed={seed}");
    }
    if let Some(at) = pace.pause_at {
        let _ = write!(input, " pause_at={at} pause_ms={}", pace.pause.as_millis());
    }
    input
}

/// A request without a history.
pub fn body(input: &str, stream: bool, store: bool) -> Bytes {
    request(&json!(input), stream, store).to_string().into()
}

/// A request, not streamed, that goes on from a stored response, if there is one yet.
pub fn chained_body(input: &str, previous: Option<&str>) -> Bytes {
    let mut request = request(&json!(input), false, true);
    if let Some(previous) = previous {
        request["previous_response_id"] = json!(previous);
    }
    request.to_string().into()
}

/// A request that brings its history: what was asked and answered in turn, and last what is asked.
pub fn context_body(said: &[String], stream: bool, store: bool) -> Bytes {
    let item = |(place, text): (usize, &String)| {
        let (role, kind) = if place % 2 == 0 {
            ("user", "input_text")
        } else {
            ("assistant", "output_text")
        };
        json!({"type": "message", "role": role, "content": [{"type": kind, "text": text}]})
    };
    let items: Vec<Value> = said.iter().enumerate().map(item).collect();
    request(&json!(items), stream, store).to_string().into()
}

fn request(input: &Value, stream: bool, store: bool) -> Value {
    json!({"model": "bench", "input": input, "stream": stream, "store": store})
}
