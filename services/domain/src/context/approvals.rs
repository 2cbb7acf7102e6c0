//! Questions to a person in a context, and their answers, as upstreams are told of them.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde_json::json;

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
pub fn approval_answers(input: &[Bytes]) -> Vec<ApprovalAnswer> {
    let answer = |(index, json): (usize, &Bytes)| {
        let item = read(json)?;
        let request_id = item.approval_request_id?;
        let is_ours = item.item_type == RESPONSE && call_id_of(&request_id).is_some();
        is_ours.then_some(ApprovalAnswer {
            request_id,
            approve: item.approve.unwrap_or_default(),
            reason: item.reason,
            index,
        })
    };
    input.iter().enumerate().filter_map(answer).collect()
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
