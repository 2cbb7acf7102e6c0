//! However a stored response is read, it is the same to the byte; and who does not read costs the others nothing.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};
use talaria_testkit::{check, deadline::DEADLINE};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// REQ-10
#[tokio::test]
async fn live_and_replayed_streams_are_equal_from_every_event_on() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;

    every_way_of_reading_is_equal(&stack, &stack.gateways[0]).await
}

#[tokio::test]
async fn another_facade_shows_the_same_bytes() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, Options::default()).await?;

    every_way_of_reading_is_equal(&stack, &stack.gateways[1]).await
}

/// Creates a response at the first façade, and reads it at `other` in all ways that there are.
async fn every_way_of_reading_is_equal(stack: &Stack, other: &str) -> anyhow::Result<()> {
    stack.upstream.push(talk());
    let mut creator = stack
        .stream(&json!({"input": "hi", "tools": [tool()]}))
        .await?;
    let mut live = creator.until_event("response.output_text.delta").await?;
    let id = response_id(&live)?;
    let last_seen = live.len() - 1;
    let mut from_the_start = replay(stack, other, &id, None).await?;
    let mut from_the_middle = replay(stack, other, &id, Some(last_seen)).await?;
    let mut first_half = from_the_start
        .until_event("response.output_text.delta")
        .await?;
    assert_eq!(first_half, live);
    assert_eq!(refused(stack, other, &id, live.len()).await?, 400);

    stack.upstream.open("rest");
    let second_half = creator.collect().await?;
    assert_eq!(
        from_the_middle.until(Frame::is_done_mark).await?,
        second_half
    );
    assert_eq!(from_the_middle.next().await?, None);
    first_half.extend(from_the_start.collect().await?);
    live.extend(second_half);
    assert_eq!(first_half, live);
    let seen = check::stream(&live).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.status.as_str(), seen.text.as_str()),
        ("completed", "Hello, you!")
    );

    let answer = stack
        .http
        .get(format!("{other}/v1/responses/{id}"))
        .send()
        .await?;
    assert_eq!(answer.json::<Value>().await?, seen.response);
    assert_eq!(
        replay(stack, other, &id, None).await?.collect().await?,
        live
    );
    let all = format!("{other}/v1/responses/{id}?stream=true&starting_after=-1");
    let all = Reader::new(stack.http.get(all).send().await?).await?;
    assert_eq!(all.collect().await?, live);
    for after in 0..seen.events {
        let rest = replay(stack, other, &id, Some(after))
            .await?
            .collect()
            .await?;
        assert_eq!(rest, live[after + 1..], "after {after}");
    }
    let after_the_last = replay(stack, other, &id, Some(seen.events - 1))
        .await?
        .collect()
        .await?;
    assert!(matches!(&after_the_last[..], [done] if done.is_done_mark()));
    assert_eq!(refused(stack, other, &id, seen.events).await?, 400);
    Ok(())
}

/// Thinks, speaks with a halt in the middle, and calls a function.
fn talk() -> Script {
    ResponsesStream::new()
        .reasoning_summary(&["Let me ", "think \u{0}\u{2028}."])
        .open_text()
        .deltas(&["Hello"])
        .gate("rest")
        .deltas(&[", ", "you!"])
        .close()
        .function_call("call_1", "look_up", &["{\"q\":", "1.0}"])
        .completed()
}

fn tool() -> Value {
    json!({"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": false})
}

/// REQ-4, REQ-9
#[tokio::test]
async fn a_snapshot_in_the_middle_shows_the_text_so_far() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(talk());
    let mut creator = stack
        .stream(&json!({"input": "hi", "tools": [tool()]}))
        .await?;
    let live = creator.until_event("response.output_text.delta").await?;
    let id = response_id(&live)?;

    let (status, response) = stack.get(&id).await?;

    assert_eq!(status, 200);
    assert_eq!(response["status"], "in_progress");
    assert_eq!(response["usage"], Value::Null);
    let [reasoning, message] = response["output"].as_array().context("output")?.as_slice() else {
        anyhow::bail!("not the items so far: {response}");
    };
    let first_done = live
        .iter()
        .find(|frame| is(frame, "response.output_item.done"));
    assert_eq!(reasoning, &first_done.context("an item")?.json()["item"]);
    assert_eq!(message["status"], "in_progress");
    assert_eq!(message["content"][0]["text"], "Hello");
    Ok(())
}

/// Bytes of one delta, and messages of one delta each: four bytes of events per byte of text, and the text once more
/// at the end.
const DELTA_BYTES: usize = 64 << 10;
const MESSAGES: usize = 64;
/// What such a run puts on each stream, at least. Far more than sockets and the live window hold together.
const STREAM_BYTES: usize = DELTA_BYTES * MESSAGES * 5;
const STALLED: usize = 20;
/// What all stalled subscribers together may add to the process: half of what their streams hold. A tenth is usual; now
/// and then it is three tenths, which the allocator does not give back at once.
const ALLOWANCE_BYTES: usize = STREAM_BYTES * STALLED / 2;

/// REQ-50
#[tokio::test]
async fn subscribers_that_stop_reading_miss_nothing_and_cost_little() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let talaria = stack.processes[0].id();
    // One run like it goes before, so that what any run costs is not counted.
    stack.upstream.push(speech());
    stack.upstream.open("speech");
    stack
        .stream(&json!({"input": "hi"}))
        .await?
        .collect()
        .await?;

    stack.upstream.push(speech_behind("second speech"));
    let mut creator = stack
        .create(&json!({"input": "hi", "stream": true}))
        .await?;
    let first = creator.chunk().await?.context("a first chunk")?;
    let id = response_id(&talaria_testkit::sse::frames(&first))?;
    let url = stack.url(&format!("/v1/responses/{id}?stream=true"));
    let stalled = try_join_all((1..STALLED).map(|_| stack.http.get(&url).send())).await?;
    let mut reader = stack.replay(&id, None).await?;
    let before = resident_bytes(talaria)?;
    stack.upstream.open("second speech");
    reader.deadline = 3 * DEADLINE;
    let read = reader.collect().await?;
    let growth = resident_bytes(talaria)?.saturating_sub(before);

    let bytes: usize = read.iter().map(|frame| frame.raw.len()).sum();
    ensure!(bytes > STREAM_BYTES, "only {bytes} bytes");
    assert!(growth < ALLOWANCE_BYTES, "{growth} bytes more");
    assert_eq!(stack.get(&id).await?.1["status"], "completed");
    let mut created = talaria_testkit::sse::frames(&first);
    created.extend(Reader::new(creator).await?.collect().await?);
    assert!(created == read, "the creator saw something else");
    // Reading all of them would only take longer.
    for subscriber in stalled.into_iter().take(2) {
        let late = Reader::new(subscriber).await?.collect().await?;
        assert!(late == read, "a subscriber saw something else");
    }
    check::stream(&read).map_err(anyhow::Error::msg)?;
    Ok(())
}

#[tokio::test]
async fn replays_that_nobody_reads_keep_nobody_else_from_reading() -> anyhow::Result<()> {
    // More than the store has connections for reading.
    const UNREAD: usize = 24;
    let stack = Stack::serve(TALARIA).await?;
    let noise = noise(DELTA_BYTES);
    let stream = (0..MESSAGES / 2).fold(ResponsesStream::new(), |stream, _| stream.text(&[&noise]));
    stack.upstream.push(stream.completed());
    let live = stack
        .stream(&json!({"input": "hi"}))
        .await?
        .collect()
        .await?;
    let id = response_id(&live)?;

    let url = stack.url(&format!("/v1/responses/{id}?stream=true"));
    let _unread = try_join_all((0..UNREAD).map(|_| stack.http.get(&url).send())).await?;

    let mut replay = stack.replay(&id, None).await?;
    replay.deadline = 3 * DEADLINE;
    assert!(
        replay.collect().await? == live,
        "another replay is different"
    );
    assert_eq!(stack.get(&id).await?.0, 200);
    Ok(())
}

/// Text that hardly can be compressed, so that the log is as long as the stream.
fn noise(length: usize) -> String {
    let mut state: u64 = 1;
    let next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b' ' + 35 + u8::try_from(state >> 58).unwrap_or_default())
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn speech() -> Script {
    speech_behind("speech")
}

/// Many long messages, once `gate` is open.
fn speech_behind(gate: &str) -> Script {
    let delta = "0123456789abcde\n".repeat(DELTA_BYTES / 16);
    let stream = ResponsesStream::new().gate(gate);
    (0..MESSAGES)
        .fold(stream, |stream, _| stream.text(&[&delta]))
        .completed()
}

/// Memory of a process that is not swapped out, by Linux's account.
fn resident_bytes(process: i32) -> anyhow::Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.context("no VmRSS")?.trim().parse::<usize>()? << 10)
}

fn is(frame: &Frame, event: &str) -> bool {
    frame.event.as_deref() == Some(event)
}

async fn replay(
    stack: &Stack,
    gateway: &str,
    id: &str,
    after: Option<usize>,
) -> anyhow::Result<Reader> {
    let after = after
        .map(|after| format!("&starting_after={after}"))
        .unwrap_or_default();
    let url = format!("{gateway}/v1/responses/{id}?stream=true{after}");
    Reader::new(stack.http.get(url).send().await?).await
}

/// The status of a replay that is refused.
async fn refused(stack: &Stack, gateway: &str, id: &str, after: usize) -> anyhow::Result<u16> {
    let url = format!("{gateway}/v1/responses/{id}?stream=true&starting_after={after}");
    let answer = stack.http.get(url).send().await?;
    let status = answer.status().as_u16();
    let error: Value = answer.json().await?;
    assert_eq!(error["error"]["param"], "starting_after", "{error}");
    Ok(status)
}

fn response_id(frames: &[Frame]) -> anyhow::Result<String> {
    let first = frames.first().context("no frames")?.json();
    let id = first["response"]["id"].as_str();
    Ok(id.with_context(|| format!("no id in {first}"))?.to_owned())
}
