//! Conversations that are asked for more than one response at a time: who is refused, who waits, who goes first.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Request, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const AT_ONCE: usize = 50;

async fn stack(runs: &str) -> anyhow::Result<Stack> {
    let options = Options {
        runs: runs.to_owned(),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// Something said in the conversation, by a client that does not wait for the answer.
fn say(text: &str, on_active: &str) -> Value {
    json!({"input": text, "conversation": "c", "on_active": on_active, "background": true})
}

/// What the user said last.
fn said(request: &Request) -> String {
    let items = request.body["input"].as_array();
    let last = items.and_then(|items| items.last());
    last.map_or(String::new(), |item| {
        item["content"][0]["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    })
}

/// Everything that was said, by users and assistants, oldest first.
fn dialogue(request: &Request) -> Vec<String> {
    let items = request.body["input"].as_array().into_iter().flatten();
    items
        .map(|item| {
            item["content"][0]["text"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

/// An upstream that answers everything with `re: …`; what begins with `held` only when that gate is open.
#[expect(
    clippy::unnecessary_wraps,
    reason = "an upstream may choose to leave an answer to the queue"
)]
fn answers(request: &Request) -> Option<Script> {
    let text = said(request);
    let stream = ResponsesStream::new();
    let stream = if text.starts_with("held") {
        stream.gate(&text)
    } else {
        stream
    };
    Some(stream.text(&["re: ", &text]).completed())
}

fn id(response: &Value) -> &str {
    response["id"].as_str().unwrap_or_default()
}

/// The response once it has ended.
async fn ended(stack: &Stack, response: &Value) -> anyhow::Result<Value> {
    let frames = stack.replay(id(response), None).await?.collect().await?;
    let last = frames.iter().rev().find(|frame| !frame.is_done_mark());
    Ok(last.context("no events")?.json()["response"].take())
}

async fn cancel(stack: &Stack, response: &Value) -> anyhow::Result<Value> {
    let url = stack.url(&format!("/v1/responses/{}/cancel", id(response)));
    let answer = stack.http.post(url).send().await?;
    Ok(answer.error_for_status()?.json().await?)
}

/// A refusal's status and code.
async fn refusal(answer: reqwest::Response) -> anyhow::Result<(u16, Value)> {
    let status = answer.status().as_u16();
    let mut body: Value = answer.json().await?;
    Ok((status, body["error"]["code"].take()))
}

fn names(frames: &[Frame]) -> Vec<&str> {
    let events = frames.iter().filter_map(|frame| frame.event.as_deref());
    events.collect()
}

#[tokio::test]
async fn fifty_requests_at_once_are_fifty_turns_in_a_line() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);

    let request = |n: usize| {
        let mut body = say(&format!("say {n}"), "enqueue");
        body["background"] = n.is_multiple_of(2).into();
        let stack = &stack;
        async move {
            let created = stack.create_json(&body).await?;
            ended(stack, &created).await
        }
    };
    let responses = try_join_all((0..AT_ONCE).map(request)).await?;

    let mut ids: Vec<&str> = responses.iter().map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), AT_ONCE);
    for response in &responses {
        assert_eq!(response["status"], "completed", "{response}");
    }
    let dialogues: Vec<Vec<String>> = stack.upstream.requests().iter().map(dialogue).collect();
    assert_eq!(dialogues.len(), AT_ONCE, "nothing is asked twice");
    for pair in dialogues.windows(2) {
        let mut expected = pair[0].clone();
        expected.push(format!("re: {}", expected.last().context("empty")?));
        assert_eq!(pair[1][..expected.len()], expected, "a turn got lost");
        assert_eq!(pair[1].len(), expected.len() + 1);
    }
    let last = dialogues.last().context("no requests")?;
    let mut users: Vec<&String> = last.iter().step_by(2).collect();
    users.sort_unstable();
    let mut all: Vec<String> = (0..AT_ONCE).map(|n| format!("say {n}")).collect();
    all.sort_unstable();
    assert_eq!(users, all.iter().collect::<Vec<_>>());
    Ok(())
}

/// REQ-39
#[tokio::test]
async fn of_fifty_requests_at_once_exactly_one_is_accepted_by_default() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);

    let request = |n: usize| {
        let stack = &stack;
        async move {
            let mut body = say(&format!("held {n}"), "reject");
            if n.is_multiple_of(2) {
                body.as_object_mut()
                    .context("no object")?
                    .remove("on_active");
            }
            stack.create(&body).await
        }
    };
    let mut accepted = Vec::new();
    for answer in join_all((0..AT_ONCE).map(request)).await {
        let answer = answer?;
        if answer.status() == 200 {
            accepted.push(answer.json::<Value>().await?);
        } else {
            let busy = (409, "conversation_response_not_completed".into());
            assert_eq!(refusal(answer).await?, busy);
        }
    }

    let [accepted] = &accepted[..] else {
        anyhow::bail!("{} were accepted", accepted.len());
    };
    let held = said(&stack.upstream.request(0).await?);
    stack.upstream.open(&held);
    assert_eq!(ended(&stack, accepted).await?["status"], "completed");
    assert_eq!(stack.upstream.requests().len(), 1);
    let next = ended(&stack, &stack.create_json(&say("next", "reject")).await?).await?;
    assert_eq!(next["status"], "completed");
    let second = stack.upstream.request(1).await?;
    assert_eq!(
        dialogue(&second),
        [held.clone(), format!("re: {held}"), "next".into()]
    );
    Ok(())
}

#[tokio::test]
async fn whoever_waits_sees_the_whole_stream_from_its_beginning() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);
    let active = stack.create_json(&say("held 1", "reject")).await?;
    stack.upstream.request(0).await?;
    let mut body = say("second", "enqueue");
    body["background"] = false.into();

    let mut reader = stack.stream(&body).await?;
    let mut frames = reader.until_event("response.queued").await?;
    let waiting = frames[0].json()["response"].take();
    assert_eq!(waiting["status"], "queued");
    assert_eq!(stack.get(id(&waiting)).await?.1["status"], "queued");
    stack.upstream.open("held 1");
    frames.extend(reader.collect().await?);

    let told = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!((told.status.as_str(), told.attempts), ("completed", 1));
    assert_eq!(told.text, "re: second");
    let first = [
        "response.created",
        "response.queued",
        "response.in_progress",
    ];
    assert_eq!(names(&frames)[..3], first);
    assert_eq!(
        stack.replay(id(&waiting), None).await?.collect().await?,
        frames
    );
    assert_eq!(ended(&stack, &active).await?["status"], "completed");
    Ok(())
}

#[tokio::test]
async fn a_line_outlives_its_process() -> anyhow::Result<()> {
    let mut stack = stack("lease_seconds = 1").await?;
    stack.upstream.choose(answers);
    let active = stack.create_json(&say("held 1", "reject")).await?;
    stack.upstream.request(0).await?;
    let mut waiting = Vec::new();
    for n in 2..5 {
        let created = stack
            .create_json(&say(&format!("say {n}"), "enqueue"))
            .await?;
        assert_eq!(created["status"], "queued");
        waiting.push(created);
    }

    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;
    stack.upstream.open("held 1");

    for response in [&active].into_iter().chain(&waiting) {
        assert_eq!(ended(&stack, response).await?["status"], "completed");
    }
    let requests = stack.upstream.requests();
    let order: Vec<String> = requests.iter().map(said).collect();
    assert_eq!(order, ["held 1", "held 1", "say 2", "say 3", "say 4"]);
    let last = requests.last().map(dialogue).context("no requests")?;
    assert_eq!(
        last,
        [
            "held 1",
            "re: held 1",
            "say 2",
            "re: say 2",
            "say 3",
            "re: say 3",
            "say 4"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn an_interruption_ends_the_active_response_and_goes_before_those_that_wait()
-> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);
    let active = stack.create_json(&say("held 1", "reject")).await?;
    stack.upstream.request(0).await?;
    let second = stack.create_json(&say("held 2", "enqueue")).await?;
    let third = stack.create_json(&say("third", "enqueue")).await?;

    let urgent = stack.create_json(&say("urgent", "interrupt")).await?;

    assert_eq!(ended(&stack, &active).await?["status"], "cancelled");
    assert_eq!(ended(&stack, &urgent).await?["status"], "completed");
    // The next in line is active by now, and so it can be interrupted too.
    stack.upstream.request(2).await?;
    let again = stack.create_json(&say("again", "interrupt")).await?;
    assert_eq!(ended(&stack, &second).await?["status"], "cancelled");
    for response in [&again, &third] {
        assert_eq!(ended(&stack, response).await?["status"], "completed");
    }
    let order: Vec<String> = stack.upstream.requests().iter().map(said).collect();
    assert_eq!(order, ["held 1", "urgent", "held 2", "again", "third"]);
    let last = stack.upstream.request(4).await?;
    assert_eq!(
        dialogue(&last),
        ["urgent", "re: urgent", "again", "re: again", "third"],
        "what was cancelled is no part of the conversation"
    );
    Ok(())
}

#[tokio::test]
async fn an_interruption_of_an_idle_conversation_just_begins() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);

    let mut body = say("one", "interrupt");
    body["background"] = false.into();
    let one = stack.create_json(&body).await?;

    assert_eq!(one["status"], "completed");
    Ok(())
}

/// REQ-39
#[tokio::test]
async fn who_does_not_want_to_wait_is_refused_while_others_do() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);
    stack.create_json(&say("held 1", "reject")).await?;
    let waiting = stack.create_json(&say("second", "enqueue")).await?;

    let ephemeral = json!({"input": "x", "conversation": "c", "store": false});
    let busy = (409, Value::from("conversation_response_not_completed"));
    for body in [say("x", "reject"), ephemeral] {
        let answer = stack.create(&body).await?;
        assert_eq!(refusal(answer).await?, busy, "{body}");
    }

    stack.upstream.open("held 1");
    assert_eq!(ended(&stack, &waiting).await?["status"], "completed");
    let after = stack.create_json(&say("after", "reject")).await?;
    assert_eq!(ended(&stack, &after).await?["status"], "completed");
    Ok(())
}

#[tokio::test]
async fn a_response_that_waits_can_be_cancelled_and_the_others_move_up() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);
    stack.create_json(&say("held 1", "reject")).await?;
    stack.upstream.request(0).await?;
    let second = stack.create_json(&say("second", "enqueue")).await?;
    let third = stack.create_json(&say("third", "enqueue")).await?;

    let gone = cancel(&stack, &second).await?;
    let again = cancel(&stack, &second).await?;

    assert_eq!(
        (&gone["status"], &gone["output"]),
        (&"cancelled".into(), &json!([]))
    );
    assert_eq!(again, gone);
    let frames = stack.replay(id(&second), None).await?.collect().await?;
    assert_eq!(
        names(&frames),
        ["response.created", "response.queued", "response.failed"]
    );
    stack.upstream.open("held 1");
    assert_eq!(ended(&stack, &third).await?["status"], "completed");
    let last = stack.upstream.request(1).await?;
    assert_eq!(dialogue(&last), ["held 1", "re: held 1", "third"]);
    assert_eq!(stack.upstream.requests().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_deleted_response_leaves_the_line() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);
    let active = stack.create_json(&say("held 1", "reject")).await?;
    stack.upstream.request(0).await?;
    let second = stack.create_json(&say("second", "enqueue")).await?;
    let third = stack.create_json(&say("third", "enqueue")).await?;

    for response in [&second, &active] {
        let url = stack.url(&format!("/v1/responses/{}", id(response)));
        let answer = stack.http.delete(url).send().await?;
        assert_eq!(answer.status(), 200);
        assert_eq!(stack.get(id(response)).await?.0, 404);
    }

    assert_eq!(ended(&stack, &third).await?["status"], "completed");
    let last = stack.upstream.request(1).await?;
    assert_eq!(dialogue(&last), ["third"]);
    Ok(())
}

#[tokio::test]
async fn a_full_server_still_lets_wait_who_wants_to() -> anyhow::Result<()> {
    let stack = stack("max_concurrent = 1").await?;
    stack.upstream.choose(answers);
    let active = stack.create_json(&say("held 1", "reject")).await?;
    stack.upstream.request(0).await?;

    let waiting = stack.create_json(&say("second", "enqueue")).await?;
    let elsewhere = json!({"input": "x", "conversation": "d", "on_active": "enqueue"});
    let full = refusal(stack.create(&elsewhere).await?).await?;
    let urgent = stack.create_json(&say("urgent", "interrupt")).await?;

    assert_eq!(full, (429, "rate_limit_exceeded".into()));
    assert_eq!(ended(&stack, &active).await?["status"], "cancelled");
    for response in [&urgent, &waiting] {
        assert_eq!(ended(&stack, response).await?["status"], "completed");
    }
    Ok(())
}

#[tokio::test]
async fn a_waiting_response_whose_call_never_came_fails_when_its_turn_comes() -> anyhow::Result<()>
{
    let stack = stack("").await?;
    stack.upstream.choose(answers);
    let active = stack.create_json(&say("held 1", "reject")).await?;
    stack.upstream.request(0).await?;
    let mut answering = say("", "enqueue");
    answering["input"] = json!([
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
    ]);
    let answering = stack.create_json(&answering).await?;
    let third = stack.create_json(&say("third", "enqueue")).await?;

    stack.upstream.open("held 1");

    let failed = ended(&stack, &answering).await?;
    assert_eq!(
        (&failed["status"], &failed["error"]["message"]),
        (
            &"failed".into(),
            &"No tool call found for function call output with call_id call_1.".into()
        )
    );
    assert_eq!(ended(&stack, &third).await?["status"], "completed");
    assert_eq!(ended(&stack, &active).await?["status"], "completed");
    assert_eq!(stack.upstream.requests().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_full_server_cancels_what_waits() -> anyhow::Result<()> {
    let stack = stack("max_concurrent = 1").await?;
    stack.upstream.choose(answers);
    let active = stack.create_json(&say("held 1", "reject")).await?;
    stack.upstream.request(0).await?;
    let waiting = stack.create_json(&say("second", "enqueue")).await?;

    let gone = cancel(&stack, &waiting).await?;

    assert_eq!(gone["status"], "cancelled");
    stack.upstream.open("held 1");
    assert_eq!(ended(&stack, &active).await?["status"], "completed");
    Ok(())
}

/// REQ-45
#[tokio::test]
async fn a_conversation_is_one_session_also_for_those_that_wait() -> anyhow::Result<()> {
    let stack = stack("").await?;
    stack.upstream.choose(answers);
    let session = |answer: &reqwest::Response| -> anyhow::Result<String> {
        let header = answer.headers().get("x-hermes-session-id");
        Ok(header.context("no session")?.to_str()?.to_owned())
    };

    let first = stack.create(&say("held 1", "reject")).await?;
    let second = stack.create(&say("second", "enqueue")).await?;
    let mut other = say("third", "enqueue");
    other["session_id"] = "another".into();
    let third = stack.create(&other).await?;

    assert_eq!(session(&second)?, session(&first)?);
    assert_eq!(session(&third)?, "another");
    stack.upstream.open("held 1");
    let third: Value = third.json().await?;
    assert_eq!(ended(&stack, &third).await?["status"], "completed");
    Ok(())
}

/// Two servers on one database, each with an upstream of its own.
async fn two_servers() -> anyhow::Result<[Stack; 2]> {
    let first = stack("").await?;
    let options = Options {
        database_url: Some(first.database_url.clone()),
        ..Options::default()
    };
    let second = Stack::serve_with(TALARIA, options).await?;
    for stack in [&first, &second] {
        stack.upstream.choose(answers);
    }
    Ok([first, second])
}

#[tokio::test]
async fn two_servers_share_one_line() -> anyhow::Result<()> {
    const TURNS: usize = 20;
    let servers = two_servers().await?;

    let request = |n: usize| {
        let (one, other) = (&servers[n % 2], &servers[(n + 1) % 2]);
        async move {
            let created = one
                .create_json(&say(&format!("say {n}"), "enqueue"))
                .await?;
            ended(other, &created).await
        }
    };
    let responses = try_join_all((0..TURNS).map(request)).await?;

    for response in &responses {
        assert_eq!(response["status"], "completed", "{response}");
    }
    let requests = servers.iter().flat_map(|server| server.upstream.requests());
    let mut dialogues: Vec<Vec<String>> = requests.map(|request| dialogue(&request)).collect();
    dialogues.sort_by_key(Vec::len);
    let lengths: Vec<usize> = dialogues.iter().map(Vec::len).collect();
    assert_eq!(lengths, (0..TURNS).map(|n| 2 * n + 1).collect::<Vec<_>>());
    for pair in dialogues.windows(2) {
        assert!(pair[1].starts_with(&pair[0]), "{pair:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_response_is_cancelled_and_interrupted_through_any_server() -> anyhow::Result<()> {
    let [here, there] = two_servers().await?;
    let first = here.create_json(&say("held 1", "reject")).await?;
    here.upstream.request(0).await?;

    let cancelled = cancel(&there, &first).await?;
    let second = here.create_json(&say("held 2", "reject")).await?;
    let urgent = there.create_json(&say("urgent", "interrupt")).await?;

    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(ended(&there, &second).await?["status"], "cancelled");
    assert_eq!(ended(&here, &urgent).await?["status"], "completed");
    assert_eq!(cancel(&there, &first).await?, cancelled);
    Ok(())
}

/// Longer than a claim takes to come around by itself, for as many as wait here.
#[tokio::test]
async fn a_line_moves_at_once() -> anyhow::Result<()> {
    const TURNS: usize = 20;
    let stack = stack("").await?;
    stack.upstream.choose(answers);
    let mut last = Value::Null;
    let started = tokio::time::Instant::now();
    for n in 0..TURNS {
        last = stack
            .create_json(&say(&format!("say {n}"), "enqueue"))
            .await?;
    }

    assert_eq!(ended(&stack, &last).await?["status"], "completed");

    let took = started.elapsed();
    ensure!(took < Duration::from_secs(TURNS as u64 / 2), "{took:?}");
    Ok(())
}
