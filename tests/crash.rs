//! Killing the process at every event of a run: what clients saw stays, and the run ends all the same.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::postgres::PrivatePostgres;
use talaria_testkit::process::Process;
use talaria_testkit::sse::{Frame, Reader};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{Request, ResponsesStream, Script, Step, Upstream};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const TOOL: &str = "look_up";

/// REQ-3, REQ-14
#[tokio::test]
async fn a_crash_after_any_event_takes_nothing_back() -> anyhow::Result<()> {
    let postgres = PrivatePostgres::start().await?;
    let mut stack = on(&postgres).await?;
    stack.upstream.choose(halting_at_points());
    let seen = halt_at_every_event(&stack.gateways[0]).await?;

    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;

    judge_all(&stack.gateways[0], &stack.upstream, &seen).await
}

#[tokio::test]
async fn a_crash_together_with_postgres_takes_nothing_back() -> anyhow::Result<()> {
    let mut postgres = PrivatePostgres::start().await?;
    let mut stack = on(&postgres).await?;
    stack.upstream.choose(halting_at_points());
    let seen = halt_at_every_event(&stack.gateways[0]).await?;

    postgres.kill9().await?;
    stack.processes[0].kill9().await?;
    postgres.restart().await?;
    stack.restart_serve().await?;

    judge_all(&stack.gateways[0], &stack.upstream, &seen).await
}

#[tokio::test]
async fn a_crash_of_serve_with_its_own_postgres_takes_nothing_back() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    upstream.choose(halting_at_points());
    let directory = tempfile::tempdir()?;
    // Its Postgres may run as another user.
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    let (mut first, gateway) = serve_alone(directory.path(), &upstream).await?;
    let seen = halt_at_every_event(&gateway).await?;

    first.kill9().await?;
    let (_second, gateway) = serve_alone(directory.path(), &upstream).await?;

    judge_all(&gateway, &upstream, &seen).await
}

/// REQ-14
#[tokio::test]
async fn a_run_survives_two_crashes() -> anyhow::Result<()> {
    let postgres = PrivatePostgres::start().await?;
    let mut stack = on(&postgres).await?;
    let halting = |text| {
        ResponsesStream::new()
            .open_text()
            .deltas(&[text])
            .gate("never")
            .stop()
    };
    stack.upstream.push(halting("one "));
    stack.upstream.push(halting("two "));
    stack
        .upstream
        .push(ResponsesStream::new().text(&["three"]).completed());

    let mut reader = stack.stream(&json!({"input": "count"})).await?;
    let first_seen = reader
        .until(|frame| text_of(frame) == Some("one ".into()))
        .await?;
    let id = response_id(&first_seen)?;
    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;
    let mut reader = stack.replay(&id, None).await?;
    let second_seen = reader
        .until(|frame| text_of(frame) == Some("two ".into()))
        .await?;
    stack.processes[0].kill9().await?;
    stack.restart_serve().await?;
    let whole = stack.replay(&id, None).await?.collect().await?;

    assert!(second_seen.starts_with(&first_seen));
    assert!(whole.starts_with(&second_seen));
    let told = check::stream(&whole).map_err(anyhow::Error::msg)?;
    assert_eq!((told.status.as_str(), told.attempts), ("completed", 3));
    assert_eq!(told.text, "one two three");
    let statuses: Vec<&Value> = told.items.iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, ["incomplete", "incomplete", "completed"]);
    assert_eq!(stack.upstream.requests().len(), 3);
    Ok(())
}

#[tokio::test]
async fn a_run_that_processes_die_of_is_given_up_unless_it_gets_further() -> anyhow::Result<()> {
    let options = Options {
        runs: "lease_seconds = 1\nmax_attempts = 2".to_owned(),
        ..Options::default()
    };
    let mut stack = Stack::serve_with(TALARIA, options).await?;
    let held = || {
        ResponsesStream::new()
            .open_text()
            .deltas(&["half"])
            .gate("never")
            .stop()
    };
    let with_item = || {
        ResponsesStream::new()
            .text(&["whole"])
            .open_text()
            .deltas(&["half"])
            .gate("never")
            .stop()
    };
    let is_half = |frame: &Frame| text_of(frame) == Some("half".into());
    stack.upstream.push(held());
    let first = stack
        .stream(&json!({"input": "a"}))
        .await?
        .until(is_half)
        .await?;
    stack.upstream.push(with_item());
    let second = stack
        .stream(&json!({"input": "b"}))
        .await?
        .until(is_half)
        .await?;
    let (first, second) = (response_id(&first)?, response_id(&second)?);

    let mut ended = Vec::new();
    for alive in [&[&first, &second][..], &[&second], &[]] {
        for _ in alive {
            stack.upstream.push(held());
        }
        stack.processes[0].kill9().await?;
        stack.restart_serve().await?;
        for id in [&first, &second] {
            let mut reader = stack.replay(id, None).await?;
            if alive.contains(&id) {
                let halves = |frames: &[Frame]| frames.iter().filter(|f| is_half(f)).count();
                let attempts = 1 + ended.len() + 1;
                let mut frames = Vec::new();
                while halves(&frames) < attempts {
                    frames.extend(reader.until(is_half).await?);
                }
            } else {
                let frames = reader.collect().await?;
                let told = check::stream(&frames).map_err(anyhow::Error::msg)?;
                assert_eq!(told.status, "failed");
                let error = &told.response["error"];
                let message = error["message"].as_str().unwrap_or_default();
                assert_eq!(error["code"], "server_error");
                ensure!(message.contains("run_crashed"), "{message}");
            }
        }
        ended.push(alive.len());
    }
    assert_eq!(stack.upstream.requests().len(), 5);
    Ok(())
}

/// Nothing waits here for a moment of calm: commits are under way when the process dies.
#[tokio::test]
async fn a_crash_in_full_flow_takes_nothing_back() -> anyhow::Result<()> {
    const RUNS: usize = 8;
    let postgres = PrivatePostgres::start().await?;
    let mut stack = on(&postgres).await?;
    let flowing = || ResponsesStream::new().numbered_text(500);
    for _ in 0..RUNS {
        // However quick it is, it is not over before the crash.
        stack
            .upstream
            .push(flowing().gate("after the crash").completed());
    }
    let body = json!({"input": "flow"});
    let mut readers = try_join_all((0..RUNS).map(|_| stack.stream(&body))).await?;
    let mut seen: Vec<Vec<Frame>> = vec![readers[0].until(is_number(40)).await?];

    stack.processes[0].kill9().await?;
    seen.extend(vec![Vec::new(); RUNS - 1]);
    for (reader, seen) in readers.iter_mut().zip(&mut seen) {
        seen.extend(reader.collect_however_it_ends().await?.0);
    }
    for _ in 0..RUNS {
        stack
            .upstream
            .push(ResponsesStream::new().text(&["again"]).completed());
    }
    stack.restart_serve().await?;

    for seen in seen {
        // An answer whose head was still on its way shows nothing, and has no id to ask for.
        let Ok(id) = response_id(&seen) else { continue };
        let whole = stack.replay(&id, None).await?.collect().await?;
        assert!(whole.starts_with(&seen), "something was taken back");
        let told = check::stream(&whole).map_err(anyhow::Error::msg)?;
        assert_eq!((told.status.as_str(), told.attempts), ("completed", 2));
    }
    Ok(())
}

/// A stack on a database that outlives it, whose leases run out soon.
async fn on(postgres: &PrivatePostgres) -> anyhow::Result<Stack> {
    let options = Options {
        runs: "lease_seconds = 1".to_owned(),
        database_url: Some(postgres.url()),
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// `talaria serve` with a Postgres of its own in `directory`; the process, and where it listens.
async fn serve_alone(directory: &Path, upstream: &Upstream) -> anyhow::Result<(Process, String)> {
    let config = directory.join("talaria.toml");
    let text = format!(
        "[[agents]]\nname = \"agent\"\nupstream = \"main\"\nmodel = \"scripted\"\n\
         [upstreams.main]\nkind = \"responses\"\nbase_url = \"{}\"\n",
        upstream.base_url()
    );
    std::fs::write(&config, text)?;
    let data = directory.join("data");
    let [config, data] = [config, data].map(|path| path.to_string_lossy().into_owned());
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data,
        "--config",
        &config,
    ];
    let process = Process::start(TALARIA, &arguments, &[])?;
    let address = process.wait_for_address("listens on").await?;
    Ok((process, format!("http://{address}")))
}

/// What one client saw of a run that halted at an event.
struct Seen {
    input: String,
    id: String,
    frames: Vec<Frame>,
}

/// Reasoning, text, and a function call.
fn talk() -> Script {
    ResponsesStream::new()
        .reasoning_summary(&["Let me ", "think."])
        .text(&["I will ", "look it up."])
        .function_call("call_1", TOOL, &["{\"q\":", "1}"])
        .completed()
}

/// Answers an input that is a number with as many events more than none, and then says nothing; a second time, and
/// every other input, with all of them.
fn halting_at_points() -> impl Fn(&Request) -> Option<Script> + Send + Sync + 'static {
    let asked: Mutex<HashMap<String, usize>> = Mutex::default();
    move |request| {
        let input = input_of(request);
        let mut asked = asked.lock().ok()?;
        let times = asked.entry(input.clone()).or_default();
        *times += 1;
        let mut script = talk();
        if let (Ok(point), 1) = (input.parse::<usize>(), *times) {
            script.steps.truncate(point + 1);
            script.steps.push(Step::Gate("never".to_owned()));
        }
        Some(script)
    }
}

/// Whether clients see the event of this step together with the next one: the beginning of a part with what is in
/// it, the ends of what is in an item with its own.
fn is_shown_with_next(step: &Step) -> bool {
    const KINDS: [&str; 4] = [
        "part.added\n",
        "text.done\n",
        "part.done\n",
        "arguments.done\n",
    ];
    match step {
        Step::Send(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            KINDS.iter().any(|kind| text.contains(kind))
        }
        Step::Pause(_) | Step::Gate(_) | Step::Cut => false,
    }
}

/// The text of the first input item.
fn input_of(request: &Request) -> String {
    let content = &request.body["input"][0]["content"];
    let text = content.as_str().or_else(|| content[0]["text"].as_str());
    text.unwrap_or_default().to_owned()
}

/// Runs that halt at their first event, their second, and so on to the last: each read to there by its client.
///
/// The model says exactly as many events as clients see, so it is made to halt at them.
async fn halt_at_every_event(gateway: &str) -> anyhow::Result<Vec<Seen>> {
    let whole = create(gateway, "all of it").await?.collect().await?;
    let events = check::stream(&whole).map_err(anyhow::Error::msg)?.events;
    let said = talk().steps;
    ensure!(
        events == said.len(),
        "{events} events, of {} that the model says",
        said.len()
    );
    let points = (0..events).filter(|&point| !is_shown_with_next(&said[point]));
    try_join_all(points.map(|point| halt_at(gateway, point))).await
}

async fn halt_at(gateway: &str, point: usize) -> anyhow::Result<Seen> {
    let input = point.to_string();
    let mut reader = create(gateway, &input).await?;
    let frames = reader.until(is_number(point)).await?;
    let id = response_id(&frames)?;
    Ok(Seen { input, id, frames })
}

async fn judge_all(gateway: &str, upstream: &Upstream, all: &[Seen]) -> anyhow::Result<()> {
    for seen in all {
        let last = String::from_utf8_lossy(&seen.frames[seen.frames.len() - 1].raw);
        judge(gateway, upstream, seen)
            .await
            .with_context(|| format!("killed after {last}"))?;
    }
    Ok(())
}

/// Whether the run went on from what its client saw as it should.
async fn judge(gateway: &str, upstream: &Upstream, seen: &Seen) -> anyhow::Result<()> {
    let whole = replay(gateway, &seen.id, "").await?.collect().await?;
    ensure!(
        whole.starts_with(&seen.frames),
        "something was taken back: {whole:?}"
    );
    let told = check::stream(&whole).map_err(anyhow::Error::msg)?;
    ensure!(told.status == "completed", "it is {}", told.status);
    let ended = is(&seen.frames[seen.frames.len() - 1], "response.completed");
    let attempts = if ended { 1 } else { 2 };
    ensure!(told.attempts == attempts, "{} attempts", told.attempts);

    let output = told.response["output"].as_array().context("output")?;
    for done in seen
        .frames
        .iter()
        .filter(|frame| is(frame, "response.output_item.done"))
    {
        let done = done.json();
        let index = done["output_index"].as_u64().context("output_index")?;
        ensure!(
            output[usize::try_from(index)?] == done["item"],
            "{} changed",
            done["item"]
        );
    }
    let open = open_item(&seen.frames);
    if let Some(open) = &open {
        let sealed = &output[usize::try_from(open["output_index"].as_u64().context("index")?)?];
        let shown: String = seen.frames.iter().filter_map(text_of).collect();
        let is_sealed = match open["item"]["type"].as_str() {
            Some("message") => {
                sealed["status"] == "incomplete"
                    && sealed["content"][0]["text"].as_str().unwrap_or_default() == shown
            }
            Some("function_call") => sealed["status"] == "incomplete",
            _ => sealed["id"] == open["item"]["id"],
        };
        ensure!(is_sealed, "sealed as {sealed}, after {shown:?} was shown");
    }
    // A call that the client was given is not asked for again: it would be made twice. After a message the model is
    // asked, because a call may have followed.
    let answered = seen.frames.iter().any(|frame| {
        is(frame, "response.output_item.done") && frame.json()["item"]["type"] == "function_call"
    });
    let requests = upstream.requests();
    let asked = requests
        .iter()
        .filter(|request| input_of(request) == seen.input)
        .count();
    ensure!(
        asked == if ended || answered { 1 } else { 2 },
        "the model was asked {asked} times"
    );

    let rest = format!("&starting_after={}", seen.frames.len() - 1);
    let rest = replay(gateway, &seen.id, &rest).await?.collect().await?;
    ensure!(
        rest == whole[seen.frames.len()..],
        "the rest differs: {rest:?}"
    );
    let url = format!("{gateway}/v1/responses/{}", seen.id);
    let stored: Value = reqwest::get(url).await?.json().await?;
    ensure!(stored == told.response, "stored is {stored}");
    Ok(())
}

/// The `response.output_item.added` of the item that was not done.
fn open_item(frames: &[Frame]) -> Option<Value> {
    let last = frames.iter().rfind(|frame| {
        is(frame, "response.output_item.added") || is(frame, "response.output_item.done")
    })?;
    is(last, "response.output_item.added").then(|| last.json())
}

/// The text that an event adds.
fn text_of(frame: &Frame) -> Option<String> {
    let delta = is(frame, "response.output_text.delta").then(|| frame.json())?;
    delta["delta"].as_str().map(str::to_owned)
}

fn is(frame: &Frame, event: &str) -> bool {
    frame.event.as_deref() == Some(event)
}

fn is_number(number: usize) -> impl Fn(&Frame) -> bool {
    move |frame| frame.json()["sequence_number"] == number
}

fn response_id(frames: &[Frame]) -> anyhow::Result<String> {
    let first = frames.first().context("no frames")?.json();
    let id = first["response"]["id"].as_str();
    Ok(id.with_context(|| format!("no id in {first}"))?.to_owned())
}

async fn create(gateway: &str, input: &str) -> anyhow::Result<Reader> {
    let tool = json!({
        "type": "function", "name": TOOL, "parameters": {"type": "object"}, "strict": false,
    });
    let body = json!({"input": input, "stream": true, "tools": [tool]});
    let url = format!("{gateway}/v1/responses");
    Reader::new(reqwest::Client::new().post(url).json(&body).send().await?).await
}

async fn replay(gateway: &str, id: &str, query: &str) -> anyhow::Result<Reader> {
    let url = format!("{gateway}/v1/responses/{id}?stream=true{query}");
    Reader::new(reqwest::get(url).await?).await
}
