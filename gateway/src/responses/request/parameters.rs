//! The parameters that are passed on as they came: their types, ranges and words.

use super::tools;
use crate::check::{MAX_TEXT, Node, is_invisible, quoted};
use crate::error::ApiError;

/// Checks the value of one parameter, which is not `null`.
type Check = fn(&Node) -> Result<(), ApiError>;

/// Every parameter that is passed on, in the order in which they are checked (OpenAI's, where it is known).
pub const PARAMETERS: [(&str, Check); 22] = [
    ("include", include),
    ("moderation", moderation),
    ("tools", tools::check),
    ("metadata", metadata),
    ("text", text),
    ("temperature", |node| node.decimal(0.0..=2.0).map(drop)),
    ("top_p", |node| node.decimal(0.0..=1.0).map(drop)),
    ("presence_penalty", |node| {
        node.decimal(-2.0..=2.0).map(drop)
    }),
    ("frequency_penalty", |node| {
        node.decimal(-2.0..=2.0).map(drop)
    }),
    ("parallel_tool_calls", |node| node.boolean().map(drop)),
    ("max_output_tokens", |node| {
        node.integer(16..=MAX_COUNT).map(drop)
    }),
    ("max_tool_calls", |node| {
        node.integer(1..=MAX_COUNT).map(drop)
    }),
    ("reasoning", reasoning),
    ("user", |node| node.identifier(512).map(drop)),
    ("safety_identifier", |node| node.identifier(128).map(drop)),
    ("prompt_cache_key", |node| node.identifier(256).map(drop)),
    ("prompt_cache_retention", |node| {
        one_of(node, &["in_memory", "in-memory", "24h"])
    }),
    ("prompt_cache_options", prompt_cache_options),
    ("truncation", |node| one_of(node, &["auto", "disabled"])),
    ("service_tier", |node| one_of(node, &SERVICE_TIERS)),
    ("top_logprobs", |node| node.integer(0..=20).map(drop)),
    ("context_management", context_management),
];

const MAX_COUNT: i64 = i32::MAX as i64;

const SERVICE_TIERS: [&str; 7] = [
    "auto",
    "default",
    "flex",
    "scale",
    "priority",
    "fast",
    "ultrafast",
];

const VERBOSITIES: [&str; 3] = ["low", "medium", "high"];

const INCLUDABLE: [&str; 8] = [
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
];

fn one_of(node: &Node, words: &[&str]) -> Result<(), ApiError> {
    node.one_of(words).map(drop)
}

fn include(node: &Node) -> Result<(), ApiError> {
    node.elements(64)?
        .try_for_each(|name| one_of(&name, &INCLUDABLE))
}

fn moderation(node: &Node) -> Result<(), ApiError> {
    node.object()?;
    node.required("model")?.identifier(256).map(drop)
}

/// At most 16 pairs of names (64 characters) and texts (512 characters).
pub fn metadata(node: &Node) -> Result<(), ApiError> {
    let pairs = node.object()?;
    if pairs.len() > 16 {
        let why = format!(
            "too many properties. Expected an object with at most 16 properties, but got an \
             object with {} properties instead",
            pairs.len()
        );
        return Err(node.invalid("object_above_max_properties", &why));
    }
    for (key, value) in pairs {
        if key.is_empty() || key.chars().any(is_invisible) {
            let why = format!(
                "the key {} is empty or contains control characters",
                quoted(key)
            );
            return Err(node.invalid("invalid_value", &why));
        }
        if key.chars().nth(64).is_some() {
            let why = format!(
                "key too long. Expected a key with maximum length 64, but got {} instead",
                quoted(key)
            );
            return Err(node.invalid("string_above_max_length", &why));
        }
        node.member(key, value).text(512)?;
    }
    Ok(())
}

fn text(node: &Node) -> Result<(), ApiError> {
    node.object()?;
    node.check("verbosity", |verbosity| one_of(verbosity, &VERBOSITIES))?;
    node.check("format", text_format)
}

fn text_format(format: &Node) -> Result<(), ApiError> {
    format.object()?;
    if format
        .required("type")?
        .one_of(&["text", "json_object", "json_schema"])?
        != "json_schema"
    {
        return Ok(());
    }
    format.required("name")?.symbol(64)?;
    format.required("schema")?.object()?;
    format.check("description", |description| {
        description.text(MAX_TEXT).map(drop)
    })?;
    format.check("strict", |strict| strict.boolean().map(drop))
}

fn reasoning(node: &Node) -> Result<(), ApiError> {
    const SUMMARIES: [&str; 3] = ["auto", "concise", "detailed"];
    node.object()?;
    node.check("effort", |effort| {
        one_of(
            effort,
            &["none", "minimal", "low", "medium", "high", "xhigh", "max"],
        )
    })?;
    node.check("summary", |summary| one_of(summary, &SUMMARIES))?;
    node.check("generate_summary", |summary| one_of(summary, &SUMMARIES))?;
    node.check("context", |context| {
        one_of(context, &["auto", "current_turn", "all_turns"])
    })?;
    node.check("mode", |mode| mode.identifier(64).map(drop))
}

fn prompt_cache_options(node: &Node) -> Result<(), ApiError> {
    node.object()?;
    node.check("ttl", |ttl| ttl.identifier(16).map(drop))?;
    node.check("mode", |mode| one_of(mode, &["implicit", "explicit"]))
}

fn context_management(node: &Node) -> Result<(), ApiError> {
    node.elements(16)?.try_for_each(|entry| {
        entry.object()?;
        entry.required("type")?.one_of(&["compaction"])?;
        entry.check("compact_threshold", |size| {
            size.integer(1_000..=MAX_COUNT).map(drop)
        })
    })
}
