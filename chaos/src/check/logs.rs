//! The final logs and rows: I-4, I-7, I-8, I-9, I-10, I-11, I-25.

use serde_json::Value;
use talaria_testkit::check as judge;
use talaria_testkit::sse::frames;

use super::{Facts, Row, Shown, View, Violation};
use crate::plan::{text_of, tokens};

/// The smallest status that is an end.
const FIRST_TERMINAL: i16 = 3;

pub fn check(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    let rows = View::rows(facts);
    for (response, row) in &rows {
        let mut broken =
            |invariant, what: String| violations.push(Violation::new(invariant, what).of(response));
        if let Err(what) = tiled(row) {
            broken("I-4", what);
        }
        if row.status < FIRST_TERMINAL {
            broken("I-25", format!("it has not ended: status {}", row.status));
        }
        if let Some(Err(what)) = view.logs.get(response).map(|log| one_at_a_time(log)) {
            broken("I-9", what);
        }
        for (gateway, shown) in facts.shown.get(response).into_iter().flatten().enumerate() {
            match judged(row, shown) {
                Ok(()) => {}
                Err(_) if view.deleted.contains(response) => {}
                Err((invariant, what)) => broken(invariant, format!("{what} (gateway {gateway})")),
            }
        }
    }
}

/// I-4: the chunks of a log follow each other, and so do their epochs.
fn tiled(row: &Row) -> Result<(), String> {
    let (mut next, mut epoch) = (0, 0);
    for (first, last, written_under) in &row.chunks {
        if *first != next {
            return Err(format!("a chunk begins with {first} instead of {next}"));
        }
        if *written_under < epoch {
            return Err(format!(
                "the chunk from {first} on has epoch {written_under}, after {epoch}"
            ));
        }
        (next, epoch) = (last + 1, *written_under);
    }
    if next != row.next_seq {
        return Err(format!(
            "the log ends before {next}, and the row says {}",
            row.next_seq
        ));
    }
    Ok(())
}

/// I-9: the model says one thing after the other, so whoever goes on for a dead process closes what that left open
/// before it begins anything.
fn one_at_a_time(events: &[Value]) -> Result<(), String> {
    let mut open = None;
    for event in events {
        let is_models = matches!(
            event["item"]["type"].as_str(),
            Some("message" | "function_call")
        );
        if !is_models {
            continue;
        }
        let id = event["item"]["id"].as_str();
        match event["type"].as_str() {
            Some("response.output_item.added") => {
                if let Some(before) = open {
                    return Err(format!("{id:?} was begun while {before:?} was open"));
                }
                open = Some(id);
            }
            Some("response.output_item.done") if open == Some(id) => open = None,
            _ => {}
        }
    }
    Ok(())
}

/// Whether what a gateway shows is whole, well-formed and the same everywhere.
fn judged(row: &Row, shown: &Shown) -> Result<(), (&'static str, String)> {
    let log = shown
        .log
        .as_ref()
        .map_err(|why| ("I-11", format!("its log cannot be read: {why}")))?;
    let text: Vec<u8> = log.iter().flatten().copied().collect();
    let mut parsed = frames(&text);
    parsed.extend(frames(b"data: [DONE]\n\n"));
    let summary = judge::stream(&parsed).map_err(|why| ("I-9", why))?;
    let length = i64::try_from(log.len()).unwrap_or(i64::MAX);
    if length != row.next_seq {
        let what = format!(
            "the log has {length} events, and the row says {}",
            row.next_seq
        );
        return Err(("I-7", what));
    }
    let expected = match row.status {
        3 => "completed",
        4 => "failed",
        5 => "incomplete",
        6 => "cancelled",
        _ => return Ok(()),
    };
    if summary.status != expected {
        let what = format!(
            "the log ends as {}, and the row says {expected}",
            summary.status
        );
        return Err(("I-8", what));
    }
    if shown.object.0 == 200 && shown.object.1 != summary.response {
        let what = format!(
            "GET says {}, and the last event {}",
            shown.object.1, summary.response
        );
        return Err(("I-10", what));
    }
    for item in &summary.items {
        if item["type"] == "message" && item["role"] == "assistant" {
            told(item).map_err(|what| ("I-10", what))?;
        }
    }
    Ok(())
}

/// I-10: a message's text is what the model said in one answer, from its beginning on.
fn told(item: &Value) -> Result<(), String> {
    let text = text_of(&item["content"]);
    tokens(&text).map(drop)
}
