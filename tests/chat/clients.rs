//! What well-known clients send, recorded by hand from their sources.

use serde_json::Value;
use talaria_testkit::stack::ApiKind;

use crate::support::{KINDS, complete, frames, put_together, says, shown, stack};

fn recorded(name: &str) -> anyhow::Result<Value> {
    let path = format!("{}/tests/chat/{name}.json", env!("CARGO_MANIFEST_DIR"));
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// REQ-91
#[tokio::test]
async fn open_webui_chats_and_makes_titles() -> anyhow::Result<()> {
    for kind in KINDS {
        let stack = stack(kind).await?;
        for text in ["A cat.", "🐱 The cat", "Wet."] {
            stack.upstream.push(says(kind, &[text]));
        }

        let chat = frames(&stack, &recorded("open_webui_chat")?, &[]).await?;
        let title = complete(&stack, &recorded("open_webui_title")?, &[]).await?;
        let after_tools = frames(&stack, &recorded("open_webui_tools")?, &[]).await?;

        assert_eq!(put_together(&chat)?.content, "A cat.");
        assert_eq!(title["choices"][0]["message"]["content"], "🐱 The cat");
        assert_eq!(put_together(&after_tools)?.content, "Wet.");
        assert_eq!(
            shown(&stack, 0).await?,
            "system: You are helpful.\nuser: Hello\nassistant: Hi there\nuser: What is in the picture?"
        );
    }
    Ok(())
}

/// REQ-91
#[tokio::test]
async fn lobe_chat_goes_on_after_a_plugin_answered() -> anyhow::Result<()> {
    let kind = ApiKind::ChatCompletions;
    let stack = stack(kind).await?;
    stack.upstream.push(says(kind, &["Wet."]));
    // It talks through OpenAI's SDK.
    let headers = [("x-stainless-lang", "js"), ("accept", "*/*")];

    let seen = frames(&stack, &recorded("lobe_chat")?, &headers).await?;

    let put = put_together(&seen)?;
    assert_eq!(
        (put.content.as_str(), put.finish.as_str()),
        ("Wet.", "stop")
    );
    assert!(put.usage.is_object());
    let told = stack.upstream.request(0).await?.body;
    assert_eq!(told["messages"][3]["content"], "rain");
    assert_eq!(
        told["tools"][0]["function"]["name"],
        "weather____forecast____builtin"
    );
    Ok(())
}
