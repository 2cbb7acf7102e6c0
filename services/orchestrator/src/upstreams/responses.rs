//! OpenAI's Responses API as an upstream.

pub mod body;
pub mod parser;
pub mod request;
pub mod tracking;
