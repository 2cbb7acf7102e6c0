//! OpenAI's Chat Completions API, as many others speak it, as an upstream.

mod details;
mod messages;
pub mod parser;
pub mod request;
mod tool_calls;
