//! What models and tools were asked: I-13, I-14, I-15, I-16, I-18, I-19.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::{Facts, View, Violation};
use crate::plan::{Place, Tool};

/// Model calls of a run beyond those that are accounted for.
const SPARE_CALLS: usize = 2;

/// A call of a tool: the run, its place in the plan, and which of the model's answers made it.
type Key<'a> = (&'a str, Place, u64);

pub fn check(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    effects(facts, violations);
    ledger(facts, view, violations);
    model_calls(facts, view, violations);
}

/// I-13 and I-14.
fn effects(facts: &Facts, violations: &mut Vec<Violation>) {
    let mut charges: HashMap<(&str, Place), Vec<u64>> = HashMap::new();
    let mut keys: HashMap<Key<'_>, BTreeSet<Option<&str>>> = HashMap::new();
    let mut calls: HashMap<&str, BTreeSet<Key<'_>>> = HashMap::new();
    for execution in &facts.executions {
        let run = execution.run.as_str();
        if let Some(key) = &execution.key {
            let call = (run, execution.place, execution.attempt);
            calls.entry(key).or_default().insert(call);
        }
        match execution.tool {
            Tool::Charge => charges
                .entry((run, execution.place))
                .or_default()
                .push(execution.at_ns),
            Tool::Keep => drop(
                keys.entry((run, execution.place, execution.attempt))
                    .or_default()
                    .insert(execution.key.as_deref()),
            ),
            Tool::Look => {}
        }
    }
    for ((run, place), times) in charges {
        if times.len() > 1 {
            let what = format!(
                "{run} charged {} times in {place:?}, at {times:?}",
                times.len()
            );
            violations.push(Violation::new("I-13", what));
        }
    }
    for ((run, place, attempt), keys) in keys {
        if keys.len() > 1 || keys.contains(&None) {
            let what = format!("{run} kept under {keys:?} in {place:?}, answer {attempt}");
            violations.push(Violation::new("I-14", what));
        }
    }
    for (key, calls) in calls {
        if calls.len() > 1 {
            let what = format!("{key} was given to several calls: {calls:?}");
            violations.push(Violation::new("I-14", what));
        }
    }
}

/// I-15 and I-16: the log knows of every execution, and every result in the log had one.
fn ledger(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    let executed: HashSet<Key<'_>> = facts
        .executions
        .iter()
        .map(|execution| (execution.run.as_str(), execution.place, execution.attempt))
        .collect();
    let ended: HashSet<Key<'_>> = facts
        .executions
        .iter()
        .filter(|execution| execution.ended_ns.is_some())
        .map(|execution| (execution.run.as_str(), execution.place, execution.attempt))
        .collect();
    let mut intended: HashSet<(String, Place, u64)> = HashSet::new();
    let mut known: HashSet<&str> = HashSet::new();
    for (response, events) in &view.logs {
        let Some(run) = view.runs.get(response) else {
            continue;
        };
        known.insert(run);
        let mut calls: HashMap<&str, (Place, u64)> = HashMap::new();
        for event in events {
            let item = &event["item"];
            let call_id = item["call_id"].as_str().unwrap_or_default();
            match (event["type"].as_str(), item["type"].as_str()) {
                (Some("response.output_item.done"), Some("function_call")) => {
                    if let Some(call) = arguments(item) {
                        calls.insert(call_id, call);
                    }
                }
                (Some("response.output_item.added"), Some("function_call_output")) => {
                    if let Some((place, attempt)) = calls.get(call_id) {
                        intended.insert((run.clone(), *place, *attempt));
                    }
                }
                (Some("response.output_item.done"), Some("function_call_output")) => {
                    let Some((place, attempt)) = calls.get(call_id) else {
                        continue;
                    };
                    let says_done = item["output"].to_string().contains("done");
                    if says_done && !ended.contains(&(run.as_str(), *place, *attempt)) {
                        let what = format!("the log has a result of {place:?} that no tool gave");
                        violations.push(Violation::new("I-15", what).of(response));
                    }
                }
                _ => {}
            }
        }
    }
    for (run, place, attempt) in executed {
        let key = (run.to_owned(), place, attempt);
        if known.contains(run) && !intended.contains(&key) {
            let what = format!(
                "{run} executed {place:?} of answer {attempt}, and its log does not say that it would"
            );
            violations.push(Violation::new("I-16", what));
        }
    }
}

/// Where a call belongs, by its arguments.
fn arguments(item: &Value) -> Option<(Place, u64)> {
    let arguments: Value = serde_json::from_str(item["arguments"].as_str()?).ok()?;
    let place = serde_json::from_value(arguments.clone()).ok()?;
    Some((place, arguments["attempt"].as_u64()?))
}

/// I-18 and I-19.
fn model_calls(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    let rows = View::rows(facts);
    let mut epochs: HashMap<&str, usize> = HashMap::new();
    for (response, run) in &view.runs {
        if let Some(row) = rows.get(response) {
            epochs.insert(run, usize::try_from(row.epoch).unwrap_or_default());
        }
    }
    let mut calls: HashMap<&str, Vec<&crate::model::Call>> = HashMap::new();
    for call in &facts.calls {
        calls.entry(&call.run).or_default().push(call);
    }
    for (run, calls) in calls {
        let steps: BTreeSet<usize> = calls.iter().map(|call| call.step).collect();
        let troubles = calls.iter().filter(|call| call.trouble.is_some()).count();
        let takeovers = epochs.get(run).map_or(0, |epoch| epoch.saturating_sub(1));
        // With each takeover, whoever takes over asks again, and whoever lost the run may ask once more.
        let most = steps.len() + troubles + 2 * takeovers + SPARE_CALLS;
        if epochs.contains_key(run) && calls.len() > most {
            let what = format!(
                "{run} asked the model {} times for {} steps, with {troubles} troubles and {takeovers} takeovers",
                calls.len(),
                steps.len()
            );
            violations.push(Violation::new("I-18", what));
        }
        let mut furthest = 0;
        let mut backwards = 0;
        for call in &calls {
            if call.step < furthest {
                backwards += 1;
            }
            furthest = furthest.max(call.step);
        }
        // Whoever lost the run may ask for what it was at, which may be tried again.
        if epochs.contains_key(run) && backwards > takeovers + troubles {
            let order: Vec<usize> = calls.iter().map(|call| call.step).collect();
            let what = format!("{run} asked for steps that were over: {order:?}");
            violations.push(Violation::new("I-19", what));
        }
    }
}
