//! Running processes, tested on shells.

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;

use anyhow::Context;
use talaria_testkit::deadline::within;
use talaria_testkit::process::Process;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

fn shell(script: &str) -> anyhow::Result<Process> {
    Process::start("sh", &["-c", script], &[("GREETING", "hi")])
}

#[tokio::test]
async fn lines_of_both_outputs_are_found_also_when_they_came_earlier() -> anyhow::Result<()> {
    let process = shell("echo $GREETING; echo listening on 127.0.0.1:1234 >&2; exec sleep 60")?;

    let address = process.wait_for_address("listening").await?;
    let greeting = process.wait_for_line(|line| line == "hi").await?;

    assert_eq!(address.port(), 1234);
    assert_eq!(greeting, "hi");
    Ok(())
}

#[tokio::test]
async fn waiting_for_a_line_ends_with_the_process() -> anyhow::Result<()> {
    let mut process = shell("echo wrong setting; exit 2")?;

    let waited = process.wait_for_line(|line| line == "ready").await;

    let message = waited
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(message.contains("wrong setting"), "{message}");
    assert_eq!(process.wait().await?.code(), Some(2));
    Ok(())
}

#[tokio::test]
async fn a_process_can_be_asked_to_end() -> anyhow::Result<()> {
    let mut process =
        shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done")?;
    process.wait_for_line(|line| line == "ready").await?;

    process.terminate()?;

    process.wait_for_success().await?;
    process.wait_for_line(|line| line == "bye").await?;
    Ok(())
}

#[tokio::test]
async fn kill_9_takes_the_children_along() -> anyhow::Result<()> {
    let mut process = shell("sleep 60 & echo ready; wait")?;
    process.wait_for_line(|line| line == "ready").await?;

    process.kill9().await?;

    assert_eq!(process.wait().await?.signal(), Some(9));
    // The child held the pipes open as well; that they are closed shows that it is gone.
    assert!(process.wait_for_line(|line| line == "never").await.is_err());
    Ok(())
}

#[tokio::test]
async fn settings_of_the_surroundings_do_not_leak_in() -> anyhow::Result<()> {
    let process = shell("env; echo end")?;
    process.wait_for_line(|line| line == "end").await?;

    let foreign = ["TALARIA_", "OPENAI_", "OTEL_"];
    let leaked: Vec<String> = process
        .lines()
        .into_iter()
        .filter(|line| foreign.iter().any(|name| line.starts_with(name)))
        .collect();
    assert_eq!(leaked, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_process_ends_with_the_test_that_started_it_even_when_that_is_killed()
-> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port().to_string();
    let this_binary = std::env::current_exe()?;
    let mut test = Process::start(
        this_binary.to_str().context("the path is text")?,
        &["--ignored", "--exact", "a_test_that_hangs"],
        &[("HANGING_TEST_PORT", &port)],
    )?;
    let (mut connection, _) =
        within("the process of the hanging test", listener.accept()).await??;

    test.kill9().await?;

    // The process holds its end of the connection until it dies.
    let read = within("the end of the process", connection.read_u8()).await?;
    assert!(read.is_err());
    Ok(())
}

#[tokio::test]
#[ignore = "is a part of the test above"]
async fn a_test_that_hangs() -> anyhow::Result<()> {
    let Ok(port) = std::env::var("HANGING_TEST_PORT") else {
        return Ok(());
    };
    let hold = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; sleep 60");
    let _process = Process::start("bash", &["-c", &hold], &[])?;
    std::future::pending().await
}
