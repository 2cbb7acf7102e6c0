//! From the messages that a record adds to what came before it, and the output that its server showed, to a turn.
//!
//! The transcript is what a later turn continues from, so it decides; the stored output says how the turn was shown.
//! Hermes cuts long arguments and tool outputs in the latter, and never shows what was said between tool calls.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::items::{call_ids, is_of_agent, message, of_message, of_output, said};
use super::record::{Object, Record, text};

/// The items of a turn; none has an id yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Items {
    pub input: Vec<Object>,
    pub output: Vec<Object>,
}

/// The turn of `record`, whose transcript adds `own` to what it continues from.
pub fn of_record(record: &Record, own: &[Value]) -> Items {
    let shown = stored_output(record);
    let start = record
        .is_completed()
        .then(|| answer_start(own, &shown))
        .flatten();
    let mut items = match start {
        Some(start) => Items {
            input: own[..start].iter().flat_map(of_message).collect(),
            output: align(own[start..].iter().flat_map(of_message).collect(), shown),
        },
        None => Items {
            input: own[..last_question(own)]
                .iter()
                .flat_map(of_message)
                .collect(),
            output: shown,
        },
    };
    settle_calls(&mut items);
    items
}

fn stored_output(record: &Record) -> Vec<Object> {
    let last = record.output.len().saturating_sub(1);
    let shape = |(index, item): (usize, &Object)| {
        let is_cut = record.was_active || !record.is_completed() && index == last;
        let is_message = text(item, "type") == Some("message");
        let status = if is_cut && is_message {
            "incomplete"
        } else {
            "completed"
        };
        of_output(item.clone(), status)
    };
    record.output.iter().enumerate().map(shape).collect()
}

/// Where in its own messages the agent's answer begins: after the question that came before its first shown call.
///
/// None if the transcript lacks calls that were shown.
fn answer_start(own: &[Value], shown: &[Object]) -> Option<usize> {
    let mut missing: Vec<&str> = of_type(shown, "function_call")
        .filter_map(|call| text(call, "call_id"))
        .collect();
    let mut first_call = own.len();
    for (index, message) in own.iter().enumerate().rev() {
        if missing.is_empty() {
            break;
        }
        let before = missing.len();
        for id in call_ids(message) {
            if let Some(found) = missing.iter().position(|missing| *missing == id) {
                missing.swap_remove(found);
            }
        }
        if missing.len() < before {
            first_call = index;
        }
    }
    missing
        .is_empty()
        .then(|| last_question(&own[..first_call]))
}

/// The place after the last message that is not the agent's.
fn last_question(messages: &[Value]) -> usize {
    messages
        .iter()
        .rposition(|message| !is_of_agent(message))
        .map_or(0, |index| index + 1)
}

/// The items of the transcript in the shapes in which they were shown, with what only the stored output has.
fn align(transcript: Vec<Object>, shown: Vec<Object>) -> Vec<Object> {
    let answer = of_type(&shown, "message").last().map(said);
    let mut output: Vec<Object> = Vec::with_capacity(shown.len());
    let mut rest: Vec<Option<Object>> = shown.into_iter().map(Some).collect();
    let mut at = 0;
    for item in transcript {
        let found = (at..rest.len()).find(|index| {
            rest[*index]
                .as_ref()
                .is_some_and(|shown| is_same(shown, &item))
        });
        let Some(found) = found else {
            output.push(item);
            continue;
        };
        let between = rest[at..found].iter_mut().filter_map(take_unspoken);
        output.extend(between);
        if let Some(shown) = rest[found].take() {
            output.push(in_shape_of(&shown, item));
        }
        at = found + 1;
    }
    output.extend(rest.iter_mut().filter_map(take_unspoken));
    if let Some(answer) = answer {
        settle_answer(&mut output, &answer);
    }
    output
}

/// An item of a kind that transcripts do not have.
fn take_unspoken(item: &mut Option<Object>) -> Option<Object> {
    item.take_if(|item| {
        !matches!(
            text(item, "type"),
            Some("message" | "function_call" | "function_call_output")
        )
    })
}

fn is_same(shown: &Object, item: &Object) -> bool {
    if text(shown, "type") != text(item, "type") {
        return false;
    }
    if text(item, "type") == Some("message") {
        text(item, "role") == Some("assistant") && squeezed(&said(shown)) == squeezed(&said(item))
    } else {
        text(shown, "call_id") == text(item, "call_id")
    }
}

/// What the transcript says in full, as it was shown.
fn in_shape_of(shown: &Object, mut item: Object) -> Object {
    match text(&item, "type") {
        Some("message") => return shown.clone(),
        Some("function_call_output") => {
            let output = item.get("output").and_then(Value::as_str);
            if let (Some(Value::Array(_)), Some(text)) = (shown.get("output"), output) {
                let parts = json!([{"type": "input_text", "text": text}]);
                item.insert("output".into(), parts);
            }
        }
        _ => {}
    }
    item
}

/// Makes the turn end with the answer that was shown, unless its messages say it together.
fn settle_answer(output: &mut Vec<Object>, answer: &str) {
    let texts: String = of_type(output, "message")
        .filter(|item| text(item, "role") == Some("assistant"))
        .map(said)
        .collect();
    let is_last = |item: &Object| {
        text(item, "type") == Some("message") && squeezed(&said(item)) == squeezed(answer)
    };
    if squeezed(&texts) == squeezed(answer) || output.last().is_some_and(is_last) {
        return;
    }
    if output
        .last()
        .is_some_and(|item| text(item, "role") == Some("assistant"))
    {
        output.pop();
    }
    output.push(message(answer));
}

/// Text without its white space: Hermes trims answers, and puts breaks between what was said before and after a call.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Sees to it that no model is shown half a call: it is taken out of the input, and marked in the output.
fn settle_calls(items: &mut Items) {
    let inputs = items.input.len();
    let mut open: HashMap<String, Vec<usize>> = HashMap::new();
    let mut is_whole = vec![false; inputs + items.output.len()];
    for (index, item) in items.input.iter().chain(&items.output).enumerate() {
        let call_id = text(item, "call_id").unwrap_or_default();
        match text(item, "type") {
            Some("function_call") => open.entry(call_id.to_owned()).or_default().push(index),
            Some("function_call_output") => {
                if let Some(calls) = open.get_mut(call_id) {
                    is_whole[index] = true;
                    calls.drain(..).for_each(|call| is_whole[call] = true);
                }
            }
            _ => is_whole[index] = true,
        }
    }
    let (of_input, of_output) = is_whole.split_at(inputs);
    let mut of_input = of_input.iter();
    items.input.retain(|_| of_input.next() == Some(&true));
    for (item, is_whole) in items.output.iter_mut().zip(of_output) {
        if text(item, "type").is_some_and(|kind| kind.starts_with("function_call")) {
            let status = if *is_whole { "completed" } else { "incomplete" };
            item.insert("status".into(), status.into());
        }
    }
}

fn of_type<'a>(items: &'a [Object], kind: &'a str) -> impl DoubleEndedIterator<Item = &'a Object> {
    items
        .iter()
        .filter(move |item| text(item, "type") == Some(kind))
}

#[cfg(test)]
mod tests;
