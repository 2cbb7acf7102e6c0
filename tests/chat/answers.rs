//! Whole and streamed answers.

use serde_json::{Value, json};
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::ApiKind;
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

use crate::support::{
    KINDS, complete, frames, header, post, put_together, says, shown, stack, user,
};

fn thinks(kind: ApiKind) -> Script {
    match kind {
        ApiKind::Responses => {
            let stream = ResponsesStream::new().reasoning_summary(&["Let me ", "see."]);
            stream.text(&["Four."]).completed()
        }
        ApiKind::ChatCompletions => {
            let stream = ChatStream::new().reasoning(&["Let me ", "see."]);
            stream.text(&["Four."]).finish("stop")
        }
    }
}

fn usage() -> Value {
    json!({
        "prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// REQ-81, REQ-93
#[tokio::test]
async fn an_answer_is_whole_and_nothing_of_it_is_kept() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        stack.upstream.push(says(kind, &["Hel", "lo"]));
        let body = json!({"model": "gpt-4o", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "Two"},
        ]});

        let answer = post(&stack, &body, &[]).await?;

        let session = header(&answer, "x-hermes-session-id");
        assert_eq!((session.len(), &session[..4]), (20, "api-"));
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        let mut completion: Value = answer.json().await?;
        let id = completion["id"].take();
        let digits = id.as_str().and_then(|id| id.strip_prefix("chatcmpl-"));
        assert_eq!(digits.map(str::len), Some(32), "{id}");
        assert!(completion["created"].take().is_u64());
        assert_eq!(
            completion,
            json!({
                "id": null, "object": "chat.completion", "created": null, "model": "gpt-4o",
                "choices": [{
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello", "refusal": null, "annotations": []},
                    "logprobs": null, "finish_reason": "stop",
                }],
                "usage": usage(),
            })
        );
        assert_eq!(
            shown(&stack, 0).await?,
            "system: Be brief.\nuser: One\nassistant: 1\nuser: Two"
        );
        assert_eq!(stack.rows().await?, [] as [String; 0]);
    }
    Ok(())
}

/// REQ-93
#[tokio::test]
async fn a_stream_says_what_a_whole_answer_says() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        for _ in 0..3 {
            stack.upstream.push(thinks(kind));
        }

        let streamed = frames(&stack, &user("2+2"), &[]).await?;
        let mut wants_usage = user("2+2");
        wants_usage["stream_options"] = json!({"include_usage": true});
        let with_usage = frames(&stack, &wants_usage, &[]).await?;
        let whole = complete(&stack, &user("2+2"), &[]).await?;

        let put = put_together(&streamed)?;
        assert_eq!(
            (put.content.as_str(), put.reasoning.as_str()),
            ("Four.", "Let me see.")
        );
        assert_eq!((put.finish.as_str(), put.usage), ("stop", usage()));
        let message = &whole["choices"][0]["message"];
        assert_eq!(message["content"], "Four.");
        assert_eq!(message["reasoning_content"], "Let me see.");

        let put = put_together(&with_usage)?;
        assert_eq!((put.content.as_str(), put.usage), ("Four.", usage()));
        let chunks: Vec<Value> = with_usage.iter().map(Frame::json).collect();
        let [others @ .., last, _done] = &chunks[..] else {
            anyhow::bail!("too few chunks");
        };
        assert_eq!(last["choices"], json!([]));
        assert!(
            others
                .iter()
                .all(|chunk| chunk.get("usage") == Some(&Value::Null))
        );
        assert_eq!(stack.rows().await?, [] as [String; 0]);
    }
    Ok(())
}

#[tokio::test]
async fn images_and_parameters_reach_the_upstream_in_its_own_words() -> anyhow::Result<()> {
    let body = json!({
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        ]}],
        "temperature": 0.5, "max_tokens": 5, "stop": ["#"], "seed": 7, "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
    });
    for kind in KINDS {
        let stack = stack(kind).await?;
        stack.upstream.push(says(kind, &["A cat."]));
        complete(&stack, &body, &[]).await?;

        let mut told = stack.upstream.request(0).await?.body;
        let told = told.as_object_mut().expect("an object");
        for ours in ["model", "stream", "store", "stream_options"] {
            told.shift_remove(ours);
        }
        let text = "What is this?";
        let url = "data:image/png;base64,AA==";
        let expected = match kind {
            ApiKind::Responses => json!({
                "input": [{"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": text},
                    {"type": "input_image", "image_url": url, "detail": "low"},
                ]}],
                "temperature": 0.5, "max_output_tokens": 16, "text": {"format": {"type": "json_object"}},
                "reasoning": {"effort": "low"},
            }),
            ApiKind::ChatCompletions => json!({
                "messages": [{"role": "user", "content": [
                    {"type": "text", "text": text},
                    {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
                ]}],
                "temperature": 0.5, "stop": ["#"], "seed": 7, "max_tokens": 5, "reasoning_effort": "low",
                "response_format": {"type": "json_object"},
            }),
        };
        assert_eq!(json!(told), expected);
    }
    Ok(())
}
