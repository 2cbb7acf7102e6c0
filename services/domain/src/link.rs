//! Where a run stands in the stream of an upstream that can be gone on with, as its log notes it.

use talaria_proto::v1::Event;
use talaria_proto::v1::event::Kind;

use crate::item::PartKind;
use crate::model::{Field, ItemKey};

/// A response of an upstream's, and how much of its stream was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The upstream's name.
    pub upstream: String,
    /// The upstream's id of the response.
    pub response_id: String,
    /// The number of the last of the upstream's events that was taken in.
    pub cursor: u64,
}

/// Where an upstream's item and its parts stand in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenKey {
    pub key: ItemKey,
    pub index: usize,
    /// The upstream said that it begins, so it is expected to say that it ends.
    pub announced: bool,
    /// Which of the upstream's parts became which of ours.
    pub parts: Vec<(Field, u32, u32)>,
}

/// What a log says about the model call that was made last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    pub upstream: String,
    pub response_id: String,
    pub cursor: Option<u64>,
    /// Where the call's items begin in the output.
    pub call_start: usize,
    pub open: Vec<OpenKey>,
    /// Nothing followed that the cursor does not cover.
    pub is_covered: bool,
}

impl Logged {
    /// Where to go on, if the log ends where it can be gone on from.
    pub fn link(&self) -> Option<Link> {
        let cursor = self.cursor.filter(|_| self.is_covered)?;
        Some(Link {
            upstream: self.upstream.clone(),
            response_id: self.response_id.clone(),
            cursor,
        })
    }

    /// Takes in that the upstream's events up to `cursor` are in the log.
    pub fn heard(&mut self, cursor: u64) {
        self.cursor = Some(cursor);
        self.is_covered = true;
    }

    fn follow(&mut self, event: &Event) {
        let note = event.note.as_ref();
        let place = note.and_then(|note| note.place);
        let part_place = place.and_then(|place| u32::try_from(place).ok());
        match &event.kind {
            // Says only that another process goes on.
            Some(Kind::InProgress(_)) => return,
            Some(Kind::OutputItemAdded(added)) => {
                self.open.extend(place.map(|place| OpenKey {
                    key: ItemKey(place),
                    index: added.output_index as usize,
                    announced: note.is_some_and(|note| !note.implied),
                    parts: Vec::new(),
                }));
            }
            Some(Kind::ContentPartAdded(added)) => {
                let part = serde_json::from_slice(&added.part).unwrap_or_default();
                let field = crate::item::Part::from_json(&part).kind.field();
                if let (Some(field), Some(place)) = (field, part_place) {
                    self.part(added.output_index, (field, place, added.content_index));
                }
            }
            Some(Kind::ReasoningSummaryPartAdded(added)) => {
                if let (Some(field), Some(place)) = (PartKind::SummaryText.field(), part_place) {
                    self.part(added.output_index, (field, place, added.summary_index));
                }
            }
            Some(_) | None => {}
        }
        match note.and_then(|note| note.cursor) {
            Some(cursor) => self.heard(cursor),
            None => self.is_covered = false,
        }
    }

    fn part(&mut self, output_index: u32, part: (Field, u32, u32)) {
        let index = output_index as usize;
        let open = self.open.iter_mut().rfind(|open| open.index == index);
        if let Some(open) = open {
            open.parts.push(part);
        }
    }
}

/// Takes in the next event of a log; `items` is how many items the output has before it.
pub(crate) fn follow(logged: &mut Option<Box<Logged>>, event: &Event, items: usize) {
    let note = event.note.as_ref();
    if let Some(note) = note.filter(|note| !note.upstream_response_id.is_empty()) {
        *logged = Some(Box::new(Logged {
            upstream: note.upstream.clone(),
            response_id: note.upstream_response_id.clone(),
            cursor: None,
            call_start: items,
            open: Vec::new(),
            is_covered: false,
        }));
    }
    if let Some(logged) = logged {
        logged.follow(event);
    }
}
