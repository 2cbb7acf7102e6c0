//! Every process restarted in turn, while clients stream.

use std::time::Duration;

use anyhow::Context;
use futures::future::try_join_all;
use serde_json::json;
use talaria_testkit::check;
use talaria_testkit::deadline::within_duration;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Request, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const STREAMS: usize = 50;
const PACE: Duration = Duration::from_millis(100);
/// It takes a third of that on an idle machine.
const LONGEST: Duration = Duration::from_secs(90);

/// A long answer, or the rest of one, where a part of it was shown before.
fn answer(request: &Request) -> Script {
    let goes_on = request.body.to_string().contains("output_text");
    let length = if goes_on { 10 } else { 80 };
    let reply = ResponsesStream::new().pace(PACE);
    reply.numbered_text(length).completed()
}

/// Streams one answer to its end, through whichever of the gateways is there.
async fn client(
    http: reqwest::Client,
    gateways: Vec<String>,
    n: usize,
) -> anyhow::Result<Vec<Frame>> {
    let url = |turn: usize, path: &str| format!("{}{path}", gateways[(n + turn) % gateways.len()]);
    let body = json!({"input": format!("run {n}"), "stream": true});
    let created = http
        .post(url(0, "/v1/responses"))
        .json(&body)
        .send()
        .await?;
    let mut frames = Reader::new(created)
        .await?
        .collect_however_it_ends()
        .await?
        .0;
    let id = frames.first().context("no events")?.json()["response"]["id"].clone();
    let id = id.as_str().context("no id")?.to_owned();
    let is_last = |frame: &Frame| frame.json()["type"] == "response.completed";
    let mut turn = 1;
    while !frames.iter().any(is_last) {
        let last = frames.last().context("no events")?.json()["sequence_number"].clone();
        let path = format!("/v1/responses/{id}?stream=true&starting_after={last}");
        // A gateway that is not there, or will not be for long, is passed over.
        if let Ok(answer) = http.get(url(turn, &path)).send().await
            && answer.status().is_success()
        {
            frames.extend(
                Reader::new(answer)
                    .await?
                    .collect_however_it_ends()
                    .await?
                    .0,
            );
        }
        turn += 1;
    }
    Ok(frames)
}

/// REQ-10
#[tokio::test]
async fn restarting_everything_in_turn_loses_no_run_and_no_event() -> anyhow::Result<()> {
    let options = Options {
        server: "drain_seconds = 0".into(),
        runs: "drain_seconds = 1".into(),
        stores: 2,
        orchestrators: 2,
        ..Options::default()
    };
    let mut stack = Stack::apart(TALARIA, options).await?;
    stack.upstream.choose(|request| Some(answer(request)));
    let (http, gateways) = (stack.http.clone(), stack.gateways.clone());
    let clients = (0..STREAMS).map(|n| client(http.clone(), gateways.clone(), n));
    let clients = try_join_all(clients);
    let restarts = async {
        stack.upstream.request(STREAMS - 1).await?;
        for process in 0..stack.processes.len() {
            stack.processes[process].terminate()?;
            stack.processes[process].wait_for_success().await?;
            stack.restart(process).await?;
        }
        anyhow::Ok(())
    };
    let both = async { tokio::try_join!(clients, restarts) };
    let (streams, ()) = within_duration("all streams and restarts", LONGEST, both).await??;

    let mut moved = 0;
    for frames in streams {
        let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
        assert_eq!(seen.status, "completed");
        moved += usize::from(seen.attempts > 1);
        let again = stack.replay(&seen.response_id, None).await?;
        assert_eq!(again.collect().await?, frames);
    }
    assert!(moved > 0, "no run was handed over");
    Ok(())
}
