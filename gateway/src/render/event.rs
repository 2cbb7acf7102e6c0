//! SSE frames: `event:` and `data:` lines, nothing else.

use talaria_domain::json::push_string;
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{
    ContentPart, Event, ItemDelta, ItemText, OutputItem, PartDelta, PartText, Response, SummaryPart,
};

use super::{push_name, push_number, push_raw, push_response};

/// The last frame of every stream.
pub const DONE: &str = "data: [DONE]\n\n";
/// What keeps a silent connection open: a comment, which every client skips.
pub const KEEPALIVE: &str = ": keep-alive\n\n";

/// Appends the frame of an event.
pub fn push_frame(frames: &mut String, event: &Event) {
    let Some(kind) = &event.kind else { return };
    let name = event_name(kind);
    frames.push_str("event: ");
    frames.push_str(name);
    frames.push_str("\ndata: {\"type\":");
    push_string(frames, name);
    push_name(frames, "sequence_number");
    push_number(frames, event.sequence_number);
    push_members(frames, kind);
    frames.push_str("}\n\n");
}

/// The frame of an error that no response can tell: both shapes of it in one, which every client reads.
pub fn error_frame(sequence_number: u64, message: &str) -> String {
    let mut frame = String::from("event: error\ndata: {\"type\":\"error\"");
    push_name(&mut frame, "sequence_number");
    push_number(&mut frame, sequence_number);
    frame.push_str(",\"code\":\"server_error\",\"message\":");
    push_string(&mut frame, message);
    frame.push_str(",\"param\":null,\"error\":{\"type\":\"server_error\",\"code\":\"server_error\",\"message\":");
    push_string(&mut frame, message);
    frame.push_str(",\"param\":null}}\n\n");
    frame
}

/// The frame that a follower of an active response begins with: the response after event `sequence_number`.
pub fn snapshot_frame(response: &Response, sequence_number: u64) -> String {
    let mut frame = String::from("event: response.snapshot\ndata: {\"type\":\"response.snapshot\"");
    push_name(&mut frame, "sequence_number");
    push_number(&mut frame, sequence_number);
    push_name(&mut frame, "response");
    push_response(&mut frame, response);
    frame.push_str("}\n\n");
    frame
}

fn event_name(kind: &Kind) -> &str {
    match kind {
        Kind::Created(_) => "response.created",
        Kind::Queued(_) => "response.queued",
        Kind::InProgress(_) => "response.in_progress",
        Kind::Completed(_) => "response.completed",
        Kind::Failed(_) => "response.failed",
        Kind::Incomplete(_) => "response.incomplete",
        Kind::OutputItemAdded(_) => "response.output_item.added",
        Kind::OutputItemDone(_) => "response.output_item.done",
        Kind::ContentPartAdded(_) => "response.content_part.added",
        Kind::ContentPartDone(_) => "response.content_part.done",
        Kind::OutputTextDelta(_) => "response.output_text.delta",
        Kind::OutputTextDone(_) => "response.output_text.done",
        Kind::OutputTextAnnotationAdded(_) => "response.output_text.annotation.added",
        Kind::RefusalDelta(_) => "response.refusal.delta",
        Kind::RefusalDone(_) => "response.refusal.done",
        Kind::FunctionCallArgumentsDelta(_) => "response.function_call_arguments.delta",
        Kind::FunctionCallArgumentsDone(_) => "response.function_call_arguments.done",
        Kind::CustomToolCallInputDelta(_) => "response.custom_tool_call_input.delta",
        Kind::CustomToolCallInputDone(_) => "response.custom_tool_call_input.done",
        Kind::ReasoningSummaryPartAdded(_) => "response.reasoning_summary_part.added",
        Kind::ReasoningSummaryPartDone(_) => "response.reasoning_summary_part.done",
        Kind::ReasoningSummaryTextDelta(_) => "response.reasoning_summary_text.delta",
        Kind::ReasoningSummaryTextDone(_) => "response.reasoning_summary_text.done",
        Kind::ReasoningTextDelta(_) => "response.reasoning_text.delta",
        Kind::ReasoningTextDone(_) => "response.reasoning_text.done",
        Kind::McpCallArgumentsDelta(_) => "response.mcp_call_arguments.delta",
        Kind::McpCallArgumentsDone(_) => "response.mcp_call_arguments.done",
        Kind::ItemProgress(progress) => &progress.r#type,
    }
}

fn push_members(json: &mut String, kind: &Kind) {
    match kind {
        Kind::Created(response)
        | Kind::Queued(response)
        | Kind::InProgress(response)
        | Kind::Completed(response)
        | Kind::Failed(response)
        | Kind::Incomplete(response) => push_lifecycle(json, response),
        Kind::OutputItemAdded(item) | Kind::OutputItemDone(item) => push_item(json, item),
        Kind::ContentPartAdded(part) | Kind::ContentPartDone(part) => push_content_part(json, part),
        Kind::ReasoningSummaryPartAdded(part) | Kind::ReasoningSummaryPartDone(part) => {
            push_summary_part(json, part);
        }
        Kind::OutputTextDelta(delta) => {
            push_part_delta(json, "content_index", delta);
            push_logprobs(json, &delta.logprobs);
        }
        Kind::RefusalDelta(delta) | Kind::ReasoningTextDelta(delta) => {
            push_part_delta(json, "content_index", delta);
        }
        Kind::ReasoningSummaryTextDelta(delta) => push_part_delta(json, "summary_index", delta),
        Kind::OutputTextDone(text) => {
            push_part_text(json, "content_index", "text", text);
            push_logprobs(json, &text.logprobs);
        }
        Kind::RefusalDone(text) => push_part_text(json, "content_index", "refusal", text),
        Kind::ReasoningTextDone(text) => push_part_text(json, "content_index", "text", text),
        Kind::ReasoningSummaryTextDone(text) => {
            push_part_text(json, "summary_index", "text", text);
        }
        Kind::FunctionCallArgumentsDelta(delta)
        | Kind::CustomToolCallInputDelta(delta)
        | Kind::McpCallArgumentsDelta(delta) => push_item_delta(json, delta),
        Kind::FunctionCallArgumentsDone(text) | Kind::McpCallArgumentsDone(text) => {
            push_item_text(json, "arguments", text);
        }
        Kind::CustomToolCallInputDone(text) => push_item_text(json, "input", text),
        Kind::OutputTextAnnotationAdded(added) => {
            push_place(json, &added.item_id, added.output_index);
            push_name(json, "content_index");
            push_number(json, added.content_index);
            push_name(json, "annotation_index");
            push_number(json, added.annotation_index);
            push_name(json, "annotation");
            push_raw(json, &added.annotation);
        }
        Kind::ItemProgress(progress) => {
            push_place(json, &progress.item_id, progress.output_index);
            let fields = std::str::from_utf8(&progress.fields).unwrap_or_default();
            let members = fields
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            if let Some(members) = members.filter(|members| !members.is_empty()) {
                json.push(',');
                json.push_str(members);
            }
        }
    }
}

fn push_lifecycle(json: &mut String, response: &Response) {
    push_name(json, "response");
    push_response(json, response);
}

fn push_item(json: &mut String, item: &OutputItem) {
    push_name(json, "output_index");
    push_number(json, item.output_index);
    push_name(json, "item");
    push_raw(json, &item.item);
}

fn push_content_part(json: &mut String, part: &ContentPart) {
    push_place(json, &part.item_id, part.output_index);
    push_name(json, "content_index");
    push_number(json, part.content_index);
    push_name(json, "part");
    push_raw(json, &part.part);
}

fn push_summary_part(json: &mut String, part: &SummaryPart) {
    push_place(json, &part.item_id, part.output_index);
    push_name(json, "summary_index");
    push_number(json, part.summary_index);
    push_name(json, "part");
    push_raw(json, &part.part);
}

fn push_part_delta(json: &mut String, index_name: &str, delta: &PartDelta) {
    push_place(json, &delta.item_id, delta.output_index);
    push_name(json, index_name);
    push_number(json, delta.index);
    push_name(json, "delta");
    push_string(json, &delta.delta);
}

fn push_part_text(json: &mut String, index_name: &str, text_name: &str, text: &PartText) {
    push_place(json, &text.item_id, text.output_index);
    push_name(json, index_name);
    push_number(json, text.index);
    push_name(json, text_name);
    push_string(json, &text.text);
}

fn push_item_delta(json: &mut String, delta: &ItemDelta) {
    push_place(json, &delta.item_id, delta.output_index);
    push_name(json, "delta");
    push_string(json, &delta.delta);
}

fn push_item_text(json: &mut String, text_name: &str, text: &ItemText) {
    push_place(json, &text.item_id, text.output_index);
    push_name(json, text_name);
    push_string(json, &text.text);
}

fn push_place(json: &mut String, item_id: &str, output_index: u32) {
    push_name(json, "item_id");
    push_string(json, item_id);
    push_name(json, "output_index");
    push_number(json, output_index);
}

fn push_logprobs(json: &mut String, logprobs: &[u8]) {
    push_name(json, "logprobs");
    push_raw(json, if logprobs.is_empty() { b"[]" } else { logprobs });
}

#[cfg(test)]
mod tests {
    use talaria_proto::v1::{EventNote, Status};

    use super::*;

    #[test]
    fn a_delta_is_one_frame_whatever_its_text_says_and_its_note_is_not_shown() {
        let delta = PartDelta {
            item_id: "msg_1".into(),
            delta: "\n\ndata: [DONE]\u{0}\u{2028}\"".into(),
            ..Default::default()
        };
        let event = Event {
            sequence_number: 4,
            kind: Some(Kind::OutputTextDelta(delta)),
            at_ms: 7,
            note: Some(EventNote {
                upstream_response_id: "resp_of_the_upstream".into(),
                ..EventNote::default()
            }),
        };
        let mut frame = String::new();
        push_frame(&mut frame, &event);

        let expected = concat!(
            "event: response.output_text.delta\n",
            r#"data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","#,
            r#""output_index":0,"content_index":0,"delta":"\n\ndata: [DONE]\u0000"#,
            "\u{2028}",
            r#"\"","logprobs":[]}"#,
            "\n\n"
        );
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_response_shows_every_member() {
        let settings = talaria_domain::echo::settings(None, b"").unwrap();
        let mut response = Response {
            id: "resp_1".into(),
            created_at: 1,
            completed_at: Some(2),
            model: "m".into(),
            output: vec![bytes::Bytes::from_static(b"{}")],
            usage: Some(talaria_proto::v1::Usage::default()),
            settings: settings.into(),
            store: true,
            ..Default::default()
        };
        response.set_status(Status::Completed);

        insta::assert_snapshot!(super::super::response_json(&response), @r#"{"id":"resp_1","object":"response","created_at":1,"status":"completed","background":false,"completed_at":2,"error":null,"incomplete_details":null,"model":"m","output":[{}],"previous_response_id":null,"conversation":null,"store":true,"usage":{"input_tokens":0,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":0,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":0},"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"parallel_tool_calls":true,"presence_penalty":0.0,"frequency_penalty":0.0,"prompt_cache_key":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default","temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","user":null,"metadata":{}}"#);
    }
}
