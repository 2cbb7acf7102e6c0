//! The ways to write server-sent events.

use bytes::Bytes;
use serde_json::Value;
use talaria_testkit::upstream::{Script, Step};

use crate::case::{Case, good};

/// The same answer as every way of writing events has it.
pub fn cases(answer: &dyn Fn() -> Script) -> Vec<Case> {
    let text = "Grüße, 世界 🌍";
    let respelt = |respell: &dyn Fn(&str) -> String| {
        let mut script = answer();
        for step in &mut script.steps {
            if let Step::Send(bytes) = step {
                *bytes = Bytes::from(respell(&String::from_utf8_lossy(bytes)));
            }
        }
        script
    };
    let mut unfinished = answer();
    if let Some(Step::Send(last)) = unfinished.steps.last_mut() {
        *last = Bytes::copy_from_slice(last.trim_ascii_end());
    }
    let mut torn = answer();
    torn.steps = torn.steps.iter().flat_map(bytewise).collect();
    let mut at_once = answer();
    at_once.steps = vec![Step::Send(all_bytes(&at_once.steps))];
    vec![
        good("CRLF", respelt(&|frame| frame.replace('\n', "\r\n")), text),
        good("CR", respelt(&|frame| frame.replace('\n', "\r")), text),
        good(
            "no space after the colon",
            respelt(&|frame| frame.replace("data: ", "data:")),
            text,
        ),
        good(
            "comments and ids",
            respelt(&|frame| format!(": keep-alive\n\n:\nid: 7\nretry: 1000\n{frame}:x\n\n")),
            text,
        ),
        good(
            "keepalive events",
            respelt(&|frame| {
                format!("event: ping\ndata: {{\"type\":\"ping\"}}\n\nevent: keepalive\n\n{frame}")
            }),
            text,
        ),
        good("data in many lines", respelt(&pretty), text),
        good(
            "a byte order mark first",
            {
                let mut script = answer();
                script
                    .steps
                    .insert(0, Step::Send(Bytes::from_static(b"\xef\xbb\xbf")));
                script
            },
            text,
        ),
        good("a last frame without its blank line", unfinished, text),
        good("byte by byte", torn, text),
        good("all in one piece", at_once, text),
    ]
}

fn bytewise(step: &Step) -> Vec<Step> {
    match step {
        Step::Send(bytes) => bytes
            .iter()
            .map(|byte| Step::Send(Bytes::copy_from_slice(&[*byte])))
            .collect(),
        other => vec![other.clone()],
    }
}

fn all_bytes(steps: &[Step]) -> Bytes {
    let sent = steps.iter().filter_map(|step| match step {
        Step::Send(bytes) => Some(bytes.as_ref()),
        _ => None,
    });
    Bytes::from(sent.collect::<Vec<_>>().concat())
}

/// A frame whose JSON is written in several lines of data.
fn pretty(frame: &str) -> String {
    let line = |line: &str| {
        let json = line.strip_prefix("data: ")?;
        let value: Value = serde_json::from_str(json).ok()?;
        let pretty = serde_json::to_string_pretty(&value).ok()?;
        Some(
            pretty
                .lines()
                .flat_map(|line| ["data: ", line, "\n"])
                .collect::<String>(),
        )
    };
    frame
        .split_inclusive('\n')
        .map(|text| line(text.trim_end()).unwrap_or_else(|| text.to_owned()))
        .collect()
}
