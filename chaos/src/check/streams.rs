//! What clients saw: I-3, I-5, I-6, I-7, I-12.

use std::collections::HashMap;

use bytes::Bytes;

use super::view::Op;
use super::{Facts, Touch, View, Violation};
use crate::history::Action;

pub fn check(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    let mut seen: HashMap<(&str, u64), (&Bytes, u64)> = HashMap::new();
    for op in view.ops.values() {
        let Some(response) = op.response.as_deref() else {
            continue;
        };
        let mut broken = |invariant, what: String| {
            let what = format!("{what} (request {}, gateway {})", op.number, op.gateway);
            violations.push(Violation::new(invariant, what).of(response));
        };
        let mut expected = match op.action {
            Action::Attach { after: Some(after) } => after + 1,
            _ => 0,
        };
        let mut has_gap = false;
        for (seq, raw) in &op.frames {
            if *seq != expected && !has_gap {
                has_gap = true;
                broken("I-5", format!("event {seq} came instead of {expected}"));
            }
            expected = seq + 1;
            let (first, first_op) = seen.entry((response, *seq)).or_insert((raw, op.number));
            if *first != *raw {
                let what =
                    format!("event {seq} is {raw:?}, and was {first:?} in request {first_op}");
                broken("I-3", what);
            }
        }
        if op.ended.is_some()
            && !op.saw_last
            && !touches(facts, op).any(|touch| touch.drains)
            && !view.deleted.contains(response)
            && op.status == Some(200)
            && matches!(op.action, Action::Stream | Action::Attach { .. })
        {
            broken(
                "I-12",
                format!("the stream ended after event {expected} without a last event"),
            );
        }
    }
    for op in view.ops.values().filter(|op| !op.frames.is_empty()) {
        let Some(why) = op.broke else { continue };
        if touches(facts, op).next().is_none() {
            let response = op.response.as_deref().unwrap_or("-");
            let what = format!(
                "the stream broke, though nobody touched gateway {}: {why} (request {})",
                op.gateway, op.number
            );
            violations.push(Violation::new("I-12", what).of(response));
        }
    }
    for ((response, seq), (raw, op)) in seen {
        let Some(shown) = facts.shown.get(response) else {
            continue;
        };
        let place = usize::try_from(seq).unwrap_or(usize::MAX);
        for (gateway, shown) in shown.iter().enumerate() {
            let Ok(log) = &shown.log else { continue };
            let what = match log.get(place) {
                Some(stored) if stored == raw => continue,
                Some(stored) => format!(
                    "event {seq} was {raw:?} in request {op}, and is {stored:?} at gateway {gateway}"
                ),
                None => format!(
                    "event {seq} was seen in request {op}, and is not in the log of gateway {gateway}"
                ),
            };
            violations.push(Violation::new("I-6", what).of(response));
        }
    }
    for (response, shown) in &facts.shown {
        let mut logs = shown.iter().filter_map(|shown| shown.log.as_ref().ok());
        if let Some(first) = logs.next()
            && logs.any(|other| other != first)
        {
            let what = "two gateways show different logs";
            violations.push(Violation::new("I-3", what).of(response));
        }
    }
}

/// What was done to a request's gateway from when it was sent until all was over.
fn touches(facts: &Facts, op: &Op<'_>) -> impl Iterator<Item = Touch> {
    let (gateway, sent, ended) = (op.gateway, op.sent_ns, op.ended_ns);
    facts.touches.iter().copied().filter(move |touch| {
        touch.gateway == gateway && touch.from_ns <= ended && sent <= touch.to_ns
    })
}
