//! Which responses there are: I-1, I-2, I-30, I-33.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::{Facts, View, Violation};
use crate::client::is_over;
use crate::history::Action;

/// Refusals (409) of a request that continues from something.
const NOT_COMPLETED: [&str; 2] = [
    "conversation_response_not_completed",
    "previous_response_not_completed",
];

/// Why a response that ended so is not cancelled any more.
const NOT_CANCELLED: [(&str, &str); 3] = [
    ("completed", "Cannot cancel a completed response."),
    ("failed", "Cannot cancel a failed response."),
    ("incomplete", "Cannot cancel a response in terminal state."),
];

pub fn check(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    one_response_per_key(view, violations);
    found_until_deleted(facts, view, violations);
    honest_answers(facts, view, violations);
    lasting_ends(facts, view, violations);
    nothing_left_of_refusals(facts, view, violations);
}

/// I-2: whoever repeats a request, or sends it once, makes one response.
fn one_response_per_key(view: &View<'_>, violations: &mut Vec<Violation>) {
    let mut by_key: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for op in view.ops.values().filter(|op| op.action.creates()) {
        if let (Some(key), Some(response)) = (op.key, &op.response) {
            by_key.entry(key).or_default().insert(response);
        }
    }
    for (key, responses) in by_key {
        if responses.len() > 1 {
            violations.push(Violation::new("I-2", format!("{key} made {responses:?}")));
        }
    }
    for (run, responses) in view.responses() {
        if responses.len() > 1 {
            let what = format!("{run}, which was asked for once, is {responses:?}");
            violations.push(Violation::new("I-2", what));
        }
    }
}

/// I-1: what was shown can be got, until somebody deletes it, and then never again.
fn found_until_deleted(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    // When each response was first asked to go, and when it was surely gone.
    let mut asked: HashMap<&str, u64> = HashMap::new();
    let mut gone: HashMap<&str, u64> = HashMap::new();
    for op in view.ops.values().filter(|op| op.action == Action::Delete) {
        let Some(response) = op.response.as_deref() else {
            continue;
        };
        let first = asked.entry(response).or_insert(op.sent_ns);
        *first = op.sent_ns.min(*first);
        if matches!(op.status, Some(200 | 404)) {
            let first = gone.entry(response).or_insert(op.ended_ns);
            *first = op.ended_ns.min(*first);
        }
    }
    for op in view.ops.values() {
        let (Some(response), Some(status)) = (op.response.as_deref(), op.status) else {
            continue;
        };
        match op.action {
            Action::Get | Action::Attach { .. } | Action::Cancel => {
                let was_asked = asked.get(response).is_some_and(|at| *at < op.ended_ns);
                let was_gone = gone.get(response).is_some_and(|at| *at < op.sent_ns);
                let what = match status {
                    404 if !was_asked => "is not found, though nobody deleted it",
                    200 if was_gone => "is shown after it was deleted",
                    _ => continue,
                };
                let what = format!("{what} (request {}, gateway {})", op.number, op.gateway);
                violations.push(Violation::new("I-1", what).of(response));
            }
            Action::Stream | Action::Wait | Action::Background | Action::Delete | Action::Chat => {}
        }
    }
    for (response, shown) in &facts.shown {
        for (gateway, shown) in shown.iter().enumerate() {
            let status = shown.object.0;
            let right = if gone.contains_key(response.as_str()) {
                status == 404
            } else {
                status == 200 || asked.contains_key(response.as_str())
            };
            if !right {
                let what = format!("GET at gateway {gateway} says {status} at the end");
                violations.push(Violation::new("I-1", what).of(response));
            }
        }
    }
    let rows = View::rows(facts);
    let created = view.ops.values().filter(|op| op.action.creates());
    for response in created.filter_map(|op| op.response.as_deref()) {
        if !rows.contains_key(response) && !asked.contains_key(response) {
            let what = "was shown, and is not in the database";
            violations.push(Violation::new("I-1", what).of(response));
        }
    }
}

/// I-30 and I-33: answers are those that the situation allows.
fn honest_answers(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    for op in view.ops.values() {
        let (Some(status), Some(body)) = (op.status, op.body) else {
            continue;
        };
        let code = body["error"]["code"].as_str().unwrap_or_default();
        let response = op.response.as_deref().unwrap_or("-");
        let described = || format!("{:?} was answered with {status} {code}: {body}", op.action);
        let is_about_one = op.response.is_some() && !op.action.creates();
        match status {
            // Clients only name events that they saw.
            400 if body["error"]["param"] == "starting_after" => {
                let what = format!("the log is shorter than it was: {}", described());
                violations.push(Violation::new("I-7", what).of(response));
            }
            400 if op.action == Action::Cancel && is_over_as_said(facts, response, body) => {}
            // Whether it may be missing is I-1.
            404 if is_about_one => {}
            409 if op.action.creates() && NOT_COMPLETED.contains(&code) => {}
            429 | 503 if op.retry_after => {}
            429 | 503 => {
                let what = format!("no Retry-After: {}", described());
                violations.push(Violation::new("I-33", what).of(response));
            }
            400.. => violations.push(Violation::new("I-30", described()).of(response)),
            _ => {}
        }
    }
}

/// Whether a refusal to cancel says how the response ended.
fn is_over_as_said(facts: &Facts, response: &str, body: &Value) -> bool {
    let message = body["error"]["message"].as_str();
    let said = NOT_CANCELLED
        .iter()
        .find(|(_, why)| message == Some(why))
        .map(|(status, _)| *status);
    let shown = facts.shown.get(response).into_iter().flatten();
    let mut shown = shown.filter(|shown| shown.object.0 == 200);
    said.is_some_and(|said| shown.all(|shown| shown.object.1["status"] == said))
}

/// I-33: whoever was told how a response ended was told what is still true.
fn lasting_ends(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    for op in view.ops.values() {
        let (Some(response), Some(200), Some(body)) = (&op.response, op.status, op.body) else {
            continue;
        };
        if body["object"] != "response" || !is_over(body) {
            continue;
        }
        for shown in facts.shown.get(response).into_iter().flatten() {
            let (status, object) = &shown.object;
            if *status == 200 && object != body {
                let what = format!(
                    "request {} was told of {body}, and it is {object}",
                    op.number
                );
                violations.push(Violation::new("I-33", what).of(response));
            }
        }
    }
}

/// I-33: of a request that was sent once and refused, nothing is left: no response, or one that another process had taken
/// over before it could be removed.
fn nothing_left_of_refusals(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    let rows = View::rows(facts);
    let responses = view.responses();
    for op in view.ops.values().filter(|op| op.key.is_none()) {
        let (Some(run), Some(status), Some(body)) = (op.run, op.status, op.body) else {
            continue;
        };
        let code = body["error"]["code"].as_str().unwrap_or_default();
        // Whoever waits may also be told so when the run has begun.
        let is_admission = matches!(op.action, Action::Stream | Action::Background);
        let is_refused = match status {
            400..500 => op.action.creates(),
            503 => is_admission && code == "store_unavailable",
            _ => false,
        };
        if !is_refused {
            continue;
        }
        for response in responses.get(run).into_iter().flatten() {
            if rows.get(*response).is_some_and(|row| row.epoch <= 1) {
                let what = format!(
                    "it is there, though its request {} was refused with {status} {code}",
                    op.number
                );
                violations.push(Violation::new("I-33", what).of(response));
            }
        }
    }
}
