//! Hermes' `conversation_history`: the messages before the input, brought along by the client.

use bytes::Bytes;

use super::input::MAX_ITEMS;
use super::message;
use crate::check::body::{Body, raw_elements};
use crate::error::ApiError;

const NAME: &str = "conversation_history";

/// The messages in their long form; none if there is no history.
pub fn read(body: &Body) -> Result<Vec<Bytes>, ApiError> {
    let root = body.node();
    let (Some(history), Some(json)) = (root.optional(NAME), body.raw(NAME)) else {
        return Ok(Vec::new());
    };
    let nodes = history.elements(MAX_ITEMS)?;
    let mut items = Vec::with_capacity(nodes.len());
    for (node, text) in nodes.zip(raw_elements(json)?) {
        node.object()?;
        node.required("role")?;
        items.push(message::read(&node, text.get())?.into());
    }
    Ok(items)
}
