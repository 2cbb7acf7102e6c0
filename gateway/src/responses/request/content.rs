//! The content parts of messages and tool outputs, and the long form of those in a short one.

use serde_json::Value;
use talaria_domain::json::ObjectWriter;

use crate::check::body::{compact, raw_elements, raw_members};
use crate::check::{MAX_TEXT, Node};
use crate::error::ApiError;

/// Content parts of one message or tool output at most.
const MAX_PARTS: usize = 1_000;

/// The longest `image_url`, in characters. Source: OpenAI's API reference.
const MAX_IMAGE: usize = 20_971_520;

const DETAILS: [&str; 4] = ["low", "high", "auto", "original"];

/// Whose words the parts of a message are; each side has its own part types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Input,
    Output,
}

/// Checks the output of a tool: a string, or content parts as a user could send them.
pub fn check_output(node: &Node) -> Result<(), ApiError> {
    match node.value() {
        Value::String(_) => node.text(MAX_TEXT).map(drop),
        Value::Array(_) => node
            .elements(MAX_PARTS)?
            .try_for_each(|part| check_part(&part, Side::Input)),
        _ => Err(node.wrong_type("one of a string or an array of content parts")),
    }
}

impl Side {
    /// The long form of a message's content, or `None` if it is in it.
    pub fn read_content(self, content: &Node, json: &str) -> Result<Option<String>, ApiError> {
        match content.value() {
            Value::String(_) => {
                content.text(MAX_TEXT)?;
                Ok(Some(format!("[{}]", self.text_part(json))))
            }
            Value::Array(_) => self.read_parts(content, json),
            _ => Err(content.wrong_type("one of a string or an array of content parts")),
        }
    }

    fn read_parts(self, content: &Node, json: &str) -> Result<Option<String>, ApiError> {
        let nodes = content.elements(MAX_PARTS)?;
        let mut is_rewritten = false;
        let mut parts = Vec::with_capacity(nodes.len());
        for (node, text) in nodes.zip(raw_elements(json)?) {
            let rewritten = self.read_part(&node, text.get())?;
            is_rewritten |= rewritten.is_some();
            parts.push(rewritten.unwrap_or_else(|| compact(text.get())));
        }
        Ok(is_rewritten.then(|| format!("[{}]", parts.join(","))))
    }

    /// The long form of a part in one of the forms that Hermes' and chat clients send, `None` for the others.
    fn read_part(self, part: &Node, json: &str) -> Result<Option<String>, ApiError> {
        if part.value().is_string() {
            part.text(MAX_TEXT)?;
            return Ok(Some(self.text_part(json)));
        }
        part.object()?;
        match part.required("type")?.text(MAX_TEXT)? {
            "text" => {
                part.required("text")?.text(MAX_TEXT)?;
                let members = raw_members(json)?;
                Ok(members.get("text").map(|text| self.text_part(text)))
            }
            "image_url" if self == Self::Input => read_chat_image(part, json).map(Some),
            _ => check_part(part, self).map(|()| None),
        }
    }

    /// Why a part of this type cannot stand here.
    fn refusal_of(self, part: &Node, kind: &Node, name: &str) -> ApiError {
        let own: &[&str] = match self {
            Self::Input => &["input_text", "input_image"],
            Self::Output => &["output_text", "refusal"],
        };
        let misplaced = kind.not_among(name, own);
        match name {
            "input_text" | "input_image" | "output_text" | "refusal" => misplaced,
            "input_file" | "file" => {
                let message = "Files are not supported by this server. Supported content types \
                               are text and images.";
                part.error("unsupported_content_type", message)
            }
            _ => part.error("unsupported_content_type", misplaced.message),
        }
    }

    /// The part whose text is the JSON string `text`.
    pub fn text_part(self, text: &str) -> String {
        let mut writer = ObjectWriter::new();
        match self {
            Self::Input => writer.string("type", "input_text").raw("text", text),
            Self::Output => writer
                .string("type", "output_text")
                .raw("text", text)
                .raw("annotations", "[]"),
        };
        writer.finish()
    }
}

/// Checks a content part in OpenAI's form.
fn check_part(part: &Node, side: Side) -> Result<(), ApiError> {
    part.object()?;
    let kind = part.required("type")?;
    match (side, kind.text(MAX_TEXT)?) {
        (Side::Input, "input_text") | (Side::Output, "output_text") => {
            part.required("text")?.text(MAX_TEXT).map(drop)
        }
        (Side::Input, "input_image") => check_image(part),
        (Side::Output, "refusal") => part.required("refusal")?.text(MAX_TEXT).map(drop),
        (_, name) => Err(side.refusal_of(part, &kind, name)),
    }
}

fn check_image(part: &Node) -> Result<(), ApiError> {
    check_detail(part)?;
    if part.optional("image_url").is_none() && part.optional("file_id").is_some() {
        return part.required("file_id")?.identifier(512).map(drop);
    }
    check_image_url(part, "image_url")
}

/// A chat completion's image part as an `input_image`.
fn read_chat_image(part: &Node, json: &str) -> Result<String, ApiError> {
    let members = raw_members(json)?;
    let mut writer = ObjectWriter::new();
    writer.string("type", "input_image");
    let image = part.required("image_url")?;
    let members = if image.value().is_object() {
        check_detail(&image)?;
        check_image_url(&image, "url")?;
        let members = raw_members(members.get("image_url").unwrap_or("{}"))?;
        writer.raw("image_url", members.get("url").unwrap_or("null"));
        members
    } else {
        check_detail(part)?;
        check_image_url(part, "image_url")?;
        writer.raw("image_url", members.get("image_url").unwrap_or("null"));
        members
    };
    if let Some(detail) = members.get("detail") {
        writer.raw("detail", detail);
    }
    Ok(writer.finish())
}

fn check_detail(holder: &Node) -> Result<(), ApiError> {
    holder.check("detail", |detail| {
        if detail
            .value()
            .as_str()
            .is_some_and(|detail| detail.trim().is_empty())
        {
            return Err(detail.invalid("invalid_content_part", "it must not be empty"));
        }
        detail.one_of(&DETAILS).map(drop)
    })
}

/// An image is named by a web address or carried in a `data:` URL.
fn check_image_url(holder: &Node, name: &str) -> Result<(), ApiError> {
    let Some(node) = holder.optional(name) else {
        let absent = holder.member(name, &Value::Null);
        return Err(absent.invalid("invalid_image_url", "an image needs an address"));
    };
    let url = node.text(MAX_IMAGE)?;
    let scheme = url
        .split_once(':')
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    let is_clean = !url.chars().any(|c| c.is_control() || c.is_whitespace());
    match scheme.as_deref() {
        Some("http" | "https") if is_clean && has_host(url) => Ok(()),
        Some("data") if !is_image_type(url) => {
            let why = "a data URL here must hold an image";
            Err(node.invalid("unsupported_content_type", why))
        }
        Some("data") if is_clean && url.contains(',') => Ok(()),
        _ => {
            let why = "expected an http(s) address or a data URL that holds an image";
            Err(node.invalid("invalid_image_url", why))
        }
    }
}

fn has_host(url: &str) -> bool {
    let host = url.split_once("://").map_or("", |(_, rest)| rest);
    !host.is_empty() && !host.starts_with(['/', '?', '#', ':'])
}

fn is_image_type(data_url: &str) -> bool {
    data_url
        .get(..11)
        .is_some_and(|start| start.eq_ignore_ascii_case("data:image/"))
}
