//! A database that goes away while the product runs, and comes back.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::postgres::PrivatePostgres;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Ending, ResponsesStream};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// How the database goes away.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Stopped,
    Killed,
}

async fn stack() -> anyhow::Result<(PrivatePostgres, Stack)> {
    let postgres = PrivatePostgres::start().await?;
    let options = Options {
        database_url: Some(postgres.url()),
        upstream: "max_retries = 0".into(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    Ok((postgres, stack))
}

async fn take_away(postgres: &mut PrivatePostgres, outage: Outage) -> anyhow::Result<()> {
    match outage {
        Outage::Stopped => postgres.stop().await,
        Outage::Killed => postgres.kill9().await,
    }
}

/// Fails if the reader gets anything: what is not durable must not be seen.
async fn expect_silence(reader: &mut Reader) -> anyhow::Result<()> {
    let seen = tokio::time::timeout(Duration::from_millis(300), reader.next()).await;
    anyhow::ensure!(
        seen.is_err(),
        "seen while nothing could be written: {seen:?}"
    );
    Ok(())
}

/// Checks a whole stream, and that what is stored says the same.
async fn expect_stored(stack: &Stack, frames: &[Frame], text: &str) -> anyhow::Result<()> {
    let seen = check::stream(frames).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.status.as_str(), seen.text.as_str(), seen.attempts),
        ("completed", text, 1)
    );
    let replayed = stack
        .replay(&seen.response_id, None)
        .await?
        .collect()
        .await?;
    assert_eq!(replayed, frames);
    assert_eq!(
        stack.get(&seen.response_id).await?,
        (200, seen.response.clone())
    );
    Ok(())
}

async fn a_stream_survives(outage: Outage) -> anyhow::Result<()> {
    let (mut postgres, stack) = stack().await?;
    stack.upstream.push(
        ResponsesStream::new()
            .open_text()
            .deltas(&["before ", "the outage, "])
            .gate("away")
            .deltas(&["during ", "it, "])
            .gate("back")
            .deltas(&["after ", "it"])
            .close()
            .completed(),
    );
    let mut client = stack.stream(&json!({"input": "hi"})).await?;
    let is_last = |frame: &Frame| frame.json()["delta"] == "the outage, ";
    let mut frames = client.until(is_last).await?;

    take_away(&mut postgres, outage).await?;
    stack.upstream.open("away");
    expect_silence(&mut client).await?;
    postgres.restart().await?;
    let is_last = |frame: &Frame| frame.json()["delta"] == "it, ";
    frames.extend(client.until(is_last).await?);
    stack.upstream.open("back");
    frames.extend(client.collect().await?);

    expect_stored(&stack, &frames, "before the outage, during it, after it").await
}

#[tokio::test]
async fn a_stream_goes_on_after_the_database_was_stopped_and_started() -> anyhow::Result<()> {
    a_stream_survives(Outage::Stopped).await
}

#[tokio::test]
async fn a_stream_goes_on_after_the_database_was_killed_and_started() -> anyhow::Result<()> {
    a_stream_survives(Outage::Killed).await
}

#[tokio::test]
async fn a_run_that_ends_while_the_database_is_away_ends_when_it_is_back() -> anyhow::Result<()> {
    let (mut postgres, stack) = stack().await?;
    for outage in [Outage::Stopped, Outage::Killed] {
        let gate: &'static str = match outage {
            Outage::Stopped => "stopped",
            Outage::Killed => "killed",
        };
        let script = || {
            ResponsesStream::new()
                .open_text()
                .deltas(&["almost "])
                .gate(gate)
                .deltas(&["done"])
                .close()
                .completed()
        };
        stack.upstream.push(script());
        stack.upstream.push(script());
        let asked = stack.upstream.requests().len();
        let mut streamed = stack.stream(&json!({"input": "stream"})).await?;
        let is_delta = |frame: &Frame| frame.json()["delta"] == "almost ";
        let mut frames = streamed.until(is_delta).await?;
        let waiting = json!({"input": "wait"});
        let mut waiting = Box::pin(stack.create_json(&waiting));
        let both = tokio::select! {
            ended = &mut waiting => anyhow::bail!("it ended before its end: {ended:?}"),
            both = stack.upstream.request(asked + 1) => both?,
        };

        take_away(&mut postgres, outage).await?;
        stack.upstream.open(gate);
        let closed = both.closed();
        let ending = tokio::select! {
            ended = &mut waiting => anyhow::bail!("it ended without its end: {ended:?}"),
            ending = closed => ending?,
        };
        assert_eq!(ending, Ending::Completed);
        expect_silence(&mut streamed).await?;
        postgres.restart().await?;

        let waited = within("the waiting client's answer", waiting).await??;
        assert_eq!(waited["status"], "completed", "{outage:?}");
        assert_eq!(waited["output"][0]["content"][0]["text"], "almost done");
        let id = waited["id"].as_str().context("no id")?;
        assert_eq!(stack.get(id).await?, (200, waited.clone()));
        frames.extend(streamed.collect().await?);
        expect_stored(&stack, &frames, "almost done").await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_a_database_nothing_starts_and_clients_are_told_when_to_come_back()
-> anyhow::Result<()> {
    let (mut postgres, stack) = stack().await?;
    stack
        .upstream
        .push(ResponsesStream::new().text(&["first"]).completed());
    let first = stack.create_json(&json!({"input": "1"})).await?;
    let id = first["id"].as_str().context("no id")?;
    let status = async |path: &str| -> anyhow::Result<(u16, Value)> {
        let answer = stack.http.get(stack.url(path)).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    };
    assert_eq!(status("/health/ready").await?.0, 200);

    postgres.stop().await?;

    let get = stack.url(&format!("/v1/responses/{id}"));
    let post = |body: Value| stack.http.post(stack.url("/v1/responses")).json(&body);
    let unavailable = async |request: reqwest::RequestBuilder| -> anyhow::Result<()> {
        let answer = request.send().await?;
        let url = answer.url().clone();
        assert_eq!(answer.status(), 503, "{url}");
        assert_eq!(answer.headers()["retry-after"], "1", "{url}");
        let body: Value = answer.json().await?;
        assert_eq!(body["error"]["code"], "store_unavailable", "{url}");
        assert_eq!(body["error"]["type"], "server_error", "{url}");
        let text = body.to_string();
        for secret in ["postgres", "/tmp", "SQL", "sql", "socket"] {
            assert!(!text.contains(secret), "{text}");
        }
        Ok(())
    };
    // Nobody knows yet that the store is not there, and the model may be asked before that is found out.
    unavailable(post(json!({"input": "2"}))).await?;
    let asked = stack.upstream.requests().len();

    let requests = [
        post(json!({"input": "2"})),
        post(json!({"input": "2", "stream": true})),
        post(json!({"input": "2", "background": true})),
        post(json!({"input": "2", "previous_response_id": id})),
        stack.http.get(&get),
        stack.http.get(stack.url("/health/ready")),
        stack.http.delete(&get),
    ];
    futures::future::try_join_all(requests.map(unavailable)).await?;
    assert_eq!(status("/health").await?.0, 200);
    assert_eq!(
        stack.upstream.requests().len(),
        asked,
        "refusals ask nobody"
    );

    postgres.restart().await?;

    within("the server to be ready", async {
        while status("/health/ready").await?.0 != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(stack.get(id).await?, (200, first.clone()));
    stack
        .upstream
        .push(ResponsesStream::new().text(&["second"]).completed());
    let second = json!({"input": "2", "previous_response_id": id});
    assert_eq!(stack.create_json(&second).await?["status"], "completed");
    let session = postgres.connect().await?;
    let rows = session
        .query_one("SELECT count(*) FROM response", &[])
        .await?;
    assert_eq!(rows.get::<_, i64>(0), 2, "refusals leave nothing behind");
    Ok(())
}
