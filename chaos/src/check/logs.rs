//! The final logs and rows: I-4, I-7, I-8, I-9, I-10, I-11, I-25.

use serde_json::Value;
use talaria_testkit::check as judge;
use talaria_testkit::sse::frames;

use super::{Facts, Row, Shown, View, Violation};
use crate::plan::{Place, Plan, text_of, tokens};

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
        let run = view.runs.get(response).map(String::as_str);
        let order = run.and_then(|run| view.orders.get(run));
        let asked = Asked {
            run,
            plan: order.map(|order| &order.plan),
        };
        for (gateway, shown) in facts.shown.get(response).into_iter().flatten().enumerate() {
            match judged(row, shown, asked) {
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
fn judged(row: &Row, shown: &Shown, asked: Asked<'_>) -> Result<(), (&'static str, String)> {
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
    if let (3, Some(plan)) = (row.status, asked.plan) {
        as_planned(&summary.items, plan).map_err(|what| ("I-10", what))?;
    }
    for item in &summary.items {
        if item["type"] == "message" && item["role"] == "assistant" {
            told(item, asked).map_err(|what| ("I-10", what))?;
        }
    }
    Ok(())
}

/// What a response is to be.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    /// The run that it is made for, if that is known.
    run: Option<&'a str>,
    plan: Option<&'a Plan>,
}

/// I-10: a message's text is what the model said in one answer of this run, from its beginning on; all of it, if the
/// message is whole.
fn told(item: &Value, asked: Asked<'_>) -> Result<(), String> {
    let text = text_of(&item["content"]);
    let found = tokens(&text)?;
    if let (Some(found), Some(run)) = (&found, asked.run)
        && found.run != run
    {
        return Err(format!("{text:?} is of another run than {run}"));
    }
    let Some(plan) = asked.plan else {
        return Ok(());
    };
    let count = found.as_ref().map_or(0, |found| found.count);
    let step = found.map_or(0, |found| found.step);
    let planned = plan.tokens_of(step);
    if count > planned || item["status"] == "completed" && count < planned {
        return Err(format!(
            "{text:?} has {count} tokens, and the model says {planned} in step {step}"
        ));
    }
    Ok(())
}

/// I-10: a response that completed has a result of each call of its plan, and all of the last step's text at its end.
fn as_planned(items: &[Value], plan: &Plan) -> Result<(), String> {
    let results: Vec<&Value> = items
        .iter()
        .filter(|item| item["type"] == "function_call_output")
        .map(|item| &item["call_id"])
        .collect();
    let done: Vec<Place> = items
        .iter()
        .filter(|item| item["type"] == "function_call" && results.contains(&&item["call_id"]))
        .filter_map(|item| serde_json::from_str(item["arguments"].as_str()?).ok())
        .collect();
    let (step, missing) = plan.next_step(&done);
    if !missing.is_empty() {
        return Err(format!("it completed without a result of {missing:?}"));
    }
    let last = items.last().filter(|item| item["status"] == "completed");
    let text = last.map(|item| text_of(&item["content"]));
    match text.as_deref().map(tokens) {
        Some(Ok(Some(found))) if found.step == step => Ok(()),
        _ => Err(format!("it completed, and ends with {text:?}")),
    }
}
