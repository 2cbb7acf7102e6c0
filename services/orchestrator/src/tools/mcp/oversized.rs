//! Makes a short answer of the beginning and the end of one that is too long to be kept.

use serde_json::{Map, Value, json};

/// How much of the beginning is kept; text of the usual output limit fits, however it is escaped.
pub(super) const HEAD_BYTES: usize = 1024 * 1024;

/// How much of the end is kept: some servers write the id last.
pub(super) const TAIL_BYTES: usize = 256;

/// Where in the result's `_meta` the length of the whole message stands.
pub(super) const TOTAL_KEY: &str = "talaria/totalBytes";

/// The answer with what of its content is in `head`, or nothing if the message is no answer.
pub(super) fn shortened(head: &[u8], tail: &[u8], total_bytes: u64) -> Option<Vec<u8>> {
    let mut message: Map<String, Value> = serde_json::from_slice(&closed(head)?).ok()?;
    if message.contains_key("method") {
        return None;
    }
    let id = match message.remove("id") {
        Some(id) => id,
        None => id_at_the_end(tail)?.into(),
    };
    let result = match (message.remove("result"), message.remove("error")) {
        (Some(Value::Object(result)), _) => with_whole_parts(result, total_bytes),
        (_, Some(error)) => return to_line(&json!({"jsonrpc": "2.0", "id": id, "error": error})),
        (_, None) => return None,
    };
    to_line(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

/// Drops the part that was cut, unless it is text; only the content is kept.
fn with_whole_parts(mut result: Map<String, Value>, total_bytes: u64) -> Value {
    let mut content = match result.remove("content") {
        Some(Value::Array(content)) => content,
        Some(_) | None => Vec::new(),
    };
    if let Some(mut last) = content.pop() {
        let is_text = last["text"].is_string();
        if is_text && last["type"].is_null() {
            last["type"] = "text".into();
        }
        if is_text && last["type"] == "text" {
            content.push(last);
        }
    }
    let is_error = result.remove("isError").is_some_and(|value| value == true);
    json!({"content": content, "isError": is_error, "_meta": {TOTAL_KEY: total_bytes}})
}

fn to_line(message: &Value) -> Option<Vec<u8>> {
    serde_json::to_vec(message).ok()
}

/// The number after the last `"id":`, which cannot be inside of a string: there the quotes are escaped.
fn id_at_the_end(tail: &[u8]) -> Option<i64> {
    let tail = String::from_utf8_lossy(tail);
    let (_, after) = tail.rsplit_once("\"id\":")?;
    let after = after.trim_start();
    let end = after.find(|c: char| !c.is_ascii_digit())?;
    after[..end].parse().ok()
}

/// A prefix of a JSON text, cut back to where it can be closed, and closed there.
fn closed(head: &[u8]) -> Option<Vec<u8>> {
    let mut open = Vec::new();
    let mut state = State::Between;
    // How long the text is at the latest place where it can be closed, what is open there, and whether a string is.
    let mut safe: Option<(usize, usize, bool)> = None;
    // Objects alternate between names and values; only values may be cut.
    let mut expects_name = false;
    for (index, byte) in head.iter().enumerate() {
        let end = index + 1;
        match (state, byte) {
            (State::Between, b'"') => {
                state = State::String;
                if !expects_name {
                    safe = Some((end, open.len(), true));
                }
            }
            (State::Between, b'{' | b'[') => {
                open.push(if *byte == b'{' { b'}' } else { b']' });
                expects_name = *byte == b'{';
                safe = Some((end, open.len(), false));
            }
            (State::Between, b'}' | b']') => {
                open.pop()?;
                expects_name = false;
                safe = Some((end, open.len(), false));
            }
            (State::Between, b',') => {
                expects_name = open.last() == Some(&b'}');
                // What stands before a comma is whole, numbers too.
                safe = Some((index, open.len(), false));
            }
            (State::Between, b':') => expects_name = false,
            (State::Between, _) => {}
            (State::String, b'"') => {
                state = State::Between;
                if !expects_name {
                    safe = Some((end, open.len(), false));
                }
            }
            (State::String, b'\\') => state = State::Escape(1),
            (State::String, _) => string_goes_on(&mut safe, expects_name, head, end, open.len()),
            (State::Escape(1), b'u') => state = State::Escape(4),
            (State::Escape(1), _) => {
                state = State::String;
                string_goes_on(&mut safe, expects_name, head, end, open.len());
            }
            (State::Escape(left), _) => state = State::Escape(left - 1),
        }
    }
    let (length, depth, in_string) = safe?;
    let mut text = head[..length].to_vec();
    if in_string {
        text.push(b'"');
    }
    text.extend(open[..depth.min(open.len())].iter().rev());
    Some(text)
}

#[derive(Clone, Copy)]
enum State {
    Between,
    String,
    /// So many more bytes belong to the escape.
    Escape(u8),
}

/// A value's string may be cut here if no character is.
fn string_goes_on(
    safe: &mut Option<(usize, usize, bool)>,
    is_name: bool,
    head: &[u8],
    end: usize,
    depth: usize,
) {
    let next_is_continuation = head.get(end).is_none_or(|next| next & 0xC0 == 0x80);
    // The first half of a pair like \ud83d\ude00 is nothing by itself.
    let half = matches!(
        head[..end],
        [
            ..,
            b'd' | b'D',
            b'8' | b'9' | b'a'..=b'b' | b'A'..=b'B',
            _,
            _,
        ]
    );
    if !is_name && !next_is_continuation && !half {
        *safe = Some((end, depth, true));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shortened_to(whole: &str, head_bytes: usize) -> Option<Value> {
        let head = &whole.as_bytes()[..head_bytes];
        let tail = &whole.as_bytes()[whole.len().saturating_sub(TAIL_BYTES)..];
        let line = shortened(head, tail, whole.len() as u64)?;
        Some(serde_json::from_slice(&line).unwrap())
    }

    #[test]
    fn text_is_kept_up_to_the_cut_wherever_the_id_stands() {
        let content =
            r#"{"content":[{"type":"text","text":"one"},{"type":"text","text":"two and more"}]}"#;
        let first = format!(r#"{{"jsonrpc":"2.0","id":3,"result":{content}}}"#);
        let last = format!(r#"{{"result":{content},"jsonrpc":"2.0","id":3}}"#);
        for whole in [first, last] {
            let cut = whole.find(" and more").unwrap() + 1;
            let expected = json!({
                "jsonrpc": "2.0",
                "id": 3,
                "result": {
                    "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
                    "isError": false,
                    "_meta": {TOTAL_KEY: whole.len()},
                },
            });
            assert_eq!(shortened_to(&whole, cut), Some(expected));
        }
    }

    #[test]
    fn an_image_that_was_cut_is_left_out() {
        let whole = r#"{"id":3,"result":{"content":[{"type":"text","text":"one"},{"type":"image","data":"AAAA"}]}}"#;
        let kept = shortened_to(whole, whole.find("AA\"").unwrap()).unwrap();
        assert_eq!(
            kept["result"]["content"],
            json!([{"type": "text", "text": "one"}])
        );
    }

    #[test]
    fn what_is_no_answer_is_dropped() {
        let request = r#"{"id":3,"method":"sampling/createMessage","params":{"text":"long"}}"#;
        assert_eq!(shortened_to(request, request.len() - 5), None);
        assert_eq!(shortened_to("no JSON at all, but long", 10), None);
        let nameless = r#"{"result":{"content":[]}}"#;
        assert_eq!(shortened_to(nameless, 20), None);
    }

    /// As Python writes JSON.
    fn in_ascii(text: &str) -> String {
        let escape = |unit: u16| match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
            Ok(_) | Err(_) => format!("\\u{unit:04x}"),
        };
        text.encode_utf16().map(escape).collect()
    }

    proptest! {
        #[test]
        fn every_cut_of_an_answer_leaves_an_answer_with_a_prefix_of_its_text(
            text in ".{0,40}",
            escaped: bool,
            other in ".{0,10}",
            position in 0.0..1.0,
        ) {
            let whole = json!({
                "result": {
                    "content": [{"type": "text", "text": text}],
                    "structuredContent": {"numbers": [1, 2.5, true, null, {}], "text": other},
                },
                "id": 12,
            });
            let whole = if escaped { in_ascii(&whole.to_string()) } else { whole.to_string() };
            #[expect(
                clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
                reason = "a position inside of a short text"
            )]
            let cut = (whole.len() as f64 * position) as usize;
            if let Some(message) = shortened_to(&whole, cut) {
                prop_assert_eq!(&message["id"], 12);
                let kept = message["result"]["content"][0]["text"].as_str().unwrap_or_default();
                prop_assert!(text.starts_with(kept));
            } else {
                let start = "{\"result\":{";
                prop_assert!(cut < start.len());
            }
        }
    }
}
