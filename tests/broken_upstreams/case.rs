//! What upstreams do in a row, and what that is for the client.

use talaria_testkit::stack::ApiKind;
use talaria_testkit::upstream::Script;

use crate::something_shown::so_far;

/// What an upstream does, request by request, and what becomes of it.
pub struct Case {
    pub name: &'static str,
    pub scripts: Vec<Script>,
    pub status: &'static str,
    /// Status and text of each message.
    pub messages: Vec<(&'static str, &'static str)>,
    /// The message of the error.
    pub error: Option<&'static str>,
    /// How often the upstream is asked.
    pub requests: usize,
}

impl Case {
    /// The same, after an answer that broke off when "So far" was shown.
    pub fn after_so_far(mut self, kind: ApiKind) -> Self {
        self.scripts.insert(0, so_far(kind).cut());
        self.messages.insert(0, ("incomplete", "So far"));
        self.requests += 1;
        self
    }
}

/// The upstream answers, though oddly.
pub fn answers(name: &'static str, odd: Script) -> Case {
    Case {
        requests: 1,
        ..recovers(name, odd, Script::sse())
    }
}

/// The upstream fails, and answers when it is asked again.
pub fn recovers(name: &'static str, broken: Script, good: Script) -> Case {
    Case {
        name,
        scripts: vec![broken, good],
        status: "completed",
        messages: vec![("completed", "Hello!")],
        error: None,
        requests: 2,
    }
}

/// The upstream breaks off after it said something, and answers when it is asked again.
pub fn goes_on(name: &'static str, broken: Script, good: Script, shown: &'static str) -> Case {
    Case {
        messages: vec![("incomplete", shown), ("completed", "Hello!")],
        ..recovers(name, broken, good)
    }
}

/// The upstream is asked once, and fails.
pub fn fails(name: &'static str, broken: Script, error: &'static str) -> Case {
    Case {
        name,
        scripts: vec![broken],
        status: "failed",
        messages: Vec::new(),
        error: Some(error),
        requests: 1,
    }
}
