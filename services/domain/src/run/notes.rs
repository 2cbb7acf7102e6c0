//! What is noted on a run's events for whoever takes it over: the usage so far, and where its upstream can go on.

use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{EventNote, Usage};

use super::Run;
use crate::link::Link;

/// A model call under way whose upstream can go on with it.
#[derive(Debug)]
pub(super) struct Call {
    upstream: String,
    response_id: String,
    cursor: Option<u64>,
    /// The log says whose response it is.
    is_noted: bool,
    /// All events so far are of what was heard up to the cursor.
    is_covered: bool,
    /// All events so far are of what was heard, whether the log may know it or not.
    is_heard: bool,
}

impl Run {
    /// Where the upstream can go on with the model call under way: nothing is sealed then, and what was said so far
    /// must not be said again.
    pub fn link(&self) -> Option<Link> {
        let call = self.call.as_ref().filter(|call| call.is_covered)?;
        Some(Link {
            upstream: call.upstream.clone(),
            response_id: call.response_id.clone(),
            cursor: call.cursor?,
        })
    }

    /// Gives up the upstream's response: its name and the response's id, if there is one. The log says nothing of it
    /// until the next event.
    pub fn let_go(&mut self) -> Option<(String, String)> {
        let call = self.call.take()?;
        Some((call.upstream, call.response_id))
    }

    /// Takes in what a model call used, whatever became of it.
    pub fn add_usage(&mut self, usage: Option<Usage>) {
        self.usage = sum(self.usage, usage);
    }

    /// Takes the log's last model call for the one under way; false if it cannot be gone on with.
    pub(super) fn attach(&mut self) -> bool {
        let Some((logged, link)) = self
            .snapshot
            .logged()
            .and_then(|logged| Some((logged, logged.link()?)))
        else {
            return false;
        };
        (self.call_start, self.open) = (logged.call_start, logged.open.clone());
        self.call = Some(Call {
            upstream: link.upstream,
            response_id: link.response_id,
            cursor: Some(link.cursor),
            is_noted: true,
            is_covered: true,
            is_heard: true,
        });
        true
    }

    /// The model call makes this response of `upstream`'s. Named when some of it was said, it is none that can be gone
    /// on with: the log does not say where it begins.
    pub(super) fn call_began(&mut self, upstream: String, response_id: String) {
        if self.step_has_said() {
            return;
        }
        self.call = Some(Call {
            upstream,
            response_id,
            cursor: None,
            is_noted: false,
            is_covered: true,
            is_heard: true,
        });
    }

    /// Notes on the last event, if it is new, that the upstream's events up to `cursor` are in the log.
    pub(super) fn heard(&mut self, cursor: u64) {
        if let Some(call) = &mut self.call {
            call.cursor = Some(cursor);
            call.is_heard = true;
            // The log knows nothing of calls that are not shown yet.
            if self.held.is_empty() {
                self.cover();
            }
        }
    }

    /// The model call is over. What it ended with is covered by the event before the end of the upstream's stream:
    /// hearing the end once more changes nothing, and says how it ended.
    pub(super) fn call_ended(&mut self) {
        self.cover();
        self.call = None;
    }

    /// Whether the upstream can tell the end of the model call once more: it told nothing before that without a number.
    pub(super) fn can_end_again(&self) -> bool {
        self.held.is_empty() && self.call.as_ref().is_some_and(|call| call.is_heard)
    }

    fn cover(&mut self) {
        let Some(call) = &mut self.call else { return };
        let Some(cursor) = call.cursor.filter(|_| !call.is_covered) else {
            return;
        };
        // Events that were taken without a cursor are covered by the next one that has it.
        if let Some(last) = self.new.last_mut() {
            call.is_covered = true;
            last.note.get_or_insert_default().cursor = Some(cursor);
            self.snapshot.heard(cursor);
        }
    }

    /// Has the upstream's index of an item or part noted on the event that adds it.
    pub(super) fn note_place(&mut self, place: u64, implied: bool) {
        if self.call.is_some() {
            (self.note.place, self.note.implied) = (Some(place), implied);
        }
    }

    /// What is noted on the next event, if anything.
    pub(super) fn take_note(&mut self, kind: &Kind) -> Option<EventNote> {
        let mut note = std::mem::take(&mut self.note);
        if matches!(
            kind,
            Kind::Completed(_) | Kind::Failed(_) | Kind::Incomplete(_)
        ) {
            return None;
        }
        if self.usage != self.noted_usage {
            self.noted_usage = self.usage;
            note.usage = self.usage;
        }
        if let Some(call) = &mut self.call
            && !matches!(kind, Kind::InProgress(_))
        {
            (call.is_covered, call.is_heard) = (false, false);
            if !call.is_noted {
                call.is_noted = true;
                note.upstream.clone_from(&call.upstream);
                note.upstream_response_id.clone_from(&call.response_id);
            }
        }
        (note != EventNote::default()).then_some(note)
    }
}

/// Adds the usage of one model call to that of the calls before it.
fn sum(total: Option<Usage>, call: Option<Usage>) -> Option<Usage> {
    let (Some(total), Some(call)) = (total, call) else {
        return total.or(call);
    };
    Some(Usage {
        input_tokens: total.input_tokens.saturating_add(call.input_tokens),
        cached_tokens: total.cached_tokens.saturating_add(call.cached_tokens),
        cache_write_tokens: total
            .cache_write_tokens
            .saturating_add(call.cache_write_tokens),
        output_tokens: total.output_tokens.saturating_add(call.output_tokens),
        reasoning_tokens: total.reasoning_tokens.saturating_add(call.reasoning_tokens),
        total_tokens: total.total_tokens.saturating_add(call.total_tokens),
    })
}
