//! OpenAI's JSON and SSE frames, from typed responses and events.
//!
//! What is rendered for an event is a function of the event alone: live, replayed, today or in a year, byte for byte.

mod event;
mod item;
mod response;

pub use event::{DONE, KEEPALIVE, error_frame, push_frame, snapshot_frame};
pub use item::listed_items;
pub use response::{push_response, response_json};

use itoa::Integer;
use talaria_domain::json::push_string;

/// Appends `,"name":`, or `"name":` at the start of an object.
fn push_name(json: &mut String, name: &str) {
    if !json.ends_with('{') {
        json.push(',');
    }
    json.push('"');
    json.push_str(name);
    json.push_str("\":");
}

fn push_number(json: &mut String, number: impl Integer) {
    json.push_str(itoa::Buffer::new().format(number));
}

fn push_optional(json: &mut String, text: Option<&str>) {
    match text {
        Some(text) => push_string(json, text),
        None => json.push_str("null"),
    }
}

/// Appends bytes that hold JSON; bytes that are no text at all become `null`.
fn push_raw(json: &mut String, bytes: &[u8]) {
    json.push_str(std::str::from_utf8(bytes).unwrap_or("null"));
}
