//! What the README tells a newcomer to do, with the tools that a newcomer has.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use anyhow::{Context, ensure};
use bytes::BytesMut;
use futures::stream;
use serde_json::Value;
use talaria_testkit::check;
use talaria_testkit::deadline::within;
use talaria_testkit::process::Process;
use talaria_testkit::sse::{Frame, Reader, frames};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");

/// `talaria serve`, with nothing but a directory for its data.
struct Talaria {
    base: String,
    process: Process,
    _directory: TempDir,
}

/// REQ-7, REQ-9
#[tokio::test]
async fn a_run_goes_on_while_curl_is_away() -> anyhow::Result<()> {
    let talaria = start().await?;
    let responses = format!("{}/v1/responses", talaria.base);
    let body = r#"{"model":"hermes-agent","input":"Please take a little time.","stream":true}"#;
    let json = "Content-Type: application/json";

    let (mut curl, mut stream) = curl_stream(&["-N", &responses, "-H", json, "-d", body])?;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(stream.until_event("response.output_text.delta").await?);
    }
    curl.kill().await?;
    let id = seen[0].json()["response"]["id"]
        .as_str()
        .context("an id")?
        .to_owned();

    // The run takes many seconds, so it is still young.
    let response = curl_json(&format!("{responses}/{id}")).await?;
    assert_eq!(response["status"], "in_progress");
    let so_far = text(&response)?;
    ensure!(
        so_far.starts_with(&text_of(&seen)),
        "{so_far:?} after {:?}",
        text_of(&seen)
    );

    let rest = format!(
        "{responses}/{id}?stream=true&starting_after={}",
        seen.len() - 1
    );
    let (mut curl, stream) = curl_stream(&["-N", &rest])?;
    seen.extend(stream.collect().await?);
    ensure!(
        within("the end of curl", curl.wait()).await??.success(),
        "curl failed"
    );
    let told = check::stream(&seen).map_err(anyhow::Error::msg)?;
    assert_eq!((told.status.as_str(), told.attempts), ("completed", 1));
    ensure!(
        told.text.starts_with(&so_far),
        "{:?} after {so_far:?}",
        told.text
    );
    ensure!(
        told.text.len() > so_far.len(),
        "nothing came while curl was away"
    );
    let response = curl_json(&format!("{responses}/{id}")).await?;
    assert_eq!(response, told.response);
    assert_eq!(text(&response)?, told.text);
    Ok(())
}

#[tokio::test]
async fn the_command_that_the_start_shows_works_as_it_is() -> anyhow::Result<()> {
    let talaria = start().await?;
    talaria
        .process
        .wait_for_line(|line| line.contains("-d '{"))
        .await?;
    let lines = talaria.process.lines();
    let title = lines
        .iter()
        .position(|line| line == "Try it:")
        .context("no command")?;
    let command = lines[title + 1..title + 3].join("\n");
    ensure!(command.trim_start().starts_with("curl "), "{command}");

    let output = Command::new("sh").args(["-c", &command]).output();

    let output = within("curl", output).await??;
    let told = check::stream(&frames(&output.stdout)).map_err(anyhow::Error::msg)?;
    assert_eq!(told.status, "completed");
    ensure!(told.text.contains("You said: Hello!"), "{}", told.text);
    Ok(())
}

async fn start() -> anyhow::Result<Talaria> {
    let directory = tempfile::tempdir()?;
    // Its Postgres may run as another user.
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    let data = directory.path().join("data").to_string_lossy().into_owned();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data];
    let process = Process::start(TALARIA, &arguments, &[])?;
    let address = process.wait_for_address("listens on").await?;
    Ok(Talaria {
        base: format!("http://{address}"),
        process,
        _directory: directory,
    })
}

/// Starts curl; it ends with the handle. What it prints is a stream of events.
fn curl_stream(arguments: &[&str]) -> anyhow::Result<(Child, Reader)> {
    let mut curl = Command::new("curl")
        .args(["-sS", "--fail"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting curl")?;
    let output = curl.stdout.take().context("its output is piped")?;
    let chunks = stream::try_unfold(output, |mut output| async {
        let mut chunk = BytesMut::with_capacity(4096);
        let length = output.read_buf(&mut chunk).await?;
        Ok((length > 0).then(|| (chunk.freeze(), output)))
    });
    Ok((curl, Reader::from_bytes(chunks)))
}

async fn curl_json(url: &str) -> anyhow::Result<Value> {
    let output = Command::new("curl").args(["-sS", "--fail", url]).output();
    let output = within("curl", output).await??;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The text that these events add.
fn text_of(frames: &[Frame]) -> String {
    let deltas = frames
        .iter()
        .filter(|frame| frame.event.as_deref() == Some("response.output_text.delta"));
    deltas
        .map(|frame| {
            frame.json()["delta"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

/// The text of a response's first message.
fn text(response: &Value) -> anyhow::Result<String> {
    let text = response["output"][0]["content"][0]["text"].as_str();
    Ok(text
        .with_context(|| format!("no text in {response}"))?
        .to_owned())
}
