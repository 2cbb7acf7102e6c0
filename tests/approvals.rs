//! Calls that a person has to agree to: asked, waited for as a row, decided once.

#[path = "runs/api.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod api;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use futures::future::join_all;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::postgres::{Proxy, TestDatabase};
use talaria_testkit::sse;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};

use api::{Answer, ended, events, get, post, start, status};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.py");
const KINDS: [ApiKind; 2] = [ApiKind::Responses, ApiKind::ChatCompletions];

/// A stack whose agent asks people before it calls `once_effect`.
struct Asking {
    stack: Stack,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

fn options(kind: ApiKind, runs: &str, log: &Path) -> Options {
    Options {
        kind,
        runs: format!("lease_seconds = 1\nmax_concurrent = 4\n{runs}"),
        agent: "mcp_servers = [\"scripted\"]\nrequire_approval = [\"once_effect\"]".to_owned(),
        upstream: format!(
            "[mcp_servers.scripted]\ncommand = \"python3\"\nargs = [\"{SERVER}\"]\n\
             env = {{ MCP_LOG = \"{}\" }}\n",
            log.display()
        ),
        ..Options::default()
    }
}

async fn asking(kind: ApiKind, runs: &str) -> anyhow::Result<Asking> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let stack = Stack::serve_with(TALARIA, options(kind, runs, &log)).await?;
    Ok(Asking {
        stack,
        log,
        _directory: directory,
    })
}

impl Asking {
    /// The model will call `once_effect` with this text, and say "Done." once it knows what came of it.
    fn script(&self, kind: ApiKind, texts: &[&str]) {
        for text in texts {
            self.stack.upstream.push(call(kind, text));
        }
        self.stack.upstream.push(answer(kind));
    }

    /// The texts with which the tool was called.
    fn calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["method"] == "tools/call")
            .map(|message| {
                let text = message["params"]["arguments"]["text"].as_str();
                text.unwrap_or_default().to_owned()
            })
            .collect()
    }

    async fn approve(&self, id: &str, body: Value) -> anyhow::Result<Answer> {
        post(&self.stack, &format!("/v1/runs/{id}/approval"), &body, &[]).await
    }

    /// Waits until the run is nobody's: the object that lists show.
    async fn waits_as_a_row(&self, id: &str) -> anyhow::Result<Value> {
        within("a run that waits", async {
            loop {
                let listed = get(&self.stack, "/v1/runs?status=waiting_for_approval").await?;
                let runs = listed.body["data"].as_array().cloned().unwrap_or_default();
                if let Some(run) = runs.into_iter().find(|run| run["run_id"] == id) {
                    return anyhow::Ok(run);
                }
            }
        })
        .await?
    }

    /// The first request of the run that waits.
    async fn request_id(&self, id: &str) -> anyhow::Result<String> {
        let run = status(&self.stack, id).await?.body;
        let request_id = run["approval"]["request_id"].as_str();
        Ok(request_id.with_context(|| run.to_string())?.to_owned())
    }
}

fn call(kind: ApiKind, text: &str) -> Script {
    let arguments = json!({ "text": text }).to_string();
    let (id, arguments) = (format!("call_{text}"), [arguments.as_str()]);
    match kind {
        ApiKind::Responses => ResponsesStream::new()
            .function_call(&id, "once_effect", &arguments)
            .completed(),
        ApiKind::ChatCompletions => ChatStream::new()
            .function_call(&id, "once_effect", &arguments)
            .finish("tool_calls"),
    }
}

fn answer(kind: ApiKind) -> Script {
    match kind {
        ApiKind::Responses => ResponsesStream::new().text(&["Done."]).completed(),
        ApiKind::ChatCompletions => ChatStream::new().text(&["Done."]).finish("stop"),
    }
}

/// Names of events, and what is told of approvals.
fn outline(frames: &[sse::Frame]) -> Vec<String> {
    let told = |frame: &sse::Frame| {
        let data = frame.json();
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        match text("event").as_str() {
            "approval.request" => format!("approval.request {}", text("tool")),
            "approval.responded" => {
                format!(
                    "approval.responded {} {}",
                    text("choice"),
                    text("decided_by")
                )
            }
            event => event.to_owned(),
        }
    };
    frames.iter().map(told).collect()
}

/// The last thing that the model was told came of a call.
fn told(kind: ApiKind, body: &Value) -> String {
    let (items, output) = match kind {
        ApiKind::Responses => ("input", "output"),
        ApiKind::ChatCompletions => ("messages", "content"),
    };
    let last = body[items].as_array().and_then(|items| items.last());
    let output = last.map(|item| item[output].clone()).unwrap_or_default();
    match &output {
        Value::Array(parts) => parts[0]["text"].as_str().unwrap_or_default().to_owned(),
        said => said.as_str().unwrap_or_default().to_owned(),
    }
}

#[tokio::test]
async fn a_run_waits_as_a_row_over_a_restart_and_goes_on_when_somebody_agrees() -> anyhow::Result<()>
{
    for kind in KINDS {
        for shape in ["function_call", "mcp_call"] {
            let mut asking = asking(kind, "").await?;
            asking.script(kind, &["now"]);
            let header = [("X-Talaria-Tool-Items", shape)];
            let body = json!({"input": "Do it."});
            let started = post(&asking.stack, "/v1/runs", &body, &header).await?;
            let id = api::started(&started)?;

            let listed = asking.waits_as_a_row(&id).await?;
            assert_eq!(listed["status"], "waiting_for_approval");
            let run = status(&asking.stack, &id).await?.body;
            assert_eq!(run["status"], "waiting_for_approval", "{run}");
            assert_eq!(run["last_event"], "approval.request");
            assert_eq!(run["approval"]["tool"], "once_effect");
            assert_eq!(run["approval"]["arguments"], r#"{"text":"now"}"#);
            assert_eq!(
                run["approval"]["choices"],
                json!(["once", "session", "always", "deny"])
            );
            let database = asking.stack.database().context("no database")?;
            let session = database.connect().await?;
            let row = session
                .query_one(
                    "SELECT owner IS NULL, waits_until > now() FROM response",
                    &[],
                )
                .await?;
            assert_eq!((row.get(0), row.get(1)), (true, true));
            assert_eq!(asking.calls(), Vec::<String>::new());

            asking.stack.processes[0].kill9().await?;
            asking.stack.restart_serve().await?;
            asking.waits_as_a_row(&id).await?;
            let body = json!({"choice": "approve", "decided_by": "Ada L.", "reason": "Fine."});
            let decided = asking.approve(&id, body).await?;
            assert_eq!(decided.status, 200, "{decided:?}");
            let request_id = decided.body["request_id"].clone();
            assert_eq!(
                decided.body,
                json!({
                    "object": "hermes.run.approval_response", "run_id": id, "choice": "once", "resolved": 1,
                    "request_id": request_id,
                })
            );

            let run = ended(&asking.stack, &id).await?;
            assert_eq!(
                (&run["status"], &run["output"]),
                (&json!("completed"), &json!("Done."))
            );
            assert_eq!(asking.calls(), ["now"]);
            // Both model calls, though another process made the second.
            assert_eq!(run["usage"]["total_tokens"], 2 * TOKENS, "{run}");
            let again = asking.approve(&id, json!({"choice": "deny"})).await?;
            assert_eq!(again.refusal(), (409, &json!("approval_not_active")));

            let gateway = asking.stack.gateways[0].clone();
            let frames = events(&asking.stack, &gateway, &id, None)
                .await?
                .collect()
                .await?;
            assert_eq!(
                outline(&frames),
                [
                    "approval.request once_effect",
                    "approval.responded once Ada L.",
                    "tool.started",
                    "tool.completed",
                    "message.delta",
                    "run.completed",
                ]
            );
            let response = id.replace("run_", "resp_");
            let frames = asking
                .stack
                .replay(&response, None)
                .await?
                .collect()
                .await?;
            check::stream(&frames).map_err(anyhow::Error::msg)?;
        }
    }
    Ok(())
}

/// What each scripted model call costs.
const TOKENS: u64 = 11;

#[tokio::test]
async fn what_is_denied_is_not_called_and_the_model_is_told_why() -> anyhow::Result<()> {
    for kind in KINDS {
        let asking = asking(kind, "").await?;
        asking.script(kind, &["now"]);
        let id = start(&asking.stack, &json!({"input": "Do it."})).await?;
        asking.waits_as_a_row(&id).await?;

        let body = json!({"choice": "deny", "reason": "Not today."});
        let decided = asking.approve(&id, body).await?;

        assert_eq!(decided.status, 200, "{decided:?}");
        let run = ended(&asking.stack, &id).await?;
        assert_eq!(run["status"], "completed", "{run}");
        assert_eq!(asking.calls(), Vec::<String>::new());
        assert_eq!(
            told(kind, &asking.stack.upstream.request(1).await?.body),
            "A person denied this call. The tool was not called. The reason given: Not today."
        );
    }
    Ok(())
}

#[tokio::test]
async fn nobody_who_decides_in_time_is_a_denial_or_what_the_operator_says() -> anyhow::Result<()> {
    for (on_timeout, called) in [("deny", vec![]), ("approve", vec!["now".to_owned()])] {
        let runs = format!("approval_timeout_seconds = 1\napproval_on_timeout = \"{on_timeout}\"");
        let asking = asking(ApiKind::Responses, &runs).await?;
        asking.script(ApiKind::Responses, &["now"]);
        let id = start(&asking.stack, &json!({"input": "Do it."})).await?;

        let run = ended(&asking.stack, &id).await?;

        assert_eq!(run["status"], "completed", "{run}");
        assert_eq!(asking.calls(), called);
        let gateway = asking.stack.gateways[0].clone();
        let frames = events(&asking.stack, &gateway, &id, None)
            .await?
            .collect()
            .await?;
        let choice = if on_timeout == "deny" { "deny" } else { "once" };
        let responded = format!("approval.responded {choice} expiry");
        assert!(
            outline(&frames).contains(&responded),
            "{:?}",
            outline(&frames)
        );
    }
    Ok(())
}

#[tokio::test]
async fn of_answers_that_come_at_once_the_first_counts() -> anyhow::Result<()> {
    let asking = asking(ApiKind::Responses, "").await?;
    asking.script(ApiKind::Responses, &["now"]);
    let id = start(&asking.stack, &json!({"input": "Do it."})).await?;
    asking.waits_as_a_row(&id).await?;
    let request_id = asking.request_id(&id).await?;

    let choices = ["once", "deny", "once", "deny", "once", "deny"];
    let answers = choices
        .map(|choice| asking.approve(&id, json!({"choice": choice, "request_id": request_id})));
    let answers: Vec<Answer> = join_all(answers)
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;

    let taken: Vec<&Answer> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .collect();
    assert_eq!(taken.len(), 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(answer.status, 409, "{answer:?}");
    }
    let run = ended(&asking.stack, &id).await?;
    assert_eq!(run["status"], "completed");
    let called = usize::from(taken[0].body["choice"] == "once");
    assert_eq!(asking.calls().len(), called);
    Ok(())
}

#[tokio::test]
async fn a_decision_whose_answer_from_the_database_is_lost_is_taken() -> anyhow::Result<()> {
    let database = TestDatabase::empty().await?;
    let proxy = Proxy::start(&database.url).await?;
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let options = Options {
        database_url: Some(proxy.url()),
        ..options(ApiKind::Responses, "", &log)
    };
    let asking = Asking {
        stack: Stack::serve_with(TALARIA, options).await?,
        log,
        _directory: directory,
    };
    asking.script(ApiKind::Responses, &["now"]);
    let id = start(&asking.stack, &json!({"input": "Do it."})).await?;
    asking.waits_as_a_row(&id).await?;

    proxy.cut_after_commit("-- approval_insert");
    let answer = asking.approve(&id, json!({"choice": "once"})).await?;

    proxy.has_cut(1).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        asking.approve(&id, json!({"choice": "once"})).await?.status,
        409
    );
    assert_eq!(ended(&asking.stack, &id).await?["status"], "completed");
    assert_eq!(asking.calls(), ["now"]);
    Ok(())
}

#[tokio::test]
async fn who_agrees_for_a_session_or_for_good_is_not_asked_again() -> anyhow::Result<()> {
    let asking = asking(ApiKind::Responses, "").await?;
    let begin = async |session: &str, text: &str| {
        asking.script(ApiKind::Responses, &[text]);
        start(
            &asking.stack,
            &json!({"input": "Do it.", "session_id": session}),
        )
        .await
    };
    let first = begin("ada", "1").await?;
    asking.waits_as_a_row(&first).await?;
    asking.approve(&first, json!({"choice": "session"})).await?;
    assert_eq!(ended(&asking.stack, &first).await?["status"], "completed");

    let second = begin("ada", "2").await?;
    assert_eq!(ended(&asking.stack, &second).await?["status"], "completed");
    assert_eq!(asking.calls(), ["1", "2"]);

    let other = begin("bob", "3").await?;
    asking.waits_as_a_row(&other).await?;
    asking.approve(&other, json!({"choice": "always"})).await?;
    ended(&asking.stack, &other).await?;

    let third = begin("cleo", "4").await?;
    assert_eq!(ended(&asking.stack, &third).await?["status"], "completed");
    assert_eq!(asking.calls(), ["1", "2", "3", "4"]);
    Ok(())
}

#[tokio::test]
async fn a_run_that_waits_can_be_stopped_and_deleted() -> anyhow::Result<()> {
    let asking = asking(ApiKind::Responses, "").await?;
    for end in ["stop", "delete"] {
        asking.stack.upstream.push(call(ApiKind::Responses, "now"));
        let id = start(&asking.stack, &json!({"input": "Do it."})).await?;
        asking.waits_as_a_row(&id).await?;
        if end == "stop" {
            post(
                &asking.stack,
                &format!("/v1/runs/{id}/stop"),
                &json!({}),
                &[],
            )
            .await?;
            assert_eq!(ended(&asking.stack, &id).await?["status"], "cancelled");
        } else {
            let url = asking
                .stack
                .url(&format!("/v1/responses/{}", id.replace("run_", "resp_")));
            let deleted = asking.stack.http.delete(url).send().await?;
            assert_eq!(deleted.status(), 200);
        }
        let late = asking.approve(&id, json!({"choice": "once"})).await?;
        let expected = if end == "stop" {
            (409, json!("approval_not_active"))
        } else {
            (404, json!("run_not_found"))
        };
        assert_eq!(late.refusal(), (expected.0, &expected.1));
    }
    assert_eq!(asking.calls(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_run_that_waits_can_be_stopped_on_a_full_server() -> anyhow::Result<()> {
    let asking = asking(ApiKind::Responses, "").await?;
    asking.stack.upstream.push(call(ApiKind::Responses, "now"));
    let id = start(&asking.stack, &json!({"input": "Do it."})).await?;
    asking.waits_as_a_row(&id).await?;
    let mut running = Vec::new();
    for _ in 0..4 {
        let script = ResponsesStream::new().gate("never").text(&["Done."]);
        asking.stack.upstream.push(script.completed());
        running.push(start(&asking.stack, &json!({"input": "Wait."})).await?);
    }

    post(
        &asking.stack,
        &format!("/v1/runs/{id}/stop"),
        &json!({}),
        &[],
    )
    .await?;

    assert_eq!(ended(&asking.stack, &id).await?["status"], "cancelled");
    for id in &running {
        assert_eq!(status(&asking.stack, id).await?.body["status"], "running");
    }
    Ok(())
}

#[tokio::test]
async fn runs_that_wait_take_no_place() -> anyhow::Result<()> {
    let asking = asking(ApiKind::Responses, "").await?;
    let mut waiting = Vec::new();
    // Twice as many as may run.
    for n in 0..8 {
        asking
            .stack
            .upstream
            .push(call(ApiKind::Responses, &n.to_string()));
        let id = start(&asking.stack, &json!({"input": "Do it."})).await?;
        asking.waits_as_a_row(&id).await?;
        waiting.push(id);
    }
    for id in &waiting {
        asking.stack.upstream.push(answer(ApiKind::Responses));
        asking.approve(id, json!({"choice": "once"})).await?;
        assert_eq!(ended(&asking.stack, id).await?["status"], "completed");
    }
    assert_eq!(asking.calls().len(), 8);
    Ok(())
}

/// The `mcp_approval_request` of a response that completed with it.
fn question(response: &Value) -> anyhow::Result<&Value> {
    ensure!(response["status"] == "completed", "{response}");
    let output = response["output"].as_array().context("no output")?;
    let question = output
        .iter()
        .find(|item| item["type"] == "mcp_approval_request");
    question.with_context(|| response.to_string())
}

fn approval_response(question: &Value, approve: bool) -> Value {
    json!({"type": "mcp_approval_response", "approval_request_id": question["id"], "approve": approve})
}

#[tokio::test]
async fn a_response_completes_with_its_question_and_the_next_one_brings_the_answer()
-> anyhow::Result<()> {
    for kind in KINDS {
        for (by_id, approve) in [(true, true), (false, true), (true, false)] {
            let asking = asking(kind, "").await?;
            let header = ("X-Talaria-Tool-Items", "mcp_call");
            asking.script(kind, &["now"]);
            let body = json!({"input": "Do it."});
            let asked = post(&asking.stack, "/v1/responses", &body, &[header])
                .await?
                .body;
            let question = question(&asked)?;
            assert_eq!(
                question,
                &json!({
                    "id": question["id"], "type": "mcp_approval_request", "arguments": r#"{"text":"now"}"#,
                    "name": "once_effect", "server_label": "scripted",
                })
            );
            assert_eq!(asked["output"].as_array().map(Vec::len), Some(1));
            assert_eq!(asking.calls(), Vec::<String>::new());

            let response = approval_response(question, approve);
            let next = if by_id {
                json!({"previous_response_id": asked["id"], "input": [response]})
            } else {
                // As the Agents SDK does it: everything once more.
                let user = json!({"role": "user", "content": "Do it."});
                json!({"input": [user, question, response]})
            };
            let answered = post(&asking.stack, "/v1/responses", &next, &[header])
                .await?
                .body;

            assert_eq!(answered["status"], "completed", "{answered}");
            let types: Vec<&str> = answered["output"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|item| item["type"].as_str().unwrap_or_default())
                .collect();
            if approve {
                assert_eq!(types, ["mcp_call", "message"]);
                assert_eq!(answered["output"][0]["approval_request_id"], question["id"]);
                assert_eq!(asking.calls(), ["now"]);
            } else {
                assert_eq!(types, ["message"]);
                assert_eq!(asking.calls(), Vec::<String>::new());
            }
            let said = told(kind, &asking.stack.upstream.request(1).await?.body);
            assert_eq!(said.starts_with("A person denied"), !approve, "{said}");

            // Once and for all, whoever asks again and however.
            for again in [approve, !approve] {
                let response = approval_response(question, again);
                let next = json!({"previous_response_id": asked["id"], "input": [response]});
                let refused = post(&asking.stack, "/v1/responses", &next, &[header]).await?;
                assert_eq!(refused.refusal(), (409, &json!("approval_not_pending")));
            }
            assert!(asking.calls().len() <= 1);
        }
    }
    Ok(())
}

#[tokio::test]
async fn of_requests_that_bring_answers_at_once_one_is_taken() -> anyhow::Result<()> {
    let asking = asking(ApiKind::Responses, "").await?;
    asking.script(ApiKind::Responses, &["now"]);
    let asked = asking
        .stack
        .create_json(&json!({"input": "Do it."}))
        .await?;
    let response = approval_response(question(&asked)?, true);
    let next = json!({"previous_response_id": asked["id"], "input": [response]});

    // As many as may run at a time.
    let answers = (0..4).map(|_| post(&asking.stack, "/v1/responses", &next, &[]));
    let answers: Vec<Answer> = join_all(answers)
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;

    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409]);
    assert_eq!(asking.calls(), ["now"]);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_fits_no_question_is_refused_before_anything_runs() -> anyhow::Result<()> {
    let asking = asking(ApiKind::Responses, "approval_timeout_seconds = 1").await?;
    asking.stack.upstream.push(call(ApiKind::Responses, "now"));
    let asked = asking
        .stack
        .create_json(&json!({"input": "Do it."}))
        .await?;
    let question = question(&asked)?;
    let id = question["id"].as_str().context("no id")?;
    let unknown = json!({"id": id.replace("o0", "o7")});
    let twice = json!([
        approval_response(question, true),
        approval_response(question, false)
    ]);
    let table = [
        (
            json!([approval_response(&unknown, true)]),
            json!({}),
            404,
            json!("input"),
        ),
        (twice, json!({}), 400, json!("input[1].approval_request_id")),
        (
            json!([approval_response(question, true)]),
            json!({"store": false}),
            400,
            json!("store"),
        ),
    ];
    for (input, more, status, param) in table {
        let mut body = json!({"previous_response_id": asked["id"], "input": input});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let refused = post(&asking.stack, "/v1/responses", &body, &[]).await?;
        assert_eq!(
            (refused.status, &refused.body["error"]["param"]),
            (status, &param),
            "{refused:?}"
        );
    }
    // Its time is over: only the database's clock says when.
    let input = json!([approval_response(question, true)]);
    let body = json!({"previous_response_id": asked["id"], "input": input});
    let database = asking.stack.database().context("no database")?;
    let session = database.connect().await?;
    session.execute("SELECT pg_sleep(2)", &[]).await?;
    let late = post(&asking.stack, "/v1/responses", &body, &[]).await?;
    assert_eq!(late.refusal(), (409, &json!("approval_not_pending")));
    assert_eq!(asking.stack.upstream.requests().len(), 1);
    assert_eq!(asking.calls(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_chat_that_waits_says_so_and_goes_on_where_it_was() -> anyhow::Result<()> {
    let asking = asking(ApiKind::ChatCompletions, "").await?;
    asking.script(ApiKind::ChatCompletions, &["now"]);
    let body = json!({
        "model": "agent", "stream": true, "store": true, "messages": [{"role": "user", "content": "Do it."}],
    });
    let url = asking.stack.url("/v1/chat/completions");
    let answer = asking.stack.http.post(url).json(&body).send().await?;
    let mut frames = sse::Reader::new(answer).await?;

    let seen = frames
        .until(|frame| frame.event.as_deref() == Some("hermes.approval.request"))
        .await?;
    let asked = seen.last().context("no frame")?.json();
    assert_eq!(asked["tool"], "once_effect");
    let id = asked["run_id"].as_str().context("no run_id")?;
    let body = json!({"choice": "once", "request_id": asked["request_id"]});
    let decided = asking.approve(id, body).await?;
    assert_eq!(decided.status, 200, "{decided:?}");

    let rest = frames.collect().await?;
    let content: String = rest
        .iter()
        .filter(|frame| frame.event.is_none() && frame.data.is_some() && !frame.is_done_mark())
        .filter_map(|frame| {
            let chunk = frame.json();
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(content, "Done.");
    assert_eq!(asking.calls(), ["now"]);
    Ok(())
}

#[tokio::test]
async fn any_facade_takes_a_decision_about_a_run_of_any_orchestrator() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let stack = Stack::apart(TALARIA, options(ApiKind::Responses, "", &log)).await?;
    let asking = Asking {
        stack,
        log,
        _directory: directory,
    };
    asking.script(ApiKind::Responses, &["now"]);
    let id = start(&asking.stack, &json!({"input": "Do it."})).await?;
    asking.waits_as_a_row(&id).await?;

    let url = format!("{}/v1/runs/{id}/approval", asking.stack.gateways[1]);
    let body = json!({"choice": "once"});
    let decided = Answer::of(asking.stack.http.post(url).json(&body)).await?;

    assert_eq!(decided.status, 200, "{decided:?}");
    assert_eq!(ended(&asking.stack, &id).await?["status"], "completed");
    assert_eq!(asking.calls(), ["now"]);
    Ok(())
}

#[tokio::test]
async fn a_client_that_sends_its_whole_history_goes_on_after_an_answer() -> anyhow::Result<()> {
    for kind in KINDS {
        for shape in ["mcp_call", "function_call"] {
            let asking = asking(kind, "").await?;
            let header = ("X-Talaria-Tool-Items", shape);
            asking.script(kind, &["now"]);
            asking.stack.upstream.push(answer(kind));
            let user = json!({"role": "user", "content": "Do it."});
            let body = json!({"input": [user]});
            let asked = post(&asking.stack, "/v1/responses", &body, &[header])
                .await?
                .body;
            let question = question(&asked)?;
            let mut history = vec![
                user.clone(),
                question.clone(),
                approval_response(question, true),
            ];
            let next = json!({"input": history});
            let second = post(&asking.stack, "/v1/responses", &next, &[header])
                .await?
                .body;
            ensure!(second["status"] == "completed", "{second}");
            history.extend(second["output"].as_array().cloned().unwrap_or_default());
            history.push(user);

            let third = json!({"input": history});
            let third = post(&asking.stack, "/v1/responses", &third, &[header])
                .await?
                .body;

            assert_eq!(third["status"], "completed", "{third}");
            assert_eq!(asking.calls(), ["now"]);
            // The call is told once, with what came of it.
            let told = asking.stack.upstream.request(2).await?.body.to_string();
            assert!(!told.contains("Nobody has agreed"), "{told}");
            assert_eq!(told.matches("once_effect").count(), 2, "{told}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn two_answers_in_a_row_decide_two_questions_also_while_a_tool_runs() -> anyhow::Result<()> {
    let asking = asking(ApiKind::Responses, "").await?;
    let text = |text: &str| json!({ "text": text }).to_string();
    let script = ResponsesStream::new()
        .function_call("call_a", "once_effect", &[&text("a")])
        .function_call("call_b", "once_effect", &[&text("b")])
        .function_call("call_c", "hang", &["{}"]);
    asking.stack.upstream.push(script.completed());
    let id = start(&asking.stack, &json!({"input": "Do it."})).await?;
    within("two questions", async {
        while status(&asking.stack, &id).await?.body["approvals"]
            .as_array()
            .map(Vec::len)
            != Some(2)
        {}
        anyhow::Ok(())
    })
    .await??;

    for left in [1, 0] {
        let decided = asking.approve(&id, json!({"choice": "deny"})).await?;
        assert_eq!(decided.status, 200, "{decided:?}");
        let run = status(&asking.stack, &id).await?.body;
        let waits = run["approvals"].as_array().map_or(0, Vec::len);
        assert_eq!(waits, left, "{run}");
    }
    let late = asking.approve(&id, json!({"choice": "once"})).await?;
    assert_eq!(late.refusal(), (409, &json!("approval_not_pending")));
    Ok(())
}
