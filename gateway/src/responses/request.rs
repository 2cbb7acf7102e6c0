//! Reads the body of a create request: what a run needs, checked and in OpenAI's long form.

pub(crate) mod content;
mod history;
pub mod input;
mod items;
mod message;
pub(crate) mod parameters;
pub(crate) mod tools;

#[cfg(test)]
mod tests;

use serde_json::Value;
use talaria_domain::json::ObjectWriter;
use talaria_proto::v1::{OnActive, RunRequest};

use self::input::Input;
use self::parameters::PARAMETERS;
use crate::check::body::{Body, compact};
use crate::check::names::near_miss;
use crate::check::{Node, quoted};
use crate::error::ApiError;
use crate::session;

/// Parameters that are read one by one, besides [`PARAMETERS`].
const OTHER_PARAMETERS: [&str; 13] = [
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
    "conversation_history",
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
    let mut input = read_input(&body)?;
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
    let session_id = root
        .optional("session_id")
        .map(|id| session_id(&id))
        .transpose()?;
    let conversation = root
        .optional("conversation")
        .map(|node| conversation(&node))
        .transpose()?;
    let on_active = root
        .optional("on_active")
        .map_or(Ok(OnActive::Reject), |choice| {
            on_active(&choice, conversation.is_some(), store)
        })?;
    let previous = root
        .optional("previous_response_id")
        .map(|id| id.id("resp"))
        .transpose()?;
    if conversation.is_some() && previous.is_some() {
        let message = "Mutually exclusive parameters: ''. Ensure you are only providing one of: \
                       'previous_response_id' or 'conversation'.";
        return Err(ApiError::invalid("mutually_exclusive_parameters", message));
    }
    let history = history::read(&body)?;
    if conversation.is_some() && !history.is_empty() {
        let message = "Mutually exclusive parameters: 'conversation' and 'conversation_history'. \
                       A conversation brings its own history.";
        return Err(ApiError::invalid("mutually_exclusive_parameters", message));
    }
    let brings_history = !history.is_empty();
    input.items.splice(..0, history);

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
        session_id: session_id.unwrap_or_default().to_owned(),
        on_active: on_active.into(),
        brings_history,
        ..RunRequest::default()
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

/// What a request does about an active response of its conversation.
fn on_active(choice: &Node, has_conversation: bool, store: bool) -> Result<OnActive, ApiError> {
    let on_active = match choice.one_of(&["reject", "enqueue", "interrupt"])? {
        "enqueue" => OnActive::Enqueue,
        "interrupt" => OnActive::Interrupt,
        _ => return Ok(OnActive::Reject),
    };
    if !has_conversation {
        let why = "only a request with a 'conversation' can wait for another";
        return Err(choice.invalid("invalid_value", why));
    }
    if !store {
        let why = "an ephemeral response cannot wait; set 'store' to true";
        return Err(choice.invalid("invalid_value", why));
    }
    Ok(on_active)
}

fn session_id<'v>(id: &Node<'v, '_>) -> Result<&'v str, ApiError> {
    let text = id.identifier(MAX_NAME)?;
    session::check_id(text).map_err(|error| id.error("invalid_value", error.message))?;
    Ok(text)
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
