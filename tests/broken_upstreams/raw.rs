//! Upstreams whose HTTP is odd, or whose connections end oddly: written byte by byte.

use std::net::Ipv4Addr;

use serde_json::json;
use talaria_testkit::check;
use talaria_testkit::stack::{ApiKind, Options, Stack};
use talaria_testkit::upstream::{Script, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::case::{Case, answers, goes_on, recovers};
use crate::something_shown::so_far;
use crate::{PATIENCE, TALARIA, good, what_came};

/// What is written to one connection, and how it ends.
struct Said {
    bytes: Vec<u8>,
    /// With a reset instead of an orderly end.
    resets: bool,
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";

/// The events of a script.
fn body(script: &Script) -> Vec<u8> {
    let sent = script.steps.iter().map(|step| match step {
        Step::Send(bytes) => bytes.to_vec(),
        Step::Pause(_) | Step::Gate(_) | Step::Cut => Vec::new(),
    });
    sent.collect::<Vec<_>>().concat()
}

/// `head`, the script's events up to the end of the connection, and `tail`.
fn close(head: &str, script: &Script, tail: &str) -> Said {
    Said {
        bytes: [head.as_bytes(), b"\r\n", &body(script), tail.as_bytes()].concat(),
        resets: false,
    }
}

fn chunked(script: &Script, tail: &str) -> Said {
    let body = body(script);
    let head = format!(
        "{HEAD}transfer-encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    Said {
        bytes: [head.as_bytes(), &body, tail.as_bytes()].concat(),
        resets: false,
    }
}

fn reset(mut said: Said) -> Said {
    said.resets = true;
    said
}

fn table(kind: ApiKind) -> Vec<(Case, Vec<Said>)> {
    let none = Script::sse;
    let plain = || close(HEAD, &good(kind), "");
    let long = |script: &Script| close(&format!("{HEAD}content-length: 99999\r\n"), script, "");
    let again = |name, said| (recovers(name, none(), none()), vec![said, plain()]);
    let on = |name, said| (goes_on(name, none(), none(), "So far"), vec![said, plain()]);
    let odd = |name, said| (answers(name, none()), vec![said]);
    vec![
        odd("it closes the connection at the end", plain()),
        odd(
            "a head of HTTP/1.0",
            close("HTTP/1.0 200 OK\r\n", &good(kind), ""),
        ),
        odd(
            "early hints before the answer",
            close(
                &format!("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n{HEAD}"),
                &good(kind),
                "",
            ),
        ),
        odd(
            "trailers behind the answer",
            chunked(&good(kind), "\r\n0\r\nx-checksum: 5\r\n\r\n"),
        ),
        odd(
            "chunks without their end, behind the answer's",
            chunked(&good(kind), "\r\n"),
        ),
        again(
            "it resets the connection at once",
            reset(Said {
                bytes: Vec::new(),
                resets: true,
            }),
        ),
        again(
            "it resets behind its head",
            reset(close(HEAD, &none(), ": hi\n\n")),
        ),
        again("its head breaks off", close("HTTP/1.1 200 O", &none(), "")),
        again(
            "its head is no HTTP",
            close("SSH-2.0-OpenSSH_9.6\r\n", &none(), ""),
        ),
        again("its body is shorter than it says", long(&none())),
        again(
            "a chunk of no size",
            close(
                &format!("{HEAD}transfer-encoding: chunked\r\n"),
                &none(),
                "zz\r\n",
            ),
        ),
        on(
            "it resets in the middle of a text",
            reset(chunked(&so_far(kind), "\r\n")),
        ),
        on("its text is shorter than it says", long(&so_far(kind))),
        on(
            "a chunk of no size behind a text",
            chunked(&so_far(kind), "\r\nzz\r\n"),
        ),
        on(
            "chunks that end in the middle of a text",
            chunked(&so_far(kind), "\r\n"),
        ),
    ]
}

/// Answers one connection after the other.
async fn answer(listener: TcpListener, said: Vec<Said>) -> usize {
    let mut asked = 0;
    for said in said {
        let Ok((mut stream, _)) = listener.accept().await else {
            break;
        };
        asked += 1;
        read_request(&mut stream).await;
        let _ = stream.write_all(&said.bytes).await;
        let _ = stream.flush().await;
        if said.resets {
            // What was sent has to arrive first: a reset takes along what was not read.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let _ = stream.set_zero_linger();
        }
    }
    asked
}

async fn read_request(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !seen.ends_with(b"}") {
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => seen.extend_from_slice(&piece[..count]),
            Ok(_) | Err(_) => break,
        }
    }
}

pub async fn play_all(kind: ApiKind) -> anyhow::Result<()> {
    let api = match kind {
        ApiKind::Responses => "responses",
        ApiKind::ChatCompletions => "chat_completions",
    };
    let mut servers = JoinSet::new();
    let mut tables = Vec::new();
    let mut cases = Vec::new();
    for (number, (case, said)) in table(kind).into_iter().enumerate() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        tables.push(format!(
            "[[agents]]\nname = \"case{number}\"\nupstream = \"case{number}\"\nmodel = \"m\"\n\
             [upstreams.case{number}]\nkind = \"{api}\"\nbase_url = \"http://{}/v1\"\n{PATIENCE}\n",
            listener.local_addr()?
        ));
        servers.spawn(answer(listener, said));
        cases.push((format!("case{number}"), case));
    }
    let options = Options {
        kind,
        upstream: tables.concat(),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    let mut broken = Vec::new();
    for (agent, case) in cases {
        let body = json!({"input": "hi", "model": agent});
        let frames = stack.stream(&body).await?.collect().await?;
        let seen = check::stream(&frames).map_err(anyhow::Error::msg)?;
        let judged = what_came(&stack, &case, &seen.response_id, &seen.response).await;
        broken.extend(
            judged
                .err()
                .map(|error| format!("{}: {error:#}", case.name)),
        );
    }
    assert!(broken.is_empty(), "{kind:?}:\n{}", broken.join("\n"));
    // Each said all that it had to say, so it was asked as often.
    while let Some(asked) = servers.join_next().await {
        asked?;
    }
    Ok(())
}
