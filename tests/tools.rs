//! Tools that the server runs: the loop of model and tools, and what a crash in the middle of it does.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::sse;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.py");
const KINDS: [ApiKind; 2] = [ApiKind::Responses, ApiKind::ChatCompletions];
const UNKNOWN: &str = "outcome unknown: the server that ran this tool stopped before its result was recorded; it may \
                       or may not have taken effect";

/// A stack whose agent has the demo tools and those of the scripted MCP server, which keeps a log.
struct WithTools {
    stack: Stack,
    log: PathBuf,
    directory: tempfile::TempDir,
}

/// `server` are lines below `[mcp_servers.scripted]`, `agent` below `[[agents]]`.
async fn with_tools(kind: ApiKind, server: &str, agent: &str) -> anyhow::Result<WithTools> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let options = Options {
        kind,
        runs: "lease_seconds = 1".to_owned(),
        agent: format!("mcp_servers = [\"demo\", \"scripted\"]\n{agent}"),
        upstream: format!(
            "[mcp_servers.scripted]\ncommand = \"python3\"\nargs = [\"{SERVER}\"]\n\
             env = {{ MCP_LOG = \"{}\", MCP_GATE = \"{}\", MCP_HANG_AT_START = \"{}\" }}\n{server}",
            log.display(),
            directory.path().join("gate").display(),
            directory.path().join("hang").display(),
        ),
        ..Options::default()
    };
    Ok(WithTools {
        stack: Stack::serve_with(TALARIA, options).await?,
        log,
        directory,
    })
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

/// How often the MCP server was asked to run `tool`.
fn times_called(log: &Path, tool: &str) -> usize {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["method"] == "tools/call" && message["params"]["name"] == tool)
        .count()
}

/// Type, name or call id, and output of each item.
fn outline(response: &Value) -> Vec<(&str, &str, String)> {
    let items = response["output"].as_array().into_iter().flatten();
    items
        .map(|item| {
            let item_type = item["type"].as_str().unwrap_or_default();
            let (name, said) = match item_type {
                "function_call" => ("name", &item["arguments"]),
                "function_call_output" => ("call_id", &item["output"]),
                "mcp_call" => ("name", &item["output"]),
                _ => ("status", &item["content"][0]["text"]),
            };
            let said = match said {
                Value::Array(parts) => &parts[0]["text"],
                said => said,
            };
            let said = said.as_str().unwrap_or_default().to_owned();
            (item_type, item[name].as_str().unwrap_or_default(), said)
        })
        .collect()
}

/// What the model was told came of the calls, in its second or a later request.
fn told(kind: ApiKind, body: &Value) -> Vec<(String, String)> {
    let (list, item_type, is_one, member) = match kind {
        ApiKind::Responses => ("input", "type", "function_call_output", "output"),
        ApiKind::ChatCompletions => ("messages", "role", "tool", "content"),
    };
    let id = match kind {
        ApiKind::Responses => "call_id",
        ApiKind::ChatCompletions => "tool_call_id",
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = body[list].as_array().into_iter().flatten();
    items
        .filter(|item| item[item_type] == is_one)
        .map(|item| {
            let said = match &item[member] {
                Value::Array(parts) => text(&parts[0]["text"]),
                said => text(said),
            };
            (text(&item[id]), said)
        })
        .collect()
}

#[tokio::test]
async fn a_model_calls_tools_side_by_side_reads_their_results_and_answers() -> anyhow::Result<()> {
    for kind in KINDS {
        for streamed in [true, false] {
            let WithTools {
                stack,
                log,
                directory: _directory,
            } = with_tools(kind, "", "").await?;
            let made = [
                ("call_a", "calculator", r#"{"expression":"6 * 7"}"#),
                ("call_b", "echo", r#"{"text":"hi"}"#),
            ];
            stack.upstream.push(calls(kind, &made));
            let again = [("call_c", "add", r#"{"a":1,"b":2}"#)];
            stack.upstream.push(calls(kind, &again));
            stack.upstream.push(answer(kind));
            let body =
                json!({"input": "go on", "tools": [{"type": "function", "name": "echo_here"}]});

            let response = if streamed {
                let frames = stack.stream(&body).await?.collect().await?;
                let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
                seen.response
            } else {
                stack.create_json(&body).await?
            };

            assert_eq!(response["status"], "completed", "{response}");
            let mut items = outline(&response);
            // The results of one step come as they come.
            items[2..4].sort();
            let text = str::to_owned;
            let expected = [
                ("function_call", "calculator", text(made[0].2)),
                ("function_call", "echo", text(made[1].2)),
                ("function_call_output", "call_a", text("42")),
                ("function_call_output", "call_b", text("hi")),
                ("function_call", "add", text(again[0].2)),
                ("function_call_output", "call_c", text("3")),
                ("message", "completed", text("Done.")),
            ];
            assert_eq!(items, expected);
            let id = response["id"].as_str().context("no id")?;
            assert_eq!(stack.get(id).await?, (200, response.clone()));
            let requests = stack.upstream.requests();
            assert_eq!(requests.len(), 3);
            let mut results = told(kind, &requests[2].body);
            results.sort();
            let pair = |id: &str, said: &str| (id.to_owned(), said.to_owned());
            let expected = [
                pair("call_a", "42"),
                pair("call_b", "hi"),
                pair("call_c", "3"),
            ];
            assert_eq!(results, expected);
            assert_eq!(times_called(&log, "echo"), 1);
            // The model is offered the server's tools, and then the client's; the client is shown its own.
            let shown = response["tools"].as_array().map(Vec::len);
            assert_eq!(shown, Some(1));
            let offered = requests[0].body["tools"].as_array().context("no tools")?;
            assert!(offered.len() > 10, "{offered:?}");
            // The scripts say 3 each.
            assert_eq!(response["usage"]["output_tokens"], 9);
        }
    }
    Ok(())
}

#[tokio::test]
async fn calls_show_as_mcp_calls_to_who_wants_them_so() -> anyhow::Result<()> {
    for kind in KINDS {
        let WithTools {
            stack,
            directory: _directory,
            ..
        } = with_tools(kind, "", "tool_items = \"mcp_call\"").await?;
        let made = [
            ("call_a", "add", r#"{"a":1,"b":2}"#),
            ("call_b", "fail", "{}"),
        ];
        stack.upstream.push(calls(kind, &made));
        stack.upstream.push(answer(kind));

        let frames = stack
            .stream(&json!({"input": "go on"}))
            .await?
            .collect()
            .await?;

        let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
        let text = str::to_owned;
        let expected = [
            ("mcp_call", "add", text("3")),
            ("mcp_call", "fail", String::new()),
            ("message", "completed", text("Done.")),
        ];
        assert_eq!(outline(&seen.response), expected);
        let results = told(kind, &stack.upstream.request(1).await?.body);
        assert_eq!(results.len(), 2, "{results:?}");
        let (status, stored) = stack.get(&seen.response_id).await?;
        assert_eq!((status, stored), (200, seen.response));
    }
    Ok(())
}

#[tokio::test]
async fn a_call_of_the_client_s_beside_one_of_ours_is_left_to_the_client() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let WithTools {
        stack,
        directory: _directory,
        ..
    } = with_tools(kind, "", "").await?;
    let made = [
        ("call_a", "add", r#"{"a":1,"b":2}"#),
        ("call_b", "look", "{}"),
    ];
    stack.upstream.push(calls(kind, &made));

    let response = stack
        .create_json(&json!({"input": "go on", "tools": [{"type": "function", "name": "look"}]}))
        .await?;

    assert_eq!(response["status"], "completed");
    let expected = [
        ("function_call", "add", made[0].2.to_owned()),
        ("function_call", "look", "{}".to_owned()),
        ("function_call_output", "call_a", "3".to_owned()),
    ];
    assert_eq!(outline(&response), expected);
    assert_eq!(stack.upstream.requests().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_server_that_crashes_is_an_error_that_the_model_reads() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let WithTools {
        stack,
        directory: _directory,
        ..
    } = with_tools(kind, "", "").await?;
    stack
        .upstream
        .push(calls(kind, &[("call_a", "crash", "{}")]));
    stack
        .upstream
        .push(calls(kind, &[("call_b", "add", r#"{"a":1,"b":2}"#)]));
    stack.upstream.push(answer(kind));

    let response = stack.create_json(&json!({"input": "go on"})).await?;

    assert_eq!(response["status"], "completed", "{response}");
    let items = outline(&response);
    assert_eq!(items[3].2, "3", "{items:?}");
    assert_eq!(items[4].2, "Done.");
    Ok(())
}

#[tokio::test]
async fn a_call_that_was_whole_when_its_answer_broke_off_runs_once() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    for agent in ["", "tool_items = \"mcp_call\""] {
        let WithTools {
            stack,
            log,
            directory: _directory,
        } = with_tools(kind, "", agent).await?;
        let broken = ResponsesStream::new()
            .function_call("call_a", "once_effect", &["{}"])
            .open_text()
            .deltas(&["So far"])
            .cut();
        stack.upstream.push(broken);
        stack.upstream.push(answer(kind));

        let frames = stack
            .stream(&json!({"input": "go on"}))
            .await?
            .collect()
            .await?;

        let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
        assert_eq!(seen.status, "completed", "{}", seen.response);
        assert_eq!(seen.text, "So farDone.");
        assert_eq!(times_called(&log, "once_effect"), 1);
        let results = told(kind, &stack.upstream.request(1).await?.body);
        assert_eq!(results.len(), 1, "{results:?}");
        assert_eq!(results[0].1, "done");
    }
    Ok(())
}

#[tokio::test]
async fn calls_begin_together_but_no_more_at_a_time_than_the_agent_may() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let table = [
        ("", ["added a", "added b", "done b", "done a"]),
        (
            "max_parallel_tools = 1",
            ["added a", "done a", "added b", "done b"],
        ),
    ];
    for (agent, expected) in table {
        let WithTools {
            stack,
            directory: _directory,
            ..
        } = with_tools(kind, "", agent).await?;
        let made = [
            ("a", "wait", r#"{"seconds":1}"#),
            ("b", "add", r#"{"a":1,"b":2}"#),
        ];
        stack.upstream.push(calls(kind, &made));
        stack.upstream.push(answer(kind));

        let frames = stack
            .stream(&json!({"input": "go on"}))
            .await?
            .collect()
            .await?;

        check::stream(&frames).map_err(anyhow::Error::msg)?;
        let ledger: Vec<String> = frames
            .iter()
            .filter(|frame| !frame.is_done_mark())
            .map(talaria_testkit::sse::Frame::json)
            .filter(|event| event["item"]["type"] == "function_call_output")
            .filter_map(|event| {
                let step = event["type"].as_str()?.rsplit('.').next()?;
                Some(format!("{step} {}", event["item"]["call_id"].as_str()?))
            })
            .collect();
        assert_eq!(ledger, expected);
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_calls_too_often_ends_incomplete() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let tables = [
        ("max_steps = 2", "max_steps", 2),
        ("max_tool_calls = 2", "max_tool_calls", 3),
        ("", "repeated_calls", 4),
    ];
    for (agent, reason, asked) in tables {
        let WithTools {
            stack,
            directory: _directory,
            ..
        } = with_tools(kind, "", agent).await?;
        let count = std::sync::atomic::AtomicUsize::new(0);
        let differs = reason != "repeated_calls";
        stack.upstream.choose(move |_| {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let arguments = format!(r#"{{"a":1,"b":{}}}"#, if differs { n } else { 0 });
            let call_id = format!("call_{n}");
            Some(calls(kind, &[(&call_id, "add", &arguments)]))
        });

        let response = stack.create_json(&json!({"input": "go on"})).await?;

        assert_eq!(response["status"], "incomplete", "{response}");
        assert_eq!(response["incomplete_details"]["reason"], reason);
        assert_eq!(stack.upstream.requests().len(), asked, "{reason}");
    }
    Ok(())
}

#[tokio::test]
async fn cancelling_a_run_ends_the_call_that_it_waits_for() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let WithTools {
        stack,
        log,
        directory: _directory,
    } = with_tools(kind, "", "").await?;
    stack
        .upstream
        .push(calls(kind, &[("call_a", "hang", "{}")]));
    let mut reader = stack.stream(&json!({"input": "go on"})).await?;
    let mut frames = reader.until_event("response.created").await?;
    let id = frames[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    until_called(&log, "hang", 1).await?;

    let url = stack.url(&format!("/v1/responses/{id}/cancel"));
    stack.http.post(url).send().await?.error_for_status()?;

    frames.extend(reader.collect().await?);
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!(seen.status, "cancelled");
    Ok(())
}

/// When the process is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    BeforeTheIntent,
    DuringTheCall,
    AfterTheResult,
}

async fn until_called(log: &Path, tool: &str, times: usize) -> anyhow::Result<()> {
    let called = async {
        // The server's log is a file: nobody says when it grows.
        while times_called(log, tool) < times {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the call of a tool", called).await
}

/// Kills the process at `point` of a call of `tool`; how often it was called, and what the model was told of it.
async fn crash(
    point: Point,
    tool: &str,
    server: &str,
    agent: &str,
) -> anyhow::Result<(usize, String)> {
    let kind = ApiKind::Responses;
    let WithTools {
        mut stack,
        log,
        directory: _directory,
    } = with_tools(kind, server, agent).await?;
    let call = || ResponsesStream::new().function_call("call_a", tool, &["{}"]);
    match point {
        Point::BeforeTheIntent => stack.upstream.push(call().gate("never").completed()),
        Point::DuringTheCall => stack.upstream.push(call().completed()),
        Point::AfterTheResult => {
            stack.upstream.push(call().completed());
            stack.upstream.push(answer(kind).hold_head("never"));
        }
    }
    let mut reader = stack.stream(&json!({"input": "go on"})).await?;
    let made = if agent.contains("mcp_call") {
        "response.mcp_call_arguments.done"
    } else {
        "response.output_item.done"
    };
    let frames = reader.until_event(made).await?;
    let id = frames[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    match point {
        Point::BeforeTheIntent => {}
        Point::DuringTheCall => until_called(&log, tool, 1).await?,
        Point::AfterTheResult => drop(stack.upstream.request(1).await?),
    }
    stack.processes[0].kill9().await?;
    let asked = stack.upstream.requests().len();
    stack.upstream.choose(move |_| Some(answer(kind)));
    stack.restart_serve().await?;

    let frames = stack.replay(&id, None).await?.collect().await?;

    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    anyhow::ensure!(seen.status == "completed", "{}", seen.response);
    anyhow::ensure!(seen.attempts == 2, "{} attempts", seen.attempts);
    let results = told(kind, &stack.upstream.request(asked).await?.body);
    let [(_, told)] = results.as_slice() else {
        anyhow::bail!("the model was told {results:?}");
    };
    Ok((times_called(&log, tool), told.clone()))
}

#[tokio::test]
async fn a_crash_repeats_no_call_that_must_not_be_repeated() -> anyhow::Result<()> {
    for agent in ["", "tool_items = \"mcp_call\""] {
        let table = [
            (Point::BeforeTheIntent, "once_effect", "done"),
            (Point::DuringTheCall, "hang", UNKNOWN),
            (Point::AfterTheResult, "once_effect", "done"),
        ];
        for (point, tool, expected) in table {
            let (called, told) = crash(point, tool, "", agent)
                .await
                .with_context(|| format!("{point:?} {agent}"))?;
            assert_eq!((called, told.as_str()), (1, expected), "{point:?} {agent}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_repeats_a_call_that_may_be_repeated() -> anyhow::Result<()> {
    for effect in ["pure", "idempotent"] {
        let server = format!("call_timeout_seconds = 2\neffects = {{ hang = \"{effect}\" }}");
        let (called, told) = crash(Point::DuringTheCall, "hang", &server, "").await?;
        assert_eq!(called, 2, "{effect}");
        assert!(!told.contains("outcome unknown"), "{told}");
    }
    Ok(())
}

/// What the model is told of each call once the run went on in another process.
async fn told_after_restart(
    stack: &mut Stack,
    kind: ApiKind,
    id: &str,
) -> anyhow::Result<Vec<(String, String)>> {
    let asked = stack.upstream.requests().len();
    stack.upstream.choose(move |_| Some(answer(kind)));
    stack.restart_serve().await?;
    let frames = stack.replay(id, None).await?.collect().await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    anyhow::ensure!(seen.status == "completed", "{}", seen.response);
    Ok(told(kind, &stack.upstream.request(asked).await?.body))
}

#[tokio::test]
async fn a_call_whose_process_died_between_its_intent_and_the_call_is_not_made_later()
-> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    for shape in ["function_call", "mcp_call"] {
        let agent = format!("tool_items = \"{shape}\"\nmax_parallel_tools = 1");
        let WithTools {
            mut stack,
            log,
            directory,
        } = with_tools(kind, "", &agent).await?;
        let made = ResponsesStream::new()
            .gate("server started")
            .function_call("call_a", "crash", &["{}"])
            .function_call("call_b", "once_effect", &["{}"]);
        stack.upstream.push(made.completed());
        let mut reader = stack.stream(&json!({"input": "go on"})).await?;
        stack.upstream.request(0).await?;
        // The first call kills the tool's server, which then does not come back for the second.
        let hang = directory.path().join("hang");
        std::fs::write(&hang, "")?;
        stack.upstream.open("server started");
        let is_second_intent = |frame: &sse::Frame| {
            let data = frame.json();
            match shape {
                "function_call" => {
                    frame.event.as_deref() == Some("response.output_item.added")
                        && data["item"]["type"] == "function_call_output"
                        && data["item"]["call_id"] == "call_b"
                }
                _ => {
                    frame.event.as_deref() == Some("response.mcp_call.in_progress")
                        && data["output_index"] == 1
                }
            }
        };
        let frames = reader.until(is_second_intent).await?;
        let id = frames[0].json()["response"]["id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        stack.processes[0].kill9().await?;
        std::fs::remove_file(&hang)?;

        let told = told_after_restart(&mut stack, kind, &id).await?;

        let said: Vec<&str> = told.iter().map(|(_, said)| said.as_str()).collect();
        assert_eq!(said.len(), 2, "{told:?}");
        assert_eq!(said[1], UNKNOWN, "{shape}");
        assert_eq!(times_called(&log, "once_effect"), 0, "{shape}");
        assert_eq!(times_called(&log, "crash"), 1, "{shape}");
    }
    Ok(())
}

#[tokio::test]
async fn a_call_whose_reply_was_never_written_down_is_not_made_twice() -> anyhow::Result<()> {
    const WAITS: &str = "
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    // A session of the server's outlives it until its statement ends.
    const SESSIONS: &str = "
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'talaria'";
    let kind = ApiKind::Responses;
    let WithTools {
        mut stack,
        log,
        directory,
    } = with_tools(kind, "", "").await?;
    stack
        .upstream
        .push(calls(kind, &[("call_a", "gate", "{}")]));
    let mut reader = stack.stream(&json!({"input": "go on"})).await?;
    let frames = reader.until_event("response.output_item.done").await?;
    let id = frames[0].json()["response"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    until_called(&log, "gate", 1).await?;

    // Whoever writes the result down waits for this row, until it gives up.
    let database = stack.database().context("no database")?;
    let (mut holder, watcher) = (database.connect().await?, database.connect().await?);
    let lock = holder.transaction().await?;
    lock.execute("SELECT 1 FROM response FOR UPDATE", &[])
        .await?;
    let count = async |sql: &str| {
        let row = watcher.query_one(sql, &[]).await?;
        anyhow::Ok(row.get::<_, i64>(0))
    };
    std::fs::write(directory.path().join("gate"), "")?;
    within("the result on its way to the log", async {
        while count(WAITS).await? == 0 {}
        anyhow::Ok(())
    })
    .await??;
    stack.processes[0].kill9().await?;
    within("the end of the write", async {
        while count(SESSIONS).await? > 0 {}
        anyhow::Ok(())
    })
    .await??;
    lock.rollback().await?;

    let told = told_after_restart(&mut stack, kind, &id).await?;

    assert_eq!(told, [("call_a".to_owned(), UNKNOWN.to_owned())]);
    assert_eq!(times_called(&log, "gate"), 1);
    Ok(())
}
