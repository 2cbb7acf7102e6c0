//! Answers of the Chat Completions API.

use serde_json::{Value, json};

use super::answer::{Answer, Text};

const ID: &str = "chatcmpl-0123456789abcdef0123456789abc";
const CREATED: u64 = 1_790_000_000;

/// An answer with this text.
pub fn answer(text: Text) -> Answer {
    let tokens = text.tokens;
    let usage =
        json!({"prompt_tokens": 12, "completion_tokens": tokens, "total_tokens": 12 + tokens});
    let deltas: Vec<_> = (0..tokens)
        .map(|number| {
            frame(&choice(
                &json!({"content": text.token(number)}),
                &Value::Null,
            ))
        })
        .collect();
    let after = [
        frame(&choice(&json!({}), &json!("stop"))),
        frame(&object("chat.completion.chunk", &json!([]), &usage)),
        "data: [DONE]\n\n".to_owned(),
    ];
    let message = json!({"role": "assistant", "content": text.whole(), "refusal": null});
    let whole = object(
        "chat.completion",
        &json!([{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}]),
        &usage,
    );
    Answer::new(
        &frame(&choice(
            &json!({"role": "assistant", "content": ""}),
            &Value::Null,
        )),
        &deltas,
        &after.concat(),
        whole.to_string(),
    )
}

fn choice(delta: &Value, finish_reason: &Value) -> Value {
    let choices =
        json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]);
    object("chat.completion.chunk", &choices, &Value::Null)
}

fn object(kind: &str, choices: &Value, usage: &Value) -> Value {
    json!({"id": ID, "object": kind, "created": CREATED, "model": "mock", "choices": choices,
        "usage": usage})
}

fn frame(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_role_text_reason_usage_and_end() {
        let bytes = answer(Text::plain(1)).pieces.concat();

        insta::assert_snapshot!(str::from_utf8(&bytes).unwrap(), @r#"
        data: {"id":"chatcmpl-0123456789abcdef0123456789abc","object":"chat.completion.chunk","created":1790000000,"model":"mock","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}

        data: {"id":"chatcmpl-0123456789abcdef0123456789abc","object":"chat.completion.chunk","created":1790000000,"model":"mock","choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null}],"usage":null}

        data: {"id":"chatcmpl-0123456789abcdef0123456789abc","object":"chat.completion.chunk","created":1790000000,"model":"mock","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

        data: {"id":"chatcmpl-0123456789abcdef0123456789abc","object":"chat.completion.chunk","created":1790000000,"model":"mock","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":1,"total_tokens":13}}

        data: [DONE]
        "#);
    }
}
