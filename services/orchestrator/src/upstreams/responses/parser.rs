//! From the events of a Responses stream to what the model said.
//!
//! Nothing is demanded of the stream: what is unknown is skipped, what is missing is left to the run to fill in.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use talaria_domain::model::{Field, ItemKey, ModelEvent, Object};
use tracing::debug;

use crate::upstreams::lenient;
use crate::upstreams::responses::body::{finished, is_end, is_item};
use crate::upstreams::sse::Frame;

/// Keys of items whose output index the upstream does not tell; far above any real index.
const WITHOUT_INDEX: u64 = 1 << 32;

/// Members of an item event that are not about the progress of a hosted tool.
const ITEM_EVENT_MEMBERS: [&str; 4] = ["type", "sequence_number", "item_id", "output_index"];

/// Reads one stream.
#[derive(Debug, Default)]
pub struct Parser {
    keys: HashMap<String, ItemKey>,
    /// The key of the item that the last event was about.
    last: u64,
    held: Option<Held>,
    finished: bool,
}

/// The place that a delta continues.
type Place = (ItemKey, Field, u32);

/// The first half of a surrogate pair at the end of a delta; the second half begins the next one.
#[derive(Debug)]
struct Held {
    place: Place,
    escape: String,
}

/// What nearly every event of a stream is, read without building a tree.
#[derive(Deserialize)]
struct TextDelta<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    item_id: Cow<'a, str>,
    output_index: Option<u64>,
    content_index: Option<u32>,
    summary_index: Option<u32>,
    delta: String,
    #[serde(default)]
    logprobs: Option<Vec<Value>>,
}

impl Parser {
    /// Appends what `frame` says to `events`; nothing more once the call has finished.
    pub fn push(&mut self, frame: &Frame<'_>, events: &mut Vec<ModelEvent>) {
        if self.finished || self.push_text_delta(frame, events) {
            return;
        }
        let Some(mut body) = lenient::object(&frame.data) else {
            if frame.data.trim() != "[DONE]" {
                debug!(
                    size_bytes = frame.data.len(),
                    "skipped an event that is no JSON object"
                );
            }
            return;
        };
        let kind = match body.get_mut("type").map(Value::take) {
            Some(Value::String(kind)) => kind,
            _ => frame.event.as_deref().unwrap_or_default().to_owned(),
        };
        self.push_event(&kind, body, &frame.data, events);
    }

    /// Whether the call has finished: what follows says nothing.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Reads a well-formed text delta; leaves everything else alone and returns false.
    fn push_text_delta(&mut self, frame: &Frame<'_>, events: &mut Vec<ModelEvent>) -> bool {
        let named_otherwise = frame
            .event
            .as_ref()
            .is_some_and(|name| !name.ends_with(".delta"));
        if named_otherwise || self.held.is_some() {
            return false;
        }
        let Ok(wire) = serde_json::from_str::<TextDelta<'_>>(&frame.data) else {
            return false;
        };
        let Some(field) = wire.r#type.strip_suffix(".delta").and_then(field_of) else {
            return false;
        };
        let part = wire.content_index.or(wire.summary_index).unwrap_or(0);
        let key = self.key(wire.output_index, Some(&wire.item_id));
        push_delta(
            (key, field, part),
            wire.delta,
            wire.logprobs.unwrap_or_default(),
            events,
        );
        true
    }

    fn push_event(
        &mut self,
        kind: &str,
        mut body: Object,
        json: &str,
        events: &mut Vec<ModelEvent>,
    ) {
        if is_end(kind, &body) {
            self.finished = true;
            events.push(finished(kind, body));
        } else if kind == "response.output_item.added" {
            events.extend(
                self.item(&mut body)
                    .map(|(key, item)| ModelEvent::ItemAdded { key, item }),
            );
        } else if kind == "response.output_item.done" {
            events.extend(
                self.item(&mut body)
                    .map(|(key, item)| ModelEvent::ItemDone { key, item }),
            );
        } else if kind == "response.output_text.annotation.added" {
            let (key, _, part) = self.place(&body, Field::Text);
            let annotation = lenient::take_object(&mut body, "annotation");
            events.extend(annotation.map(|annotation| ModelEvent::Annotation {
                key,
                part,
                annotation,
            }));
        } else if let Some(field) = kind.strip_suffix(".delta").and_then(field_of) {
            let place = self.place(&body, field);
            let delta = self.delta(place, json, &mut body);
            let logprobs = match body.get_mut("logprobs").map(Value::take) {
                Some(Value::Array(logprobs)) => logprobs,
                _ => Vec::new(),
            };
            push_delta(place, delta, logprobs, events);
        } else if let Some(field) = kind.strip_suffix(".done").and_then(field_of) {
            let (key, field, part) = self.place(&body, field);
            if let Some(text) = lenient::take_text(&mut body, member_of(field)) {
                events.push(ModelEvent::Text {
                    key,
                    field,
                    part,
                    text,
                });
            }
        } else if is_progress(kind) {
            let (key, ..) = self.place(&body, Field::Text);
            body.retain(|name, _| !ITEM_EVENT_MEMBERS.contains(&name.as_str()));
            events.push(ModelEvent::Progress {
                key,
                name: kind.to_owned(),
                fields: body,
            });
        } else {
            debug!(event = kind, "skipped an event that says nothing new");
        }
    }

    /// The text of a delta that is not plain: halves of one character are put together across deltas.
    fn delta(&mut self, place: Place, json: &str, body: &mut Object) -> String {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            delta: &'a RawValue,
        }
        let raw = serde_json::from_str::<Raw<'_>>(json).ok();
        let inside = raw
            .as_ref()
            .and_then(|raw| raw.delta.get().strip_prefix('"')?.strip_suffix('"'));
        let Some(inside) = inside else {
            return lenient::take_text(body, "delta").unwrap_or_default();
        };
        let before = self.held.take_if(|held| held.place == place);
        let (inside, high) = lenient::split_high(inside).unwrap_or((inside, ""));
        if !high.is_empty() {
            self.held = Some(Held {
                place,
                escape: high.to_owned(),
            });
        }
        let before = before.map(|held| held.escape).unwrap_or_default();
        lenient::string(&format!("\"{before}{inside}\""))
    }

    fn place(&mut self, body: &Object, field: Field) -> Place {
        let index = body.get("output_index").and_then(Value::as_u64);
        let key = self.key(index, lenient::text(body, "item_id"));
        let part = body
            .get("content_index")
            .or_else(|| body.get("summary_index"));
        let part = part
            .and_then(Value::as_u64)
            .and_then(|part| u32::try_from(part).ok());
        (key, field, part.unwrap_or(0))
    }

    /// The item of an item event, with its key.
    fn item(&mut self, body: &mut Object) -> Option<(ItemKey, Object)> {
        let item = lenient::take_object(body, "item").filter(is_item)?;
        let id = lenient::text(&item, "id").or_else(|| lenient::text(body, "item_id"));
        let index = body.get("output_index").and_then(Value::as_u64);
        let key = self.key(index, id);
        if let Some(id) = id {
            self.keys.insert(id.to_owned(), key);
        }
        Some((key, item))
    }

    /// The key of an item: its output index, else what its id was seen with, else the item of the last event.
    fn key(&mut self, index: Option<u64>, id: Option<&str>) -> ItemKey {
        let key = match (index, id.filter(|id| !id.is_empty())) {
            (Some(index), _) => ItemKey(index),
            (None, Some(id)) => {
                let new = ItemKey(WITHOUT_INDEX + self.keys.len() as u64);
                *self.keys.entry(id.to_owned()).or_insert(new)
            }
            (None, None) => ItemKey(self.last),
        };
        self.last = key.0;
        key
    }
}

fn push_delta(
    (key, field, part): Place,
    delta: String,
    logprobs: Vec<Value>,
    events: &mut Vec<ModelEvent>,
) {
    if !delta.is_empty() || !logprobs.is_empty() {
        events.push(ModelEvent::Delta {
            key,
            field,
            part,
            delta,
            logprobs,
        });
    }
}

/// Which text the events named `stem` and `.delta` or `.done` are about.
fn field_of(stem: &str) -> Option<Field> {
    match stem.strip_prefix("response.")? {
        "output_text" => Some(Field::Text),
        "refusal" => Some(Field::Refusal),
        "reasoning_summary_text" | "reasoning_summary" => Some(Field::ReasoningSummary),
        // `reasoning` is Open Responses' name for it.
        "reasoning_text" | "reasoning" => Some(Field::ReasoningText),
        "function_call_arguments" | "mcp_call_arguments" => Some(Field::Arguments),
        "custom_tool_call_input" => Some(Field::Input),
        _ => None,
    }
}

/// The member of a `.done` event that holds the whole text.
fn member_of(field: Field) -> &'static str {
    match field {
        Field::Text | Field::ReasoningSummary | Field::ReasoningText => "text",
        Field::Refusal => "refusal",
        Field::Arguments => "arguments",
        Field::Input => "input",
    }
}

fn is_progress(kind: &str) -> bool {
    let stem = kind
        .strip_prefix("response.")
        .and_then(|name| name.rsplit_once('.'));
    matches!(
        stem,
        Some((
            "web_search_call"
                | "file_search_call"
                | "code_interpreter_call"
                | "code_interpreter_call_code"
                | "image_generation_call"
                | "mcp_call"
                | "mcp_list_tools"
                | "shell_call_command"
                | "shell_call_output_content"
                | "compaction",
            _
        ))
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use talaria_domain::model::{Outcome, server_error};
    use talaria_proto::v1::{ResponseError, Usage};

    use super::*;
    use crate::upstreams::sse::Decoder;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<ModelEvent> {
        let (mut decoder, mut parser, mut events) =
            (Decoder::default(), Parser::default(), Vec::new());
        for piece in pieces {
            decoder
                .push(piece, |frame| parser.push(&frame, &mut events))
                .unwrap();
        }
        decoder.finish(|frame| parser.push(&frame, &mut events));
        events
    }

    /// A stream of data lines, as an upstream sends them.
    fn stream(lines: &[&str]) -> Vec<ModelEvent> {
        let bytes = format!("data: {}", lines.join("\n\ndata: "));
        read([bytes.as_bytes()])
    }

    fn object(value: &Value) -> Object {
        value.as_object().unwrap().clone()
    }

    fn delta(key: u64, field: Field, part: u32, delta: &str) -> ModelEvent {
        let (key, delta) = (ItemKey(key), delta.to_owned());
        ModelEvent::Delta {
            key,
            field,
            part,
            delta,
            logprobs: Vec::new(),
        }
    }

    fn whole(key: u64, field: Field, part: u32, text: &str) -> ModelEvent {
        ModelEvent::Text {
            key: ItemKey(key),
            field,
            part,
            text: text.to_owned(),
        }
    }

    fn end(outcome: Outcome) -> ModelEvent {
        ModelEvent::Finished {
            outcome,
            usage: None,
            output: Vec::new(),
        }
    }

    const CANONICAL: &str = concat!(
        "event: codex.rate_limits\r\ndata: {\"type\":\"codex.rate_limits\",\"error\":null}\r\n\r\n",
        ": keepalive\r\n\r\n",
        "data: {\"type\":\"response.in_progress\",\"response\":{\"output\":[]}}\r\n\r\n",
        "data: {\"type\":\"response.output_item.added\",\"output_index\":0,\r\n",
        "data: \"item\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[]}}\r\n\r\n",
        "event: response.output_text.delta\r\n",
        "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"item_id\":\"msg_1\",",
        "\"output_index\":0,\"content_index\":0,\"delta\":\"Hé\",\"logprobs\":[],\"obfuscation\":\"x\"}\r\n\r\n",
        "data: {\"type\":\"response.output_text.done\",\"item_id\":\"msg_1\",\"output_index\":0,",
        "\"content_index\":0,\"text\":\"Hé\"}\r\n\r\n",
        "data: {\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"message\"}}\r\n\r\n",
        "data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"output\":[{\"type\":\"message\"}],",
        "\"usage\":{\"input_tokens\":3,\"output_tokens\":1,\"total_tokens\":4}}}\r\n\r\n",
        "data: {\"type\":\"response.output_text.delta\",\"delta\":\"late\"}\r\n\r\ndata: [DONE]",
    );

    fn canonical() -> Vec<ModelEvent> {
        let key = ItemKey(0);
        vec![
            ModelEvent::ItemAdded {
                key,
                item: object(
                    &json!({"id": "msg_1", "type": "message", "role": "assistant", "content": []}),
                ),
            },
            delta(0, Field::Text, 0, "Hé"),
            whole(0, Field::Text, 0, "Hé"),
            ModelEvent::ItemDone {
                key,
                item: object(&json!({"type": "message"})),
            },
            ModelEvent::Finished {
                outcome: Outcome::Completed,
                usage: Some(Usage {
                    input_tokens: 3,
                    output_tokens: 1,
                    total_tokens: 4,
                    ..Usage::default()
                }),
                output: vec![object(&json!({"type": "message"}))],
            },
        ]
    }

    #[test]
    fn a_text_stream_is_read_with_prelude_and_without_created() {
        assert_eq!(read([CANONICAL.as_bytes()]), canonical());
    }

    proptest! {
        #[test]
        fn every_split_of_the_bytes_says_the_same(at in any::<prop::sample::Index>()) {
            let (head, tail) = CANONICAL.as_bytes().split_at(at.index(CANONICAL.len()));
            prop_assert_eq!(read([head, tail]), canonical());
        }
    }

    #[test]
    fn every_kind_of_text_is_read() {
        use Field::{Arguments, Input, ReasoningSummary, ReasoningText, Refusal};
        let events = stream(&[
            r#"{"type":"response.refusal.delta","output_index":0,"content_index":1,"delta":"No"}"#,
            r#"{"type":"response.refusal.done","output_index":0,"content_index":1,"refusal":"No."}"#,
            r#"{"type":"response.reasoning_summary_text.delta","output_index":1,"summary_index":2,"delta":"a"}"#,
            r#"{"type":"response.reasoning_summary_text.done","output_index":1,"summary_index":2,"text":"a"}"#,
            r#"{"type":"response.reasoning_text.delta","output_index":1,"content_index":0,"delta":"b"}"#,
            r#"{"type":"response.reasoning.delta","output_index":1,"content_index":0,"delta":"c"}"#,
            r#"{"type":"response.function_call_arguments.delta","output_index":2,"delta":"{"}"#,
            r#"{"type":"response.function_call_arguments.done","output_index":2,"arguments":{"a":1}}"#,
            r#"{"type":"response.mcp_call_arguments.delta","output_index":3,"delta":"{}"}"#,
            r#"{"type":"response.custom_tool_call_input.delta","output_index":4,"delta":"x"}"#,
            r#"{"type":"response.custom_tool_call_input.done","output_index":4,"input":"x"}"#,
        ]);

        let expected = vec![
            delta(0, Refusal, 1, "No"),
            whole(0, Refusal, 1, "No."),
            delta(1, ReasoningSummary, 2, "a"),
            whole(1, ReasoningSummary, 2, "a"),
            delta(1, ReasoningText, 0, "b"),
            delta(1, ReasoningText, 0, "c"),
            delta(2, Arguments, 0, "{"),
            whole(2, Arguments, 0, r#"{"a":1}"#),
            delta(3, Arguments, 0, "{}"),
            delta(4, Input, 0, "x"),
            whole(4, Input, 0, "x"),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn odd_deltas_are_read_like_plain_ones() {
        let cases: &[(&[&str], &[ModelEvent])] = &[
            (
                &[
                    r#"{"type":"response.output_text.delta","delta":"a","logprobs":null,"output_index":null,"content_index":"?"}"#,
                ],
                &[delta(0, Field::Text, 0, "a")],
            ),
            (
                &[r#"{"type":"response.output_text.delta","output_index":0,"delta":""}"#],
                &[],
            ),
            (
                &[r#"{"type":"response.output_text.delta","output_index":0}"#],
                &[],
            ),
            (
                &[
                    r#"{"type":"response.output_text.delta","output_index":0,"delta":"a","delta":"b"}"#,
                ],
                &[delta(0, Field::Text, 0, "b")],
            ),
            (
                &[
                    r#"{"type":"response.output_text.delta","output_index":0,"delta":"a\ud83d"}"#,
                    r#"{"type":"response.output_text.delta","output_index":0,"delta":"\ude00b"}"#,
                    r#"{"type":"response.output_text.delta","output_index":0,"delta":"\ud83d"}"#,
                    r#"{"type":"response.output_text.delta","output_index":0,"delta":"c"}"#,
                    r#"{"type":"response.output_text.delta","output_index":0,"delta":"\ude00"}"#,
                ],
                &[
                    delta(0, Field::Text, 0, "a"),
                    delta(0, Field::Text, 0, "😀b"),
                    delta(0, Field::Text, 0, "\u{FFFD}c"),
                    delta(0, Field::Text, 0, "\u{FFFD}"),
                ],
            ),
        ];
        for (lines, expected) in cases {
            assert_eq!(stream(lines), *expected, "{lines:?}");
        }
    }

    #[test]
    fn items_without_an_output_index_are_told_apart_by_their_ids() {
        let events = stream(&[
            r#"{"type":"response.output_item.added","output_index":7,"item":{"type":"reasoning","id":"rs_1"}}"#,
            r#"{"type":"response.reasoning_text.delta","item_id":"rs_1","delta":"a"}"#,
            r#"{"type":"response.output_text.delta","item_id":"msg_1","delta":"b"}"#,
            r#"{"type":"response.output_text.delta","delta":"c"}"#,
            r#"{"type":"response.reasoning_text.delta","item_id":"rs_1","delta":"d"}"#,
        ]);

        let expected = vec![
            ModelEvent::ItemAdded {
                key: ItemKey(7),
                item: object(&json!({"type": "reasoning", "id": "rs_1"})),
            },
            delta(7, Field::ReasoningText, 0, "a"),
            delta(WITHOUT_INDEX + 1, Field::Text, 0, "b"),
            delta(WITHOUT_INDEX + 1, Field::Text, 0, "c"),
            delta(7, Field::ReasoningText, 0, "d"),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn hosted_tools_and_annotations_pass_and_the_rest_is_skipped() {
        let events = stream(&[
            r#"{"type":"response.web_search_call.searching","sequence_number":3,"item_id":"ws_1","output_index":2}"#,
            r#"{"type":"response.code_interpreter_call_code.delta","item_id":"ci_1","output_index":3,"delta":"1+1"}"#,
            r#"{"type":"response.output_text.annotation.added","output_index":4,"content_index":1,"annotation_index":0,"annotation":{"type":"file_path"}}"#,
            r#"{"type":"response.created","response":{"error":null}}"#,
            r#"{"type":"response.output_item.added","output_index":0,"item":null}"#,
            r#"{"type":"response.output_item.done","output_index":0,"item":{"id":"no type"}}"#,
            r#"{"type":"keepalive"}"#,
            r#"{"type":"response.something.new","x":1}"#,
            "not json",
            "[1]",
            "",
        ]);

        let expected = vec![
            ModelEvent::Progress {
                key: ItemKey(2),
                name: "response.web_search_call.searching".to_owned(),
                fields: Object::new(),
            },
            ModelEvent::Progress {
                key: ItemKey(3),
                name: "response.code_interpreter_call_code.delta".to_owned(),
                fields: object(&json!({"delta": "1+1"})),
            },
            ModelEvent::Annotation {
                key: ItemKey(4),
                part: 1,
                annotation: object(&json!({"type": "file_path"})),
            },
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn every_way_to_end_is_understood() {
        let incomplete = |reason: &str| Outcome::Incomplete {
            reason: reason.to_owned(),
        };
        let failed = |code: &str, message: &str| {
            Outcome::Failed(ResponseError {
                code: code.to_owned(),
                ..server_error(message)
            })
        };
        let cases = [
            (r#"{"type":"response.completed"}"#, Outcome::Completed),
            (
                r#"{"type":"response.completed","response":{"status":"in_progress","output":null}}"#,
                Outcome::Completed,
            ),
            (
                r#"{"type":"response.done","response":{"status":"incomplete"}}"#,
                incomplete("max_output_tokens"),
            ),
            (
                r#"{"type":"response.incomplete","response":{"incomplete_details":{"reason":"content_filter"}}}"#,
                incomplete("content_filter"),
            ),
            (
                r#"{"type":"response.incomplete","response":{"incomplete_details":null}}"#,
                incomplete("max_output_tokens"),
            ),
            (
                r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"invalid_prompt","message":"No."}}}"#,
                failed("invalid_prompt", "No."),
            ),
            (
                r#"{"type":"response.failed"}"#,
                failed("server_error", "The upstream reported an error."),
            ),
            (
                r#"{"type":"response.failed","response":{"status":"cancelled","error":null}}"#,
                failed("server_error", "The upstream cancelled the response."),
            ),
            (
                r#"{"type":"error","code":"rate_limit_exceeded","message":"Slow."}"#,
                failed("rate_limit_exceeded", "Slow."),
            ),
            (
                r#"{"type":"error","error":{"code":"odd","message":"Slow."}}"#,
                failed("server_error", "Slow."),
            ),
            (
                r#"{"error":{"code":500,"message":"Broken."}}"#,
                failed("server_error", "Broken."),
            ),
        ];
        for (line, outcome) in cases {
            assert_eq!(stream(&[line]), vec![end(outcome)], "{line}");
        }
        let named = b"event: error\ndata: {\"message\":\"Broken.\"}\n\n";
        assert_eq!(
            read([&named[..]]),
            vec![end(failed("server_error", "Broken."))]
        );
    }
}
