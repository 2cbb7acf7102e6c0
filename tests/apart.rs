//! The parts as processes of their own: two façades, one orchestrator, one store.

use std::net::SocketAddr;

use anyhow::Context;
use serde_json::{Value, json};
use talaria_proto::v1::ListAgentsRequest;
use talaria_proto::v1::run_service_client::RunServiceClient;
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::process::{Process, address_from_lines};
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Ending, ResponsesStream, Script};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const TOKEN: &str = "the-token-that-all-parts-share";

const STORE: usize = 0;
const ORCHESTRATOR: usize = 1;
const FIRST_GATEWAY: usize = 2;

/// A reply that stops after its second delta until `rest` is opened.
fn held_reply() -> Script {
    ResponsesStream::held("rest")
}

async fn stream(stack: &Stack, gateway: usize) -> anyhow::Result<Reader> {
    stack.stream_at(gateway, &json!({"input": "hi"})).await
}

async fn follow(stack: &Stack, gateway: usize, id: &str, query: &str) -> anyhow::Result<Reader> {
    let url = format!(
        "{}/v1/responses/{id}?stream=true{query}",
        stack.gateways[gateway]
    );
    Reader::new(stack.http.get(url).send().await?).await
}

async fn get(stack: &Stack, gateway: usize, id: &str) -> anyhow::Result<(u16, Value)> {
    let url = format!("{}/v1/responses/{id}", stack.gateways[gateway]);
    let answer = stack.http.get(url).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn delete(stack: &Stack, gateway: usize, id: &str) -> anyhow::Result<u16> {
    let url = format!("{}/v1/responses/{id}", stack.gateways[gateway]);
    Ok(stack.http.delete(url).send().await?.status().as_u16())
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

/// REQ-10
#[tokio::test]
async fn every_gateway_shows_the_same_bytes() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, Options::default()).await?;
    stack.upstream.push(held_reply());
    let mut first = stream(&stack, 0).await?;
    let (mut frames, id) = until_gate(&mut first).await?;

    let mut whole = follow(&stack, 1, &id, "").await?;
    let (mut seen_whole, _) = until_gate(&mut whole).await?;
    let mut tail = follow(&stack, 1, &id, "&starting_after=3").await?;
    let mut seen_tail = tail.until(|frame| frame.json()["delta"] == "two ").await?;
    let next = frames.last().context("no frames")?.json()["sequence_number"].clone();
    let next = follow(&stack, 1, &id, &format!("&starting_after={next}")).await?;
    assert_eq!(get(&stack, 1, &id).await?.1["status"], "in_progress");
    stack.upstream.open("rest");
    let seen_next = next.collect().await?;
    seen_whole.extend(whole.collect().await?);
    seen_tail.extend(tail.collect().await?);
    let before = frames.len();
    frames.extend(first.collect().await?);

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(seen.text, "one two three four");
    assert_eq!(seen_whole, frames);
    assert_eq!(seen_tail, frames[4..]);
    assert_eq!(seen_next, frames[before..]);
    assert_eq!(follow(&stack, 1, &id, "").await?.collect().await?, frames);
    for gateway in [0, 1] {
        assert_eq!(
            get(&stack, gateway, &id).await?,
            (200, seen.response.clone())
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_one_gateway_deletes_is_gone_at_the_other() -> anyhow::Result<()> {
    let stack = Stack::apart(TALARIA, Options::default()).await?;
    stack.upstream.push(held_reply());
    let mut active = stream(&stack, 0).await?;
    let (_, id) = until_gate(&mut active).await?;

    assert_eq!(delete(&stack, 1, &id).await?, 200);

    let request = stack.upstream.request(0).await?;
    assert_eq!(request.closed().await?, Ending::ClientGone);
    active.collect().await?;
    assert_eq!(get(&stack, 0, &id).await?.0, 404);
    assert_eq!(delete(&stack, 0, &id).await?, 404);

    stack
        .upstream
        .push(ResponsesStream::new().text(&["hi"]).completed());
    let frames = stream(&stack, 0).await?.collect().await?;
    let ended = check::stream(&frames)
        .map_err(anyhow::Error::msg)?
        .response_id;
    assert_eq!(delete(&stack, 1, &ended).await?, 200);
    assert_eq!(get(&stack, 0, &ended).await?.0, 404);
    Ok(())
}

/// REQ-6, REQ-10
#[tokio::test]
async fn a_client_whose_gateway_dies_goes_on_at_another_where_it_was() -> anyhow::Result<()> {
    let mut stack = Stack::apart(TALARIA, Options::default()).await?;
    stack.upstream.push(held_reply());
    let mut client = stream(&stack, 0).await?;
    let (mut frames, id) = until_gate(&mut client).await?;

    stack.processes[FIRST_GATEWAY].kill9().await?;
    frames.extend(client.collect_however_it_ends().await?.0);
    let last = frames.last().context("no frames")?.json()["sequence_number"].clone();
    let resumed = follow(&stack, 1, &id, &format!("&starting_after={last}")).await?;
    stack.upstream.open("rest");
    frames.extend(resumed.collect().await?);

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(
        (seen.text.as_str(), seen.attempts),
        ("one two three four", 1)
    );
    assert_eq!(follow(&stack, 1, &id, "").await?.collect().await?, frames);
    Ok(())
}

/// Where a part of the stack listens.
fn address(stack: &Stack, part: usize) -> anyhow::Result<SocketAddr> {
    let lines = stack.processes[part].lines();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    address_from_lines(&lines, "listens on").context("it does not say where it listens")
}

#[tokio::test]
async fn only_who_has_the_shared_token_is_served() -> anyhow::Result<()> {
    let options = Options {
        environment: vec![("TALARIA_TOKEN".into(), TOKEN.into())],
        ..Options::default()
    };
    let stack = Stack::apart(TALARIA, options).await?;
    stack
        .upstream
        .push(ResponsesStream::new().text(&["hi"]).completed());
    let frames = stream(&stack, 0).await?.collect().await?;
    let id = check::stream(&frames)
        .map_err(anyhow::Error::msg)?
        .response_id;
    assert_eq!(get(&stack, 1, &id).await?.0, 200);

    let store = format!("http://{}", address(&stack, STORE)?);
    let orchestrator = format!("http://{}", address(&stack, ORCHESTRATOR)?);
    let arguments = [
        "gateway",
        "--listen",
        "127.0.0.1:0",
        "--store",
        &store,
        "--orchestrator",
        &orchestrator,
    ];
    let wrong = [("TALARIA_TOKEN", "another-token-of-enough-characters")];
    for environment in [&wrong[..], &[]] {
        let stranger = Process::start(TALARIA, &arguments, environment)?;
        let stranger = stranger_url(&stranger).await?;
        let url = |path: &str| format!("{stranger}{path}");
        let body = json!({"input": "hi"});
        for request in [
            stack.http.post(url("/v1/responses")).json(&body),
            stack.http.get(url(&format!("/v1/responses/{id}"))),
            stack.http.delete(url(&format!("/v1/responses/{id}"))),
            stack.http.get(url("/v1/models")),
            stack.http.get(url("/health/ready")),
        ] {
            let answer = request.send().await?;
            assert!(answer.status().is_server_error(), "{answer:?}");
            let text = answer.text().await?;
            for secret in [TOKEN, "another-token", "token", &store, &orchestrator] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
    assert_eq!(stack.upstream.requests().len(), 1);
    assert_eq!(get(&stack, 0, &id).await?.0, 200, "it was not deleted");

    let mut runs = RunServiceClient::connect(orchestrator).await?;
    let refused = runs.list_agents(ListAgentsRequest {}).await;
    let code = refused.map(drop).map_err(|status| status.code());
    assert_eq!(code, Err(tonic::Code::Unauthenticated));
    Ok(())
}

async fn stranger_url(stranger: &Process) -> anyhow::Result<String> {
    let address = stranger.wait_for_address("listens on").await?;
    Ok(format!("http://{address}"))
}

#[tokio::test]
async fn grpc_servers_tell_their_health_and_their_services() -> anyhow::Result<()> {
    let options = Options {
        environment: vec![("TALARIA_TOKEN".into(), TOKEN.into())],
        ..Options::default()
    };
    let stack = Stack::apart(TALARIA, options).await?;
    for (part, service) in [
        (STORE, "talaria.v1.StoreService"),
        (ORCHESTRATOR, "talaria.v1.RunService"),
    ] {
        let url = format!("http://{}", address(&stack, part)?);
        let channel = Endpoint::from_shared(url)?.connect().await?;
        let mut health = HealthClient::new(channel.clone());
        // An orchestrator serves from when the store knows it.
        let told = health.watch(HealthCheckRequest::default()).await?;
        let mut told = told.into_inner();
        let serves = async {
            while told.message().await?.context("it tells no more")?.status()
                != ServingStatus::Serving
            {}
            anyhow::Ok(())
        };
        within("a server that serves", serves).await??;
        let status = health.check(HealthCheckRequest::default()).await?;
        assert_eq!(status.into_inner().status(), ServingStatus::Serving);

        let mut reflection = ServerReflectionClient::new(channel);
        let list = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let list = futures::stream::iter([list]);
        let mut answers = reflection.server_reflection_info(list).await?.into_inner();
        let answer = answers
            .message()
            .await?
            .and_then(|answer| answer.message_response);
        let Some(MessageResponse::ListServicesResponse(list)) = answer else {
            anyhow::bail!("no list of services but {answer:?}");
        };
        let names: Vec<&str> = list
            .service
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        assert!(names.contains(&service), "{names:?}");
        assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    }
    Ok(())
}
