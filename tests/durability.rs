//! What a client was told stays true until it is deleted; then nothing of it is left.

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Ending, ResponsesStream, Script};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// REQ-1, REQ-2, REQ-3, REQ-12
#[tokio::test]
async fn an_id_can_be_fetched_from_the_byte_that_completes_it() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;

    fetch_while_the_model_is_silent(&stack).await
}

#[tokio::test]
async fn an_id_can_be_fetched_from_another_facade_at_once() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, Options::default()).await?;

    fetch_while_the_model_is_silent(&stack).await
}

/// Reads a stream from the first façade no further than to the id in it, and fetches that from all of them.
async fn fetch_while_the_model_is_silent(stack: &Stack) -> anyhow::Result<()> {
    let answer = ResponsesStream::new().text(&["Hello"]).completed();
    stack.upstream.push(answer.hold_head("answer"));
    let mut connection = post(&stack.gateways[0], &json!({"input": "hi", "stream": true})).await?;

    let id = within("an id", read_up_to_id(&mut connection)).await??;

    for gateway in &stack.gateways {
        let url = format!("{gateway}/v1/responses/{id}");
        let answer = stack.http.get(url).send().await?;
        assert_eq!(answer.status(), 200, "{gateway}");
        let response: Value = answer.json().await?;
        assert_eq!(response["id"], id);
        assert_eq!(response["status"], "in_progress");
        assert_eq!(response["output"], json!([]));
    }
    stack.upstream.open("answer");
    let frames = stack.replay(&id, None).await?.collect().await?;
    assert_eq!(
        check::stream(&frames).map_err(anyhow::Error::msg)?.text,
        "Hello"
    );
    Ok(())
}

/// Posts on a connection of its own, from which nothing is read that is not asked for.
async fn post(gateway: &str, body: &Value) -> anyhow::Result<TcpStream> {
    let address = gateway.strip_prefix("http://").context("a plain URL")?;
    let body = body.to_string();
    let mut connection = TcpStream::connect(address).await?;
    let request = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await?;
    Ok(connection)
}

/// Reads byte by byte until an id of a response is complete.
async fn read_up_to_id(connection: &mut TcpStream) -> anyhow::Result<String> {
    const ID_LENGTH: usize = "resp_".len() + 32;
    let mut text = String::new();
    loop {
        text.push(char::from(
            connection.read_u8().await.context(text.clone())?,
        ));
        if let Some(at) = text.find("resp_")
            && text.len() == at + ID_LENGTH
        {
            return Ok(text.split_off(at));
        }
    }
}

/// REQ-52
#[tokio::test]
async fn deleting_an_active_response_cancels_it_and_leaves_nothing() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(endless());
    let mut creator = stack.stream(&json!({"input": "hi"})).await?;
    let mut shown_to_creator = creator.until_event("response.output_text.delta").await?;
    let id = response_id(&shown_to_creator)?;
    let mut follower = stack.replay(&id, None).await?;
    let mut shown_to_follower = follower.until_event("response.output_text.delta").await?;

    let (status, deleted) = delete(&stack, &id).await?;

    assert_eq!(status, 200, "{deleted}");
    assert_eq!(
        deleted,
        json!({"id": id, "object": "response", "deleted": true})
    );
    let request = stack.upstream.request(0).await?;
    assert_eq!(request.closed().await?, Ending::ClientGone);
    shown_to_creator.extend(creator.collect().await?);
    shown_to_follower.extend(follower.collect().await?);
    let seen = check::stream(&shown_to_creator).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.status.as_str(), seen.text.as_str()),
        ("cancelled", "so far")
    );
    assert_eq!(shown_to_follower, shown_to_creator);
    let last_event = &shown_to_creator[shown_to_creator.len() - 2];
    assert_eq!(last_event.event.as_deref(), Some("response.failed"));

    assert_eq!(stack.get(&id).await?.0, 404);
    let replay = stack.url(&format!("/v1/responses/{id}?stream=true"));
    assert_eq!(stack.http.get(replay).send().await?.status(), 404);
    assert_eq!(delete(&stack, &id).await?.0, 404);
    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn deleting_a_finished_response_leaves_nothing() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let answer = ResponsesStream::new().text(&["Hello"]).completed();
    stack.upstream.push(answer);
    let response = stack.create_json(&json!({"input": "hi"})).await?;
    let id = response["id"].as_str().context("an id")?;

    assert_eq!(delete(&stack, id).await?.0, 200);

    assert_eq!(stack.get(id).await?.0, 404);
    let (status, again) = delete(&stack, id).await?;
    assert_eq!(status, 404);
    assert_eq!(
        again["error"]["message"],
        format!("Response not found: {id}")
    );
    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn of_two_clients_that_delete_an_active_response_one_does() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    stack.upstream.push(endless());
    let mut creator = stack.stream(&json!({"input": "hi"})).await?;
    let mut shown = creator.until_event("response.output_text.delta").await?;
    let id = response_id(&shown)?;

    let (one, other) = tokio::try_join!(delete(&stack, &id), delete(&stack, &id))?;

    let mut statuses = [one.0, other.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404], "{one:?} {other:?}");
    shown.extend(creator.collect().await?);
    let seen = check::stream(&shown).map_err(anyhow::Error::msg)?;
    assert_eq!(seen.status, "cancelled");
    assert_eq!(stack.rows().await?, [] as [String; 0]);
    Ok(())
}

/// Says `so far`, and then nothing more.
fn endless() -> Script {
    let answer = ResponsesStream::new().open_text().deltas(&["so far"]);
    answer.gate("never").stop()
}

async fn delete(stack: &Stack, id: &str) -> anyhow::Result<(u16, Value)> {
    let url = stack.url(&format!("/v1/responses/{id}"));
    let answer = stack.http.delete(url).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

fn response_id(frames: &[Frame]) -> anyhow::Result<String> {
    let first = frames.first().context("no frames")?.json();
    let id = first["response"]["id"].as_str();
    Ok(id.with_context(|| format!("no id in {first}"))?.to_owned())
}
