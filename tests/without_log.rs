//! A response outlives its event log: when that is gone, it is replayed from what the response became.

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::Stack;
use talaria_testkit::upstream::{ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// Everything that an answer may hold.
fn talk() -> ResponsesStream {
    ResponsesStream::new()
        .reasoning_summary(&["Let me ", "think \u{0}\u{2028}."])
        .reasoning_text(&["Hm", "."])
        .text(&["Hello", ", ", "you!"])
        .refusal(&["But ", "no."])
        .function_call("call_1", "look_up", &["{\"q\":", "1.0}"])
}

#[tokio::test]
async fn a_response_whose_log_is_gone_is_replayed_as_clients_accept_it() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let tool = json!({"type": "function", "name": "look_up", "parameters": {}, "strict": false});
    let ends: [fn(ResponsesStream) -> Script; 3] = [
        ResponsesStream::completed,
        |talk| talk.incomplete("max_output_tokens"),
        |talk| talk.failed("server_error", "broke"),
    ];
    for end in ends {
        stack.upstream.push(end(talk()));
        let body = json!({"input": "hi", "tools": [tool.clone()]});
        let live = stack.stream(&body).await?.collect().await?;
        let seen = check::stream(&live).map_err(anyhow::Error::msg)?;
        forget_the_log(&stack).await?;

        let rebuilt = stack.replay(&seen.response_id, None).await?;
        let rebuilt = rebuilt.collect().await?;

        let shown = check::stream(&rebuilt).map_err(anyhow::Error::msg)?;
        assert_eq!(shown.response, seen.response);
        assert_eq!((shown.text, shown.status), (seen.text, seen.status));
        let (_, snapshot) = stack.get(&seen.response_id).await?;
        assert_eq!(snapshot, seen.response);
        let cut = stack.replay(&seen.response_id, Some(2)).await?;
        assert_eq!(
            cut.collect().await?,
            live[live.len() - 2..],
            "the end alone"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_background_response_whose_log_is_gone_was_queued() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(talk().completed());
    let body = json!({"input": "hi", "background": true});
    let live = stack.stream(&body).await?.collect().await?;
    forget_the_log(&stack).await?;

    let id = check::stream(&live)
        .map_err(anyhow::Error::msg)?
        .response_id;
    let rebuilt = stack.replay(&id, None).await?.collect().await?;

    check::stream(&rebuilt).map_err(anyhow::Error::msg)?;
    let begins = |frames: &[Frame]| -> Vec<Value> {
        let frames = frames.iter().take(3);
        frames.map(Frame::json).collect()
    };
    assert_eq!(begins(&rebuilt), begins(&live));
    Ok(())
}

#[tokio::test]
async fn a_reader_of_a_replay_that_is_longer_than_the_log_was_learns_the_end() -> anyhow::Result<()>
{
    let stack = Stack::serve(TALARIA).await?;
    let held = ResponsesStream::new().gate("rest").text(&["hi"]);
    stack.upstream.push(held.completed());
    let say =
        json!({"input": "hi", "conversation": "c", "on_active": "enqueue", "background": true});
    let active = stack.create_json(&say).await?;
    stack.upstream.request(0).await?;
    let waiting = stack.create_json(&say).await?;
    let id = waiting["id"].as_str().context("no id")?;
    // Cancelled while it waits, it never was in progress; what is rebuilt says that it was.
    let cancel = stack.url(&format!("/v1/responses/{id}/cancel"));
    let cancelled = stack.http.post(cancel).send().await?;
    assert_eq!(cancelled.status(), 200);
    stack.upstream.open("rest");
    let active = active["id"].as_str().context("no id")?;
    stack.replay(active, None).await?.collect().await?;
    forget_the_log(&stack).await?;

    let events = |frames: Vec<Frame>| -> Vec<Value> {
        let events = frames.iter().filter(|frame| !frame.is_done_mark());
        events.map(|frame| frame.json()["type"].clone()).collect()
    };
    let rebuilt = events(stack.replay(id, None).await?.collect().await?);
    let mut ends = Vec::new();
    for after in 0..4 {
        let rest = stack.replay(id, Some(after)).await?.collect().await?;
        ends.push(events(rest));
    }
    let run = stack.url(&format!("/v1/runs/{id}/events?after=3"));
    let run = Reader::new(stack.http.get(run).send().await?).await?;
    let run = run.collect().await?;

    assert_eq!(rebuilt.len(), 4, "{rebuilt:?}");
    let end = || vec![json!("response.failed")];
    assert_eq!(ends, [end(), end(), end(), vec![]]);
    let run: Vec<Value> = run
        .iter()
        .map(|frame| frame.json()["event"].clone())
        .collect();
    assert_eq!(run, ["run.cancelled"]);
    Ok(())
}

async fn forget_the_log(stack: &Stack) -> anyhow::Result<()> {
    let database = stack.database().context("no database")?;
    let session = database.connect().await?;
    session.execute("DELETE FROM event_chunk", &[]).await?;
    Ok(())
}
