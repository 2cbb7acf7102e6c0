//! How far a run may go, and which calls its request allows: whatever the model does, the server keeps to it.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::sse::Frame;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.py");
const KINDS: [ApiKind; 2] = [ApiKind::Responses, ApiKind::ChatCompletions];
const SHAPES: [&str; 2] = ["function_call", "mcp_call"];
const NOT_ALLOWED: &str = "The request's tool_choice does not allow this tool. It was not called.";

/// A stack whose agent has the tools of the scripted MCP server, which keeps a log.
struct WithTools {
    stack: Stack,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

/// `agent` are lines below `[[agents]]`.
async fn with_tools(kind: ApiKind, agent: &str) -> anyhow::Result<WithTools> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let options = Options {
        kind,
        runs: "lease_seconds = 1".to_owned(),
        agent: format!("mcp_servers = [\"scripted\"]\n{agent}"),
        upstream: format!(
            "[mcp_servers.scripted]\ncommand = \"python3\"\nargs = [\"{SERVER}\"]\n\
             env = {{ MCP_LOG = \"{}\" }}",
            log.display()
        ),
        ..Options::default()
    };
    Ok(WithTools {
        stack: Stack::serve_with(TALARIA, options).await?,
        log,
        _directory: directory,
    })
}

impl WithTools {
    /// The names of the tools that the MCP server was asked to run.
    fn called(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["method"] == "tools/call")
            .filter_map(|message| Some(message["params"]["name"].as_str()?.to_owned()))
            .collect()
    }

    async fn until_called(&self, tool: &str) -> anyhow::Result<()> {
        let called = async {
            // The server's log is a file: nobody says when it grows.
            while !self.called().iter().any(|name| name == tool) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within("the call of a tool", called).await
    }

    /// Has runs until the tools were listed in the time of one: the server of tools has started then.
    async fn warm_up(&self, kind: ApiKind) -> anyhow::Result<()> {
        let warm = async {
            self.stack.upstream.push(answer(kind));
            loop {
                let response = self.stack.create_json(&json!({"input": "go on"})).await?;
                if response["status"] == "completed" {
                    return Ok(());
                }
                anyhow::ensure!(self.stack.upstream.requests().is_empty(), "{response}");
            }
        };
        within("the start of the tools", warm).await?
    }

    /// Streams a response to its end and checks the stream.
    async fn run(&self, body: &Value) -> anyhow::Result<Value> {
        let frames = self.stack.stream(body).await?.collect().await?;
        self.checked(&frames).await
    }

    async fn checked(&self, frames: &[Frame]) -> anyhow::Result<Value> {
        let seen = check::stream(frames).map_err(anyhow::Error::msg)?;
        let stored = self.stack.get(&seen.response_id).await?;
        anyhow::ensure!(stored == (200, seen.response.clone()), "{stored:?}");
        Ok(seen.response)
    }
}

/// An answer that makes these calls: call id, name, arguments.
fn calls(kind: ApiKind, calls: &[(&str, &str, &str)]) -> Script {
    match kind {
        ApiKind::Responses => calls
            .iter()
            .fold(ResponsesStream::new(), |stream, (id, name, arguments)| {
                stream.function_call(id, name, &[arguments])
            })
            .completed(),
        ApiKind::ChatCompletions => calls
            .iter()
            .fold(ChatStream::new(), |stream, (id, name, arguments)| {
                stream.function_call(id, name, &[arguments])
            })
            .finish("tool_calls"),
    }
}

fn answer(kind: ApiKind) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new().text(&["Done."]).completed(),
        ApiKind::ChatCompletions => ChatStream::new().text(&["Done."]).finish("stop"),
    }
}

/// An answer that says something and then waits for the gate `never`.
fn endless(kind: ApiKind) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new()
            .open_text()
            .deltas(&["Once upon"])
            .gate("never")
            .completed(),
        ApiKind::ChatCompletions => ChatStream::new()
            .text(&["Once upon"])
            .gate("never")
            .finish("stop"),
    }
}

/// What the model was told came of each call, in the order of their ids.
fn told(kind: ApiKind, body: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (list, of_type, is_one, id, member) = match kind {
        ApiKind::Responses => ("input", "type", "function_call_output", "call_id", "output"),
        ApiKind::ChatCompletions => ("messages", "role", "tool", "tool_call_id", "content"),
    };
    let items = body[list].as_array().into_iter().flatten();
    let mut told: Vec<(String, String)> = items
        .filter(|item| item[of_type] == is_one)
        .map(|item| {
            let said = match &item[member] {
                Value::Array(parts) => text(&parts[0]["text"]),
                said => text(said),
            };
            (text(&item[id]), said)
        })
        .collect();
    told.sort();
    told
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(id, said): &(&str, &str)| ((*id).to_owned(), (*said).to_owned());
    pairs.iter().map(owned).collect()
}

/// The names of the tools that a request offers.
fn offered(kind: ApiKind, body: &Value) -> Vec<String> {
    let tools = body["tools"].as_array().into_iter().flatten();
    let name = |tool: &Value| match kind {
        ApiKind::Responses => tool["name"].clone(),
        ApiKind::ChatCompletions => tool["function"]["name"].clone(),
    };
    tools
        .filter_map(|tool| Some(name(tool).as_str()?.to_owned()))
        .collect()
}

fn reason(response: &Value) -> &str {
    response["incomplete_details"]["reason"]
        .as_str()
        .unwrap_or_default()
}

/// Every call of the response has its result, and nothing is left in progress.
fn assert_answered(response: &Value) {
    let items = response["output"].as_array().unwrap();
    for item in items {
        assert_ne!(item["status"], "in_progress", "{response}");
        if item["type"] == "function_call" {
            let has_output = |other: &Value| {
                other["type"] == "function_call_output" && other["call_id"] == item["call_id"]
            };
            assert!(items.iter().any(has_output), "{response}");
        }
    }
}

#[tokio::test]
async fn a_run_that_used_up_its_tokens_ends_incomplete() -> anyhow::Result<()> {
    // Each scripted answer of calls reports some 11 tokens, 3 of them written.
    let tables = [
        ("max_total_tokens = 12", json!({}), "max_total_tokens", 2),
        ("", json!({"max_output_tokens": 16}), "max_output_tokens", 6),
    ];
    for kind in KINDS {
        for (agent, asked, expected, steps) in &tables {
            let tools = with_tools(kind, agent).await?;
            let count = std::sync::atomic::AtomicUsize::new(0);
            tools.stack.upstream.choose(move |_| {
                let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let arguments = format!(r#"{{"a":1,"b":{n}}}"#);
                Some(calls(kind, &[(&format!("call_{n}"), "add", &arguments)]))
            });
            let mut body = json!({"input": "go on"});
            body.as_object_mut()
                .context("an object")?
                .extend(asked.as_object().cloned().unwrap_or_default());

            let response = tools.run(&body).await?;

            assert_eq!(response["status"], "incomplete", "{response}");
            assert_eq!(reason(&response), *expected);
            assert_eq!(tools.called().len(), *steps, "{kind:?} {expected}");
            assert_answered(&response);
            let requests = tools.stack.upstream.requests();
            assert_eq!(requests.len(), *steps);
            if *expected == "max_output_tokens" {
                let member = match kind {
                    ApiKind::Responses => "max_output_tokens",
                    ApiKind::ChatCompletions => "max_tokens",
                };
                let passed: Vec<&Value> = requests.iter().map(|r| &r.body[member]).collect();
                let expected: [i64; 6] = match kind {
                    // OpenAI takes no less than 16.
                    ApiKind::Responses => [16; 6],
                    ApiKind::ChatCompletions => [16, 13, 10, 7, 4, 1],
                };
                assert_eq!(json!(passed), json!(expected));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_run_whose_time_is_up_ends_incomplete_with_what_was_said() -> anyhow::Result<()> {
    for kind in KINDS {
        let tools = with_tools(kind, "max_run_seconds = 2").await?;
        tools.warm_up(kind).await?;
        tools.stack.upstream.push(endless(kind));

        let response = tools.run(&json!({"input": "go on"})).await?;

        assert_eq!(response["status"], "incomplete", "{response}");
        assert_eq!(reason(&response), "max_run_seconds");
        let message = &response["output"][0];
        assert_eq!(message["status"], "incomplete");
        assert_eq!(message["content"][0]["text"], "Once upon");
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_runs_when_the_time_is_up_has_a_result_that_says_so() -> anyhow::Result<()> {
    for shape in SHAPES {
        let agent = format!("max_run_seconds = 3\ntool_items = \"{shape}\"");
        let tools = with_tools(ApiKind::Responses, &agent).await?;
        tools.warm_up(ApiKind::Responses).await?;
        let made = [("call_a", "hang", "{}")];
        tools.stack.upstream.push(calls(ApiKind::Responses, &made));

        let response = tools.run(&json!({"input": "go on"})).await?;

        assert_eq!(reason(&response), "max_run_seconds", "{response}");
        assert_eq!(tools.called(), ["hang"]);
        let told = response["output"].to_string();
        assert!(told.contains("The time of this run was up"), "{told}");
        if shape == "function_call" {
            assert_answered(&response);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_time_of_a_run_counts_on_after_a_crash() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let mut tools = with_tools(kind, "max_run_seconds = 2").await?;
    let made = [("call_a", "hang", "{}")];
    tools
        .stack
        .upstream
        .choose(move |_| Some(calls(kind, &made)));
    let mut reader = tools.stack.stream(&json!({"input": "go on"})).await?;
    let frames = reader.until_event("response.output_item.done").await?;
    let id = frames[0].json()["response"]["id"]
        .as_str()
        .context("an id")?
        .to_owned();
    tools.until_called("hang").await?;
    tools.stack.processes[0].kill9().await?;
    tools.stack.restart_serve().await?;

    let frames = tools.stack.replay(&id, None).await?.collect().await?;

    let response = tools.checked(&frames).await?;
    assert_eq!(response["status"], "incomplete", "{response}");
    assert_eq!(reason(&response), "max_run_seconds");
    assert_answered(&response);
    Ok(())
}

#[tokio::test]
async fn arguments_that_do_not_fit_the_schema_go_back_to_the_model() -> anyhow::Result<()> {
    for kind in KINDS {
        for shape in SHAPES {
            let tools = with_tools(kind, &format!("tool_items = \"{shape}\"")).await?;
            let upstream = &tools.stack.upstream;
            let wrong = r#"{"a":"one","b":2}"#;
            let made = [
                ("call_a", "add", wrong),
                ("call_b", "echo", r#"{"text":"hi"}"#),
            ];
            upstream.push(calls(kind, &made));
            upstream.push(calls(kind, &[("call_c", "add", r#"{"a":1,"b":2}"#)]));
            upstream.push(answer(kind));

            let response = tools.run(&json!({"input": "go on"})).await?;

            assert_eq!(response["status"], "completed", "{response}");
            assert_eq!(tools.called(), ["echo", "add"]);
            let why = "The arguments do not fit the tool's schema: at /a: value is not of type \"number\". The tool \
                       was not called.";
            let expected = pairs(&[("call_a", why), ("call_b", "hi"), ("call_c", "3")]);
            assert_eq!(told(kind, &upstream.requests()[2].body), expected);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_model_that_never_makes_a_call_well_is_stopped() -> anyhow::Result<()> {
    let cases = [
        ("add", r#"{"a":"x"}"#, json!({})),
        ("fly", "{}", json!({})),
        ("add", "[", json!({})),
        ("add", r#"{"a":1,"b":1}"#, json!({"tool_choice": "none"})),
    ];
    for shape in SHAPES {
        let kind = ApiKind::ChatCompletions;
        let tools = with_tools(kind, &format!("tool_items = \"{shape}\"")).await?;
        for (name, arguments, asked) in &cases {
            let before = tools.stack.upstream.requests().len();
            let (name, arguments) = (*name, *arguments);
            tools
                .stack
                .upstream
                .choose(move |_| Some(calls(kind, &[("call_a", name, arguments)])));
            let mut body = json!({"input": "go on"});
            body.as_object_mut()
                .context("an object")?
                .extend(asked.as_object().cloned().unwrap_or_default());

            let response = tools.run(&body).await?;

            assert_eq!(reason(&response), "invalid_tool_calls", "{response}");
            assert_eq!(tools.stack.upstream.requests().len() - before, 3);
            assert_eq!(tools.called().len(), 0);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_wants_no_calls_is_offered_none_and_runs_none() -> anyhow::Result<()> {
    for kind in KINDS {
        let tools = with_tools(kind, "").await?;
        let upstream = &tools.stack.upstream;
        upstream.push(calls(kind, &[("call_a", "add", r#"{"a":1,"b":2}"#)]));
        upstream.push(answer(kind));

        let response = tools
            .run(&json!({"input": "go on", "tool_choice": "none"}))
            .await?;

        assert_eq!(response["status"], "completed", "{response}");
        assert_eq!(tools.called().len(), 0);
        let requests = upstream.requests();
        assert_eq!(offered(kind, &requests[0].body).len(), 0);
        let expected = pairs(&[("call_a", NOT_ALLOWED)]);
        assert_eq!(told(kind, &requests[1].body), expected);
    }
    Ok(())
}

#[tokio::test]
async fn only_the_tools_that_are_allowed_run() -> anyhow::Result<()> {
    let choice = json!({"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "function", "name": "echo"}, {"type": "function", "name": "mine"}]});
    for kind in KINDS {
        let tools = with_tools(kind, "").await?;
        let upstream = &tools.stack.upstream;
        let made = [
            ("call_a", "add", r#"{"a":1,"b":2}"#),
            ("call_b", "echo", r#"{"text":"hi"}"#),
        ];
        upstream.push(calls(kind, &made));
        upstream.push(answer(kind));
        let mine =
            json!([{"type": "function", "name": "mine"}, {"type": "function", "name": "other"}]);

        let response = tools
            .run(&json!({"input": "go on", "tools": mine, "tool_choice": choice}))
            .await?;

        assert_eq!(response["status"], "completed", "{response}");
        assert_eq!(tools.called(), ["echo"]);
        let requests = upstream.requests();
        let expected = pairs(&[("call_a", NOT_ALLOWED), ("call_b", "hi")]);
        assert_eq!(told(kind, &requests[1].body), expected);
        let modes: Vec<&Value> = requests
            .iter()
            .map(|request| match kind {
                ApiKind::Responses => &request.body["tool_choice"]["mode"],
                ApiKind::ChatCompletions => &request.body["tool_choice"],
            })
            .collect();
        assert_eq!(modes, ["required", "auto"]);
        if kind == ApiKind::ChatCompletions {
            assert_eq!(offered(kind, &requests[0].body), ["echo", "mine"]);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_tool_of_the_agent_s_can_be_forced() -> anyhow::Result<()> {
    for kind in KINDS {
        let tools = with_tools(kind, "").await?;
        let upstream = &tools.stack.upstream;
        let sum = r#"{"a":1,"b":2}"#;
        upstream.push(calls(kind, &[("call_a", "echo", r#"{"text":"hi"}"#)]));
        upstream.push(calls(kind, &[("call_b", "add", sum)]));
        upstream.push(calls(kind, &[("call_c", "echo", r#"{"text":"hi"}"#)]));
        upstream.push(answer(kind));
        let choice = json!({"type": "function", "name": "add"});

        let response = tools
            .run(&json!({"input": "go on", "tool_choice": choice}))
            .await?;

        assert_eq!(response["status"], "completed", "{response}");
        assert_eq!(response["tool_choice"], choice);
        assert_eq!(tools.called(), ["add", "echo"]);
        let requests = upstream.requests();
        let expected = pairs(&[("call_a", NOT_ALLOWED), ("call_b", "3"), ("call_c", "hi")]);
        assert_eq!(told(kind, &requests[3].body), expected);
        let forced = match kind {
            ApiKind::Responses => choice,
            ApiKind::ChatCompletions => json!({"type": "function", "function": {"name": "add"}}),
        };
        let choices: Vec<&Value> = requests.iter().map(|r| &r.body["tool_choice"]).collect();
        let auto = json!("auto");
        assert_eq!(choices, [&forced, &forced, &auto, &auto]);
    }
    Ok(())
}

#[tokio::test]
async fn a_choice_of_a_tool_that_nobody_has_is_refused() -> anyhow::Result<()> {
    let tools = with_tools(ApiKind::Responses, "").await?;
    tools.stack.upstream.push(answer(ApiKind::Responses));
    // The server is asked for its tools by the first run.
    tools.run(&json!({"input": "go on"})).await?;
    let fly = json!({"type": "function", "name": "fly"});
    let add = json!({"type": "function", "name": "add"});
    for (choice, place) in [
        (fly.clone(), "tool_choice"),
        (
            json!({"type": "allowed_tools", "mode": "auto", "tools": [add, fly]}),
            "tool_choice.tools[1]",
        ),
    ] {
        for store in [true, false] {
            let body = json!({"input": "go on", "store": store, "tool_choice": choice});
            let url = tools.stack.url("/v1/responses");
            let refused = tools.stack.http.post(url).json(&body).send().await?;

            assert_eq!(refused.status(), 400);
            let error: Value = refused.json().await?;
            assert_eq!(
                error["error"],
                json!({"message": "Tool choice 'fly' not found in 'tools' parameter.",
                    "type": "invalid_request_error", "param": place, "code": "invalid_value"})
            );
        }
    }
    assert_eq!(tools.stack.upstream.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_request_that_wants_one_call_at_a_time_runs_one_in_each_step() -> anyhow::Result<()> {
    for kind in KINDS {
        for shape in SHAPES {
            let tools = with_tools(kind, &format!("tool_items = \"{shape}\"")).await?;
            let upstream = &tools.stack.upstream;
            let made = [
                ("call_a", "add", r#"{"a":1,"b":2}"#),
                ("call_b", "echo", r#"{"text":"hi"}"#),
            ];
            upstream.push(calls(kind, &made));
            upstream.push(calls(kind, &[("call_c", "echo", r#"{"text":"hi"}"#)]));
            upstream.push(answer(kind));

            let response = tools
                .run(&json!({"input": "go on", "parallel_tool_calls": false}))
                .await?;

            assert_eq!(response["status"], "completed", "{response}");
            assert_eq!(tools.called(), ["add", "echo"]);
            let requests = upstream.requests();
            assert_eq!(requests[0].body["parallel_tool_calls"], false);
            let why = "Only one call at a time is allowed: parallel_tool_calls is false. The tool was not called; make \
                       this call alone, in a step of its own.";
            let expected = pairs(&[("call_a", "3"), ("call_b", why), ("call_c", "hi")]);
            assert_eq!(told(kind, &requests[2].body), expected);
        }
    }
    Ok(())
}
