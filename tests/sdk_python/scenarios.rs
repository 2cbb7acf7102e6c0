//! What the scripted model says to the clients of the SDK tests, chosen by what they ask.

use serde_json::{Value, json};
use talaria_testkit::upstream::{Request, ResponsesStream, Script};

/// The answer to `request`, by its last item: the text of a message, or the output of a function.
pub fn answer(request: &Request) -> Option<Script> {
    let items = request.body["input"].as_array()?;
    let stream = ResponsesStream::new();
    let script = match text_of(items.last()?) {
        "text" => stream.text(&["Hel", "lo, ", "you!"]).completed(),
        "annotations" => annotations(stream).completed(),
        "call the weather" => {
            let arguments = ["{\"city\":", "\"Oslo\"}"];
            let stream = stream.function_call("call_1", "weather", &arguments);
            stream.completed()
        }
        "rain" => stream.text(&["It rains."]).completed(),
        "think in summary" => {
            let stream = stream.reasoning_summary(&["First ", "this."]);
            stream.text(&["Thought."]).completed()
        }
        "think aloud" => {
            let stream = stream.reasoning_text(&["Hm, ", "well."]);
            stream.text(&["Said."]).completed()
        }
        "refuse" => stream.refusal(&["I'd ", "rather not."]).completed(),
        "fail" => {
            let stream = stream.open_text().deltas(&["So f"]);
            stream.failed("server_error", "The model tripped.")
        }
        "run into the limit" => {
            let stream = stream.open_text().deltas(&["Once ", "upon"]);
            stream.incomplete("max_output_tokens")
        }
        "the city as json" => {
            let stream = stream.text(&["{\"city\":\"Oslo\",", "\"degrees\":-3}"]);
            stream.completed()
        }
        "what did I ask first" => stream.text(&[text_of(&items[0])]).completed(),
        "never end" => {
            let stream = stream.open_text().deltas(&["Endless"]);
            stream.gate("never").completed()
        }
        _ => return None,
    };
    Some(script)
}

fn text_of(item: &Value) -> &str {
    let texts = [
        &item["content"],
        &item["content"][0]["text"],
        &item["output"],
    ];
    texts
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or_default()
}

/// A message that cites a page.
fn annotations(stream: ResponsesStream) -> ResponsesStream {
    let annotation = json!({
        "type": "url_citation", "start_index": 0, "end_index": 4, "url": "https://example.org/",
        "title": "An example",
    });
    let part = |text: &str, annotations: &[&Value]| json!({"type": "output_text", "text": text, "annotations": annotations, "logprobs": []});
    let message = |status: &str, content: &[&Value]| {
        json!({
            "id": "msg_cites", "type": "message", "status": status, "role": "assistant",
            "content": content,
        })
    };
    let event = |stream: ResponsesStream, kind: &str, more: (&str, Value)| {
        let mut fields = json!({"item_id": "msg_cites", "output_index": 0, "content_index": 0});
        fields[more.0] = more.1;
        if kind.starts_with("response.output_text.d") {
            fields["logprobs"] = json!([]);
        }
        if kind == "response.output_text.annotation.added" {
            fields["annotation_index"] = 0.into();
        }
        stream.event(kind, fields)
    };
    let (empty, whole) = (part("", &[]), part("Cited", &[&annotation]));
    let stream = stream.begin_item(&message("in_progress", &[]));
    let stream = event(stream, "response.content_part.added", ("part", empty));
    let stream = event(
        stream,
        "response.output_text.delta",
        ("delta", "Cited".into()),
    );
    let added = ("annotation", annotation.clone());
    let stream = event(stream, "response.output_text.annotation.added", added);
    let stream = event(
        stream,
        "response.output_text.done",
        ("text", "Cited".into()),
    );
    let stream = event(
        stream,
        "response.content_part.done",
        ("part", whole.clone()),
    );
    stream.end_item(message("completed", &[&whole]))
}
