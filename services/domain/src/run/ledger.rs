//! The calls of a run, read from its items: which were made, which have begun, which have a result.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::shape::text;
use super::{Effect, Run};
use crate::item::{Item, OpenItem};
use crate::marker::Marker;
use crate::model::Object;

/// A whole call that the model made.
#[derive(Debug)]
pub(super) struct MadeCall {
    pub index: usize,
    pub call_id: String,
    pub name: String,
    /// What the model gave as arguments; `None` where that is no object.
    pub arguments: Option<Object>,
    /// `None`: it is the client's to run.
    pub effect: Option<Effect>,
    pub progress: Progress,
    /// It is answered without being run, or about to be.
    pub refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Made,
    Begun,
    Answered,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(default, rename = "type", borrow)]
    item_type: Cow<'a, str>,
    #[serde(default, borrow)]
    call_id: Cow<'a, str>,
    #[serde(default, borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow)]
    arguments: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    status: Option<Cow<'a, str>>,
}

/// The calls while the items are read.
#[derive(Debug, Default)]
struct Ledger {
    calls: Vec<MadeCall>,
    /// Places of function calls, by call id.
    by_id: HashMap<String, usize>,
    /// Indexes of calls that the upstream answered itself.
    foreign: HashSet<usize>,
}

impl Ledger {
    /// An item that is open: only those of calls of ours say anything yet.
    fn open(&mut self, index: usize, item: &OpenItem) {
        let Some(marker) = &item.marker else { return };
        if item.item_type == "mcp_call" {
            if item.text_is_whole {
                let progress = if item.has_begun || item.is_refused {
                    Progress::Begun
                } else {
                    Progress::Made
                };
                self.calls.push(MadeCall {
                    index,
                    call_id: marker.call_id.clone(),
                    name: text(&item.added, "name").to_owned(),
                    arguments: read_arguments(&item.text),
                    effect: Some(marker.effect),
                    progress,
                    refused: item.is_refused,
                });
            }
        } else {
            self.answer(text(&item.added, "call_id"), marker, Progress::Begun);
        }
    }

    /// An item that is done. `effect` says what calling the tool of a name twice does, if it is ours.
    fn done(
        &mut self,
        index: usize,
        head: Head<'_>,
        marker: Option<Marker>,
        effect: impl Fn(&str) -> Option<Effect>,
    ) {
        let arguments = || head.arguments.as_deref().unwrap_or_default();
        match (head.item_type.as_ref(), marker) {
            ("mcp_call", Some(marker)) if is_whole(&head) => self.calls.push(MadeCall {
                index,
                call_id: marker.call_id,
                arguments: read_arguments(arguments()),
                name: head.name.into_owned(),
                effect: Some(marker.effect),
                progress: Progress::Answered,
                refused: marker.refused,
            }),
            ("function_call", _) if is_whole(&head) => {
                let call_id = head.call_id.clone().into_owned();
                self.by_id.insert(call_id.clone(), self.calls.len());
                self.calls.push(MadeCall {
                    index,
                    call_id,
                    arguments: read_arguments(arguments()),
                    effect: effect(&head.name),
                    name: head.name.into_owned(),
                    progress: Progress::Made,
                    refused: false,
                });
            }
            ("custom_tool_call", _) if is_whole(&head) => self.calls.push(MadeCall {
                index,
                call_id: head.call_id.into_owned(),
                name: head.name.into_owned(),
                arguments: None,
                effect: None,
                progress: Progress::Made,
                refused: false,
            }),
            ("function_call_output", Some(marker)) => {
                self.answer(&head.call_id, &marker, Progress::Answered);
            }
            ("function_call_output", None) => {
                let at = self.by_id.get(head.call_id.as_ref());
                self.foreign.extend(at.map(|at| self.calls[*at].index));
            }
            _ => {}
        }
    }

    fn answer(&mut self, call_id: &str, marker: &Marker, progress: Progress) {
        if let Some(at) = self.by_id.get(call_id) {
            let call = &mut self.calls[*at];
            (call.progress, call.effect) = (progress, Some(marker.effect));
            call.refused = marker.refused;
        }
    }
}

impl Run {
    /// The whole calls so far, in the order of the output.
    pub(super) fn calls(&self) -> Vec<MadeCall> {
        let mut ledger = Ledger::default();
        for (index, item) in self.snapshot.items().iter().enumerate() {
            match item {
                Item::Open(item) => ledger.open(index, item),
                Item::Done { json, upstream_id } => {
                    if let Ok(head) = serde_json::from_slice::<Head<'_>>(json) {
                        let marker = Marker::parse(upstream_id);
                        ledger.done(index, head, marker, |name| self.effect(name));
                    }
                }
            }
        }
        let Ledger {
            mut calls, foreign, ..
        } = ledger;
        calls.retain(|call| !foreign.contains(&call.index));
        calls
    }

    /// What calling the tool of this name twice does, if it is the server's to run.
    ///
    /// A name that nobody offered is the server's, where there are tools of its own: the model is told, not the client.
    fn effect(&self, name: &str) -> Option<Effect> {
        if !self.server_tools.has_servers || self.client_tools.contains(name) {
            return None;
        }
        let tool = self.server_tools.tools.get(name);
        Some(tool.map_or(Effect::Once, |tool| tool.effect))
    }

    /// The usage of all model calls, as far as events noted it, or in older logs results of tools.
    pub(super) fn recorded_usage(&self) -> Option<talaria_proto::v1::Usage> {
        let noted = self.snapshot.noted_usage();
        if noted.is_some() {
            return noted;
        }
        let mut items = self.snapshot.items().iter().rev();
        items.find_map(|item| match item {
            Item::Done { upstream_id, .. } => Marker::parse(upstream_id)?.usage,
            Item::Open(_) => None,
        })
    }

    /// Whether a call of this run has this id.
    pub(super) fn has_call(&self, call_id: &str) -> bool {
        self.snapshot.items().iter().any(|item| match item {
            Item::Open(item) => {
                text(&item.added, "call_id") == call_id
                    || item.marker.as_ref().is_some_and(|m| m.call_id == call_id)
            }
            Item::Done { json, upstream_id } => {
                let head = serde_json::from_slice::<Head<'_>>(json);
                head.is_ok_and(|head| head.call_id == call_id)
                    || Marker::parse(upstream_id).is_some_and(|marker| marker.call_id == call_id)
            }
        })
    }
}

fn is_whole(head: &Head<'_>) -> bool {
    head.status.as_deref() != Some("incomplete")
}

/// Arguments as an object. Models that give none often give an empty text.
pub(super) fn read_arguments(text: &str) -> Option<Object> {
    if text.trim().is_empty() {
        return Some(Object::new());
    }
    serde_json::from_str(text).ok()
}
