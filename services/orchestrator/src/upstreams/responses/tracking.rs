//! How far the stream of a response that the upstream keeps was taken in.

use serde_json::Value;
use talaria_domain::model::{ModelEvent, Object};

use crate::upstreams::lenient;

/// Longer ids are none.
const MAX_ID_BYTES: usize = 256;

/// Notes the numbers of a stream's events, and leaves out those that were taken in before.
#[derive(Debug)]
pub struct Tracking {
    /// Who makes the response, until its id is known.
    unnamed: Option<String>,
    /// The number of the last event that was taken in.
    last: Option<u64>,
    /// The stream was begun before, over another connection.
    pub goes_on: bool,
    /// Whoever goes on from a number reads the rest as it would be read here.
    is_exact: bool,
}

impl Tracking {
    /// Of a response that `upstream` is asked to make.
    pub fn of_new(upstream: &str) -> Self {
        Self {
            unnamed: Some(upstream.to_owned()),
            last: None,
            goes_on: false,
            is_exact: true,
        }
    }

    /// Of a response of which the events up to `cursor` are known.
    pub fn after(cursor: u64) -> Self {
        Self {
            unnamed: None,
            last: Some(cursor),
            goes_on: true,
            is_exact: true,
        }
    }

    /// Whether the event with this number was taken in before: only a stream that was begun before tells one again.
    pub fn is_known(&self, sequence_number: Option<u64>) -> bool {
        self.goes_on && !self.is_next(sequence_number)
    }

    /// Whether this number may follow; what has none may always.
    fn is_next(&self, sequence_number: Option<u64>) -> bool {
        match (sequence_number, self.last) {
            (Some(number), Some(last)) => number > last,
            (None, _) | (_, None) => true,
        }
    }

    /// Takes the response's id out of the first event that tells it.
    pub fn name(&mut self, event: &Object, events: &mut Vec<ModelEvent>) {
        if self.unnamed.is_none() {
            return;
        }
        let id = event
            .get("response")
            .and_then(Value::as_object)
            .and_then(|response| lenient::text(response, "id"))
            .filter(|id| is_id(id));
        let Some(id) = id else { return };
        events.extend(self.unnamed.take().map(|upstream| ModelEvent::Began {
            upstream,
            response_id: id.to_owned(),
        }));
    }

    /// The place of an item was guessed from what came before: nobody can go on from here.
    pub fn guessed(&mut self) {
        self.is_exact = false;
    }

    /// All that the event with this number says has been told.
    pub fn heard(&mut self, sequence_number: Option<u64>, events: &mut Vec<ModelEvent>) {
        let Some(cursor) = sequence_number else {
            return;
        };
        // Numbers that do not rise are no places: nobody can go on from here.
        self.is_exact &= self.is_next(sequence_number);
        self.last = Some(cursor);
        if self.is_exact && self.unnamed.is_none() {
            events.push(ModelEvent::Heard { cursor });
        }
    }
}

/// Whether it can stand in an address.
fn is_id(id: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_do_not_rise_hide_nothing_at_first_and_are_no_places_to_go_on_from() {
        let mut tracking = Tracking::of_new("up");
        let mut events = Vec::new();
        let created = json!({"response": {"id": "resp_1"}});
        tracking.name(created.as_object().unwrap(), &mut events);
        events.clear();
        for number in [0, 1, 1, 0, 2] {
            assert!(!tracking.is_known(Some(number)));
            tracking.heard(Some(number), &mut events);
        }
        let heard = [0, 1].map(|cursor| ModelEvent::Heard { cursor });
        assert_eq!(events, heard);

        let goes_on = Tracking::after(1);
        let known = [0, 1, 2].map(|number| goes_on.is_known(Some(number)));
        assert_eq!(known, [true, true, false]);
    }
}
