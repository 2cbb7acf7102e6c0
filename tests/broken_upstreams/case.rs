//! What upstreams do in a row, and what that is for the client.

use talaria_testkit::upstream::Script;

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
