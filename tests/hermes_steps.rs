//! The shell script with which a stranger checks a server, run as it stands.

use std::time::Duration;

use anyhow::ensure;
use talaria_testkit::deadline::within_duration;
use talaria_testkit::postgres::TestDatabase;
use talaria_testkit::process::Process;
use tempfile::TempDir;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hermes_steps.sh");
/// The slow reply takes 13 seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// REQ-17, REQ-19, REQ-20, REQ-21, REQ-25, REQ-26, REQ-27, REQ-28, REQ-29, REQ-39, REQ-40, REQ-41
#[tokio::test]
async fn a_stranger_with_curl_finds_everything_as_promised() -> anyhow::Result<()> {
    let database = TestDatabase::empty().await?;
    let directory = TempDir::new()?;
    let data = directory.path().to_string_lossy().into_owned();
    let talaria = Process::start(
        TALARIA,
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            &data,
            "--database-url",
            &database.url,
        ],
        &[],
    )?;
    let address = talaria.wait_for_address("listens on").await?;

    let script = tokio::process::Command::new("sh")
        .arg(SCRIPT)
        .arg(format!("http://{address}"))
        .env_remove("TALARIA_API_KEY")
        .kill_on_drop(true)
        .output();
    let output = within_duration("the script", PATIENCE, script).await??;

    let told = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{told}{complaints}");
    assert_eq!(
        (told.matches("  FAILED  ").count(), complaints.as_ref()),
        (0, "")
    );
    Ok(())
}
