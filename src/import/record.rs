//! What a Hermes server stored of one response, read leniently.

use std::borrow::Cow;

use serde_json::{Map, Value};
use talaria_proto::v1::{ResponseError, Status, Usage};

/// A JSON object.
pub type Object = Map<String, Value>;

/// A stored response and the transcript up to its end.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub status: Status,
    /// It was queued or running when it was stored last; `status` says what that makes of it.
    pub was_active: bool,
    /// Unix seconds.
    pub created_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub model: String,
    pub output: Vec<Object>,
    pub usage: Option<Usage>,
    pub error: Option<ResponseError>,
    pub incomplete_reason: Option<String>,
    pub previous_response_id: Option<String>,
    pub instructions: Option<String>,
    pub session_id: Option<String>,
    /// Chat messages, oldest first.
    pub transcript: Vec<Value>,
}

impl Record {
    /// Reads the JSON of one row; the error says what is wrong with it.
    pub fn read(data: &[u8]) -> Result<Self, String> {
        let Value::Object(mut data) = parse(data)? else {
            return Err("its data is no JSON object".to_owned());
        };
        let Some(Value::Object(mut response)) = data.remove("response") else {
            return Err("its data holds no response".to_owned());
        };
        let transcript = match data.remove("conversation_history") {
            Some(Value::Array(messages)) => messages,
            _ => Vec::new(),
        };
        let output = match response.remove("output") {
            Some(Value::Array(items)) => items.into_iter().filter_map(object).collect(),
            _ => Vec::new(),
        };
        let stored_status = text(&response, "status").unwrap_or_default();
        let status = status(stored_status)?;
        let details = response
            .get("incomplete_details")
            .and_then(Value::as_object);
        Ok(Self {
            status,
            was_active: matches!(stored_status, "queued" | "in_progress"),
            created_at: seconds(response.get("created_at")),
            completed_at: seconds(response.get("completed_at")),
            model: text(&response, "model").unwrap_or_default().to_owned(),
            output,
            usage: response.get("usage").and_then(usage),
            error: (status == Status::Failed).then(|| error(response.get("error"))),
            incomplete_reason: details.and_then(|details| given(details, "reason")),
            previous_response_id: given(&response, "previous_response_id"),
            instructions: given(&data, "instructions"),
            session_id: given(&data, "session_id").filter(|id| !id.contains('\0')),
            transcript,
        })
    }

    /// Whether others may continue from it.
    pub fn is_completed(&self) -> bool {
        self.status == Status::Completed
    }
}

/// A member that is a string.
pub fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

fn given(object: &Object, name: &str) -> Option<String> {
    let text = text(object, name)?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn object(value: Value) -> Option<Object> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// The process of a run that had not ended is gone, and with it the run.
fn status(stored: &str) -> Result<Status, String> {
    match stored {
        "completed" => Ok(Status::Completed),
        "failed" => Ok(Status::Failed),
        "cancelled" => Ok(Status::Cancelled),
        "incomplete" | "in_progress" | "queued" => Ok(Status::Incomplete),
        "" => Err("its response has no status".to_owned()),
        other => Err(format!("its status {other:?} is unknown")),
    }
}

fn seconds(value: Option<&Value>) -> Option<i64> {
    /// The year 9999: a later time is none.
    const LATEST: f64 = 253_402_300_799.0;
    let seconds = value?.as_f64()?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is within the range of years"
    )]
    let whole = (0.0..=LATEST).contains(&seconds).then_some(seconds as i64);
    whole
}

fn usage(value: &Value) -> Option<Usage> {
    let usage = value.as_object()?;
    let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or_default();
    let detail = |details: &str, name: &str| {
        let value = usage.get(details).and_then(|details| details.get(name));
        value.and_then(Value::as_u64).unwrap_or_default()
    };
    Some(Usage {
        input_tokens: count("input_tokens"),
        cached_tokens: detail("input_tokens_details", "cached_tokens"),
        cache_write_tokens: detail("input_tokens_details", "cache_write_tokens"),
        output_tokens: count("output_tokens"),
        reasoning_tokens: detail("output_tokens_details", "reasoning_tokens"),
        total_tokens: count("total_tokens"),
    })
}

fn error(value: Option<&Value>) -> ResponseError {
    let member = |name: &str| value.and_then(|error| error.get(name)?.as_str());
    let said = member("message").or_else(|| value.and_then(Value::as_str));
    ResponseError {
        code: member("code").unwrap_or("server_error").to_owned(),
        message: said.unwrap_or("The run failed.").to_owned(),
        r#type: member("type").unwrap_or("server_error").to_owned(),
        param: member("param").map(str::to_owned),
    }
}

fn parse(data: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(data)
        .or_else(|_| serde_json::from_slice(&whole_characters(data)))
        .map_err(|error| format!("its data is no valid JSON: {error}"))
}

/// The JSON text with halves of surrogate pairs, which Python writes and nobody else reads, replaced.
fn whole_characters(json: &[u8]) -> Cow<'_, [u8]> {
    let mut text = Cow::Borrowed(json);
    let mut at = 0;
    while at + 1 < json.len() {
        if json[at] != b'\\' {
            at += 1;
            continue;
        }
        match (unit(json, at), unit(json, at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at += 12,
            (Some(0xD800..=0xDFFF), _) => {
                text.to_mut()[at + 2..at + 6].copy_from_slice(b"fffd");
                at += 6;
            }
            (Some(_), _) => at += 6,
            (None, _) => at += 2,
        }
    }
    text
}

/// The code unit of the escape `\uXXXX` at this place.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_whose_process_is_gone_is_incomplete() {
        for stored in ["queued", "in_progress"] {
            let data = format!(r#"{{"response":{{"status":"{stored}"}}}}"#);

            let record = Record::read(data.as_bytes()).unwrap();

            assert_eq!(record.status, Status::Incomplete);
            assert!(record.was_active);
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let table = [
            (
                "{",
                "its data is no valid JSON: EOF while parsing an object at line 1 column 1",
            ),
            ("[]", "its data is no JSON object"),
            ("{}", "its data holds no response"),
            (r#"{"response":{}}"#, "its response has no status"),
            (
                r#"{"response":{"status":"odd"}}"#,
                r#"its status "odd" is unknown"#,
            ),
        ];
        for (data, expected) in table {
            assert_eq!(Record::read(data.as_bytes()).unwrap_err(), expected);
        }
    }

    #[test]
    fn half_a_character_does_not_cost_the_record() {
        let data = br#"{"response":{"status":"completed"},"instructions":"\\\ud83d \ud83d\ude00 \ude00\u0000"}"#;

        let record = Record::read(data).unwrap();

        assert_eq!(
            record.instructions.as_deref(),
            Some("\\\u{fffd} 😀 \u{fffd}\0")
        );
    }
}
