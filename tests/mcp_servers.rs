//! The reference MCP servers, as programs and over HTTP, behind an agent: what they say reaches the model and the client,
//! and what goes wrong with them ends no run.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use talaria_testkit::check;
use talaria_testkit::foreign::{Node, Python};
use talaria_testkit::process::Process;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{ChatStream, ResponsesStream, Script};
use tempfile::TempDir;
use uuid::Uuid;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const SCRIPTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.py");
const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

/// Where the servers are, if there are Node and Python to run them.
struct Servers {
    node: Node,
    python: Python,
}

impl Servers {
    async fn installed() -> anyhow::Result<Option<Self>> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp");
        let requirements = sources.join("requirements.txt");
        let (node, python) = (
            Node::with(sources, FOLDER).await?,
            Python::with(requirements, FOLDER).await?,
        );
        Ok(node.zip(python).map(|(node, python)| Self { node, python }))
    }

    /// The file that Node runs for a server of the Model Context Protocol's own.
    fn module(&self, name: &str) -> PathBuf {
        let path = format!("@modelcontextprotocol/server-{name}/dist/index.js");
        self.node.file(&path)
    }

    /// The settings for such a server as a program.
    fn program(&self, name: &str, argument: &Path) -> String {
        format!(
            "[mcp_servers.{name}]\ncommand = \"node\"\nargs = [\"{}\", \"{}\"]\n",
            self.module(name).display(),
            argument.display()
        )
    }

    /// The settings for all servers as programs, with their files in `folder`.
    fn all(&self, folder: &Path) -> String {
        let nothing = Path::new("");
        let memory = folder.join("memory.jsonl");
        [
            self.program("everything", Path::new("stdio")),
            self.program("filesystem", folder),
            self.program("memory", nothing),
            format!("env = {{ MEMORY_FILE_PATH = \"{}\" }}\n", memory.display()),
            self.program("sequential-thinking", nothing),
            format!(
                "[mcp_servers.time]\ncommand = \"{}\"\n",
                self.python.program("mcp-server-time").display()
            ),
        ]
        .concat()
    }

    /// Starts the server that has everything on `port`.
    async fn serve(&self, port: u16) -> anyhow::Result<Process> {
        let module = self.module("everything");
        let module = module.to_str().context("an odd path")?;
        let port = port.to_string();
        // Node 18 has no global `crypto` without it; later ones ignore it.
        let crypto = "--experimental-global-webcrypto";
        let arguments = [crypto, module, "streamableHttp"];
        let server = Process::start("node", &arguments, &[("PORT", &port)])?;
        let ready = format!("listening on port {port}");
        server.wait_for_line(|line| line.contains(&ready)).await?;
        Ok(server)
    }
}

/// A port that nobody has. The server cannot say which it took, so that it has to be told one.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// The settings for a server at a port.
fn over_http(port: u16) -> String {
    format!("[mcp_servers.web]\nurl = \"http://127.0.0.1:{port}/mcp\"\n")
}

/// A stack whose agent has these servers: their names, and their tables.
async fn stack(kind: ApiKind, names: &[&str], tables: &str) -> anyhow::Result<Stack> {
    let options = Options {
        kind,
        agent: format!("mcp_servers = {names:?}"),
        upstream: tables.to_owned(),
        environment: vec![(
            "RUST_LOG".into(),
            "info,rmcp=debug,talaria_orchestrator=debug".into(),
        )],
        ..Options::default()
    };
    Stack::serve_with(TALARIA, options).await
}

/// An answer that makes these calls: names and arguments.
fn calls(kind: ApiKind, calls: &[(&str, Value)]) -> Script {
    let calls = calls.iter().map(|(name, arguments)| {
        let id = format!("call_{}", Uuid::now_v7().simple());
        (id, *name, arguments.to_string())
    });
    match kind {
        ApiKind::Responses => calls
            .fold(ResponsesStream::new(), |stream, (id, name, arguments)| {
                stream.function_call(&id, name, &[&arguments])
            })
            .completed(),
        ApiKind::ChatCompletions => calls
            .fold(ChatStream::new(), |stream, (id, name, arguments)| {
                stream.function_call(&id, name, &[&arguments])
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

/// What came of the calls that a model is told of, in the order in which it made them.
fn outputs(body: &Value) -> anyhow::Result<Vec<Value>> {
    let items = body["input"].as_array().context("no items")?;
    let of_type = |wanted: &'static str| items.iter().filter(move |item| item["type"] == wanted);
    of_type("function_call")
        .map(|call| {
            let output =
                of_type("function_call_output").find(|output| output["call_id"] == call["call_id"]);
            Ok(output.context("a call without an output")?["output"].clone())
        })
        .collect()
}

/// The same of a chat, where the outputs come in the order of the calls.
fn tool_messages(body: &Value) -> Vec<Value> {
    let messages = body["messages"].as_array().into_iter().flatten();
    messages
        .filter(|message| message["role"] == "tool")
        .map(|message| message["content"].clone())
        .collect()
}

/// The names of the tools that the model was offered.
fn offered(body: &Value) -> Vec<&str> {
    let tools = body["tools"].as_array().into_iter().flatten();
    tools.filter_map(|tool| tool["name"].as_str()).collect()
}

/// The parts of an output, a picture as its type only.
fn parts(output: &Value) -> Vec<&str> {
    if let Some(text) = output.as_str() {
        return vec![text];
    }
    let parts = output.as_array().into_iter().flatten();
    parts
        .filter_map(|part| match &part["image_url"] {
            Value::String(url) => url.split(";base64,iVBOR").next(),
            _ => part["text"].as_str(),
        })
        .collect()
}

/// The process that `parent` started to run this file.
fn child(parent: i32, file: &Path) -> anyhow::Result<Pid> {
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Ok(id) = name.parse::<i32>() else {
            continue;
        };
        // Processes may end while they are looked at.
        let read = |what: &str| std::fs::read(format!("/proc/{id}/{what}")).unwrap_or_default();
        let (stat, line) = (read("stat"), read("cmdline"));
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let is_child = after_name.split_whitespace().nth(1) == Some(&parent.to_string());
        let line = String::from_utf8_lossy(&line).into_owned();
        if is_child && line.contains(&file.display().to_string()) {
            return Pid::from_raw(id).context("a process id is never 0");
        }
    }
    anyhow::bail!("{} does not run", file.display())
}

/// The most memory that the server ever had.
fn peak_kib(stack: &Stack) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stack.processes[0].id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.split_whitespace().next());
    Ok(peak.context("no peak of memory")?.parse()?)
}

#[tokio::test]
async fn reference_servers_work_side_by_side() -> anyhow::Result<()> {
    let Some(servers) = Servers::installed().await? else {
        return Ok(());
    };
    let directory = TempDir::new()?;
    let note = directory.path().join("note.txt");
    std::fs::write(&note, "Remember the milk.")?;
    let port = free_port()?;
    let _web = servers.serve(port).await?;
    let names = [
        "everything",
        "filesystem",
        "memory",
        "sequential-thinking",
        "time",
        "web",
    ];
    let tables = servers.all(directory.path()) + &over_http(port);
    let stack = stack(ApiKind::Responses, &names, &tables).await?;

    let ada = json!({"name": "Ada", "entityType": "person", "observations": ["counts"]});
    let noon = json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"});
    let thought = json!({"thought": "Hm.", "nextThoughtNeeded": false, "thoughtNumber": 1, "totalThoughts": 1});
    let first = [
        ("everything__get-sum", json!({"a": 2, "b": 3})),
        ("web__get-sum", json!({"a": 4, "b": 5})),
        ("read_text_file", json!({"path": note})),
        ("create_entities", json!({"entities": [ada]})),
        ("convert_time", noon),
        ("sequentialthinking", thought),
    ];
    let second = [
        ("read_graph", json!({})),
        (
            "everything__get-structured-content",
            json!({"location": "Chicago"}),
        ),
        ("everything__get-resource-links", json!({"count": 1})),
        ("web__echo", json!({"message": "hi"})),
    ];
    stack.upstream.push(calls(ApiKind::Responses, &first));
    stack.upstream.push(calls(ApiKind::Responses, &second));
    stack.upstream.push(answer(ApiKind::Responses));
    let response = stack.create_json(&json!({"input": "go on"})).await?;

    assert_eq!(response["status"], "completed", "{response}");
    assert_eq!(response["usage"]["output_tokens"], 9);
    let [offer, one, two] = &stack.upstream.requests()[..] else {
        anyhow::bail!("the model was not asked three times");
    };
    let offered = offered(&offer.body);
    // Names that two servers have, and one that only one has.
    assert!(offered.contains(&"everything__echo") && offered.contains(&"web__echo"));
    assert!(offered.contains(&"read_graph"));
    let said = outputs(&one.body)?;
    let said: Vec<Vec<&str>> = said.iter().map(parts).collect();
    assert_eq!(
        said[..3],
        [
            ["The sum of 2 and 3 is 5."],
            ["The sum of 4 and 5 is 9."],
            ["Remember the milk."]
        ]
    );
    assert_eq!(serde_json::from_str::<Value>(said[3][0])?, json!([ada]));
    assert_eq!(
        serde_json::from_str::<Value>(said[4][0])?["time_difference"],
        "+9.0h"
    );
    assert_eq!(
        serde_json::from_str::<Value>(said[5][0])?["thoughtHistoryLength"],
        1
    );
    let said = outputs(&two.body)?;
    let said: Vec<Vec<&str>> = said[first.len()..].iter().map(parts).collect();
    assert_eq!(
        serde_json::from_str::<Value>(said[0][0])?["entities"],
        json!([ada])
    );
    assert_eq!(
        serde_json::from_str::<Value>(said[1][0])?["temperature"],
        36
    );
    assert!(
        said[2][0].contains(
            "
[resource "
        ),
        "{}",
        said[2][0]
    );
    assert_eq!(said[3], ["Echo: hi"]);
    Ok(())
}

#[tokio::test]
async fn pictures_reach_the_model_and_progress_and_logs_do_not() -> anyhow::Result<()> {
    let Some(servers) = Servers::installed().await? else {
        return Ok(());
    };
    let port = free_port()?;
    let _web = servers.serve(port).await?;
    let stdio = servers.program("everything", Path::new("stdio"));
    let whole = [
        "Here's the image you requested:",
        "data:image/png",
        "The image above is the MCP logo.",
    ];
    let named = [
        whole[0],
        "[an image, which this message cannot hold]",
        whole[2],
    ];
    for (kind, name, table, told) in [
        (ApiKind::Responses, "everything", &stdio, whole),
        (ApiKind::Responses, "web", &over_http(port), whole),
        (ApiKind::ChatCompletions, "everything", &stdio, named),
    ] {
        let stack = stack(kind, &[name], table).await?;
        let long = json!({"duration": 0.5, "steps": 20});
        let made = [
            ("toggle-simulated-logging", json!({})),
            ("trigger-long-running-operation", long),
            ("get-tiny-image", json!({})),
        ];
        stack.upstream.push(calls(kind, &made));
        stack.upstream.push(answer(kind));

        let response = stack.create_json(&json!({"input": "go on"})).await?;

        let items = response["output"].as_array().context("no output")?;
        let types: Vec<&Value> = items.iter().map(|item| &item["type"]).collect();
        let call = ["function_call"; 3];
        let output = ["function_call_output"; 3];
        assert_eq!(types, [&call[..], &output[..], &["message"]].concat());
        let body = &stack.upstream.request(1).await?.body;
        let outputs = match kind {
            ApiKind::Responses => outputs(body)?,
            ApiKind::ChatCompletions => tool_messages(body),
        };
        assert!(parts(&outputs[0])[0].starts_with("Started simulated, random-leveled logging"));
        assert_eq!(
            parts(&outputs[1]),
            ["Long running operation completed. Duration: 0.5 seconds, Steps: 20."]
        );
        let seen: Vec<&str> = parts(&outputs[2])
            .iter()
            .flat_map(|part| part.lines())
            .collect();
        assert_eq!(seen, told, "{kind:?} {name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_program_that_is_killed_in_a_call_is_started_again() -> anyhow::Result<()> {
    let Some(servers) = Servers::installed().await? else {
        return Ok(());
    };
    let kind = ApiKind::Responses;
    let table = servers.program("everything", Path::new("stdio"));
    let stack = stack(kind, &["everything"], &table).await?;
    let long = json!({"duration": 600, "steps": 600});
    let sum = json!({"a": 2, "b": 3});
    stack
        .upstream
        .push(calls(kind, &[("trigger-long-running-operation", long)]));
    stack.upstream.push(calls(kind, &[("get-sum", sum)]));
    stack.upstream.push(answer(kind));
    let mut reader = stack.stream(&json!({"input": "go on"})).await?;
    // The call is whole, and then it is made.
    let mut frames = reader.until_event("response.output_item.done").await?;
    frames.extend(reader.until_event("response.output_item.added").await?);

    let server = child(stack.processes[0].id(), &servers.module("everything"))?;
    kill_process(server, Signal::KILL)?;

    frames.extend(reader.collect().await?);
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!((&*seen.status, &*seen.text), ("completed", "Done."));
    let said = outputs(&stack.upstream.request(2).await?.body)?;
    assert!(
        parts(&said[0])[0].ends_with("the call may or may not have taken effect."),
        "{}",
        said[0]
    );
    assert_eq!(parts(&said[1]), ["The sum of 2 and 3 is 5."]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_was_restarted_and_forgot_the_session_is_used_again() -> anyhow::Result<()> {
    let Some(servers) = Servers::installed().await? else {
        return Ok(());
    };
    let kind = ApiKind::Responses;
    let port = free_port()?;
    let mut web = servers.serve(port).await?;
    let stack = stack(kind, &["web"], &over_http(port)).await?;
    let sum = |b: u8| calls(kind, &[("get-sum", json!({"a": 1, "b": b}))]);
    stack.upstream.push(sum(1));
    stack.upstream.push(sum(2).hold_head("killed"));
    stack.upstream.push(sum(3).hold_head("restarted"));
    stack.upstream.push(answer(kind));
    let reader = stack.stream(&json!({"input": "go on"})).await?;

    stack.upstream.request(1).await?;
    web.kill9().await?;
    stack.upstream.open("killed");
    stack.upstream.request(2).await?;
    let _web = servers.serve(port).await?;
    stack.upstream.open("restarted");

    let frames = reader.collect().await?;
    let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
    assert_eq!((&*seen.status, &*seen.text), ("completed", "Done."));
    let said = outputs(&stack.upstream.request(3).await?.body)?;
    let said: Vec<Vec<&str>> = said.iter().map(parts).collect();
    let gone = "The tool's server \"web\" could not be spoken with; the call may or may not have taken effect.";
    assert_eq!(
        said,
        [
            ["The sum of 1 and 1 is 2."],
            [gone],
            ["The sum of 1 and 3 is 4."]
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_tool_that_does_not_answer_is_given_up_and_its_server_goes_on() -> anyhow::Result<()> {
    let Some(servers) = Servers::installed().await? else {
        return Ok(());
    };
    let kind = ApiKind::Responses;
    let port = free_port()?;
    let _web = servers.serve(port).await?;
    let tables = [
        servers.program("everything", Path::new("stdio")),
        over_http(port),
    ];
    let tables = tables.map(|table| table + "call_timeout_seconds = 1\n");
    let stack = stack(kind, &["everything", "web"], &tables.concat()).await?;
    let long = json!({"duration": 600, "steps": 10});
    let sum = json!({"a": 2, "b": 3});
    let hanging = [
        ("everything__trigger-long-running-operation", long.clone()),
        ("web__trigger-long-running-operation", long),
    ];
    let working = [("everything__get-sum", sum.clone()), ("web__get-sum", sum)];
    stack.upstream.push(calls(kind, &hanging));
    stack.upstream.push(calls(kind, &working));
    stack.upstream.push(answer(kind));

    let response = stack.create_json(&json!({"input": "go on"})).await?;

    assert_eq!(response["status"], "completed", "{response}");
    let said = outputs(&stack.upstream.request(2).await?.body)?;
    let said: Vec<Vec<&str>> = said.iter().map(parts).collect();
    let late = "The tool did not answer in time; it may or may not have taken effect.";
    let sum = "The sum of 2 and 3 is 5.";
    assert_eq!(said, [[late], [late], [sum], [sum]]);
    Ok(())
}

#[tokio::test]
async fn a_tool_that_appears_in_the_middle_of_a_run_is_offered_and_called() -> anyhow::Result<()> {
    let kind = ApiKind::Responses;
    let http = Process::start("python3", &[SCRIPTED, "--http", "0"], &[])?;
    let address = http.wait_for_address("listening on").await?;
    let stdio = format!("[mcp_servers.scripted]\ncommand = \"python3\"\nargs = [{SCRIPTED:?}]\n");
    let web = format!("[mcp_servers.web]\nurl = \"http://{address}/mcp\"\n");
    for (name, table) in [("scripted", stdio), ("web", web)] {
        let stack = stack(kind, &[name], &table).await?;
        stack.upstream.choose(move |request| {
            let said = outputs(&request.body).ok()?;
            let appeared = offered(&request.body).contains(&"appeared");
            Some(match said.last().map(parts).as_deref() {
                None => calls(kind, &[("change", json!({}))]),
                Some(["here"]) => answer(kind),
                Some(_) if appeared => calls(kind, &[("appeared", json!({}))]),
                // The result of `change` may be faster than what it announces.
                Some(_) => calls(kind, &[("echo", json!({"text": said.len().to_string()}))]),
            })
        });

        let response = stack.create_json(&json!({"input": "go on"})).await?;

        assert_eq!(response["status"], "completed", "{name}: {response}");
        let first = &stack.upstream.request(0).await?.body;
        assert!(!offered(first).contains(&"appeared"), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_hundred_megabytes_of_a_tool_are_a_cut_off_text_and_never_in_memory() -> anyhow::Result<()>
{
    let kind = ApiKind::Responses;
    let table = format!("[mcp_servers.scripted]\ncommand = \"python3\"\nargs = [{SCRIPTED:?}]\n");
    let stack = stack(kind, &["scripted"], &table).await?;
    let before = peak_kib(&stack)?;
    stack
        .upstream
        .push(calls(kind, &[("huge", json!({"bytes": 100_000_000}))]));
    stack.upstream.push(answer(kind));

    let response = stack.create_json(&json!({"input": "go on"})).await?;

    assert_eq!(response["status"], "completed");
    let said = outputs(&stack.upstream.request(1).await?.body)?;
    let cut = "\n[truncated: 65536 of about 100000082 bytes shown]";
    assert_eq!(parts(&said[0]), ["h".repeat(65536) + cut]);
    let grown = peak_kib(&stack)? - before;
    // On a busy machine, where the reader falls behind, it is twice the usual 25 MB.
    assert!(grown < 75_000, "{grown} KiB");
    Ok(())
}
