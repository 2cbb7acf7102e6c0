//! MCP servers that a request names: their tools, their credentials, and where they may be.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use async_openai::types::responses::ResponseStreamEvent;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.py");
const ALLOWED: &str = "[tools]\nrequest_mcp = true\nrequest_mcp_allow = [\"127.0.0.1\"]";
const HIDDEN: &str = "hidden-42-hidden";

/// The scripted MCP server over HTTP.
struct McpServer {
    url: String,
    log: PathBuf,
    _process: Child,
    _directory: TempDir,
}

impl McpServer {
    async fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("log");
        let mut process = Command::new("python3")
            .args([SERVER, "--http", "0"])
            .env("MCP_LOG", &log)
            .env("MCP_SESSIONS", "404")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().context("no stdout")?;
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        within("the MCP server", reader.read_line(&mut line)).await??;
        let url = line.trim_start_matches("listening on ").trim().to_owned();
        Ok(Self {
            url,
            log,
            _process: process,
            _directory: directory,
        })
    }

    /// The server as a request names it.
    fn tool(&self, more: Value) -> Value {
        let mut tool = json!({
            "type": "mcp",
            "server_label": "mine",
            "server_url": self.url,
            "require_approval": "never",
        });
        if let (Some(tool), Value::Object(more)) = (tool.as_object_mut(), more) {
            tool.extend(more);
        }
        tool
    }

    /// What it was sent.
    fn messages(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    fn count(&self, method: &str) -> usize {
        let messages = self.messages().into_iter();
        messages
            .filter(|message| message["method"] == method)
            .count()
    }

    async fn until(&self, method: &str) -> anyhow::Result<()> {
        let came = async {
            // Its log is a file: nobody says when it grows.
            while self.count(method) == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within(method, came).await
    }
}

async fn stack(kind: ApiKind, tables: &str) -> anyhow::Result<Stack> {
    let options = Options {
        kind,
        runs: "lease_seconds = 1".to_owned(),
        upstream: tables.to_owned(),
        environment: vec![("RUST_LOG".to_owned(), "debug".to_owned())],
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

fn calls(kind: ApiKind, name: &str, arguments: &str) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new()
            .function_call("call_a", name, &[arguments])
            .completed(),
        ApiKind::ChatCompletions => ChatStream::new()
            .function_call("call_a", name, &[arguments])
            .finish("tool_calls"),
    }
}

fn answers(kind: ApiKind) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new().text(&["Done."]).completed(),
        ApiKind::ChatCompletions => ChatStream::new().text(&["Done."]).finish("stop"),
    }
}

/// The items without what differs each time.
fn items(response: &Value) -> Vec<Value> {
    let items = response["output"].as_array().into_iter().flatten();
    items
        .map(|item| {
            let mut item = item.clone();
            if let Some(members) = item.as_object_mut() {
                members.shift_remove("id");
            }
            item
        })
        .collect()
}

fn types(response: &Value) -> Vec<&str> {
    let items = response["output"].as_array().into_iter().flatten();
    items.filter_map(|item| item["type"].as_str()).collect()
}

/// Names of the tools that the model was offered.
fn offered(body: &Value) -> Vec<&str> {
    let tools = body["tools"].as_array().into_iter().flatten();
    tools
        .filter_map(|tool| tool.get("name").or_else(|| tool["function"].get("name")))
        .filter_map(Value::as_str)
        .collect()
}

#[tokio::test]
async fn a_request_brings_its_own_tools() -> anyhow::Result<()> {
    for kind in [ApiKind::Responses, ApiKind::ChatCompletions] {
        let server = McpServer::start().await?;
        let stack = stack(kind, ALLOWED).await?;
        stack.upstream.push(calls(kind, "add", r#"{"a":1,"b":2}"#));
        stack.upstream.push(answers(kind));
        let tool = server.tool(json!({"allowed_tools": ["add", "set"], "authorization": HIDDEN}));

        let frames = stack
            .stream(
                &json!({"input": "go on", "tools": [tool, {"type": "function", "name": "look"}]}),
            )
            .await?
            .collect()
            .await?;

        let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
        for frame in frames.iter().filter(|frame| !frame.is_done_mark()) {
            serde_json::from_value::<ResponseStreamEvent>(frame.json())
                .with_context(|| format!("an event that OpenAI's types do not know: {frame:?}"))?;
        }
        let numbers = json!({"a": {"type": "number"}, "b": {"type": "number"}});
        let text = json!({"text": {"type": "string"}});
        let expected = [
            json!({"type": "mcp_list_tools", "server_label": "mine", "tools": [
                {"name": "add", "input_schema": {"type": "object", "properties": numbers},
                    "description": "Adds two numbers.", "annotations": {"readOnlyHint": true}},
                {"name": "set", "input_schema": {"type": "object", "properties": text},
                    "description": "Sets a value.", "annotations": {"idempotentHint": true}},
            ]}),
            json!({"type": "mcp_call", "status": "completed", "approval_request_id": null,
                "arguments": r#"{"a":1,"b":2}"#, "error": null, "name": "add", "output": "3", "server_label": "mine"}),
            json!({"type": "message", "status": "completed", "role": "assistant", "content": [
                {"type": "output_text", "annotations": [], "logprobs": [], "text": "Done."}]}),
        ];
        assert_eq!(items(&seen.response), expected);
        let progress: Vec<&str> = frames
            .iter()
            .filter_map(|frame| frame.event.as_deref())
            .filter(|event| event.contains("mcp_list_tools"))
            .collect();
        assert_eq!(
            progress,
            [
                "response.mcp_list_tools.in_progress",
                "response.mcp_list_tools.completed"
            ]
        );
        assert_eq!(
            seen.response["tools"][0],
            json!({"type": "mcp", "allowed_tools": ["add", "set"], "headers": null, "require_approval": "never",
                "server_description": null, "server_label": "mine", "server_url": server.url})
        );
        let stored = stack.get(&seen.response_id).await?;
        assert_eq!(stored, (200, seen.response.clone()));
        // To the model they are functions, whoever runs them.
        for request in stack.upstream.requests() {
            assert_eq!(offered(&request.body), ["add", "set", "look"]);
            assert!(
                !request.body.to_string().contains("mcp"),
                "{}",
                request.body
            );
        }
        let told = stack.upstream.request(1).await?.body.to_string();
        assert!(told.contains(r#""3""#) && told.contains("call_a"), "{told}");
        assert_eq!(server.count("initialize"), 1);
        // The connection ends with the run.
        server.until("DELETE").await?;
        for message in server.messages() {
            let sent = &message["_headers"]["authorization"];
            assert_eq!(*sent, format!("Bearer {HIDDEN}"), "{message}");
        }
    }
    Ok(())
}

/// All that the database holds, whatever its form.
async fn everything_stored(stack: &Stack) -> anyhow::Result<String> {
    const COLUMNS: &str = "
        SELECT table_name::text, column_name::text, data_type::text
        FROM information_schema.columns
        WHERE table_schema = 'public'";
    let session = stack.database().context("a database")?.connect().await?;
    let mut found = String::new();
    for column in session.query(COLUMNS, &[]).await? {
        let (table, name, kind): (String, String, String) =
            (column.get(0), column.get(1), column.get(2));
        if kind == "bytea" {
            let rows = session
                .query(
                    &format!("SELECT {name} FROM {table} WHERE {name} IS NOT NULL"),
                    &[],
                )
                .await?;
            for row in rows {
                let body: Vec<u8> = row.get(0);
                let plain = match body.split_first() {
                    Some((1, rest)) => zstd::decode_all(rest)?,
                    _ => body,
                };
                found.push_str(&String::from_utf8_lossy(&plain));
            }
        } else {
            let rows = session
                .query(
                    &format!("SELECT {name}::text FROM {table} WHERE {name} IS NOT NULL"),
                    &[],
                )
                .await?;
            for row in rows {
                found.push_str(row.get(0));
            }
        }
        found.push('\n');
    }
    Ok(found)
}

#[tokio::test]
async fn credentials_reach_the_server_and_are_kept_nowhere() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let server = McpServer::start().await?;
    let stack = stack(kind, ALLOWED).await?;
    stack.upstream.push(calls(kind, "meta", "{}"));
    let waits = ResponsesStream::new()
        .text(&["Done."])
        .gate("asked")
        .completed();
    stack.upstream.push(waits);
    let headers = json!({"X-Key": HIDDEN, "Authorization": format!("Basic {HIDDEN}")});
    let body = json!({"input": "go on", "tools": [server.tool(json!({"headers": headers}))]});
    let mut reader = stack.stream(&body).await?;
    let mut frames = reader.until_event("response.output_text.delta").await?;

    // While it runs, all that another process would need to go on is stored.
    let stored = everything_stored(&stack).await?;
    stack.upstream.open("asked");
    frames.extend(reader.collect().await?);
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    let stored_afterwards = everything_stored(&stack).await?;

    assert_eq!(seen.status, "completed");
    assert!(
        server
            .messages()
            .iter()
            .all(|message| message["_headers"]["x-key"] == HIDDEN)
    );
    for stored in [stored, stored_afterwards] {
        assert!(
            stored.contains("server_url"),
            "this looks in the wrong places"
        );
        assert!(!stored.contains(HIDDEN), "{stored}");
    }
    let (_, shown) = stack.get(&seen.response_id).await?;
    assert!(!shown.to_string().contains(HIDDEN), "{shown}");
    let all: Vec<String> = frames.iter().map(|frame| format!("{frame:?}")).collect();
    assert!(!all.join("\n").contains(HIDDEN));
    let logged = stack.processes[0].lines().join("\n");
    assert!(!logged.contains(HIDDEN), "{logged}");
    Ok(())
}

#[tokio::test]
async fn where_the_operator_says_nothing_requests_name_no_servers() -> anyhow::Result<()> {
    let server = McpServer::start().await?;
    let stack = stack(ApiKind::Responses, "").await?;
    for (path, store) in [
        ("/v1/responses", true),
        ("/v1/responses", false),
        ("/v1/runs", true),
    ] {
        let body = json!({"input": "go on", "store": store, "tools": [server.tool(json!({"authorization": HIDDEN}))]});

        let answer = stack.http.post(stack.url(path)).json(&body).send().await?;

        assert_eq!(answer.status(), 400, "{path}");
        let error: Value = answer.json().await?;
        assert_eq!(
            error["error"],
            json!({"type": "invalid_request_error", "code": "invalid_value", "param": "tools[0].type",
                "message": "MCP tools in requests are switched off on this server. Its operator can allow them with \
                            'request_mcp = true' under [tools] in talaria.toml."})
        );
    }
    assert_eq!(server.messages(), Vec::<Value>::new());
    assert_eq!(stack.rows().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_server_inside_is_not_reached_and_the_run_goes_on_without_it() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let server = McpServer::start().await?;
    let stack = stack(kind, "[tools]\nrequest_mcp = true").await?;
    let port = server
        .url
        .trim_end_matches("/mcp")
        .rsplit(':')
        .next()
        .context("a port")?;
    let spellings = [
        server.url.clone(),
        format!("https://localhost:{port}/mcp"),
        format!("https://0x7f.1:{port}/mcp"),
        format!("https://[::ffff:127.0.0.1]:{port}/mcp"),
        format!("https://2130706433:{port}/mcp"),
    ];
    for url in spellings {
        stack.upstream.push(answers(kind));
        let tool = server.tool(json!({"server_url": url}));

        let frames = stack
            .stream(&json!({"input": "go on", "tools": [tool]}))
            .await?
            .collect()
            .await?;

        let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
        assert_eq!(seen.status, "completed", "{url}");
        let list = &seen.response["output"][0];
        let expected = "The MCP server \"mine\" cannot be used: its address is not one that requests may name.";
        assert_eq!(list["error"], expected, "{url}");
        assert_eq!(list["tools"], json!([]), "{url}");
        let events = frames.iter().filter_map(|frame| frame.event.as_deref());
        let failed = events.filter(|event| *event == "response.mcp_list_tools.failed");
        assert_eq!(failed.count(), 1, "{url}");
        let asked = stack.upstream.requests().pop().context("a request")?;
        assert_eq!(asked.body.get("tools"), None, "{url}");
    }
    assert_eq!(server.messages(), Vec::<Value>::new());
    Ok(())
}

#[tokio::test]
async fn tools_that_the_context_shows_are_not_shown_again() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let server = McpServer::start().await?;
    let stack = stack(kind, ALLOWED).await?;
    let mut previous = Value::Null;
    for expected in [
        &["mcp_list_tools", "mcp_call", "message"][..],
        &["mcp_call", "message"],
    ] {
        stack.upstream.push(calls(kind, "add", r#"{"a":1,"b":2}"#));
        stack.upstream.push(answers(kind));
        let tools = [server.tool(json!({}))];

        let response = stack
            .create_json(
                &json!({"input": "go on", "tools": tools, "previous_response_id": previous}),
            )
            .await?;

        assert_eq!(types(&response), expected);
        previous = response["id"].clone();
    }
    // The connection is a run's own.
    assert_eq!(server.count("initialize"), 2);
    Ok(())
}

#[tokio::test]
async fn a_choice_of_the_server_is_one_of_its_functions_for_the_first_step() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let server = McpServer::start().await?;
    let stack = stack(kind, ALLOWED).await?;
    stack.upstream.push(calls(kind, "add", r#"{"a":1,"b":2}"#));
    stack.upstream.push(answers(kind));
    let choice = json!({"type": "mcp", "server_label": "mine"});
    let tools = [server.tool(json!({"allowed_tools": ["add", "set"]}))];

    let response = stack
        .create_json(&json!({"input": "go on", "tools": tools, "tool_choice": choice}))
        .await?;

    assert_eq!(response["tool_choice"], choice);
    let function = |name: &str| json!({"type": "function", "name": name});
    let asked: Vec<Value> = stack
        .upstream
        .requests()
        .iter()
        .map(|request| request.body["tool_choice"].clone())
        .collect();
    let expected = [
        json!({"type": "allowed_tools", "mode": "required", "tools": [function("add"), function("set")]}),
        json!("auto"),
    ];
    assert_eq!(asked, expected);
    Ok(())
}

#[tokio::test]
async fn a_key_stands_for_a_request_with_its_credentials() -> anyhow::Result<()> {
    let server = McpServer::start().await?;
    let stack = stack(ApiKind::Responses, ALLOWED).await?;
    stack.upstream.choose(|_| Some(answers(ApiKind::Responses)));
    let send = |token: &str| {
        let tools = [server.tool(json!({"authorization": token}))];
        let request = stack.http.post(stack.url("/v1/responses"));
        request
            .header("Idempotency-Key", "k")
            .json(&json!({"input": "go on", "tools": tools}))
            .send()
    };

    let answers = [send("one").await?, send("one").await?, send("two").await?];

    assert_eq!(
        answers.map(|answer| answer.status().as_u16()),
        [200, 200, 409]
    );
    Ok(())
}

/// Kills the process while it waits for `hang`; the process that takes over asks the model, which calls `add`.
async fn taken_over(more: Value) -> anyhow::Result<(Value, McpServer)> {
    let kind = ApiKind::Responses;
    let server = McpServer::start().await?;
    let mut stack = stack(kind, ALLOWED).await?;
    stack.upstream.push(calls(kind, "hang", "{}"));
    let mut reader = stack
        .stream(&json!({"input": "go on", "tools": [server.tool(more)]}))
        .await?;
    let frames = reader.until_event("response.created").await?;
    let id = frames[0].json()["response"]["id"].clone();
    server.until("tools/call").await?;
    stack.processes[0].kill9().await?;
    let again = ResponsesStream::new().function_call("call_b", "add", &[r#"{"a":1,"b":2}"#]);
    stack.upstream.push(again.completed());
    stack.upstream.push(answers(kind));
    stack.restart_serve().await?;

    let id = id.as_str().context("an id")?;
    let frames = stack.replay(id, None).await?.collect().await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    anyhow::ensure!(seen.attempts == 2, "{} attempts", seen.attempts);
    let asked = stack.upstream.request(1).await?;
    anyhow::ensure!(offered(&asked.body).contains(&"add"), "{}", asked.body);
    Ok((seen.response, server))
}

#[tokio::test]
async fn a_run_that_is_taken_over_speaks_with_its_servers_again() -> anyhow::Result<()> {
    let (response, server) = taken_over(json!({})).await?;

    assert_eq!(
        types(&response),
        ["mcp_list_tools", "mcp_call", "mcp_call", "message"]
    );
    assert_eq!(response["output"][2]["output"], "3");
    assert_eq!(server.count("initialize"), 2);
    Ok(())
}

#[tokio::test]
async fn credentials_go_with_the_process_that_had_them() -> anyhow::Result<()> {
    let (response, server) = taken_over(json!({"authorization": HIDDEN})).await?;

    assert_eq!(
        types(&response),
        ["mcp_list_tools", "mcp_call", "mcp_call", "message"]
    );
    let lost = &response["output"][2];
    assert_eq!(
        (&lost["status"], &lost["server_label"]),
        (&json!("failed"), &json!("mine"))
    );
    assert_eq!(
        lost["error"]["content"][0]["text"],
        "The credentials of the MCP server went with the process that started the run; its tools cannot be called any \
         more."
    );
    assert_eq!(server.count("initialize"), 1);
    Ok(())
}

#[tokio::test]
async fn a_configured_server_gets_its_headers_and_shares_names_with_one_of_a_request()
-> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let (configured, requested) = (McpServer::start().await?, McpServer::start().await?);
    let options = Options {
        agent: "mcp_servers = [\"files\"]".to_owned(),
        upstream: format!(
            "{ALLOWED}\n[mcp_servers.files]\nurl = \"{}\"\nheaders = {{ X-Key = \"{HIDDEN}\" }}\n\
             bearer_token_env = \"FILES_TOKEN\"",
            configured.url
        ),
        environment: vec![("FILES_TOKEN".to_owned(), "a-token".to_owned())],
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    stack.upstream.push(
        ResponsesStream::new()
            .function_call("call_a", "add", &[r#"{"a":1,"b":2}"#])
            .function_call("call_b", "mine__add", &[r#"{"a":3,"b":4}"#])
            .completed(),
    );
    stack.upstream.push(answers(kind));

    let response = stack
        .create_json(&json!({"input": "go on", "tools": [requested.tool(json!({}))]}))
        .await?;

    let mut shown = types(&response);
    shown.sort_unstable();
    assert_eq!(
        shown,
        [
            "function_call",
            "function_call_output",
            "mcp_call",
            "mcp_list_tools",
            "message"
        ]
    );
    let sent = |server: &McpServer| {
        let messages = server.messages();
        let call = messages
            .into_iter()
            .find(|message| message["method"] == "tools/call");
        let call = call.unwrap_or_default();
        json!([
            call["params"]["arguments"]["a"],
            call["_headers"]["x-key"],
            call["_headers"]["authorization"]
        ])
    };
    assert_eq!(sent(&configured), json!([1, HIDDEN, "Bearer a-token"]));
    assert_eq!(sent(&requested), json!([3, null, null]));
    Ok(())
}

/// Without a word about approval a person is asked, and the next request brings the answer, and the server again.
#[tokio::test]
async fn a_call_waits_for_a_person_where_the_request_does_not_say_otherwise() -> anyhow::Result<()>
{
    let kind = ApiKind::Responses;
    let server = McpServer::start().await?;
    let stack = stack(kind, ALLOWED).await?;
    stack.upstream.push(calls(kind, "add", r#"{"a":1,"b":2}"#));
    let mut tool = server.tool(json!({"authorization": HIDDEN}));
    if let Some(members) = tool.as_object_mut() {
        members.shift_remove("require_approval");
    }

    let asks = stack
        .create_json(&json!({"input": "go on", "tools": [tool]}))
        .await?;

    assert_eq!(types(&asks), ["mcp_list_tools", "mcp_approval_request"]);
    assert_eq!(asks["output"][1]["server_label"], "mine");
    assert_eq!(server.count("tools/call"), 0);

    stack.upstream.push(answers(kind));
    let answer = json!({"type": "mcp_approval_response", "approve": true,
        "approval_request_id": asks["output"][1]["id"]});
    let goes_on = stack
        .create_json(
            &json!({"input": [answer], "tools": [tool], "previous_response_id": asks["id"]}),
        )
        .await?;

    assert_eq!(types(&goes_on), ["mcp_call", "message"]);
    assert_eq!(goes_on["output"][0]["output"], "3");
    assert_eq!(
        goes_on["output"][0]["approval_request_id"],
        asks["output"][1]["id"]
    );
    Ok(())
}

/// A run that waits is a row. Its credentials stay in the memory of the process that admitted it.
#[tokio::test]
async fn a_run_that_waited_for_a_person_still_has_its_credentials() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let server = McpServer::start().await?;
    let stack = stack(kind, ALLOWED).await?;
    stack.upstream.push(calls(kind, "add", r#"{"a":1,"b":2}"#));
    stack.upstream.push(answers(kind));
    let tool = server.tool(json!({"authorization": HIDDEN, "require_approval": "always"}));
    let body = json!({"input": "go on", "tools": [tool], "stream": true});
    let request = stack.http.post(stack.url("/v1/responses"));
    let answer = request
        .header("X-Talaria-Approvals", "wait")
        .json(&body)
        .send()
        .await?;
    let mut reader = Reader::new(answer).await?;
    let mut frames = reader.until_event("response.output_item.done").await?;
    while !types_of(&frames).contains(&"mcp_approval_request".to_owned()) {
        frames.extend(reader.until_event("response.output_item.done").await?);
    }
    // Its task is gone, and its connection with it.
    server.until("DELETE").await?;

    let id = frames[0].json()["response"]["id"]
        .as_str()
        .context("an id")?
        .to_owned();
    let approval = stack.url(&format!("/v1/runs/{id}/approval"));
    let decided = stack
        .http
        .post(approval)
        .json(&json!({"choice": "once"}))
        .send()
        .await?;
    decided.error_for_status()?;
    frames.extend(reader.collect().await?);

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    let items = seen.response["output"].as_array().context("an output")?;
    let call = items
        .iter()
        .find(|item| item["type"] == "mcp_call")
        .context("a call")?;
    assert_eq!(
        (&call["status"], &call["output"]),
        (&json!("completed"), &json!("3"))
    );
    assert_eq!(server.count("initialize"), 2);
    assert!(!everything_stored(&stack).await?.contains(HIDDEN));
    Ok(())
}

/// Types of the items that are done.
fn types_of(frames: &[Frame]) -> Vec<String> {
    frames
        .iter()
        .filter(|frame| frame.event.as_deref() == Some("response.output_item.done"))
        .filter_map(|frame| frame.json()["item"]["type"].as_str().map(str::to_owned))
        .collect()
}

/// Whoever agrees to calls of the one would agree to calls of the other.
#[tokio::test]
async fn a_server_cannot_have_the_name_of_one_of_the_agent_s() -> anyhow::Result<()> {
    let server = McpServer::start().await?;
    let options = Options {
        agent: "mcp_servers = [\"mine\"]".to_owned(),
        upstream: format!("{ALLOWED}\n[mcp_servers.mine]\nurl = \"{}\"", server.url),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    for store in [true, false] {
        let body = json!({"input": "go on", "store": store, "tools": [server.tool(json!({}))]});

        let answer = stack.create(&body).await?;

        assert_eq!(answer.status(), 400);
        let error: Value = answer.json().await?;
        assert_eq!(error["error"]["param"], "tools[0].server_label");
    }
    Ok(())
}
