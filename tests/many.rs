//! Several of each part: requests go where they can be answered, and a run is found wherever it is.

use std::collections::HashSet;

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Ending, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

const STORES: [usize; 2] = [0, 1];
const ORCHESTRATORS: [usize; 2] = [2, 3];
const GATEWAYS: [usize; 2] = [4, 5];

fn two_of_each() -> Options {
    Options {
        stores: 2,
        orchestrators: 2,
        ..Options::default()
    }
}

/// A reply that stops after its second delta until `rest` is opened.
fn held_reply() -> Script {
    ResponsesStream::held("rest")
}

async fn stream(stack: &Stack, gateway: usize) -> anyhow::Result<Reader> {
    stack.stream_at(gateway, &json!({"input": "hi"})).await
}

async fn follow(stack: &Stack, gateway: usize, id: &str) -> anyhow::Result<Reader> {
    let url = format!("{}/v1/responses/{id}?stream=true", stack.gateways[gateway]);
    Reader::new(stack.http.get(url).send().await?).await
}

/// Reads up to the last delta before the gate; also the id of the response.
async fn until_gate(reader: &mut Reader) -> anyhow::Result<(Vec<Frame>, String)> {
    let frames = reader
        .until(|frame| frame.json()["delta"] == "two ")
        .await?;
    let id = frames[0].json()["response"]["id"].clone();
    let id = id.as_str().context("no id in the first event")?.to_owned();
    Ok((frames, id))
}

/// Which process has each of these runs, by the database.
async fn owners(stack: &Stack) -> anyhow::Result<HashSet<String>> {
    let session = stack.database().context("no database")?.connect().await?;
    let sql = "SELECT DISTINCT o.address FROM response r JOIN orchestrator o ON o.incarnation = r.owner WHERE r.status <= 2";
    let rows = session.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn text_of(frames: &[Frame]) -> anyhow::Result<(String, String)> {
    let seen = check::stream(frames).map_err(anyhow::Error::msg)?;
    Ok((seen.status, seen.text))
}

#[tokio::test]
async fn runs_spread_and_every_gateway_follows_each() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, two_of_each()).await?;
    let mut started = Vec::new();
    for gateway in [0, 0, 1, 1] {
        stack.upstream.push(held_reply());
        let mut client = stream(&stack, gateway).await?;
        let (frames, id) = until_gate(&mut client).await?;
        started.push((gateway, client, frames, id));
    }
    let expected: HashSet<String> = [stack.url_of(2)?, stack.url_of(3)?].into();
    assert_eq!(owners(&stack).await?, expected);

    let mut others = Vec::new();
    for (gateway, _, _, id) in &started {
        let mut other = follow(&stack, 1 - gateway, id).await?;
        let (frames, _) = until_gate(&mut other).await?;
        others.push((other, frames));
    }
    stack.upstream.open("rest");
    for ((_, client, mut frames, _), (other, mut seen)) in started.into_iter().zip(others) {
        frames.extend(client.collect().await?);
        seen.extend(other.collect().await?);
        assert_eq!(
            text_of(&frames)?,
            ("completed".into(), "one two three four".into())
        );
        assert_eq!(seen, frames);
    }
    Ok(())
}

#[tokio::test]
async fn a_run_is_cancelled_through_any_gateway_wherever_it_is() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, two_of_each()).await?;
    for gateway in [0, 0, 1, 1] {
        stack.upstream.push(held_reply());
        let asked = stack.upstream.requests().len();
        let mut client = stream(&stack, gateway).await?;
        let (mut frames, id) = until_gate(&mut client).await?;

        let url = format!("{}/v1/responses/{id}/cancel", stack.gateways[1 - gateway]);
        let answer = stack.http.post(url).send().await?;
        assert_eq!(answer.status(), 200);
        let cancelled: Value = answer.json().await?;
        assert_eq!(cancelled["status"], "cancelled");

        frames.extend(client.collect().await?);
        let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
        assert_eq!(seen.response, cancelled);
        let request = stack.upstream.request(asked).await?;
        assert_eq!(request.closed().await?, Ending::ClientGone);
    }
    Ok(())
}

#[tokio::test]
async fn losing_a_store_is_not_noticed() -> anyhow::Result<()> {
    for store in STORES {
        let mut stack = Stack::apart(TALARIA, two_of_each()).await?;
        let mut clients = Vec::new();
        for gateway in [0, 1, 0, 1] {
            stack.upstream.push(held_reply());
            let mut client = stream(&stack, gateway).await?;
            let (frames, id) = until_gate(&mut client).await?;
            clients.push((client, frames, id));
        }

        stack.processes[store].kill9().await?;
        for gateway in &stack.gateways {
            for (_, _, id) in &clients {
                let url = format!("{gateway}/v1/responses/{id}");
                assert_eq!(stack.http.get(url).send().await?.status(), 200);
            }
        }
        stack.upstream.open("rest");
        for (client, mut frames, id) in clients {
            frames.extend(client.collect().await?);
            assert_eq!(
                text_of(&frames)?,
                ("completed".into(), "one two three four".into())
            );
            assert_eq!(follow(&stack, 0, &id).await?.collect().await?, frames);
        }
    }
    Ok(())
}

#[tokio::test]
async fn new_runs_go_where_there_is_room() -> anyhow::Result<()> {
    let options = Options {
        runs: "max_concurrent = 1".into(),
        ..two_of_each()
    };
    let stack = Stack::apart(TALARIA, options).await?;
    let mut clients = Vec::new();
    for _ in ORCHESTRATORS {
        stack.upstream.push(held_reply());
        let mut client = stream(&stack, 0).await?;
        until_gate(&mut client).await?;
        clients.push(client);
    }
    for gateway in &stack.gateways {
        let url = format!("{gateway}/v1/responses");
        let refused = stack
            .http
            .post(url)
            .json(&json!({"input": "hi"}))
            .send()
            .await?;
        assert_eq!(refused.status(), 429);
        assert!(refused.headers().contains_key("retry-after"));
    }
    assert_eq!(stack.upstream.requests().len(), ORCHESTRATORS.len());
    Ok(())
}

#[tokio::test]
async fn new_runs_go_to_who_is_left() -> anyhow::Result<()> {
    for kill in [false, true] {
        let mut stack = Stack::apart(TALARIA, two_of_each()).await?;
        stack.upstream.push(held_reply());
        stack.upstream.push(held_reply());
        let mut clients = Vec::new();
        for _ in ORCHESTRATORS {
            let mut client = stream(&stack, 0).await?;
            until_gate(&mut client).await?;
            clients.push(client);
        }
        let gone = &mut stack.processes[ORCHESTRATORS[0]];
        if kill {
            gone.kill9().await?;
        } else {
            gone.terminate()?;
            gone.wait_for_line(|line| line.contains("stopping")).await?;
        }
        stack
            .upstream
            .choose(|_| Some(ResponsesStream::new().text(&["hi"]).completed()));
        for gateway in [0, 1, 0, 1] {
            let frames = stream(&stack, gateway).await?.collect().await?;
            assert_eq!(text_of(&frames)?, ("completed".into(), "hi".into()));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_is_to_stop_says_so_before_it_does() -> anyhow::Result<()> {
    let options = Options {
        server: "drain_seconds = 600".into(),
        ..Options::default()
    };
    let mut stack = Stack::apart(TALARIA, options).await?;
    let gateway = &mut stack.processes[GATEWAYS[0] - 2];
    gateway.terminate()?;
    gateway
        .wait_for_line(|line| line.contains("stopping"))
        .await?;

    let ready = stack.http.get(stack.url("/health/ready")).send().await?;
    assert_eq!(ready.status(), 503);
    let body: Value = ready.json().await?;
    assert_eq!(body["error"]["code"], "gateway_draining");
    stack
        .upstream
        .push(ResponsesStream::new().text(&["hi"]).completed());
    let frames = stream(&stack, 0).await?.collect().await?;
    assert_eq!(text_of(&frames)?, ("completed".into(), "hi".into()));
    Ok(())
}

#[tokio::test]
async fn everything_killed_and_started_again_ends_every_run() -> anyhow::Result<()> {
    let mut stack = Stack::apart(TALARIA, two_of_each()).await?;
    let mut clients = Vec::new();
    for gateway in [0, 1, 0, 1] {
        stack.upstream.push(held_reply());
        let mut client = stream(&stack, gateway).await?;
        let (frames, id) = until_gate(&mut client).await?;
        clients.push((client, frames, id));
    }
    let queued = stack
        .create_json(&json!({"input": "hi", "background": true}))
        .await?;
    let queued = queued["id"].as_str().context("no id")?.to_owned();

    for process in &mut stack.processes {
        process.kill9().await?;
    }
    let answer = || ResponsesStream::new().text(&["and the rest"]).completed();
    stack.upstream.choose(move |_| Some(answer()));
    for process in 0..stack.processes.len() {
        stack.restart(process).await?;
    }
    for (mut client, mut frames, id) in clients {
        frames.extend(client.collect_however_it_ends().await?.0);
        let again: Vec<Frame> = follow(&stack, 0, &id).await?.collect().await?;
        assert_eq!(again[..frames.len()], frames);
        let (status, text) = text_of(&again)?;
        assert_eq!(status, "completed");
        assert!(text.ends_with("and the rest"), "{text}");
    }
    let frames = follow(&stack, 1, &queued).await?.collect().await?;
    assert_eq!(text_of(&frames)?.0, "completed");
    Ok(())
}
