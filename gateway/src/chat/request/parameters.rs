//! The parameters of a chat completion, in the spelling of the Responses API.

use serde_json::{Map, Value, json};

use super::tools;
use crate::check::{MAX_TEXT, Node};
use crate::error::ApiError;
use crate::responses::request::parameters::PARAMETERS;

/// Parameters with the same name, range and meaning in both APIs.
const SAME: [&str; 13] = [
    "metadata",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "service_tier",
    "moderation",
];

/// Checks the value of one parameter.
type Check = fn(&Node) -> Result<(), ApiError>;

/// Parameters that only a chat upstream understands; others are not shown them.
const CHAT_ONLY: [(&str, Check); 4] = [
    ("stop", stop),
    ("seed", |seed| seed.integer(i64::MIN..=i64::MAX).map(drop)),
    ("logit_bias", logit_bias),
    ("prediction", |prediction| prediction.object().map(drop)),
];

const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
const VERBOSITIES: [&str; 3] = ["low", "medium", "high"];

/// Stop sequences at most. Source: OpenAI's API reference says 4; other servers take more.
const MAX_STOPS: usize = 16;

/// Refuses what a run cannot do, rather than to do something else.
pub fn refuse_unsupported(root: &Node) -> Result<(), ApiError> {
    if let Some(n) = root.optional("n")
        && n.integer(1..=128)? > 1
    {
        let message = "Unsupported value: 'n' can only be 1 on this server.";
        return Err(n.error("unsupported_value", message));
    }
    let audio = "Audio is not supported by this server.";
    if let Some(audio_options) = root.optional("audio") {
        return Err(audio_options.error("unsupported_parameter", audio));
    }
    if let Some(modalities) = root.optional("modalities") {
        for modality in modalities.elements(8)? {
            if modality.one_of(&["text", "audio"])? == "audio" {
                return Err(modality.error("unsupported_value", audio));
            }
        }
    }
    Ok(())
}

/// One JSON object of the parameters that were given.
pub fn read(root: &Node) -> Result<String, ApiError> {
    let mut given = Map::new();
    for (name, check) in PARAMETERS.iter().filter(|(name, _)| SAME.contains(name)) {
        if let Some(node) = root.optional(name) {
            check(&node)?;
            given.insert((*name).to_owned(), node.value().clone());
        }
    }
    for (name, check) in CHAT_ONLY {
        if let Some(node) = root.optional(name) {
            check(&node)?;
            given.insert(name.to_owned(), node.value().clone());
        }
    }
    if let Some(limit) = limit(root)? {
        given.insert("max_output_tokens".to_owned(), limit.into());
    }
    read_logprobs(root, &mut given)?;
    let text = read_text(root)?;
    if !text.is_empty() {
        given.insert("text".to_owned(), text.into());
    }
    let reasoning = read_reasoning(root)?;
    if !reasoning.is_empty() {
        given.insert("reasoning".to_owned(), reasoning.into());
    }
    tools::read(root, &mut given)?;
    Ok(Value::Object(given).to_string())
}

fn limit(root: &Node) -> Result<Option<i64>, ApiError> {
    let range = || 1..=i64::from(i32::MAX);
    let older = root
        .optional("max_tokens")
        .map(|limit| limit.integer(range()))
        .transpose()?;
    let newer = root
        .optional("max_completion_tokens")
        .map(|limit| limit.integer(range()))
        .transpose()?;
    Ok(newer.or(older))
}

fn read_logprobs(root: &Node, given: &mut Map<String, Value>) -> Result<(), ApiError> {
    let top = root
        .optional("top_logprobs")
        .map(|top| top.integer(0..=20))
        .transpose()?;
    let wanted = match root.optional("logprobs") {
        Some(wanted) => wanted.switch()?,
        None => false,
    };
    if !wanted {
        return Ok(());
    }
    given.insert(
        "include".to_owned(),
        json!(["message.output_text.logprobs"]),
    );
    given.extend(top.map(|top| ("top_logprobs".to_owned(), top.into())));
    Ok(())
}

/// `response_format` and `verbosity`.
fn read_text(root: &Node) -> Result<Map<String, Value>, ApiError> {
    let mut text = Map::new();
    if let Some(format) = root.optional("response_format") {
        text.insert("format".to_owned(), response_format(&format)?);
    }
    if let Some(verbosity) = root.optional("verbosity") {
        let verbosity = verbosity.one_of(&VERBOSITIES)?;
        text.insert("verbosity".to_owned(), verbosity.into());
    }
    Ok(text)
}

fn response_format(format: &Node) -> Result<Value, ApiError> {
    format.object()?;
    let kind = format
        .required("type")?
        .one_of(&["text", "json_object", "json_schema"])?;
    if kind != "json_schema" {
        return Ok(json!({"type": kind}));
    }
    let schema = format.required("json_schema")?;
    schema.object()?;
    schema.required("name")?.symbol(64)?;
    // OpenAI: without a schema any JSON will do.
    schema.check("schema", |schema| schema.object().map(drop))?;
    schema.check("description", |text| text.text(MAX_TEXT).map(drop))?;
    schema.check("strict", |strict| strict.boolean().map(drop))?;
    let mut flat = Map::from_iter([("type".to_owned(), kind.into())]);
    for name in ["name", "description", "schema", "strict"] {
        let member = schema.optional(name);
        flat.extend(member.map(|member| (name.to_owned(), member.value().clone())));
    }
    flat.entry("schema")
        .or_insert_with(|| json!({"type": "object"}));
    Ok(flat.into())
}

/// `reasoning_effort`, and the Responses API's own `reasoning`, with which summaries can be asked for.
fn read_reasoning(root: &Node) -> Result<Map<String, Value>, ApiError> {
    let mut reasoning = match root.optional("reasoning") {
        Some(node) => {
            for (_, check) in PARAMETERS.iter().filter(|(name, _)| *name == "reasoning") {
                check(&node)?;
            }
            node.object()?.clone()
        }
        None => Map::new(),
    };
    if let Some(effort) = root.optional("reasoning_effort") {
        reasoning.insert("effort".to_owned(), effort.one_of(&EFFORTS)?.into());
    }
    Ok(reasoning)
}

fn stop(stop: &Node) -> Result<(), ApiError> {
    match stop.value() {
        Value::String(_) => stop.text(MAX_TEXT).map(drop),
        Value::Array(_) => stop
            .elements(MAX_STOPS)?
            .try_for_each(|word| word.text(MAX_TEXT).map(drop)),
        _ => Err(stop.wrong_type("one of a string or an array of strings")),
    }
}

fn logit_bias(bias: &Node) -> Result<(), ApiError> {
    for (token, value) in bias.object()? {
        bias.member(token, value).decimal(-100.0..=100.0)?;
    }
    Ok(())
}
