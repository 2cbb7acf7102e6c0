//! Reads what upstreams send although it is not quite right.

use std::borrow::Cow;

use memchr::memchr;
use serde_json::Value;
use talaria_domain::model::{Object, server_error};
use talaria_proto::v1::{ResponseError, Usage};

/// What an upstream's message is cut to.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// Larger counts are no counts.
const MAX_TOKENS: u64 = 1_000_000_000_000;

/// `response.error.code` as OpenAI's clients know it.
const ERROR_CODES: [&str; 21] = [
    "server_error",
    "rate_limit_exceeded",
    "invalid_prompt",
    "data_residency_mismatch",
    "bio_policy",
    "vector_store_timeout",
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "image_content_policy_violation",
    "invalid_image_mode",
    "image_file_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
    "failed_to_download_image",
    "image_file_not_found",
    "misalignment_policy_violation",
];

/// The JSON object in `json`, lone surrogates replaced by U+FFFD, or nothing if it is none.
pub fn object(json: &str) -> Option<Object> {
    let value = serde_json::from_str(json)
        .or_else(|_| serde_json::from_str(&without_lone_surrogates(json)));
    match value {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// `json` with `\ufffd` for every escape of half a surrogate pair, which no Rust string can hold.
fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    let mut repaired = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = memchr(b'\\', &json.as_bytes()[at..]) {
        at += found;
        match half(json, at) {
            Some(Half::High) if half(json, at + 6) == Some(Half::Low) => at += 12,
            Some(Half::High | Half::Low) => {
                repaired.push_str(&json[copied..at]);
                repaired.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            None => at = (at + 2).min(json.len()),
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    repaired.push_str(&json[copied..]);
    Cow::Owned(repaired)
}

/// The string whose JSON is `json`, lone surrogates replaced by U+FFFD; empty if it is none.
pub fn string(json: &str) -> String {
    serde_json::from_str(json)
        .or_else(|_| serde_json::from_str(&without_lone_surrogates(json)))
        .unwrap_or_default()
}

/// Splits off the first half of a surrogate pair in which the inside of a JSON string ends.
pub fn split_high(inside: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    while let Some(found) = memchr(b'\\', &inside.as_bytes()[at..]) {
        at += found;
        match half(inside, at) {
            Some(Half::High) if at + 6 == inside.len() => return Some(inside.split_at(at)),
            Some(_) => at += 6,
            None => at = (at + 2).min(inside.len()),
        }
    }
    None
}

/// Which half of a surrogate pair an escape stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// The half of a surrogate pair whose escape `\uXXXX` begins at byte `at` of `json`.
fn half(json: &str, at: usize) -> Option<Half> {
    let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xD800..=0xDBFF => Some(Half::High),
        0xDC00..=0xDFFF => Some(Half::Low),
        _ => None,
    }
}

/// A string member, if it is there and a string.
pub fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// Takes a member out of `object` as text: a string as it is, nothing for `null`, anything else as JSON.
pub fn take_text(object: &mut Object, name: &str) -> Option<String> {
    match object.get_mut(name).map(Value::take)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// Takes a member out of `object` as an object.
pub fn take_object(object: &mut Object, name: &str) -> Option<Object> {
    match object.get_mut(name).map(Value::take)? {
        Value::Object(inner) => Some(inner),
        _ => None,
    }
}

/// Takes a member out of `object` as a list of objects; what is no object is left out.
pub fn take_objects(object: &mut Object, name: &str) -> Vec<Object> {
    let Some(Value::Array(values)) = object.get_mut(name).map(Value::take) else {
        return Vec::new();
    };
    let objects = values.into_iter().filter_map(|value| match value {
        Value::Object(object) => Some(object),
        _ => None,
    });
    objects.collect()
}

/// Whether `object` has the member and it is not `null`.
pub fn has(object: &Object, name: &str) -> bool {
    object.get(name).is_some_and(|value| !value.is_null())
}

/// Token counts under the names of the Responses or of the Chat Completions API, or of those who went before them; what
/// is missing is 0.
pub fn usage(value: Option<&Value>) -> Option<Usage> {
    let usage = value?.as_object()?;
    // DeepSeek, Moonshot and Anthropic tell details beside the counts.
    let beside = |names: &[&str]| names.iter().find_map(|name| tokens(usage.get(*name)?));
    let count = |names: [&str; 2]| names.iter().find_map(|name| tokens(usage.get(*name)?));
    let detail = |names: [&str; 2], detail| {
        names
            .iter()
            .find_map(|name| tokens(usage.get(*name)?.get(detail)?))
    };
    let cached = [
        "cached_tokens",
        "prompt_cache_hit_tokens",
        "cache_read_input_tokens",
    ];
    let written = ["cache_write_tokens", "cache_creation_input_tokens"];
    let input_tokens = count(["input_tokens", "prompt_tokens"]).unwrap_or(0);
    let output_tokens = count(["output_tokens", "completion_tokens"]).unwrap_or(0);
    let input_details = ["input_tokens_details", "prompt_tokens_details"];
    let output_details = ["output_tokens_details", "completion_tokens_details"];
    Some(Usage {
        input_tokens,
        cached_tokens: detail(input_details, "cached_tokens")
            .or_else(|| beside(&cached))
            .unwrap_or(0),
        cache_write_tokens: detail(input_details, "cache_write_tokens")
            .or_else(|| beside(&written))
            .unwrap_or(0),
        output_tokens,
        reasoning_tokens: detail(output_details, "reasoning_tokens")
            .or_else(|| beside(&["reasoning_tokens"]))
            .unwrap_or(0),
        total_tokens: usage
            .get("total_tokens")
            .and_then(tokens)
            .unwrap_or(input_tokens + output_tokens),
    })
}

/// What llama.cpp tells of a call: tokens that it read anew, took from its cache, and wrote.
pub fn timings(value: Option<&Value>) -> Option<Usage> {
    let timings = value?.as_object()?;
    let count = |name: &str| timings.get(name).and_then(tokens);
    let (read, output_tokens) = (count("prompt_n")?, count("predicted_n")?);
    let cached_tokens = count("cache_n").unwrap_or(0);
    let input_tokens = read + cached_tokens;
    Some(Usage {
        input_tokens,
        cached_tokens,
        output_tokens,
        total_tokens: input_tokens + output_tokens,
        ..Usage::default()
    })
}

/// A count of tokens; negative and absurd numbers are none. Some upstreams spell 12 as `12.0`.
fn tokens(value: &Value) -> Option<u64> {
    let count = match value.as_u64() {
        Some(count) => count,
        None => value
            .as_f64()
            .and_then(|number| format!("{number:.0}").parse().ok())?,
    };
    (count <= MAX_TOKENS).then_some(count)
}

/// The error in an `error` member: an object with a message, or only a text.
///
/// A code that OpenAI's clients do not know becomes `server_error`. Texts are as the upstream wrote them, however long:
/// what clients must not read is taken out of them before they are [`shortened`].
pub fn response_error(error: &Value) -> ResponseError {
    response_error_or(error, "The upstream reported an error.")
}

/// The error that `body` is or holds: nested under `error`, flat, or both.
pub fn error_in(body: Object) -> ResponseError {
    error_or(body, "The upstream reported an error.")
}

/// As [`error_in`], with another message for an error that has none.
pub fn error_or(body: Object, fallback: &str) -> ResponseError {
    match body.get("error") {
        Some(nested) if !nested.is_null() => response_error_or(nested, fallback),
        _ => response_error_or(&Value::Object(body), fallback),
    }
}

fn response_error_or(error: &Value, fallback: &str) -> ResponseError {
    let member = |name| {
        error
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let message = error
        .as_str()
        .or_else(|| member("message"))
        .or_else(|| member("detail"));
    let known = member("code").filter(|code| ERROR_CODES.contains(code));
    ResponseError {
        code: known.unwrap_or("server_error").to_owned(),
        r#type: member("type")
            .filter(|name| *name != "error")
            .unwrap_or("server_error")
            .to_owned(),
        param: member("param").map(str::to_owned),
        ..server_error(message.unwrap_or(fallback))
    }
}

/// `message` cut to a length that can be shown.
pub fn shortened(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE_CHARS) {
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn half_a_surrogate_pair_does_not_lose_the_frame() {
        let cases = [
            (r#"{"a":"x\ud83dy"}"#, "x\u{FFFD}y"),
            (r#"{"a":"\ude00\ud83d"}"#, "\u{FFFD}\u{FFFD}"),
            (r#"{"a":"\ud83d\ud83d\ude00"}"#, "\u{FFFD}😀"),
            (r#"{"a":"\\ud83d\ud83d"}"#, "\\ud83d\u{FFFD}"),
            (r#"{"a":"\ud83d\u0041"}"#, "\u{FFFD}A"),
            (r#"{"a":"\ud83d\ude00é"}"#, "😀é"),
        ];
        for (json, expected) in cases {
            assert_eq!(
                object(json).as_ref().and_then(|read| text(read, "a")),
                Some(expected)
            );
        }
        assert_eq!(object("{\"a\":\"\\ud83"), None);
        assert_eq!(object("[1]"), None);
    }

    #[test]
    fn usage_is_read_under_both_names_and_nonsense_is_zero() {
        let of = |input, cached, output, reasoning, total| {
            Some(Usage {
                input_tokens: input,
                cached_tokens: cached,
                cache_write_tokens: 0,
                output_tokens: output,
                reasoning_tokens: reasoning,
                total_tokens: total,
            })
        };
        let cases = [
            (
                json!({"input_tokens": 5, "input_tokens_details": {"cached_tokens": 3},
                "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1},
                "total_tokens": 7}),
                of(5, 3, 2, 1, 7),
            ),
            (
                json!({"prompt_tokens": 5, "completion_tokens": 2.0,
                "prompt_tokens_details": null}),
                of(5, 0, 2, 0, 7),
            ),
            (
                json!({"input_tokens": -5, "output_tokens": 1e30, "total_tokens": "9"}),
                of(0, 0, 0, 0, 0),
            ),
            (
                json!({"prompt_tokens": 5, "prompt_cache_hit_tokens": 3, "completion_tokens": 2, "reasoning_tokens": 1}),
                of(5, 3, 2, 1, 7),
            ),
            (
                json!({"prompt_tokens": 5, "cached_tokens": 4, "completion_tokens": 2, "cost": 0.1}),
                of(5, 4, 2, 0, 7),
            ),
            (json!({}), of(0, 0, 0, 0, 0)),
            (json!(null), None),
        ];
        for (value, expected) in cases {
            assert_eq!(usage(Some(&value)), expected, "{value}");
        }
        assert_eq!(usage(None), None);
        let told = json!({"prompt_n": 2, "cache_n": 3, "predicted_n": 2, "predicted_ms": 5.5});
        assert_eq!(timings(Some(&told)), of(5, 3, 2, 0, 7));
        assert_eq!(timings(Some(&json!({"prompt_n": 2}))), None);
    }

    #[test]
    fn errors_are_read_in_every_shape() {
        let error = |code: &str, message: &str, kind: &str, param: Option<&str>| ResponseError {
            code: code.to_owned(),
            message: message.to_owned(),
            r#type: kind.to_owned(),
            param: param.map(str::to_owned),
        };
        let cases = [
            (
                json!({"type": "error", "code": "invalid_prompt", "message": "No.", "param": "input"}),
                error("invalid_prompt", "No.", "server_error", Some("input")),
            ),
            (
                json!({"type": "error", "error": {"type": "invalid_request_error", "code": "odd", "message": "No."}}),
                error("server_error", "No.", "invalid_request_error", None),
            ),
            (
                json!({"type": "error", "code": null, "message": "outer", "error": {"code": 429, "message": "inner"}}),
                error("server_error", "inner", "server_error", None),
            ),
            (
                json!({"error": "just text"}),
                error("server_error", "just text", "server_error", None),
            ),
            (
                json!({"detail": "not found"}),
                error("server_error", "not found", "server_error", None),
            ),
            (
                json!({}),
                error(
                    "server_error",
                    "The upstream reported an error.",
                    "server_error",
                    None,
                ),
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(
                error_in(body.as_object().unwrap().clone()),
                expected,
                "{body}"
            );
        }
        assert_eq!(
            shortened("é".repeat(2_000)).chars().count(),
            MAX_MESSAGE_CHARS + 1
        );
    }
}
