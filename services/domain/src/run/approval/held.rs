//! Calls that a person has to agree to, while the model writes them: nothing of them is shown before they are whole.

use serde_json::Value;

use crate::model::{ItemKey, Object};
use crate::run::Run;
use crate::run::shape::text;

/// A call while the model writes it.
#[derive(Debug)]
pub(in crate::run) struct HeldCall {
    pub(in crate::run) key: ItemKey,
    item: Object,
    arguments: String,
}

impl Run {
    /// Takes in that the model begins such a call.
    pub(in crate::run) fn hold(&mut self, key: ItemKey, item: Object) {
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
    pub(in crate::run) fn held(&mut self, key: ItemKey) -> Option<&mut HeldCall> {
        self.held.iter_mut().rev().find(|call| call.key == key)
    }

    /// Takes in that the model's call under `key` is whole. It is shown when the model call ends, with what that cost.
    pub(in crate::run) fn held_done(&mut self, key: ItemKey, whole: &Object) {
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
    pub(in crate::run) fn held_all_done(&mut self) {
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
    pub(in crate::run) fn holds_half_a_call(&self) -> bool {
        let is_whole = |call: &HeldCall| {
            let arguments = call.arguments.as_str();
            serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok()
        };
        self.held.iter().any(|call| !is_whole(call))
    }
}

impl HeldCall {
    pub(in crate::run) fn push(&mut self, delta: &str) {
        self.arguments.push_str(delta);
    }

    pub(in crate::run) fn set(&mut self, arguments: &str) {
        arguments.clone_into(&mut self.arguments);
    }
}
