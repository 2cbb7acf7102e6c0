//! From what a Hermes server stored of a response to what is written down of it here.

use bytes::Bytes;
use serde_json::Value;
use talaria_domain::echo;
use talaria_domain::ids::{ConversationId, ItemPlace, ResponseId, Side};
use talaria_domain::rebuild;
use talaria_proto::v1::{ContextItem, Response, Status, Turn};
use talaria_store::ImportedResponse;

use super::record::{Object, Record, text};
use super::turn;

/// What a record is among the others.
#[derive(Clone, Debug)]
pub struct Place {
    pub id: ResponseId,
    /// The response that it continues, and how many messages that one's transcript has.
    pub parent: Option<(ResponseId, usize)>,
    /// The session of what it continues, for a record that names none.
    pub inherited_session: Option<String>,
    /// The conversation that continues from it.
    pub conversation: Option<ConversationId>,
    /// Unix seconds.
    pub used_at: f64,
}

/// The record as a response, in its place.
pub fn imported(record: &Record, place: &Place) -> Result<ImportedResponse, String> {
    let parent = place.parent.as_ref();
    let own = parent.map_or(0, |(_, messages)| *messages);
    let items = turn::of_record(record, record.transcript.get(own..).unwrap_or_default());
    let turn = Turn {
        input: with_ids(place.id, Side::Input, items.input),
        output: with_ids(place.id, Side::Output, items.output),
    };
    let mut response = response(record, place)?;
    response.output = turn.output.iter().map(|item| item.item.clone()).collect();
    // Nobody has seen its events: they are whatever it is shown as.
    let event_count = rebuild::events(&response, 0, None).len();
    response.output.clear();
    Ok(ImportedResponse {
        id: place.id.0,
        response,
        turn,
        parent_turn: parent.map(|(parent, _)| parent.0),
        conversation: place.conversation.map(|conversation| conversation.0),
        event_count: i64::try_from(event_count).unwrap_or(i64::MAX),
        used_at: place.used_at,
    })
}

/// The session of a record in this place.
pub fn session(record: &Record, place: &Place) -> String {
    let known = record
        .session_id
        .as_ref()
        .or(place.inherited_session.as_ref());
    known.map_or_else(|| place.id.0.hyphenated().to_string(), Clone::clone)
}

fn response(record: &Record, place: &Place) -> Result<Response, String> {
    let settings = echo::settings(record.instructions.as_deref(), b"")
        .map_err(|error| format!("its settings cannot be shown: {error}"))?;
    #[expect(clippy::cast_possible_truncation, reason = "whole seconds are wanted")]
    let created_at = record.created_at.unwrap_or(place.used_at as i64);
    let is = |status| record.status == status;
    Ok(Response {
        id: place.id.to_string(),
        status: record.status.into(),
        created_at,
        completed_at: is(Status::Completed).then(|| {
            record
                .completed_at
                .map_or(created_at, |at| at.max(created_at))
        }),
        // Postgres keeps the name in a text column too.
        model: record.model.replace('\0', ""),
        error: record.error.clone(),
        incomplete_reason: record
            .incomplete_reason
            .clone()
            .filter(|_| is(Status::Incomplete)),
        usage: record.usage,
        settings: Bytes::from(settings),
        previous_response_id: place.parent.map(|(parent, _)| parent.to_string()),
        conversation_id: place
            .conversation
            .map(|conversation| conversation.to_string()),
        store: true,
        session_id: session(record, place),
        ..Response::default()
    })
}

fn with_ids(response: ResponseId, side: Side, items: Vec<Object>) -> Vec<ContextItem> {
    let with_id = |(index, item): (u32, Object)| {
        let place = ItemPlace {
            response: response.0,
            side,
            index,
        };
        let id = place.id(text(&item, "type").unwrap_or("message"));
        let mut with_id = Object::from_iter([("id".to_owned(), Value::from(id))]);
        with_id.extend(item);
        ContextItem {
            item: Bytes::from(Value::Object(with_id).to_string()),
            upstream_id: String::new(),
        }
    };
    (0..).zip(items).map(with_id).collect()
}
