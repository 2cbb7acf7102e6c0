//! Reads the body of a create request: what a run needs, checked and in OpenAI's long form.

mod content;
pub mod input;
mod items;
mod message;
mod parameters;
mod tools;

#[cfg(test)]
mod tests;

use serde_json::Value;
use talaria_domain::json::ObjectWriter;
use talaria_proto::v1::RunRequest;

use self::input::Input;
use self::parameters::PARAMETERS;
use crate::check::body::{Body, compact};
use crate::check::names::near_miss;
use crate::check::{Node, quoted};
use crate::error::ApiError;

/// Parameters that are read one by one, besides [`PARAMETERS`].
const OTHER_PARAMETERS: [&str; 12] = [
    "model",
    "input",
    "instructions",
    "previous_response_id",
    "conversation",
    "store",
    "background",
    "stream",
    "stream_options",
    "tool_choice",
    "session_id",
    "on_active",
];

/// Other servers' parameters that look like ours misspelt, and ours that nothing is done about.
const IGNORED: [&str; 8] = [
    "access_programs",
    "image",
    "multi_agent",
    "stop",
    "models",
    "modalities",
    "seed",
    "n",
];

/// More members than any client sends, and few enough to compare each with every known name.
const MAX_MEMBERS: usize = 256;

/// The longest model or conversation name, in characters.
const MAX_NAME: usize = 256;

/// What `body`, the JSON of `POST /v1/responses`, asks for.
///
/// Input items and parameters keep the client's spelling (numbers, escapes, unknown members), without white space
/// between tokens, so that each can stand in one line of a stream. Only messages in a short form are rewritten. The
/// first problem found is the one reported.
pub fn create_request(body: &[u8]) -> Result<RunRequest, ApiError> {
    let body = Body::parse(body)?;
    let root = body.node();
    refuse_unsupported(&root)?;
    let model = root
        .optional("model")
        .map(|model| model.identifier(MAX_NAME))
        .transpose()?;
    let given = |name| root.optional(name).is_some();
    let input = read_input(&body)?;
    let stateful = given("previous_response_id") || given("conversation");
    if input.is_blank && !stateful {
        return Err(no_input());
    }
    refuse_near_misses(&root)?;
    let parameters = read_parameters(&body)?;

    let stream = switch(&root, "stream", false)?;
    root.check("stream_options", stream_options)?;
    let background = switch(&root, "background", false)?;
    let store = switch(&root, "store", true)?;
    if background && !store {
        let message = "Unsupported parameter: 'background' is only supported with 'store' set to \
                       true.";
        return Err(unsupported("background", message));
    }
    let instructions = root
        .optional("instructions")
        .map(|text| text.text(usize::MAX))
        .transpose()?;
    root.check("session_id", |id| id.identifier(MAX_NAME).map(drop))?;
    root.check("on_active", on_active)?;
    let conversation = root
        .optional("conversation")
        .map(|node| conversation(&node))
        .transpose()?;
    let previous = root
        .optional("previous_response_id")
        .map(|id| id.id("resp"))
        .transpose()?;
    if conversation.is_some() && previous.is_some() {
        let message = "Mutually exclusive parameters: ''. Ensure you are only providing one of: \
                       'previous_response_id' or 'conversation'.";
        return Err(ApiError::invalid("mutually_exclusive_parameters", message));
    }

    Ok(RunRequest {
        model: model.unwrap_or_default().to_owned(),
        input: input.items,
        instructions: instructions.map(str::to_owned),
        previous_response_id: previous.map(str::to_owned),
        conversation: conversation.map(str::to_owned),
        store,
        background,
        stream,
        parameters: parameters.into(),
    })
}

/// Parameters that mean something elsewhere and would be lost here.
fn refuse_unsupported(root: &Node) -> Result<(), ApiError> {
    let given = |name| root.optional(name).is_some();
    if given("messages") {
        let message = "Unsupported parameter: 'messages'. In the Responses API, this parameter \
                       has moved to 'input'. Try again with the new parameter.";
        return Err(unsupported("messages", message));
    }
    if given("conversation_history") {
        let message = "Unsupported parameter: 'conversation_history'. Send the earlier messages \
                       at the head of 'input', or name the turn before with \
                       'previous_response_id'.";
        return Err(unsupported("conversation_history", message));
    }
    if given("prompt") {
        let message = "Unsupported parameter: 'prompt'. This server keeps no prompt templates; \
                       send 'instructions' and 'input'.";
        return Err(unsupported("prompt", message));
    }
    Ok(())
}

fn refuse_near_misses(root: &Node) -> Result<(), ApiError> {
    let members = root.object()?;
    if members.len() > MAX_MEMBERS {
        let message = format!(
            "Invalid request body: too many properties. Expected an object with at most \
             {MAX_MEMBERS} properties, but got an object with {} properties instead.",
            members.len()
        );
        return Err(ApiError::invalid("object_above_max_properties", message));
    }
    let known: Vec<&str> = PARAMETERS
        .iter()
        .map(|(name, _)| *name)
        .chain(OTHER_PARAMETERS)
        .collect();
    let unknown = members
        .keys()
        .filter(|name| !known.contains(&name.as_str()) && !IGNORED.contains(&name.as_str()));
    for name in unknown {
        if let Some(meant) = near_miss(name, &known) {
            let message = format!(
                "Unknown parameter: {}. Did you mean '{meant}'?",
                quoted(name)
            );
            return Err(ApiError::invalid("unknown_parameter", message).with_param(name));
        }
    }
    Ok(())
}

fn read_input(body: &Body) -> Result<Input, ApiError> {
    match (body.node().optional("input"), body.raw("input")) {
        (Some(node), Some(json)) => Input::read(&node, json),
        _ => Ok(Input {
            items: Vec::new(),
            is_blank: true,
        }),
    }
}

fn no_input() -> ApiError {
    let message = "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must \
                   be provided.";
    ApiError::invalid("missing_required_parameter", message)
}

/// Checks the parameters that are passed on, and collects those that were given as one JSON object.
fn read_parameters(body: &Body) -> Result<String, ApiError> {
    let root = body.node();
    let mut writer = ObjectWriter::new();
    for (name, check) in PARAMETERS {
        if let (Some(node), Some(json)) = (root.optional(name), body.raw(name)) {
            check(&node)?;
            writer.raw(name, &compact(json));
        }
    }
    if let (Some(choice), Some(json)) = (root.optional("tool_choice"), body.raw("tool_choice")) {
        tools::check_choice(&choice, root.optional("tools").map(|tools| tools.value()))?;
        writer.raw("tool_choice", &compact(json));
    }
    Ok(writer.finish())
}

fn switch(root: &Node, name: &str, default: bool) -> Result<bool, ApiError> {
    root.optional(name)
        .map_or(Ok(default), |node| node.switch())
}

fn stream_options(options: &Node) -> Result<(), ApiError> {
    options.object()?;
    options.check("include_obfuscation", |flag| flag.boolean().map(drop))
}

fn on_active(choice: &Node) -> Result<(), ApiError> {
    if choice.one_of(&["reject", "enqueue", "interrupt"])? == "reject" {
        return Ok(());
    }
    let message = "Unsupported value: 'on_active' can only be 'reject' on this server.";
    Err(unsupported("on_active", message))
}

/// The id or the free name of a conversation.
fn conversation<'v>(node: &Node<'v, '_>) -> Result<&'v str, ApiError> {
    match node.value() {
        Value::String(name) if !name.is_empty() && name.trim().is_empty() => Err(node.invalid(
            "invalid_value",
            "the name of a conversation cannot be blank",
        )),
        Value::String(_) => node.identifier(MAX_NAME),
        Value::Object(_) => node.required("id")?.id("conv"),
        _ => Err(node.wrong_type("one of a string or an object")),
    }
}

fn unsupported(param: &str, message: &str) -> ApiError {
    ApiError::invalid("unsupported_parameter", message).with_param(param)
}
