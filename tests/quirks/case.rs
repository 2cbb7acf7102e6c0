//! What upstreams may say, and what that is for the client.

use talaria_testkit::upstream::Script;

/// What an upstream says, and what that is for the client.
pub struct Case {
    pub name: &'static str,
    pub script: Script,
    pub status: &'static str,
    pub text: &'static str,
    /// Code and message of a failure, or the reason of an incomplete response. Codes that OpenAI's clients do not know
    /// are `server_error` to them.
    pub error: Option<(&'static str, &'static str)>,
}

pub fn good(name: &'static str, script: Script, text: &'static str) -> Case {
    Case {
        name,
        script,
        status: "completed",
        text,
        error: None,
    }
}

pub fn failed(
    name: &'static str,
    script: Script,
    text: &'static str,
    code: &'static str,
    message: &'static str,
) -> Case {
    Case {
        name,
        script,
        status: "failed",
        text,
        error: Some((code, message)),
    }
}

pub fn incomplete(
    name: &'static str,
    script: Script,
    text: &'static str,
    reason: &'static str,
) -> Case {
    Case {
        name,
        script,
        status: "incomplete",
        text,
        error: Some((reason, "")),
    }
}
