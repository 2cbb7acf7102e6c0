//! `reasoning_details`, as some relays send them: thoughts that only their model can read, to be handed back to it.
//!
//! They travel as the `encrypted_content` of a reasoning item, so that clients can hand them back as well.

use serde_json::{Value, json};
use talaria_domain::model::Object;

use crate::upstreams::lenient;

/// Members that come in pieces.
const TEXTS: [&str; 3] = ["text", "summary", "data"];

/// The details of one model call so far.
#[derive(Debug, Default)]
pub struct Details {
    details: Vec<Object>,
}

impl Details {
    pub fn is_empty(&self) -> bool {
        self.details.is_empty()
    }

    /// Takes what a delta brings. What belongs to the same detail has the same type and index.
    pub fn push(&mut self, details: Vec<Object>) {
        for detail in details {
            let known = self.details.last_mut().filter(|known| {
                let same = |name| known.get(name) == detail.get(name);
                detail.contains_key("index") && same("index") && same("type")
            });
            match known {
                Some(known) => merge(known, detail),
                None => self.details.push(detail),
            }
        }
    }

    /// The reasoning item that holds them, if there is something in them that its text does not say.
    pub fn take_item(&mut self) -> Option<Object> {
        let details = std::mem::take(&mut self.details);
        let is_sealed = |detail: &Object| {
            lenient::text(detail, "type") == Some("reasoning.encrypted")
                || lenient::has(detail, "signature")
        };
        if !details.iter().any(is_sealed) {
            return None;
        }
        let content = json!(details).to_string();
        let item = json!({"type": "reasoning", "summary": [], "encrypted_content": content});
        item.as_object().cloned()
    }
}

/// The details in a reasoning item of such an upstream's.
pub fn details_of(item: &Object) -> Option<Vec<Value>> {
    let content = lenient::text(item, "encrypted_content")?;
    let details: Vec<Value> = serde_json::from_str(content).ok()?;
    let is_detail = |detail: &Value| {
        detail["type"]
            .as_str()
            .is_some_and(|it| it.starts_with("reasoning."))
    };
    (!details.is_empty() && details.iter().all(is_detail)).then_some(details)
}

fn merge(known: &mut Object, more: Object) {
    for (name, value) in more {
        match (known.get_mut(&name), value) {
            (_, Value::Null) => {}
            (Some(Value::String(known)), Value::String(more)) if TEXTS.contains(&name.as_str()) => {
                known.push_str(&more);
            }
            (_, value) => drop(known.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(json: &Value) -> Vec<Object> {
        serde_json::from_value(json.clone()).unwrap()
    }

    #[test]
    fn details_are_put_together_and_come_back_as_they_were() {
        let mut read = Details::default();
        read.push(details(
            &json!([{"type": "reasoning.text", "index": 0, "text": "I ", "signature": null}]),
        ));
        read.push(details(
            &json!([{"type": "reasoning.text", "index": 0, "text": "think", "signature": "s"}]),
        ));
        read.push(details(
            &json!([{"type": "reasoning.encrypted", "index": 1, "data": "QUI"}]),
        ));

        let item = read.take_item().unwrap();

        let expected = json!([
            {"type": "reasoning.text", "index": 0, "text": "I think", "signature": "s"},
            {"type": "reasoning.encrypted", "index": 1, "data": "QUI"}]);
        assert_eq!(details_of(&item).map(Value::from), Some(expected));
        assert_eq!(read.take_item(), None);
    }

    #[test]
    fn what_the_text_says_already_needs_no_handing_back_and_what_others_encrypted_is_none() {
        let mut read = Details::default();
        read.push(details(
            &json!([{"type": "reasoning.summary", "summary": "I think"}]),
        ));

        assert_eq!(read.take_item(), None);
        for content in ["gAAAA", "[]", "[1]", r#"[{"type":"other"}]"#] {
            let item = json!({"type": "reasoning", "encrypted_content": content});
            assert_eq!(details_of(item.as_object().unwrap()), None, "{content}");
        }
    }
}
