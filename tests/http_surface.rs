//! What is around every request: web pages' rules, headers of every answer, health, models, and an orderly stop.

use anyhow::Context;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use talaria_testkit::deadline::within;
use talaria_testkit::sse::Reader;
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const ORIGIN: &str = "https://app.example";
const KEY: &str = "tal-0123456789abcdef";
const STORE: usize = 0;
const ORCHESTRATOR: usize = 1;

fn reply() -> Script {
    ResponsesStream::new().text(&["hi"]).completed()
}

async fn stack_with(environment: &[(&str, &str)]) -> anyhow::Result<Stack> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let options = Options {
        environment: environment.iter().map(pair).collect(),
        server: "max_body_bytes = 1000".to_owned(),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

async fn preflight(stack: &Stack, origin: Option<&str>, asked: &str) -> anyhow::Result<Response> {
    let url = stack.url("/v1/responses");
    let mut request = stack.http.request(Method::OPTIONS, url);
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    let request = request
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", asked);
    Ok(request.send().await?)
}

/// The headers that tell a browser what it may do, one a line.
fn browser_headers(headers: &HeaderMap) -> String {
    let mut lines: Vec<String> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control") || *name == "vary")
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines.join("\n")
}

fn text_of(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).map(|value| value.as_bytes().to_vec());
    String::from_utf8_lossy(&value.unwrap_or_default()).into_owned()
}

/// REQ-34, REQ-89, REQ-90
#[tokio::test]
async fn a_preflight_says_what_pages_of_allowed_origins_may_send() -> anyhow::Result<()> {
    let stack = stack_with(&[("API_SERVER_CORS_ORIGINS", ORIGIN)]).await?;

    let asked = "authorization,content-type,idempotency-key,x-stainless-lang,cookie";
    let allowed = preflight(&stack, Some(ORIGIN), asked).await?;
    assert_eq!(allowed.status(), 200);
    insta::assert_snapshot!(browser_headers(allowed.headers()), @r"
    access-control-allow-headers: Authorization, Content-Type, Idempotency-Key, X-Hermes-Session-Id, X-Hermes-Session-Key, Last-Event-ID, x-stainless-lang
    access-control-allow-methods: GET, POST, DELETE, OPTIONS
    access-control-allow-origin: https://app.example
    access-control-expose-headers: x-request-id, Retry-After, Idempotency-Replayed, X-Hermes-Session-Id, X-Hermes-Session-Key, X-Hermes-Completed, X-Hermes-Partial, X-Hermes-Error
    access-control-max-age: 600
    vary: Origin
    ");
    assert_eq!(allowed.text().await?, "");
    for origin in [Some("https://evil.example"), Some("null"), None] {
        let refused = preflight(&stack, origin, asked).await?;
        assert_eq!(refused.status(), 403, "{origin:?}");
        assert_eq!(browser_headers(refused.headers()), "", "{origin:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_star_lets_pages_of_every_origin_in() -> anyhow::Result<()> {
    let stack = stack_with(&[("TALARIA_CORS_ORIGINS", "*"), ("TALARIA_API_KEY", KEY)]).await?;
    let allowed = preflight(&stack, Some("https://any.example"), "authorization").await?;
    assert_eq!(allowed.status(), 200, "a preflight needs no key");
    insta::assert_snapshot!(browser_headers(allowed.headers()), @r"
    access-control-allow-headers: Authorization, Content-Type, Idempotency-Key, X-Hermes-Session-Id, X-Hermes-Session-Key, Last-Event-ID
    access-control-allow-methods: GET, POST, DELETE, OPTIONS
    access-control-allow-origin: *
    access-control-expose-headers: x-request-id, Retry-After, Idempotency-Replayed, X-Hermes-Session-Id, X-Hermes-Session-Key, X-Hermes-Completed, X-Hermes-Partial, X-Hermes-Error
    access-control-max-age: 600
    ");
    let refused = stack.http.get(stack.url("/v1/models"));
    let refused = refused.header("origin", ORIGIN).send().await?;
    assert_eq!(refused.status(), 401);
    assert_eq!(
        text_of(refused.headers(), "access-control-allow-origin"),
        "*"
    );
    Ok(())
}

/// REQ-88
#[tokio::test]
async fn every_answer_has_the_security_headers() -> anyhow::Result<()> {
    let stack = stack_with(&[("TALARIA_CORS_ORIGINS", ORIGIN), ("TALARIA_API_KEY", KEY)]).await?;
    stack.upstream.push(reply());
    let post = |body: String| {
        let request = stack.http.post(stack.url("/v1/responses")).bearer_auth(KEY);
        request
            .header("content-type", "application/json")
            .body(body)
    };
    let get = |path: &str| stack.http.get(stack.url(path));
    let stream = post(json!({"input": "hi", "stream": true}).to_string());
    let answers = [
        (200, stream.send().await?),
        (200, preflight(&stack, Some(ORIGIN), "authorization").await?),
        (
            403,
            preflight(&stack, Some("https://evil.example"), "").await?,
        ),
        (400, post("{".to_owned()).send().await?),
        (413, post("x".repeat(2000)).send().await?),
        (401, get("/v1/models").send().await?),
        (404, get("/nowhere").send().await?),
        (
            404,
            get("/v1/responses/resp_1").bearer_auth(KEY).send().await?,
        ),
        (405, stack.http.post(stack.url("/health")).send().await?),
        (200, get("/health").send().await?),
    ];
    for (status, answer) in answers {
        let headers = answer.headers().clone();
        assert_eq!(answer.status(), status, "{headers:?}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(text_of(&headers, name), value, "{status}");
        }
        assert!(
            text_of(&headers, "x-request-id").starts_with("req_"),
            "{status}"
        );
        answer.bytes().await?;
    }
    Ok(())
}

/// REQ-84
#[tokio::test]
async fn health_is_told_to_anyone_under_both_names() -> anyhow::Result<()> {
    let stack = stack_with(&[("TALARIA_API_KEY", KEY)]).await?;
    for path in ["/health", "/v1/health"] {
        let answer = stack.http.get(stack.url(path)).send().await?;
        assert_eq!(answer.status(), 200);
        let body: Value = answer.json().await?;
        let expected = json!({
            "status": "ok", "platform": "talaria", "version": env!("CARGO_PKG_VERSION"),
        });
        assert_eq!(body, expected, "{path}");
    }
    Ok(())
}

/// Which version a connection speaks is seen from its first bytes, however few come at a time.
#[tokio::test]
async fn both_versions_of_http_are_spoken_however_the_bytes_come() -> anyhow::Result<()> {
    let stack = stack_with(&[]).await?;
    let host = stack.url("").replace("http://", "");
    for method in ["GET", "POST", "PRINT"] {
        let mut connection = TcpStream::connect(&host).await?;
        connection.set_nodelay(true)?;
        let head =
            format!("{method} /health HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        for byte in head.bytes() {
            connection.write_all(&[byte]).await?;
            tokio::task::yield_now().await;
        }
        let mut answer = String::new();
        within("the answer", connection.read_to_string(&mut answer)).await??;
        let expected = if method == "GET" {
            "HTTP/1.1 200"
        } else {
            "HTTP/1.1 405"
        };
        assert!(answer.starts_with(expected), "{method}: {answer}");
    }
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build()?;
    let answer = http2.get(stack.url("/health")).send().await?;
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.status(), 200);
    Ok(())
}

async fn detailed_health(stack: &Stack) -> anyhow::Result<Value> {
    let answer = stack.http.get(stack.url("/health/detailed")).send().await?;
    anyhow::ensure!(answer.status() == 200, "{answer:?}");
    Ok(answer.json().await?)
}

/// REQ-85, REQ-86
#[tokio::test]
async fn detailed_health_shows_the_runs_and_which_part_is_away() -> anyhow::Result<()> {
    let mut stack = Stack::apart(TALARIA, Options::default()).await?;
    let held = ResponsesStream::new()
        .gate("rest")
        .text(&["hi"])
        .completed();
    stack.upstream.push(held);
    let mut active = stack.stream(&json!({"input": "hi"})).await?;
    active.until_event("response.in_progress").await?;

    let begun = async {
        loop {
            let health = detailed_health(&stack).await?;
            let queues = &health["readiness"]["checks"]["background_queues"];
            if queues["starting_runs"] == 0 {
                return anyhow::Ok(health);
            }
            assert_eq!(queues["starting_runs"], 1);
        }
    };
    let mut well = within("the run to have begun", begun).await??;
    assert!(well["pid"].take().is_u64());
    insta::assert_json_snapshot!(well, {".version" => "[version]"}, @r#"
    {
      "status": "ok",
      "readiness": {
        "status": "ok",
        "checks": {
          "state_db": {
            "status": "ok"
          },
          "config": {
            "status": "ok"
          },
          "model": {
            "status": "ok",
            "agents": 1
          },
          "gateway": {
            "status": "ok",
            "state": "running",
            "connected_platforms": 1,
            "platforms": {
              "api_server": "ok"
            }
          },
          "background_queues": {
            "status": "ok",
            "active_api_runs": 1,
            "max_concurrent_runs": 256,
            "starting_runs": 0,
            "refused_runs": 0,
            "process_completions": 0,
            "active_delegations": 0
          }
        }
      },
      "platform": "talaria",
      "version": "[version]",
      "gateway_state": "running",
      "platforms": {},
      "active_agents": 1,
      "gateway_busy": true,
      "gateway_drainable": true,
      "exit_reason": null,
      "updated_at": null,
      "pid": null
    }
    "#);
    stack.processes[STORE].kill9().await?;
    let ill = detailed_health(&stack).await?;
    assert_eq!(ill["status"], "degraded");
    assert_eq!(ill["readiness"]["checks"]["state_db"]["status"], "degraded");
    stack.processes[ORCHESTRATOR].kill9().await?;
    let worse = detailed_health(&stack).await?;
    assert_eq!(worse["gateway_state"], Value::Null);
    assert_eq!(worse["active_agents"], 0);
    Ok(())
}

#[tokio::test]
async fn details_and_capabilities_are_for_those_with_a_key() -> anyhow::Result<()> {
    let stack = stack_with(&[("TALARIA_API_KEY", KEY)]).await?;
    for path in ["/health/detailed", "/v1/capabilities", "/v1/models"] {
        let get = || stack.http.get(stack.url(path));
        assert_eq!(get().send().await?.status(), 401, "{path}");
        assert_eq!(get().bearer_auth(KEY).send().await?.status(), 200, "{path}");
    }
    Ok(())
}

/// REQ-83
#[tokio::test]
async fn capabilities_name_routes_that_are_there() -> anyhow::Result<()> {
    let stack = stack_with(&[("TALARIA_MODEL_NAME", "lucas")]).await?;
    let get = stack.http.get(stack.url("/v1/capabilities"));
    let told: Value = get.send().await?.json().await?;

    let head = ["object", "platform", "model", "auth"].map(|name| told[name].clone());
    insta::assert_snapshot!(
        Value::from(head.to_vec()),
        @r#"["hermes.api_server.capabilities","talaria","lucas",{"type":"bearer","required":false}]"#
    );
    assert_eq!(
        told["features"]["session_continuity_header"],
        "X-Hermes-Session-Id"
    );
    for (name, feature) in told["features"].as_object().context("no features")? {
        let simple = feature.is_boolean() || name.ends_with("_header");
        assert!(simple || feature["supported"] == true, "{name}: {feature}");
    }
    let endpoints = told["endpoints"].as_object().context("no endpoints")?;
    assert!(endpoints.len() > 10);
    for (name, endpoint) in endpoints {
        let method: Method = endpoint["method"].as_str().context("no method")?.parse()?;
        let path = endpoint["path"].as_str().context("no path")?;
        let path = path.replace(['{', '}'], "");
        let answer = stack.http.request(method, stack.url(&path)).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        let is_there = status != 405 && !text.contains("Invalid URL");
        assert!(is_there, "{name}: {status} {text}");
    }
    Ok(())
}

/// REQ-92
#[tokio::test]
async fn the_default_agent_is_named_by_the_environment_and_nothing_secret_is_shown()
-> anyhow::Result<()> {
    for variable in ["TALARIA_MODEL_NAME", "API_SERVER_MODEL_NAME"] {
        let stack = stack_with(&[(variable, "admin")]).await?;
        let get = stack.http.get(stack.url("/v1/models"));
        let mut models: Value = get.send().await?.json().await?;
        assert!(models["data"][0]["created"].take().is_i64());
        let model = json!({
            "id": "admin", "object": "model", "created": null, "owned_by": "talaria",
            "permission": [], "root": "admin", "parent": null,
        });
        assert_eq!(
            models,
            json!({"object": "list", "data": [model]}),
            "{variable}"
        );
    }
    Ok(())
}

/// A request on a connection of its own, in pieces.
struct SlowRequest {
    connection: TcpStream,
    rest: String,
}

impl SlowRequest {
    /// Sends the head of a create request and the first byte of its body.
    async fn begin(stack: &Stack) -> anyhow::Result<Self> {
        let host = stack.gateways[0].trim_start_matches("http://").to_owned();
        let mut connection = TcpStream::connect(&host).await?;
        let body = json!({"input": "hi"}).to_string();
        let head = format!(
            "POST /v1/responses HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nexpect: 100-continue\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await?;
        // The server asks for the body when a handler reads it: from then on the request is being answered.
        let mut asks = [0; 25];
        within("100 Continue", connection.read_exact(&mut asks)).await??;
        anyhow::ensure!(asks.starts_with(b"HTTP/1.1 100 Continue"), "{asks:?}");
        let (first, rest) = body.split_at(1);
        connection.write_all(first.as_bytes()).await?;
        Ok(Self {
            connection,
            rest: rest.to_owned(),
        })
    }

    /// Sends the rest of the body; the whole answer.
    async fn end(mut self) -> anyhow::Result<String> {
        self.connection.write_all(self.rest.as_bytes()).await?;
        let mut answer = String::new();
        within("the answer", self.connection.read_to_string(&mut answer)).await??;
        Ok(answer)
    }
}

#[tokio::test]
async fn a_stopping_server_starts_no_more_runs() -> anyhow::Result<()> {
    let mut stack = Stack::serve(TALARIA).await?;
    let held = ResponsesStream::new()
        .open_text()
        .deltas(&["a"])
        .gate("rest")
        .close()
        .completed();
    stack.upstream.push(held);
    let mut active = stack.stream(&json!({"input": "hi"})).await?;
    active.until(|frame| frame.json()["delta"] == "a").await?;
    let late = SlowRequest::begin(&stack).await?;

    stack.processes[0].terminate()?;
    let (rest, _) = active.collect_however_it_ends().await?;
    let answer = late.end().await?;

    assert_eq!(rest, [], "an open stream ends without an invented event");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(lower.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert!(
        lower.contains("\r\nx-content-type-options: nosniff\r\n"),
        "{answer}"
    );
    assert!(answer.contains(r#""code":"gateway_draining""#), "{answer}");
    assert_eq!(stack.upstream.requests().len(), 1);
    stack.upstream.open("rest");
    stack.processes[0].wait_for_success().await?;
    Ok(())
}

/// REQ-105
#[tokio::test]
async fn a_refused_request_leaves_nothing_behind() -> anyhow::Result<()> {
    let stack = Stack::serve(TALARIA).await?;
    let unknown = "resp_00000000000070008000000000000000";
    for (body, status) in [
        (json!({"input": "x", "previous_response_id": unknown}), 404),
        (
            json!({"input": "x", "conversation": "conv_00000000000070008000000000000000"}),
            404,
        ),
        (
            json!({"input": "x", "conversation": "c", "previous_response_id": unknown}),
            400,
        ),
        (
            json!({"input": [{"type": "item_reference", "id": "msg_1"}], "conversation": "c"}),
            404,
        ),
    ] {
        let request = stack.http.post(stack.url("/v1/responses")).json(&body);
        let answer = request.header("idempotency-key", "k").send().await?;
        assert_eq!(answer.status(), status, "{body}");
    }
    assert_eq!(stack.rows().await?, Vec::<String>::new());
    stack.upstream.push(reply());
    let body = json!({"input": "hi", "stream": true});
    let request = stack.http.post(stack.url("/v1/responses")).json(&body);
    let answer = request.header("idempotency-key", "k").send().await?;
    assert!(answer.headers().get("idempotency-replayed").is_none());
    Reader::new(answer).await?.collect().await?;
    Ok(())
}
