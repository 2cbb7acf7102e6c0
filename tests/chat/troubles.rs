//! Answers that are not whole, and requests that are refused.

use serde_json::{Value, json};
use talaria_testkit::stack::ApiKind;
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

use crate::support::{KINDS, complete, frames, header, post, put_together, stack, user};

fn fails(kind: ApiKind, deltas: &[&str]) -> Script {
    let message = "The model tripped.";
    match kind {
        ApiKind::Responses if deltas.is_empty() => {
            ResponsesStream::new().failed("server_error", message)
        }
        ApiKind::Responses => {
            let stream = ResponsesStream::new().open_text().deltas(deltas);
            stream.failed("server_error", message)
        }
        ApiKind::ChatCompletions => ChatStream::new()
            .text(deltas)
            .failed("server_error", message),
    }
}

fn is_cut(kind: ApiKind, reason: &str) -> Script {
    match (kind, reason) {
        (ApiKind::Responses, "length") => {
            let stream = ResponsesStream::new().open_text().deltas(&["Once"]);
            stream.incomplete("max_output_tokens")
        }
        (ApiKind::Responses, reason) => {
            let stream = ResponsesStream::new().open_text().deltas(&["Once"]);
            stream.incomplete(reason)
        }
        (ApiKind::ChatCompletions, reason) => ChatStream::new().text(&["Once"]).finish(reason),
    }
}

#[tokio::test]
async fn a_run_that_failed_with_nothing_to_show_is_a_502() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        stack.upstream.push(fails(kind, &[]));

        let answer = post(&stack, &user("x"), &[]).await?;

        assert_eq!(answer.status(), 502);
        let headers = ["x-hermes-completed", "x-hermes-partial", "x-hermes-error"];
        assert_eq!(
            headers.map(|name| header(&answer, name)),
            ["false", "false", "The model tripped."]
        );
        assert_eq!(
            answer.json::<Value>().await?,
            json!({"error": {
                "message": "The model tripped.", "type": "server_error", "param": null,
                "code": "agent_incomplete",
                "hermes": {"completed": false, "partial": false, "failed": true},
            }})
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_failed_after_its_first_words_shows_them() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        stack.upstream.push(fails(kind, &["So f"]));
        stack.upstream.push(fails(kind, &["So f"]));

        let answer = post(&stack, &user("x"), &[]).await?;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "x-hermes-completed"), "false");
        let whole: Value = answer.json().await?;
        let streamed = frames(&stack, &user("x"), &[]).await?;

        let hermes = json!({
            "completed": false, "partial": false, "failed": true, "error": "The model tripped.",
            "error_code": "agent_error",
        });
        assert_eq!(whole["choices"][0]["message"]["content"], "So f");
        assert_eq!(whole["choices"][0]["finish_reason"], "error");
        assert_eq!(whole["hermes"], hermes);
        let put = put_together(&streamed)?;
        assert_eq!(
            (put.content.as_str(), put.finish.as_str()),
            ("So f", "error")
        );
        let finish = streamed[streamed.len() - 2].json();
        assert_eq!(finish["hermes"], hermes);
        assert_eq!(finish["error"]["message"], "The model tripped.");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_was_cut_off_says_why() -> anyhow::Result<()> {
    for kind in KINDS {
        for reason in ["length", "content_filter"] {
            let stack = stack(kind).await?;
            stack.upstream.push(is_cut(kind, reason));
            stack.upstream.push(is_cut(kind, reason));

            let whole = complete(&stack, &user("x"), &[]).await?;
            let streamed = frames(&stack, &user("x"), &[]).await?;

            assert_eq!(whole["choices"][0]["finish_reason"], reason);
            assert_eq!(whole["hermes"]["partial"], true);
            let put = put_together(&streamed)?;
            assert_eq!(
                (put.content.as_str(), put.finish.as_str()),
                ("Once", reason)
            );
        }
    }
    Ok(())
}

/// The code, the param and the message's beginning, then the body.
const BAD: &str = r#"
    - | messages | Missing or invalid 'messages' field | {"model":"x"}
    - | messages | Missing or invalid 'messages' field | {"messages":[]}
    - | messages | No user message found in messages   | {"messages":[{"role":"system","content":"x"}]}
    - | messages | No user message found in messages   | {"messages":[{"role":"user","content":" "}]}
    - | - | We could not parse the JSON body           | {"messages":
    invalid_type | - | The request body must be a JSON object | [1]
    invalid_image_url | messages[0].content[0].image_url.url | Invalid | {"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"ftp://x"}}]}]}
    unsupported_content_type | messages[0].content[0] | Files are not supported | {"messages":[{"role":"user","content":[{"type":"file","file":{}}]}]}
    unsupported_value | n | Unsupported value | {"n":2,"messages":[{"role":"user","content":"x"}]}
    unsupported_parameter | audio | Audio is not supported | {"audio":{},"messages":[{"role":"user","content":"x"}]}
"#;

#[tokio::test]
async fn bad_requests_are_refused_and_leave_nothing_behind() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;
    for line in BAD.lines().filter(|line| !line.trim().is_empty()) {
        let columns: Vec<&str> = line.splitn(4, '|').map(str::trim).collect();
        let [code, param, message, body] = columns[..] else {
            anyhow::bail!("not four columns: {line}");
        };
        let request = stack.http.post(stack.url("/v1/chat/completions"));
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_owned()).send().await?;

        assert_eq!(answer.status(), 400, "{line}");
        let error = answer.json::<Value>().await?["error"].take();
        let word = |name: &str| error[name].as_str().unwrap_or("-").to_owned();
        assert_eq!(
            (word("code").as_str(), word("param").as_str()),
            (code, param),
            "{line}"
        );
        assert!(word("message").starts_with(message), "{line}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    assert_eq!(stack.upstream.requests().len(), 0);
    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn other_methods_and_media_types_are_refused() -> anyhow::Result<()> {
    let stack = stack(ApiKind::Responses).await?;
    let url = stack.url("/v1/chat/completions");

    let read = stack.http.get(&url).send().await?;
    let form = stack.http.post(&url).body("messages=x").send().await?;

    assert_eq!((read.status().as_u16(), form.status().as_u16()), (405, 415));
    Ok(())
}
