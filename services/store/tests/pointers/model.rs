//! What should be: conversations and runs as plain values.

use uuid::Uuid;

pub const CONVERSATIONS: usize = 3;

/// The conversation that is known by its id alone.
pub const MADE_BY_ID: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Completed,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Active,
    Ended(End),
}

/// A turn, and the names of everything up to it: what whoever continues from it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub turn: Uuid,
    pub names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub id: Uuid,
    pub conversation: usize,
    pub state: State,
    pub cancel_requested: bool,
    pub is_deleted: bool,
    /// What it is shown, from when it is active.
    pub shown: Vec<String>,
}

impl Run {
    pub fn name(number: usize) -> String {
        format!("run {number}")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    pub latest_completed: Option<usize>,
    pub active: Option<usize>,
    pub head: Option<Head>,
    /// Runs that interrupt, before those that do not; each in the order in which they came.
    pub interrupting: Vec<usize>,
    pub enqueued: Vec<usize>,
}

impl Conversation {
    pub fn line(&self) -> impl Iterator<Item = usize> + '_ {
        self.interrupting.iter().chain(&self.enqueued).copied()
    }

    pub fn is_busy(&self) -> bool {
        self.active.is_some() || self.line().next().is_some()
    }

    pub fn shows(&self) -> Vec<String> {
        self.head
            .as_ref()
            .map_or_else(Vec::new, |head| head.names.clone())
    }
}

#[derive(Debug, Default)]
pub struct Model {
    pub conversations: [Conversation; CONVERSATIONS],
    pub runs: Vec<Run>,
    /// Ended runs that are kept, in the order in which they ended.
    pub ended: Vec<usize>,
}

impl Model {
    /// A run that is active at once. The number that it gets.
    pub fn begin(&mut self, id: Uuid, conversation: usize) -> usize {
        let number = self.add(id, conversation, State::Active);
        self.runs[number].shown = self.conversations[conversation].shows();
        self.conversations[conversation].active = Some(number);
        number
    }

    /// A run that takes its place in the line; one that interrupts asks the active one to stop.
    pub fn wait(&mut self, id: Uuid, conversation: usize, interrupts: bool) -> usize {
        let number = self.add(id, conversation, State::Waiting);
        let conversation = &mut self.conversations[conversation];
        if interrupts {
            conversation.interrupting.push(number);
            if let Some(active) = conversation.active {
                self.runs[active].cancel_requested = true;
            }
        } else {
            conversation.enqueued.push(number);
        }
        number
    }

    fn add(&mut self, id: Uuid, conversation: usize, state: State) -> usize {
        self.runs.push(Run {
            id,
            conversation,
            state,
            cancel_requested: false,
            is_deleted: false,
            shown: Vec::new(),
        });
        self.runs.len() - 1
    }

    /// In each conversation without an active response the first in line becomes active. Which ones.
    pub fn promote(&mut self) -> Vec<usize> {
        let mut promoted = Vec::new();
        for conversation in 0..CONVERSATIONS {
            let first = self.conversations[conversation]
                .line()
                .find(|number| !self.runs[*number].cancel_requested);
            let (None, Some(number)) = (self.conversations[conversation].active, first) else {
                continue;
            };
            self.leave_line(number);
            self.runs[number].state = State::Active;
            self.runs[number].shown = self.conversations[conversation].shows();
            self.conversations[conversation].active = Some(number);
            promoted.push(number);
        }
        promoted
    }

    /// The end of an active or waiting run.
    pub fn end(&mut self, number: usize, end: End) {
        self.leave_line(number);
        let run = &mut self.runs[number];
        run.state = State::Ended(end);
        self.ended.push(number);
        let conversation = &mut self.conversations[run.conversation];
        if conversation.active == Some(number) {
            conversation.active = None;
            if end == End::Completed {
                conversation.latest_completed = Some(number);
                let mut names = run.shown.clone();
                names.push(Run::name(number));
                conversation.head = Some(Head {
                    turn: run.id,
                    names,
                });
            }
        }
    }

    pub fn delete(&mut self, number: usize) {
        self.leave_line(number);
        self.ended.retain(|ended| *ended != number);
        let run = &mut self.runs[number];
        run.is_deleted = true;
        let made_by_id = run.conversation == MADE_BY_ID;
        let conversation = &mut self.conversations[run.conversation];
        if conversation.active == Some(number) {
            conversation.active = None;
        }
        if conversation.latest_completed == Some(number) {
            conversation.latest_completed = None;
            if !made_by_id {
                conversation.head = None;
            }
        }
    }

    /// Of the ended runs the newest `kept` stay.
    pub fn evict(&mut self, kept: usize) {
        let surplus = self.ended.len().saturating_sub(kept);
        let gone: Vec<usize> = self.ended.drain(..surplus).collect();
        for number in gone {
            self.delete(number);
        }
    }

    pub fn add_item(&mut self, conversation: usize, turn: Uuid, name: String) {
        let conversation = &mut self.conversations[conversation];
        let mut names = conversation.shows();
        names.push(name);
        conversation.head = Some(Head { turn, names });
    }

    fn leave_line(&mut self, number: usize) {
        let conversation = &mut self.conversations[self.runs[number].conversation];
        conversation
            .interrupting
            .retain(|waiting| *waiting != number);
        conversation.enqueued.retain(|waiting| *waiting != number);
    }
}
