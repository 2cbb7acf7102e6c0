//! Calls that a person has to agree to: asked about, decided, and made.
//!
//! The model's call shows as an `mcp_approval_request`, and nothing else of it until somebody agreed: then the call
//! itself follows, under a call id that names the request. What was decided in the run is an `mcp_approval_response`
//! among its output; what a later request decides is in that one's input.

mod asked;
mod held;

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::{Value, json};
use talaria_proto::v1::OutputItem;
use talaria_proto::v1::event::Kind;

use self::asked::asked;
use super::ledger::read_arguments;
use super::shape::{item_type, text};
use super::{Effect, Run, ToolShape, index_u32};
use crate::ids::{ItemPlace, Side};
use crate::item::{Item, json_bytes};
use crate::marker::{Marker, upstream_id};
use crate::model::{ItemKey, Object};

pub(super) use self::asked::is_reserved;
pub use self::asked::{
    Approvals, ApprovedCall, Choice, Decision, PendingCall, call_id_of, pending_calls,
};
pub(super) use self::held::HeldCall;

const REQUEST: &str = "mcp_approval_request";
const RESPONSE: &str = "mcp_approval_response";
const NOT_STORED: &str = "A person has to agree to this call, and nobody can be asked: the response is not stored. \
                          The tool was not called.";
const NOT_ASKED: &str = "A person has to agree to calls of this tool, and was not asked about this one. The tool was not \
                         called; make the call again.";
const OTHER_SERVER: &str =
    "The tool is another server's by now than the one that a person agreed to. It was not called.";
const DENIED_BEFORE: &str = "The same call was denied before.";

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

    pub(super) fn ask(&mut self, key: ItemKey, item: &Object, arguments: &str) {
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

fn output_item(index: usize, item: &Value, upstream_id: &str) -> OutputItem {
    OutputItem {
        output_index: index_u32(index),
        item: json_bytes(item),
        upstream_id: upstream_id.to_owned(),
    }
}
