//! Chat completions: the same runs as responses, in OpenAI's older words.

#[path = "chat/answers.rs"]
mod answers;
#[path = "chat/clients.rs"]
mod clients;
#[path = "chat/keys.rs"]
mod keys;
#[path = "chat/leaving.rs"]
mod leaving;
#[path = "chat/sessions.rs"]
mod sessions;
#[path = "chat/support.rs"]
mod support;
#[path = "chat/tools.rs"]
mod tools;
#[path = "chat/troubles.rs"]
mod troubles;

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
