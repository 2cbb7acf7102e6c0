//! Calls that a person has to agree to: asked about, decided, and made.
//!
//! The model's call shows as an `mcp_approval_request`, and nothing else of it until somebody agreed: then the call
//! itself follows, under a call id that names the request. What was decided in the run is an `mcp_approval_response`
//! among its output; what a later request decides is in that one's input.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::{Value, json};
use talaria_proto::v1::OutputItem;
use talaria_proto::v1::event::Kind;

use super::ledger::read_arguments;
use super::record::own_call_id;
use super::shape::{item_type, text};
use super::{Effect, Run, ToolShape, index_u32};
use crate::ids::{ItemPlace, Side};
use crate::item::{Item, json_bytes};
use crate::marker::{Marker, upstream_id};
use crate::model::{ItemKey, Object};
use crate::snapshot::Snapshot;

const REQUEST: &str = "mcp_approval_request";
const RESPONSE: &str = "mcp_approval_response";
const NOT_STORED: &str = "A person has to agree to this call, and nobody can be asked: the response is not stored. \
                          The tool was not called.";
const NOT_ASKED: &str = "A person has to agree to calls of this tool, and was not asked about this one. The tool was not \
                         called; make the call again.";
const OTHER_SERVER: &str =
    "The tool is another server's by now than the one that a person agreed to. It was not called.";
const DENIED_BEFORE: &str = "The same call was denied before.";

/// What becomes of calls that a person has to agree to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approvals {
    /// The response completes with the question; who continues it brings the answer.
    #[default]
    InNextRequest,
    /// The run waits for the answer.
    Waits,
    /// Nobody can be asked: the model is told so.
    Impossible,
}

/// What a person decided about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    Once,
    /// Also for further calls of the tool in the same session.
    Session,
    /// Also for all further calls of the tool.
    Always,
    Deny,
}

/// A decision, and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The id of the `mcp_approval_request`.
    pub request_id: String,
    pub choice: Choice,
    /// What the model is told with it.
    pub reason: Option<String>,
    /// Who decided, as they call themselves.
    pub decided_by: String,
}

/// A call that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCall {
    /// The id of the `mcp_approval_request`.
    pub request_id: String,
    pub server_label: String,
    pub name: String,
    /// As the model wrote them.
    pub arguments: String,
    /// Until when it waits, in Unix seconds.
    pub until: i64,
}

/// A call that was asked about in an earlier response and agreed to in the request of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovedCall {
    /// The id of the `mcp_approval_request`.
    pub request_id: String,
    pub server_label: String,
    pub name: String,
    pub arguments: String,
    pub effect: Effect,
    /// The upstream's id of the call.
    pub upstream_id: String,
}

/// A call while the model writes it.
#[derive(Debug)]
pub(super) struct HeldCall {
    pub key: ItemKey,
    item: Object,
    arguments: String,
}

/// A question in the log, and what came of it.
#[derive(Debug)]
struct Asked {
    call: ApprovedCall,
    until: i64,
    decision: Option<Choice>,
    is_made: bool,
}

impl Choice {
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Once, Self::Session, Self::Always, Self::Deny]
            .into_iter()
            .find(|choice| choice.as_str() == word)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Session => "session",
            Self::Always => "always",
            Self::Deny => "deny",
        }
    }

    pub fn agrees(self) -> bool {
        match self {
            Self::Once | Self::Session | Self::Always => true,
            Self::Deny => false,
        }
    }
}

impl Decision {
    /// Reads an `mcp_approval_response` among a run's output; `None` for anything else.
    pub fn of_item(item: &Object, upstream_id: &str) -> Option<Self> {
        let marker = Marker::parse(upstream_id)?;
        if item_type(item) != Some(RESPONSE) {
            return None;
        }
        Some(Self {
            request_id: text(item, "approval_request_id").to_owned(),
            choice: marker.choice?,
            reason: item
                .get("reason")
                .and_then(Value::as_str)
                .map(str::to_owned),
            decided_by: marker.decided_by,
        })
    }
}

impl ApprovedCall {
    /// Reads an `mcp_approval_request` of ours as the log or a turn holds it, and until when it waits; `None` for
    /// anything else.
    pub fn of_request(item: &Bytes, upstream_id: &str) -> Option<(Self, i64)> {
        let marker = Marker::parse(upstream_id)?;
        // Only questions have one, and most items are none, and long.
        let until = marker.until?;
        let item: Object = serde_json::from_slice(item).ok()?;
        if item_type(&item) != Some(REQUEST) {
            return None;
        }
        let call = Self {
            request_id: text(&item, "id").to_owned(),
            server_label: text(&item, "server_label").to_owned(),
            name: text(&item, "name").to_owned(),
            arguments: text(&item, "arguments").to_owned(),
            effect: marker.effect,
            upstream_id: marker.upstream_id,
        };
        Some((call, until))
    }

    /// The id that the call has once it is made.
    pub fn call_id(&self) -> Option<String> {
        call_id_of(&self.request_id)
    }
}

/// The id of the call that an approval request is about; `None` for one that is not ours.
pub fn call_id_of(request_id: &str) -> Option<String> {
    let place = ItemPlace::parse(request_id)?;
    request_id.starts_with("mcpr_").then(|| own_call_id(place))
}

/// Whether an id is of the form that calls of ours have which a person agreed to. Models' calls get others.
pub(super) fn is_reserved(call_id: &str) -> bool {
    call_id.starts_with("call_") && ItemPlace::parse(call_id).is_some()
}

/// The calls of a run that wait for a person.
pub fn pending_calls(snapshot: &Snapshot) -> Vec<PendingCall> {
    let asked = asked(snapshot).into_iter();
    asked
        .filter(|asked| asked.decision.is_none() && !asked.is_made)
        .map(|Asked { call, until, .. }| PendingCall {
            request_id: call.request_id,
            server_label: call.server_label,
            name: call.name,
            arguments: call.arguments,
            until,
        })
        .collect()
}

/// The questions of a run in their order.
fn asked(snapshot: &Snapshot) -> Vec<Asked> {
    let mut asked: Vec<Asked> = Vec::new();
    for item in snapshot.items() {
        let (json, upstream_id) = match item {
            Item::Done { json, upstream_id } => (json, upstream_id),
            Item::Open(item) => {
                // A call that is open is whole, or is closed when the run goes on.
                if item.item_type == "mcp_call" && item.text_is_whole {
                    mark_made(&mut asked, text(&item.added, "approval_request_id"), "");
                }
                continue;
            }
        };
        if let Some((call, until)) = ApprovedCall::of_request(json, upstream_id) {
            let (decision, is_made) = (None, false);
            asked.push(Asked {
                call,
                until,
                decision,
                is_made,
            });
        } else if !asked.is_empty()
            && let Ok(item) = serde_json::from_slice::<Object>(json)
        {
            if let Some(decision) = Decision::of_item(&item, upstream_id) {
                let is_it = |asked: &&mut Asked| asked.call.request_id == decision.request_id;
                if let Some(asked) = asked.iter_mut().find(is_it) {
                    asked.decision = Some(decision.choice);
                }
            } else if text(&item, "status") != "incomplete"
                && text(&item, "type").ends_with("_call")
            {
                let request_id = text(&item, "approval_request_id");
                mark_made(&mut asked, request_id, text(&item, "call_id"));
            }
        }
    }
    asked
}

fn mark_made(asked: &mut [Asked], request_id: &str, call_id: &str) {
    let is_it = |asked: &&mut Asked| {
        let call = &asked.call;
        call.request_id == request_id
            || (!call_id.is_empty() && call.call_id().is_some_and(|own| own == call_id))
    };
    if let Some(asked) = asked.iter_mut().find(is_it) {
        asked.is_made = true;
    }
}

impl Run {
    /// Takes in what was decided about calls that wait. What is decided already stays so.
    pub fn decided(&mut self, decisions: &[Decision]) {
        let pending: HashSet<String> = pending_calls(&self.snapshot)
            .into_iter()
            .map(|call| call.request_id)
            .collect();
        for decision in decisions {
            if pending.contains(&decision.request_id) {
                self.record_decision(decision);
            }
        }
    }

    /// Makes the calls that were agreed to in the request of this run, unless it has done so before.
    pub fn make_approved(&mut self, calls: &[ApprovedCall]) {
        if self.approved.len() != calls.len() {
            self.approved = calls.to_vec();
        }
        for call in calls {
            if !self.has_made(call) {
                self.make_call(call);
            }
        }
    }

    /// Makes the calls that were agreed to in this run. Answers which wait.
    pub(super) fn settle_approvals(&mut self) -> Vec<PendingCall> {
        for question in asked(&self.snapshot) {
            let is_agreed_to = question.decision.is_some_and(Choice::agrees);
            if is_agreed_to && !question.is_made {
                self.make_call(&question.call);
            }
        }
        pending_calls(&self.snapshot)
    }

    /// Writes down whole what an earlier attempt began to: a question, or a person's answer.
    pub(super) fn finish_asking(&mut self) {
        for index in 0..self.snapshot.items().len() {
            if let Some(Item::Open(item)) = self.snapshot.items().get(index)
                && matches!(item.item_type.as_str(), REQUEST | RESPONSE)
                && item.marker.is_some()
            {
                let (item, upstream_id) = (item.added.clone(), item.upstream_id.clone());
                self.emit_done(index, &Value::Object(item), &upstream_id);
            }
        }
    }

    /// Whether the run asked a person since item `from`.
    pub(super) fn has_asked_since(&self, from: usize) -> bool {
        let mut items = self.snapshot.items().iter().skip(from);
        items.any(|item| match item {
            Item::Done { json, upstream_id } => {
                ApprovedCall::of_request(json, upstream_id).is_some()
            }
            Item::Open(_) => false,
        })
    }

    /// Whether this item of the model is a call that a person has to agree to, so that it is not shown yet.
    pub(super) fn holds(&self, item: &Object) -> bool {
        let name = text(item, "name");
        item_type(item) == Some("function_call")
            && self.asks_for(name)
            // Nobody is asked about what would not be made in any case.
            && self.rules.allow(name, &self.server_tools, self.has_run_tools())
    }

    /// Why a call that is about to be made may not be, for want of a person's word.
    ///
    /// A call that nobody was asked about may need one by now: its tool was not listed when the model made it, or the
    /// settings are others. And a word for one server's tool is none for another's.
    pub(super) fn refusal_for_want_of_a_person(
        &self,
        name: &str,
        call_id: &str,
    ) -> Option<&'static str> {
        let is_ours = !self.client_tools.contains(name);
        let tool = self.server_tools.tools.get(name).filter(|_| is_ours)?;
        if let Some(asked_about) = self.agreed_server(call_id) {
            return (asked_about != tool.server_label).then_some(OTHER_SERVER);
        }
        if tool.needs_approval && self.server_tools.approvals == Approvals::Impossible {
            return Some(NOT_STORED);
        }
        self.asks_for(name).then_some(NOT_ASKED)
    }

    /// The server whose tool a person agreed to the call of, if the call is such a one.
    pub(super) fn agreed_server(&self, call_id: &str) -> Option<String> {
        if let Some(call) = self
            .approved
            .iter()
            .find(|call| call.call_id().as_deref() == Some(call_id))
        {
            return Some(call.server_label.clone());
        }
        if !is_reserved(call_id) {
            return None;
        }
        asked(&self.snapshot)
            .into_iter()
            .find(|asked| {
                asked.decision.is_some_and(Choice::agrees)
                    && asked.call.call_id().as_deref() == Some(call_id)
            })
            .map(|asked| asked.call.server_label)
    }

    fn asks_for(&self, name: &str) -> bool {
        let tool = self.server_tools.tools.get(name);
        let Some(tool) = tool.filter(|tool| {
            tool.needs_approval
                && !self.client_tools.contains(name)
                && self.server_tools.approvals != Approvals::Impossible
        }) else {
            return false;
        };
        // What was agreed to for the session holds in this run at once.
        !asked(&self.snapshot).iter().any(|asked| {
            asked.call.name == name
                && asked.call.server_label == tool.server_label
                && matches!(asked.decision, Some(Choice::Session | Choice::Always))
        })
    }

    /// Takes in that the model begins such a call.
    pub(super) fn hold(&mut self, key: ItemKey, item: Object) {
        if self.held(key).is_none() {
            let arguments = String::new();
            self.held.push(HeldCall {
                key,
                item,
                arguments,
            });
        }
    }

    /// The call that the model writes under `key`.
    pub(super) fn held(&mut self, key: ItemKey) -> Option<&mut HeldCall> {
        self.held.iter_mut().rev().find(|call| call.key == key)
    }

    /// Takes in that the model's call under `key` is whole. It is shown when the model call ends, with what that cost.
    pub(super) fn held_done(&mut self, key: ItemKey, whole: &Object) {
        self.hold(key, whole.clone());
        let Some(call) = self.held(key) else { return };
        match whole.get("arguments") {
            Some(Value::String(text)) if !text.is_empty() => call.arguments.clone_from(text),
            None | Some(Value::Null | Value::String(_)) => {}
            // Some relays send the arguments as JSON, not as its text.
            Some(json) => call.arguments = json.to_string(),
        }
        for (name, value) in whole {
            call.item.insert(name.clone(), value.clone());
        }
        if text(whole, "status") == "incomplete" {
            self.held.retain(|call| call.key != key);
        }
    }

    /// Takes in that the model call ended well: what it was writing is whole.
    pub(super) fn held_all_done(&mut self) {
        for HeldCall {
            key,
            item,
            arguments,
        } in std::mem::take(&mut self.held)
        {
            self.ask(key, &item, &arguments);
        }
    }

    /// Forgets what of the model call was never shown.
    pub fn forget_unshown(&mut self) {
        self.held.clear();
    }

    /// Whether the model call under way has said anything, shown or not.
    pub fn step_has_said(&self) -> bool {
        self.step_has_shown() || !self.held.is_empty()
    }

    /// Whether a call that is not shown stands in the middle of its arguments.
    pub(super) fn holds_half_a_call(&self) -> bool {
        let is_whole = |call: &HeldCall| {
            let arguments = call.arguments.as_str();
            serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok()
        };
        self.held.iter().any(|call| !is_whole(call))
    }

    fn ask(&mut self, key: ItemKey, item: &Object, arguments: &str) {
        let name = text(item, "name");
        let Some(tool) = self.server_tools.tools.get(name) else {
            return;
        };
        let index = self.snapshot.items().len();
        let marker = Marker {
            upstream_id: upstream_id(text(item, "id")),
            until: Some(self.server_tools.approval_until),
            usage: self.usage,
            ..Marker::of(tool.effect)
        };
        let request = json!({
            "id": self.place(index).id(REQUEST),
            "type": REQUEST,
            "arguments": arguments,
            "name": name,
            "server_label": tool.server_label,
        });
        let is_denied_before = asked(&self.snapshot).iter().any(|earlier| {
            earlier.decision == Some(Choice::Deny)
                && earlier.call.name == name
                && read_arguments(&earlier.call.arguments) == read_arguments(arguments)
        });
        self.emit_whole(&request, &marker);
        self.note_shown(key, index);
        if is_denied_before {
            // In one write with the question, so that nobody is asked.
            self.record_decision(&Decision {
                request_id: self.place(index).id(REQUEST),
                choice: Choice::Deny,
                reason: Some(DENIED_BEFORE.to_owned()),
                decided_by: "denial".to_owned(),
            });
        }
    }

    fn record_decision(&mut self, decision: &Decision) {
        let marker = Marker {
            choice: Some(decision.choice),
            decided_by: decision.decided_by.clone(),
            ..Marker::of(Effect::Pure)
        };
        let response = json!({
            "id": self.place(self.snapshot.items().len()).id(RESPONSE),
            "type": RESPONSE,
            "approval_request_id": decision.request_id,
            "approve": decision.choice.agrees(),
            "reason": decision.reason,
        });
        self.emit_whole(&response, &marker);
    }

    fn has_made(&self, call: &ApprovedCall) -> bool {
        let call_id = call.call_id();
        let is_it = |json: &Bytes| {
            serde_json::from_slice::<Object>(json).is_ok_and(|item| {
                let names_it = text(&item, "approval_request_id") == call.request_id
                    || call_id.as_deref() == Some(text(&item, "call_id"));
                text(&item, "type").ends_with("_call")
                    && text(&item, "status") != "incomplete"
                    && names_it
            })
        };
        self.snapshot.items().iter().any(|item| match item {
            Item::Done { json, .. } => is_it(json),
            Item::Open(item) => {
                item.item_type == "mcp_call"
                    && item.text_is_whole
                    && text(&item.added, "approval_request_id") == call.request_id
            }
        })
    }

    /// Shows the call as the model's, whole; it has yet to run.
    fn make_call(&mut self, call: &ApprovedCall) {
        let Some(call_id) = call.call_id() else {
            return;
        };
        let index = self.snapshot.items().len();
        let place = self.place(index);
        // Another server may have a tool of the name by now.
        let full_name = format!("{}__{}", call.server_label, call.name);
        let tools = &self.server_tools.tools;
        let is_theirs = |name: &&str| {
            let tool = tools.get(*name);
            tool.is_some_and(|tool| tool.server_label == call.server_label)
        };
        let names = [call.name.as_str(), full_name.as_str()];
        let name = names
            .into_iter()
            .find(is_theirs)
            .unwrap_or(&call.name)
            .to_owned();
        let tool = tools.get(&name);
        match tool.map_or(self.server_tools.shape, |tool| tool.shape) {
            ToolShape::FunctionCall => {
                let item = |status: &str, arguments: &str| {
                    json!({
                        "id": place.id("function_call"),
                        "type": "function_call",
                        "status": status,
                        "call_id": call_id,
                        "name": name,
                        "arguments": arguments,
                    })
                };
                self.emit_added(index, &item("in_progress", ""), &call.upstream_id);
                self.emit_arguments(index, &call.arguments);
                self.emit_done(
                    index,
                    &item("completed", &call.arguments),
                    &call.upstream_id,
                );
            }
            ToolShape::McpCall => {
                let marker = Marker {
                    call_id,
                    upstream_id: call.upstream_id.clone(),
                    ..Marker::of(call.effect)
                };
                let item = json!({
                    "id": place.id("mcp_call"),
                    "type": "mcp_call",
                    "status": "in_progress",
                    "approval_request_id": call.request_id,
                    "arguments": "",
                    "error": null,
                    "name": name,
                    "output": null,
                    "server_label": call.server_label,
                });
                self.emit_added(index, &item, &marker.encode());
                self.emit_arguments(index, &call.arguments);
            }
        }
    }

    fn emit_arguments(&mut self, index: usize, arguments: &str) {
        if !arguments.is_empty() {
            self.emit_item_delta(index, arguments.to_owned());
        }
        self.emit_item_text(index);
    }

    fn emit_whole(&mut self, item: &Value, marker: &Marker) {
        let index = self.snapshot.items().len();
        let upstream_id = marker.encode();
        self.emit_added(index, item, &upstream_id);
        self.emit_done(index, item, &upstream_id);
    }

    fn emit_added(&mut self, index: usize, item: &Value, upstream_id: &str) {
        self.emit(Kind::OutputItemAdded(output_item(index, item, upstream_id)));
    }

    fn emit_done(&mut self, index: usize, item: &Value, upstream_id: &str) {
        self.emit(Kind::OutputItemDone(output_item(index, item, upstream_id)));
    }

    fn place(&self, index: usize) -> ItemPlace {
        ItemPlace {
            response: self.response,
            side: Side::Output,
            index: index_u32(index),
        }
    }
}

impl HeldCall {
    pub(super) fn push(&mut self, delta: &str) {
        self.arguments.push_str(delta);
    }

    pub(super) fn set(&mut self, arguments: &str) {
        arguments.clone_into(&mut self.arguments);
    }
}

fn output_item(index: usize, item: &Value, upstream_id: &str) -> OutputItem {
    OutputItem {
        output_index: index_u32(index),
        item: json_bytes(item),
        upstream_id: upstream_id.to_owned(),
    }
}
