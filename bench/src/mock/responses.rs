//! Answers of the Responses API.

use serde_json::{Value, json};

use super::answer::{Answer, Text};

const RESPONSE: &str = "resp_0123456789abcdef0123456789abcdef0123456789abcdef";
const MESSAGE: &str = "msg_0123456789abcdef0123456789abcdef0123456789abcdef";
const CREATED_AT: u64 = 1_790_000_000;

/// An answer of one message with this text.
pub fn answer(answer: Text) -> Answer {
    let tokens = answer.tokens;
    let text = answer.whole();
    let item = |status: &str, content: Value| {
        json!({"id": MESSAGE, "type": "message", "status": status, "role": "assistant",
            "content": content})
    };
    let part = |text: &str| json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text});
    let done = item("completed", json!([part(&text)]));
    let started = response("in_progress", &json!([]), &Value::Null);
    let usage = json!({"input_tokens": 12, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12 + tokens});
    let finished = response("completed", &json!([done]), &usage);

    let mut frames = Frames::default();
    let before = [
        frames.next("response.created", json!({"response": started})),
        frames.next("response.in_progress", json!({"response": started})),
        frames.next(
            "response.output_item.added",
            json!({"output_index": 0, "item": item("in_progress", json!([]))}),
        ),
        frames.next(
            "response.content_part.added",
            json!({"item_id": MESSAGE, "output_index": 0, "content_index": 0, "part": part("")}),
        ),
    ];
    let deltas: Vec<_> = (0..tokens)
        .map(|number| {
            frames.next(
                "response.output_text.delta",
                json!({"item_id": MESSAGE, "output_index": 0, "content_index": 0,
                    "delta": answer.token(number), "logprobs": []}),
            )
        })
        .collect();
    let after = [
        frames.next(
            "response.output_text.done",
            json!({"item_id": MESSAGE, "output_index": 0, "content_index": 0, "text": text,
                "logprobs": []}),
        ),
        frames.next(
            "response.content_part.done",
            json!({"item_id": MESSAGE, "output_index": 0, "content_index": 0,
                "part": part(&text)}),
        ),
        frames.next(
            "response.output_item.done",
            json!({"output_index": 0, "item": done}),
        ),
        frames.next("response.completed", json!({"response": finished})),
        "data: [DONE]\n\n".to_owned(),
    ];
    Answer::new(
        &before.concat(),
        &deltas,
        &after.concat(),
        finished.to_string(),
    )
}

/// Numbers and renders events.
#[derive(Default)]
struct Frames {
    next: u64,
}

impl Frames {
    fn next(&mut self, kind: &str, fields: Value) -> String {
        let mut event = json!({"type": kind, "sequence_number": self.next});
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        self.next += 1;
        format!("event: {kind}\ndata: {event}\n\n")
    }
}

fn response(status: &str, output: &Value, usage: &Value) -> Value {
    json!({
        "id": RESPONSE,
        "object": "response",
        "created_at": CREATED_AT,
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "max_output_tokens": null,
        "metadata": {},
        "model": "mock",
        "output": output,
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "store": true,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_the_canonical_events() {
        let bytes = answer(Text::plain(1)).pieces.concat();
        // The response objects are long, and the same as anywhere.
        let events: Vec<_> = str::from_utf8(&bytes)
            .unwrap()
            .lines()
            .filter(|line| !line.is_empty() && !line.contains(r#""response":{"#))
            .collect();

        insta::assert_snapshot!(events.join("\n"), @r#"
        event: response.created
        event: response.in_progress
        event: response.output_item.added
        data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"msg_0123456789abcdef0123456789abcdef0123456789abcdef","type":"message","status":"in_progress","role":"assistant","content":[]}}
        event: response.content_part.added
        data: {"type":"response.content_part.added","sequence_number":3,"item_id":"msg_0123456789abcdef0123456789abcdef0123456789abcdef","output_index":0,"content_index":0,"part":{"type":"output_text","annotations":[],"logprobs":[],"text":""}}
        event: response.output_text.delta
        data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_0123456789abcdef0123456789abcdef0123456789abcdef","output_index":0,"content_index":0,"delta":" the","logprobs":[]}
        event: response.output_text.done
        data: {"type":"response.output_text.done","sequence_number":5,"item_id":"msg_0123456789abcdef0123456789abcdef0123456789abcdef","output_index":0,"content_index":0,"text":" the","logprobs":[]}
        event: response.content_part.done
        data: {"type":"response.content_part.done","sequence_number":6,"item_id":"msg_0123456789abcdef0123456789abcdef0123456789abcdef","output_index":0,"content_index":0,"part":{"type":"output_text","annotations":[],"logprobs":[],"text":" the"}}
        event: response.output_item.done
        data: {"type":"response.output_item.done","sequence_number":7,"output_index":0,"item":{"id":"msg_0123456789abcdef0123456789abcdef0123456789abcdef","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":" the"}]}}
        event: response.completed
        data: [DONE]
        "#);
    }
}
