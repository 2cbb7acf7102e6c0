//! What the log says of the calls that a person has to agree to: who was asked, what was decided, what was made.

use bytes::Bytes;
use serde_json::Value;

use super::{REQUEST, RESPONSE};
use crate::ids::ItemPlace;
use crate::item::Item;
use crate::marker::Marker;
use crate::model::Object;
use crate::run::Effect;
use crate::run::record::own_call_id;
use crate::run::shape::{item_type, text};
use crate::snapshot::Snapshot;

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

/// A question in the log, and what came of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub call: ApprovedCall,
    pub until: i64,
    pub decision: Option<Choice>,
    pub is_made: bool,
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
pub(in crate::run) fn is_reserved(call_id: &str) -> bool {
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
pub(super) fn asked(snapshot: &Snapshot) -> Vec<Asked> {
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
