//! The toolbox against a scripted server that does all that servers should not do.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::*;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/mcp/server.py");
const SOON: Duration = Duration::from_secs(20);

/// A server's configuration, and the files through which the test watches it.
struct Scripted {
    folder: PathBuf,
}

impl Scripted {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("talaria-mcp-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder)?;
        Ok(Self { folder })
    }

    fn config(&self, name: &str) -> McpServerConfig {
        let path = |file: &str| self.folder.join(file).display().to_string();
        let env = [
            ("MCP_LOG", path("log")),
            ("MCP_EFFECTS", path("effects")),
            ("MCP_DIE_AT_START", path("die")),
            ("MCP_HANG_AT_START", path("hang")),
            ("MCP_REFUSE_LIST", path("refuse")),
            ("MCP_FREEZE_LIST", path("freeze")),
            ("MCP_PREFIX", format!("{name}: ")),
        ];
        let transport = McpTransport::Stdio {
            command: String::from("python3"),
            args: vec![SCRIPT.to_owned()],
            env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        };
        McpServerConfig::new(name, transport)
    }

    fn toolbox(&self) -> Toolbox {
        toolbox(vec![self.config("scripted")])
    }

    fn write(&self, file: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.join(file), "")?)
    }

    fn remove(&self, file: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.join(file))?)
    }

    /// What the server was sent, by method; one entry for each message.
    fn methods(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.folder.join("log"))?;
        let method = |line: &str| -> Result<String> {
            let message: Value = serde_json::from_str(line)?;
            Ok(message["method"].as_str().unwrap_or_default().to_owned())
        };
        log.lines().map(method).collect()
    }

    fn count(&self, method: &str) -> usize {
        let methods = self.methods().unwrap_or_default();
        methods.iter().filter(|each| *each == method).count()
    }

    async fn wait_for(&self, method: &str, count: usize) -> Result<()> {
        let come = async {
            while self.count(method) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, come)
            .await
            .with_context(|| format!("waiting for {count} of {method}"))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn toolbox(mcp_servers: Vec<McpServerConfig>) -> Toolbox {
    Toolbox::new(&ToolboxConfig {
        require_approval: Vec::new(),
        mcp_servers,
        demo: false,
        limits: OutputLimits::default(),
    })
}

fn context() -> CallContext {
    CallContext {
        idempotency_key: String::from("key"),
        deadline: Instant::now() + SOON,
        cancel: CancellationToken::new(),
        permit: Arc::new(Permit::always()),
    }
}

async fn call(toolbox: &Toolbox, name: &str, arguments: Value) -> ToolResult {
    let Value::Object(arguments) = arguments else {
        return ToolResult::error("the test gave no object");
    };
    toolbox.call(name, arguments, context()).await
}

fn names(list: &ToolList) -> Vec<&str> {
    list.tools.iter().map(|tool| &*tool.name).collect()
}

/// Serves over HTTP at this port, 0 for any; returns the URL.
async fn serve_http(scripted: &Scripted, port: &str) -> Result<(Child, String)> {
    serve_http_with(scripted, port, &[]).await
}

async fn serve_http_with(
    scripted: &Scripted,
    port: &str,
    env: &[(&str, &str)],
) -> Result<(Child, String)> {
    let mut server = Command::new("python3")
        .args([SCRIPT, "--http", port])
        .env("MCP_LOG", scripted.folder.join("log"))
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = server.stdout.take().context("no stdout")?;
    let mut line = String::new();
    timeout(SOON, BufReader::new(stdout).read_line(&mut line)).await??;
    let url = line.trim_start_matches("listening on ").trim().to_owned();
    Ok((server, url))
}

fn port_of(url: &str) -> String {
    let digits = url.chars().filter(char::is_ascii_digit);
    digits.skip("127001".len()).collect()
}

fn at(url: String) -> McpTransport {
    McpTransport::Http {
        url,
        headers: Vec::new(),
        egress: None,
    }
}

/// Whether a process of this toolbox's server is left, by the folder that only it knows.
fn is_running(folder: &Path) -> bool {
    let marker = folder.display().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&marker)
    })
}

#[tokio::test]
async fn tools_are_listed_once_with_their_effects() -> Result<()> {
    let scripted = Scripted::new()?;
    let mut config = scripted.config("scripted");
    config.effects.insert(String::from("echo"), Effect::Pure);
    let toolbox = toolbox(vec![config]);
    let list = toolbox.list().await;

    let effects: Vec<_> = list
        .tools
        .iter()
        .map(|tool| (&*tool.name, tool.effect))
        .take(4)
        .collect();
    let expected = [
        ("echo", Effect::Pure),
        ("add", Effect::Pure),
        ("set", Effect::Idempotent),
        ("once_effect", Effect::Once),
    ];
    assert_eq!(effects, expected);
    let definition = json!({
        "type": "function",
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        },
        "strict": false,
    });
    assert_eq!(list.get("add").map(Tool::definition), Some(definition));

    assert_eq!(
        call(&toolbox, "add", json!({"a": 1, "b": 2})).await,
        ToolResult::text("3")
    );
    assert!(Arc::ptr_eq(&list, &toolbox.list().await));
    assert_eq!(
        (scripted.count("initialize"), scripted.count("tools/list")),
        (1, 2)
    );
    Ok(())
}

#[tokio::test]
async fn names_that_clash_lead_to_the_right_server() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = toolbox(vec![scripted.config("one"), scripted.config("two")]);
    let hello = json!({"text": "hello"});
    assert_eq!(
        call(&toolbox, "two__echo", hello.clone()).await,
        ToolResult::text("two: hello")
    );
    assert_eq!(
        call(&toolbox, "one__echo", hello.clone()).await,
        ToolResult::text("one: hello")
    );
    assert_eq!(
        call(&toolbox, "one__odd_name_", json!({})).await,
        ToolResult::text("odd")
    );
    let missing = ToolResult::error("There is no tool named \"echo\".");
    assert_eq!(call(&toolbox, "echo", hello).await, missing);
    Ok(())
}

#[tokio::test]
async fn errors_of_tools_and_of_the_protocol_reach_the_model() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let failed = call(&toolbox, "fail", json!({})).await;
    assert_eq!(failed, ToolResult::error("it did not work"));
    let refused = call(&toolbox, "refuse", json!({})).await;
    let expected = ToolResult::error("The tool's server refused the call: not like this");
    assert_eq!(refused, expected);
    Ok(())
}

#[tokio::test]
async fn calls_share_one_process_and_do_not_wait_for_each_other() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = Arc::new(scripted.toolbox());
    let hanging = toolbox.call("hang", Object::new(), context());
    let others = async {
        scripted.wait_for("tools/call", 1).await?;
        let calls = (0..20).map(|n| call(&toolbox, "add", json!({"a": n, "b": 1})));
        anyhow::Ok(join_all(calls).await)
    };
    let results = tokio::select! {
        hung = hanging => anyhow::bail!("what hangs has answered {hung:?}"),
        results = others => results?,
    };
    let expected: Vec<_> = (1..=20).map(|n| ToolResult::text(n.to_string())).collect();
    assert_eq!(results, expected);
    assert_eq!(scripted.count("initialize"), 1);
    // The future that hung was dropped.
    scripted.wait_for("notifications/cancelled", 1).await
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up_and_the_server_told() -> Result<()> {
    let scripted = Scripted::new()?;
    let mut config = scripted.config("scripted");
    config.call_timeout = Duration::from_millis(300);
    let toolbox = toolbox(vec![config]);
    toolbox.list().await;
    let late = "The tool did not answer in time; it may or may not have taken effect.";
    assert_eq!(
        call(&toolbox, "hang", json!({})).await,
        ToolResult::error(late)
    );
    scripted.wait_for("notifications/cancelled", 1).await
}

#[tokio::test]
async fn a_call_timeout_beyond_all_time_is_no_panic() -> Result<()> {
    let scripted = Scripted::new()?;
    let mut config = scripted.config("files");
    config.call_timeout = Duration::MAX;
    assert_eq!(
        call(&toolbox(vec![config]), "add", json!({"a": 1, "b": 2})).await,
        ToolResult::text("3")
    );
    Ok(())
}

#[tokio::test]
async fn a_cancelled_call_ends_at_once_and_the_server_is_told() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let context = context();
    let stop = async {
        scripted.wait_for("tools/call", 1).await?;
        context.cancel.cancel();
        anyhow::Ok(())
    };
    let (result, stopped) =
        tokio::join!(toolbox.call("hang", Object::new(), context.clone()), stop);
    stopped?;
    assert_eq!(result, ToolResult::error("The call was cancelled."));
    scripted.wait_for("notifications/cancelled", 1).await
}

#[tokio::test]
async fn a_server_that_crashes_fails_its_calls_and_is_started_again() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let gone = "The tool's server \"scripted\" stopped before it answered; the call may or may not have taken effect.";
    let (crashed, hung) = tokio::join!(call(&toolbox, "hang", json!({})), async {
        scripted.wait_for("tools/call", 1).await?;
        anyhow::Ok(call(&toolbox, "crash", json!({})).await)
    });
    assert_eq!(
        (crashed, hung?),
        (ToolResult::error(gone), ToolResult::error(gone))
    );

    let echo = call(&toolbox, "echo", json!({"text": "again"})).await;
    assert_eq!(echo, ToolResult::text("scripted: again"));
    assert_eq!(scripted.count("initialize"), 2);
    Ok(())
}

#[tokio::test]
async fn what_a_server_said_before_it_ended_counts() -> Result<()> {
    let scripted = Scripted::new()?;
    for _ in 0..3 {
        let last = call(&scripted.toolbox(), "last", json!({})).await;
        assert_eq!(last, ToolResult::text("last words"));
    }
    Ok(())
}

#[tokio::test]
async fn calls_that_come_together_start_one_process() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let calls = (0..20).map(|n| call(&toolbox, "add", json!({"a": n, "b": 1})));
    let expected: Vec<_> = (1..=20).map(|n| ToolResult::text(n.to_string())).collect();
    assert_eq!(join_all(calls).await, expected);
    assert_eq!(scripted.count("initialize"), 1);
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_when_it_starts_is_not_waited_for_beyond_the_deadline() -> Result<()> {
    let scripted = Scripted::new()?;
    let mut config = scripted.config("scripted");
    config.call_timeout = Duration::from_millis(300);
    let toolbox = toolbox(vec![config]);
    toolbox.list().await;
    scripted.write("hang")?;
    call(&toolbox, "crash", json!({})).await;
    let late = "The tool's server \"scripted\" was not ready in time; nothing was called.";
    let echo = call(&toolbox, "echo", json!({"text": "?"})).await;
    assert_eq!(echo, ToolResult::error(late));
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_start_keeps_its_tools_and_fails_its_calls() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let list = toolbox.list().await;
    scripted.write("die")?;
    call(&toolbox, "crash", json!({})).await;

    let failed = call(&toolbox, "echo", json!({"text": "?"})).await;
    assert!(failed.is_error, "{failed:?}");
    assert_eq!(names(&*toolbox.list().await), names(&list));

    scripted.remove("die")?;
    let works = async { while call(&toolbox, "echo", json!({"text": "!"})).await.is_error {} };
    timeout(SOON, works)
        .await
        .context("waiting for the server to come back")
}

#[tokio::test]
async fn a_program_that_does_not_exist_gives_no_tools_and_no_panic() {
    let transport = McpTransport::Stdio {
        command: String::from("/does/not/exist"),
        args: vec![],
        env: vec![],
    };
    let toolbox = toolbox(vec![McpServerConfig::new("missing", transport)]);
    assert_eq!(names(&*toolbox.list().await), Vec::<&str>::new());
    let missing = ToolResult::error("There is no tool named \"x\".");
    assert_eq!(call(&toolbox, "x", json!({})).await, missing);
}

#[tokio::test]
async fn a_hundred_megabytes_of_output_are_cut_while_they_are_read() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let shown = |total: &str| {
        let marker = format!("\n[truncated: 65536 of {total} bytes shown]");
        ToolResult::text("h".repeat(65536) + &marker)
    };
    let huge = call(&toolbox, "huge", json!({"bytes": 100_000})).await;
    assert_eq!(huge, shown("100000"));
    let huge = call(&toolbox, "huge", json!({"bytes": 100_000_000})).await;
    // The text, and what JSON-RPC needs around it.
    assert_eq!(huge, shown("about 100000082"));
    let echo = call(&toolbox, "echo", json!({"text": "after"})).await;
    assert_eq!(echo, ToolResult::text("scripted: after"));
    Ok(())
}

#[tokio::test]
async fn garbage_and_noise_between_messages_are_let_go_by() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let garbage = call(&toolbox, "garbage", json!({})).await;
    assert_eq!(garbage, ToolResult::text("after garbage"));
    let noise = call(&toolbox, "noise", json!({})).await;
    assert_eq!(noise, ToolResult::text("after noise"));
    Ok(())
}

#[tokio::test]
async fn pictures_come_as_data_urls_and_keys_go_as_meta() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let picture = call(&toolbox, "image", json!({})).await;
    let parts = match &*picture.parts {
        [ToolPart::Text(text), ToolPart::Image { data_url }] => {
            Some((&**text, data_url.starts_with("data:image/png;base64,iVBOR")))
        }
        _ => None,
    };
    assert_eq!(parts, Some(("a dot", true)));

    let meta = call(&toolbox, "meta", json!({})).await;
    let sent = match &*meta.parts {
        [ToolPart::Text(text)] => serde_json::from_str(text)?,
        _ => Value::Null,
    };
    assert_eq!(sent["talaria/idempotencyKey"], "key");
    Ok(())
}

#[tokio::test]
async fn a_list_that_changes_is_asked_for_again() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let before = toolbox.list().await;
    assert_eq!(before.get("appeared"), None);
    call(&toolbox, "change", json!({})).await;
    let appeared = async {
        while toolbox.list().await.get("appeared").is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, appeared)
        .await
        .context("waiting for the new tool")?;
    assert_eq!(
        call(&toolbox, "appeared", json!({})).await,
        ToolResult::text("here")
    );
    assert_eq!(scripted.count("initialize"), 1);
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_list_its_tools_is_not_asked_by_every_run() -> Result<()> {
    let scripted = Scripted::new()?;
    scripted.write("refuse")?;
    let toolbox = toolbox(vec![scripted.config("one")]);
    for _ in 0..3 {
        assert_eq!(names(&*toolbox.list().await), Vec::<&str>::new());
    }
    assert_eq!(
        (scripted.count("initialize"), scripted.count("tools/list")),
        (1, 1)
    );
    Ok(())
}

#[tokio::test]
async fn a_toolbox_that_is_dropped_takes_its_processes_along() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    call(&toolbox, "spawn", json!({})).await;
    assert!(is_running(&scripted.folder));
    drop(toolbox);
    all_ended(&scripted).await
}

#[tokio::test]
async fn what_a_server_started_ends_with_it() -> Result<()> {
    let scripted = Scripted::new()?;
    let toolbox = scripted.toolbox();
    let spawned = call(&toolbox, "spawn", json!({})).await;
    assert_eq!(spawned, ToolResult::text("spawned"));
    let gone = "The tool's server \"scripted\" stopped before it answered; the call may or may not have taken effect.";
    // Were the process left that holds the other end of the pipe, this would take until the deadline.
    assert_eq!(
        call(&toolbox, "crash", json!({})).await,
        ToolResult::error(gone)
    );
    all_ended(&scripted).await
}

async fn all_ended(scripted: &Scripted) -> Result<()> {
    let ended = async {
        while is_running(&scripted.folder) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, ended)
        .await
        .context("waiting for the processes to end")
}

#[tokio::test]
async fn servers_are_reached_over_http_too() -> Result<()> {
    let scripted = Scripted::new()?;
    let (mut server, url) = serve_http(&scripted, "0").await?;
    let port = port_of(&url);

    let mut config = McpServerConfig::new("web", at(url));
    config.call_timeout = Duration::from_secs(5);
    let toolbox = toolbox(vec![config]);
    assert_eq!(
        call(&toolbox, "add", json!({"a": 1, "b": 2})).await,
        ToolResult::text("3")
    );
    assert_eq!(
        call(&toolbox, "noise", json!({})).await,
        ToolResult::text("after noise")
    );
    let broken = "The tool's server \"web\" could not be spoken with; the call may or may not have taken effect.";
    let stopped = "The tool's server \"web\" stopped before it answered; the call may or may not have taken effect.";
    let huge = call(&toolbox, "huge", json!({"bytes": 20_000_000})).await;
    assert_eq!(huge, ToolResult::error(broken));
    let huge = call(
        &toolbox,
        "huge",
        json!({"bytes": 20_000_000, "noisy": true}),
    )
    .await;
    assert_eq!(huge, ToolResult::error(stopped));
    assert_eq!(
        call(&toolbox, "add", json!({"a": 1, "b": 2})).await,
        ToolResult::text("3")
    );

    assert_eq!(scripted.count("initialize"), 1);
    server.kill().await?;
    let gone = call(&toolbox, "add", json!({"a": 1, "b": 2})).await;
    assert!(gone.is_error, "{gone:?}");

    let _server = serve_http(&scripted, &port).await?;
    let works = async {
        while call(&toolbox, "add", json!({"a": 1, "b": 2}))
            .await
            .is_error
        {}
    };
    timeout(SOON, works)
        .await
        .context("waiting for the server to come back")
}

#[tokio::test]
async fn a_server_that_was_replaced_at_its_url_is_asked_for_its_tools_again() -> Result<()> {
    for answer in ["404", "400"] {
        let scripted = Scripted::new()?;
        let sessions = ("MCP_SESSIONS", answer);
        let (mut server, url) = serve_http_with(&scripted, "0", &[sessions]).await?;
        let port = port_of(&url);
        let toolbox = toolbox(vec![McpServerConfig::new("web", at(url))]);
        assert_eq!(toolbox.list().await.get("newcomer"), None);
        server.kill().await?;
        let env = [sessions, ("MCP_TOOL", "newcomer")];
        let _server = serve_http_with(&scripted, &port, &env).await?;

        // The session is gone: the first that is asked for it makes a new one, and the call is made.
        let sum = call(&toolbox, "add", json!({"a": 1, "b": 2})).await;

        assert_eq!(sum, ToolResult::text("3"), "{answer}");
        assert!(toolbox.list().await.get("newcomer").is_some(), "{answer}");
        let named = call(&toolbox, "newcomer", json!({})).await;
        assert_eq!(named, ToolResult::text("named"));
    }
    Ok(())
}

#[tokio::test]
async fn headers_reach_the_server_and_are_not_printed() -> Result<()> {
    let scripted = Scripted::new()?;
    let (_server, url) = serve_http(&scripted, "0").await?;
    let transport = McpTransport::Http {
        url,
        headers: vec![
            (String::from("X-Key"), String::from("hidden").into()),
            (
                String::from("Authorization"),
                String::from("Bearer hidden").into(),
            ),
        ],
        egress: None,
    };
    let toolbox = toolbox(vec![McpServerConfig::new("web", transport)]);

    call(&toolbox, "add", json!({"a": 1, "b": 2})).await;

    let log = std::fs::read_to_string(scripted.folder.join("log"))?;
    for line in log.lines() {
        let headers = &serde_json::from_str::<Value>(line)?["_headers"];
        assert_eq!(
            (&headers["x-key"], &headers["authorization"]),
            (&json!("hidden"), &json!("Bearer hidden"))
        );
    }
    assert!(log.lines().count() > 3);
    assert!(!format!("{toolbox:?}").contains("hidden"), "{toolbox:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_and_lives_is_ended_and_started_again() -> Result<()> {
    let scripted = Scripted::new()?;
    let mut config = scripted.config("scripted");
    config.call_timeout = Duration::from_millis(500);
    let toolbox = toolbox(vec![config]);
    toolbox.list().await;
    let late =
        ToolResult::error("The tool did not answer in time; it may or may not have taken effect.");
    assert_eq!(call(&toolbox, "freeze", json!({})).await, late);

    let works = async {
        while call(&toolbox, "add", json!({"a": 1, "b": 2}))
            .await
            .is_error
        {}
    };
    timeout(SOON, works)
        .await
        .context("waiting for the server to come back")?;

    assert_eq!(scripted.count("initialize"), 2);
    Ok(())
}

/// The tool hangs, not the server: nobody else's calls are lost.
#[tokio::test]
async fn a_server_that_answers_pings_outlives_its_slow_tools() -> Result<()> {
    let scripted = Scripted::new()?;
    let mut config = scripted.config("scripted");
    config.call_timeout = Duration::from_millis(500);
    let toolbox = toolbox(vec![config]);
    call(&toolbox, "hang", json!({})).await;
    scripted.wait_for("ping", 1).await?;
    let sum = call(&toolbox, "add", json!({"a": 1, "b": 2})).await;
    assert_eq!(
        (sum, scripted.count("initialize")),
        (ToolResult::text("3"), 1)
    );
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_when_it_is_asked_for_its_tools_is_ended() -> Result<()> {
    let scripted = Scripted::new()?;
    scripted.write("freeze")?;
    let mut config = scripted.config("scripted");
    config.list_timeout = Duration::from_millis(300);
    let toolbox = toolbox(vec![config]);
    assert_eq!(names(&*toolbox.list().await), Vec::<&str>::new());
    // Nobody waits for its list so soon again; a call does not need one.
    assert_eq!(names(&*toolbox.list().await), Vec::<&str>::new());
    all_ended(&scripted).await
}

#[tokio::test]
async fn a_malformed_tool_hides_only_itself() -> Result<()> {
    let scripted = Scripted::new()?;
    let mut config = scripted.config("scripted");
    if let McpTransport::Stdio { env, .. } = &mut config.transport {
        env.push((String::from("MCP_MALFORMED"), String::from("1")));
    }
    let toolbox = toolbox(vec![config]);
    let list = toolbox.list().await;
    assert_eq!(names(&list)[..3], ["echo", "add", "set"]);
    assert_eq!(list.get("no_schema"), None);
    Ok(())
}

#[tokio::test]
async fn a_list_that_is_too_long_is_none() -> Result<()> {
    let scripted = Scripted::new()?;
    let problem = async |limits: ListLimits| {
        let mut config = scripted.config("mine");
        config.policy.limits = Some(limits);
        let toolbox = toolbox(Vec::new()).with(vec![RequestedServer::Live(Box::new(config))]);
        let list = toolbox.list().await;
        (list.tools.is_empty(), list.requested[0].problem.clone())
    };
    let (tools, bytes) = (128, 1 << 20);
    assert_eq!(problem(ListLimits { tools, bytes }).await, (false, None));
    let say = |why: &str| {
        let what =
            format!("The MCP server \"mine\" cannot be used: {why}; name those that are needed in");
        (true, Some(format!("{what} 'allowed_tools'.")))
    };
    let many = problem(ListLimits { tools: 3, bytes }).await;
    assert_eq!(many, say("it has more than 3 tools"));
    let long = problem(ListLimits { tools, bytes: 1024 }).await;
    assert_eq!(long, say("its list of tools is longer than 1 KiB"));
    Ok(())
}

#[tokio::test]
async fn the_servers_of_a_request_stand_beside_those_of_the_agent() -> Result<()> {
    let scripted = Scripted::new()?;
    let requested = Scripted::new()?;
    let agents = toolbox(vec![scripted.config("files")]);
    let before = agents.list().await;
    let mut config = requested.config("mine");
    config.policy.allowed.tool_names = Some(vec![String::from("add"), String::from("once_effect")]);
    config.policy.approval = Approval::Of {
        always: Filter::default(),
        never: Filter {
            tool_names: None,
            read_only: Some(true),
        },
    };
    let out_of_reach = RequestedServer::Lost {
        server_label: String::from("lost"),
        tools: vec![
            json!({"name": "find", "input_schema": {"type": "object"}})
                .as_object()
                .cloned()
                .unwrap_or_default(),
        ],
        problem: String::from("It is gone."),
    };

    let toolbox = agents.with(vec![RequestedServer::Live(Box::new(config)), out_of_reach]);
    let list = toolbox.list().await;

    let of_request: Vec<_> = list
        .tools
        .iter()
        .filter(|tool| tool.is_requested)
        .map(|tool| (&*tool.name, &*tool.server_label, tool.needs_approval))
        .collect();
    let expected = [
        ("mine__add", "mine", false),
        ("mine__once_effect", "mine", true),
        ("find", "lost", false),
    ];
    assert_eq!(of_request, expected);
    let listed: Vec<_> = list
        .requested
        .iter()
        .map(|server| {
            (
                &*server.server_label,
                server.tools.len(),
                server.problem.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        listed,
        [("mine", 2, None), ("lost", 1, Some("It is gone."))]
    );
    let numbers = json!({"a": 1, "b": 2});
    assert_eq!(
        call(&toolbox, "mine__add", numbers.clone()).await,
        ToolResult::text("3")
    );
    assert_eq!(call(&toolbox, "add", numbers).await, ToolResult::text("3"));
    assert_eq!(
        call(&toolbox, "find", json!({})).await,
        ToolResult::error("It is gone.")
    );
    // The agent's own server was not started twice, and its list is what it was.
    assert_eq!(scripted.count("initialize"), 1);
    assert!(Arc::ptr_eq(&before, &agents.list().await));
    drop(toolbox);
    all_ended(&requested).await
}

#[tokio::test]
async fn the_demo_tools_need_no_server() {
    let toolbox = Toolbox::new(&ToolboxConfig {
        demo: true,
        ..ToolboxConfig::default()
    });
    assert_eq!(
        names(&*toolbox.list().await),
        ["clock", "calculator", "wait"]
    );
    let sum = call(&toolbox, "calculator", json!({"expression": "(1 + 2) * 3"})).await;
    assert_eq!(sum, ToolResult::text("9"));
    let waited = call(&toolbox, "wait", json!({"seconds": 0.01})).await;
    assert_eq!(waited, ToolResult::text("Waited for 0.01 s."));
    let wrong = call(&toolbox, "wait", json!({"seconds": 61})).await;
    assert_eq!(
        wrong,
        ToolResult::error("\"seconds\" must be a number from 0 to 60.")
    );
    let cancelled = context();
    cancelled.cancel.cancel();
    let minute = json!({"seconds": 60})
        .as_object()
        .cloned()
        .unwrap_or_default();
    let stopped = toolbox.call("wait", minute, cancelled).await;
    assert_eq!(stopped, ToolResult::error("The call was cancelled."));
}
