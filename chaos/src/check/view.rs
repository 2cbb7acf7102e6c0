//! The facts, arranged by request and by response.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use serde_json::Value;

use super::{Facts, response_id};
use crate::client::is_last;
use crate::history::{Action, Order, What};
use crate::plan::tokens;

/// One request and all that came of it.
#[derive(Debug)]
pub struct Op<'a> {
    pub number: u64,
    pub sent_ns: u64,
    pub ended_ns: u64,
    pub gateway: usize,
    pub action: Action,
    /// The response it names, or that its answer names.
    pub response: Option<String>,
    pub run: Option<&'a str>,
    pub key: Option<&'a str>,
    pub status: Option<u16>,
    pub retry_after: bool,
    pub body: Option<&'a Value>,
    pub frames: Vec<(u64, &'a Bytes)>,
    pub saw_last: bool,
    /// The stream ended in an orderly way: with the mark of the end, or without.
    pub ended: Option<bool>,
    /// Why it broke off.
    pub broke: Option<&'a str>,
}

/// Requests by number, and what is known of each response.
#[derive(Debug)]
pub struct View<'a> {
    pub ops: BTreeMap<u64, Op<'a>>,
    /// The run of each response.
    pub runs: HashMap<String, String>,
    /// What each run is to do, as clients asked for it.
    pub orders: HashMap<&'a str, &'a Order>,
    /// Responses that somebody tried to delete.
    pub deleted: HashSet<String>,
    /// The final log of each response, as events.
    pub logs: HashMap<String, Vec<Value>>,
}

impl<'a> View<'a> {
    pub fn of(facts: &'a Facts) -> Self {
        let mut ops: BTreeMap<u64, Op<'a>> = BTreeMap::new();
        for entry in &facts.entries {
            let (What::Sent { op, .. }
            | What::Answered { op, .. }
            | What::Broken { op, .. }
            | What::Frame { op, .. }
            | What::Ended { op, .. }
            | What::Left { op }) = &entry.what;
            if let What::Sent {
                op,
                gateway,
                action,
                response,
                run,
                key,
                order: _,
            } = &entry.what
            {
                let begun = Op {
                    number: *op,
                    sent_ns: entry.at_ns,
                    ended_ns: u64::MAX,
                    gateway: *gateway,
                    action: *action,
                    response: response.clone(),
                    run: run.as_deref(),
                    key: key.as_deref(),
                    status: None,
                    retry_after: false,
                    body: None,
                    frames: Vec::new(),
                    saw_last: false,
                    ended: None,
                    broke: None,
                };
                ops.insert(*op, begun);
                continue;
            }
            let Some(op) = ops.get_mut(op) else { continue };
            op.ended_ns = entry.at_ns;
            match &entry.what {
                What::Answered {
                    status,
                    retry_after,
                    body,
                    ..
                } => {
                    op.status = Some(*status);
                    op.retry_after = *retry_after;
                    op.body = Some(body);
                    if op.action.creates() && *status == 200 && op.response.is_none() {
                        op.response = body["id"].as_str().map(str::to_owned);
                    }
                }
                What::Frame { seq, raw, .. } => {
                    op.status = Some(200);
                    op.frames.push((*seq, raw));
                    let event = event_of(raw);
                    op.saw_last |= is_last(&event);
                    if op.response.is_none() {
                        op.response = event["response"]["id"].as_str().map(str::to_owned);
                    }
                }
                What::Ended { done, .. } => op.ended = Some(*done),
                What::Broken { why, .. } => op.broke = Some(why),
                What::Sent { .. } | What::Left { .. } => {}
            }
        }
        let mut runs = HashMap::new();
        let mut deleted = HashSet::new();
        for op in ops.values() {
            if let (Some(response), Some(run)) = (&op.response, op.run) {
                runs.insert(response.clone(), run.to_owned());
            }
            if let (Action::Delete, Some(response)) = (op.action, &op.response) {
                deleted.insert(response.clone());
            }
        }
        let mut logs = HashMap::new();
        for (response, shown) in &facts.shown {
            let log = shown.iter().find_map(|shown| shown.log.as_ref().ok());
            let Some(log) = log else { continue };
            let events: Vec<Value> = log.iter().map(event_of).collect();
            if !runs.contains_key(response)
                && let Some(run) = run_in(&events)
            {
                runs.insert(response.clone(), run);
            }
            logs.insert(response.clone(), events);
        }
        for (response, run) in &facts.inputs {
            runs.entry(response.clone()).or_insert_with(|| run.clone());
        }
        Self {
            ops,
            runs,
            orders: orders(facts),
            deleted,
            logs,
        }
    }

    /// The responses of each run.
    pub fn responses(&self) -> HashMap<&str, Vec<&str>> {
        let mut all: HashMap<&str, Vec<&str>> = HashMap::new();
        for (response, run) in &self.runs {
            all.entry(run).or_default().push(response);
        }
        all
    }

    /// Rows with the id that clients know.
    pub fn rows(facts: &Facts) -> HashMap<String, &super::Row> {
        let rows = facts.rows.iter();
        rows.map(|row| (response_id(row.id), row)).collect()
    }
}

/// What each run was ordered to do.
fn orders(facts: &Facts) -> HashMap<&str, &Order> {
    facts
        .entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Sent {
                run: Some(run),
                order: Some(order),
                ..
            } => Some((run.as_str(), order)),
            _ => None,
        })
        .collect()
}

/// The event in a frame.
pub fn event_of(raw: &Bytes) -> Value {
    let text = String::from_utf8_lossy(raw);
    let data = text.lines().find_map(|line| line.strip_prefix("data: "));
    data.and_then(|data| serde_json::from_str(data).ok())
        .unwrap_or(Value::Null)
}

/// The run that a log speaks of.
fn run_in(events: &[Value]) -> Option<String> {
    events.iter().find_map(|event| {
        let delta = event["delta"]
            .as_str()
            .filter(|delta| delta.starts_with('⟨'))?;
        Some(tokens(delta_from_zero(delta)?.as_str()).ok()??.run)
    })
}

/// A first token, with its number made 0.
fn delta_from_zero(delta: &str) -> Option<String> {
    let (token, _) = delta.split_once('⟩')?;
    let (place, _) = token.rsplit_once('.')?;
    Some(format!("{place}.0⟩"))
}
