//! Questions to a person in a context, and their answers, as upstreams are told of them.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde_json::json;

use crate::ids::{ItemPlace, Side};
use crate::item::json_bytes;
use crate::model::CallItem;
use crate::run::call_id_of;

const REQUEST: &str = "mcp_approval_request";
const RESPONSE: &str = "mcp_approval_response";
const UNANSWERED: &str = "Nobody has agreed to this call. The tool was not called.";
const DENIED: &str = "A person denied this call. The tool was not called.";

#[derive(Deserialize)]
struct Head {
    #[serde(default, rename = "type")]
    item_type: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    call_id: Option<String>,
    #[serde(default)]
    approval_request_id: Option<String>,
    #[serde(default)]
    approve: Option<bool>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

/// An answer of the client's to a question of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalAnswer {
    /// The id of the `mcp_approval_request`.
    pub request_id: String,
    pub approve: bool,
    pub reason: Option<String>,
    /// Its place in the input.
    pub index: usize,
}

/// The answers in a request's input to questions that have ids of ours.
///
/// Clients that send their whole history send answers of earlier turns again: what an answer led to stands behind it, and
/// it is no answer any more.
pub fn approval_answers(input: &[Bytes]) -> Vec<ApprovalAnswer> {
    let mut answers = Vec::new();
    for (index, json) in input.iter().enumerate().rev() {
        let Some(item) = read(json) else { continue };
        match (item.item_type.as_str(), item.approval_request_id) {
            (RESPONSE, Some(request_id)) if call_id_of(&request_id).is_some() => {
                answers.push(ApprovalAnswer {
                    request_id,
                    approve: item.approve.unwrap_or_default(),
                    reason: item.reason,
                    index,
                });
            }
            (RESPONSE | REQUEST, _) => {}
            ("item_reference", _) if item.id.starts_with("mcpr_") => {}
            ("item_reference", _) => {
                let place = ItemPlace::parse(&item.id);
                if place.is_none_or(|place| place.side == Side::Output) {
                    break;
                }
            }
            ("message" | "", _) if item.role != "assistant" => {}
            (output, _) if output.ends_with("_output") => {}
            // What a model said.
            _ => break,
        }
    }
    answers.reverse();
    answers
}

/// The context with each question of ours as what every upstream knows: nothing, where the call that it was about
/// follows; else that call, and an output that says why it was not made.
pub fn tell_approvals(context: Vec<CallItem>) -> Vec<CallItem> {
    // Most contexts have none: look before parsing.
    let finder = memmem::Finder::new("\"mcp_approval_re");
    if !context.iter().any(|item| finder.find(&item.json).is_some()) {
        return context;
    }
    let items: Vec<Option<Head>> = context.iter().map(|item| read(&item.json)).collect();
    let made: HashSet<&str> = items
        .iter()
        .flatten()
        .filter(|item| item.item_type == "function_call")
        .filter_map(|item| item.call_id.as_deref())
        .collect();
    let answers: HashMap<&str, &Head> = items
        .iter()
        .flatten()
        .filter(|item| item.item_type == RESPONSE)
        .filter_map(|item| Some((item.approval_request_id.as_deref()?, item)))
        .collect();
    let ours: HashSet<&str> = context
        .iter()
        .zip(&items)
        .filter_map(|(shown, item)| Some((shown, item.as_ref()?)))
        .filter(|(shown, item)| item.item_type == REQUEST && shown.upstream_id.is_none())
        .map(|(_, item)| item.id.as_str())
        .filter(|id| call_id_of(id).is_some())
        .collect();
    // A question may come twice: with its turn, and named in the input.
    let mut told: HashSet<&str> = HashSet::new();
    let mut shown = Vec::with_capacity(context.len());
    for (call_item, item) in context.iter().zip(&items) {
        let question = item
            .as_ref()
            .and_then(|item| match item.item_type.as_str() {
                REQUEST => Some(item.id.as_str()),
                RESPONSE => item.approval_request_id.as_deref(),
                _ => None,
            });
        let Some((item, question)) = item.as_ref().zip(question.filter(|id| ours.contains(id)))
        else {
            shown.push(call_item.clone());
            continue;
        };
        if item.item_type == REQUEST
            && told.insert(question)
            && let Some(call_id) = call_id_of(question)
            && !made.contains(call_id.as_str())
        {
            shown.extend(not_made(item, &call_id, answers.get(question).copied()));
        }
    }
    shown
}

/// A call that was not made, and why.
fn not_made(request: &Head, call_id: &str, answer: Option<&Head>) -> Vec<CallItem> {
    let call = json!({
        "type": "function_call",
        "call_id": call_id,
        "name": request.name,
        "arguments": request.arguments,
        "status": "completed",
    });
    let is_denied = answer.is_some_and(|answer| answer.approve != Some(true));
    let mut output = if is_denied { DENIED } else { UNANSWERED }.to_owned();
    if let Some(reason) = answer.and_then(|answer| answer.reason.as_deref())
        && is_denied
        && !reason.is_empty()
    {
        output = format!("{output} The reason given: {reason}");
    }
    let output = json!({"type": "function_call_output", "call_id": call_id, "output": output});
    let item = |json| CallItem {
        json: json_bytes(&json),
        upstream_id: None,
    };
    vec![item(call), item(output)]
}

fn read(json: &[u8]) -> Option<Head> {
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_until_what_it_led_to_stands_behind_it() {
        let id = format!("mcpr_{}o0", "0".repeat(32));
        let user = r#"{"role":"user","content":"do it"}"#.to_owned();
        let question = format!(r#"{{"type":"mcp_approval_request","id":"{id}"}}"#);
        let answer = format!(
            r#"{{"type":"mcp_approval_response","approval_request_id":"{id}","approve":true}}"#
        );
        let call = format!(r#"{{"type":"mcp_call","approval_request_id":"{id}"}}"#);
        let said = r#"{"type":"message","role":"assistant","content":[]}"#.to_owned();
        let named = format!(
            r#"{{"type":"item_reference","id":"mcp_{}o1"}}"#,
            "0".repeat(32)
        );
        let named_question = format!(r#"{{"type":"item_reference","id":"{id}"}}"#);
        let answers = |items: &[&String]| {
            let input: Vec<Bytes> = items
                .iter()
                .map(|item| Bytes::from((*item).clone()))
                .collect();
            let places = approval_answers(&input);
            places.iter().map(|answer| answer.index).collect::<Vec<_>>()
        };

        assert_eq!(answers(&[&user, &question, &answer]), [2]);
        assert_eq!(answers(&[&named_question, &answer, &user]), [1]);
        assert_eq!(answers(&[&question, &answer, &question, &answer]), [1, 3]);
        assert_eq!(answers(&[&question, &answer, &call, &said, &user]), [0; 0]);
        assert_eq!(answers(&[&question, &answer, &said, &user]), [0; 0]);
        assert_eq!(answers(&[&answer, &named, &user]), [0; 0]);
    }
}
