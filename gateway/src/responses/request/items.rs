//! The item types that we know, and what each must have; unknown types pass untouched.

use talaria_domain::json::ObjectWriter;

use super::content;
use crate::check::{MAX_TEXT, Node};
use crate::error::ApiError;

/// The longest opaque blob, in characters. Source: OpenAI's API reference.
const MAX_BLOB: usize = 20_971_520;

/// The longest id or `call_id`.
const MAX_ID: usize = 64;

/// The most elements of any list inside an item.
const MAX_LIST: usize = 10_000;

/// An item type, as input.
struct ItemType {
    name: &'static str,
    /// What its ids begin with; empty where nobody agrees.
    prefix: &'static str,
    statuses: &'static [&'static str],
    members: &'static [Member],
}

/// A member of an item that is looked into.
struct Member {
    name: &'static str,
    is_required: bool,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    Text,
    Blob,
    /// The name of a tool, a server, a container.
    Name,
    CallId,
    Flag,
    Object,
    List,
    /// A string or content parts.
    Output,
    /// Text parts of this type.
    Texts(&'static str),
}

const fn must(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        is_required: true,
        shape,
    }
}

const fn may(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        is_required: false,
        shape,
    }
}

const fn item(
    name: &'static str,
    prefix: &'static str,
    statuses: &'static [&'static str],
    members: &'static [Member],
) -> ItemType {
    ItemType {
        name,
        prefix,
        statuses,
        members,
    }
}

const USUAL: &[&str] = &["in_progress", "completed", "incomplete"];

/// Source: OpenAI's API reference. Ids are optional here even where it wants them: we give those that are missing.
const TYPES: &[ItemType] = {
    use Shape::{Blob, CallId, Flag, List, Name, Object, Output, Text, Texts};
    &[
        item(
            "function_call",
            "fc",
            USUAL,
            &[
                must("call_id", CallId),
                must("name", Name),
                must("arguments", Text),
            ],
        ),
        item(
            "function_call_output",
            "fc",
            USUAL,
            &[must("call_id", CallId), must("output", Output)],
        ),
        item(
            "custom_tool_call",
            "ctc",
            USUAL,
            &[
                must("call_id", CallId),
                must("name", Name),
                must("input", Text),
            ],
        ),
        item(
            "custom_tool_call_output",
            "ctc",
            USUAL,
            &[must("call_id", CallId), must("output", Output)],
        ),
        item(
            "reasoning",
            "rs",
            USUAL,
            &[
                must("summary", Texts("summary_text")),
                may("content", Texts("reasoning_text")),
                may("encrypted_content", Blob),
            ],
        ),
        item(
            "compaction",
            "cmp",
            USUAL,
            &[must("encrypted_content", Blob)],
        ),
        item("compaction_trigger", "", USUAL, &[]),
        item("item_reference", "", USUAL, &[must("id", CallId)]),
        item(
            "mcp_list_tools",
            "mcp",
            USUAL,
            &[must("server_label", Name), must("tools", List)],
        ),
        item(
            "mcp_call",
            "mcp",
            &[
                "in_progress",
                "calling",
                "completed",
                "incomplete",
                "failed",
            ],
            &[
                must("server_label", Name),
                must("name", Name),
                must("arguments", Text),
                may("output", Text),
                may("approval_request_id", CallId),
            ],
        ),
        item(
            "mcp_approval_request",
            "mcp",
            USUAL,
            &[
                must("server_label", Name),
                must("name", Name),
                must("arguments", Text),
            ],
        ),
        item(
            "mcp_approval_response",
            "",
            USUAL,
            &[
                must("approval_request_id", CallId),
                must("approve", Flag),
                may("reason", Text),
            ],
        ),
        item(
            "web_search_call",
            "ws",
            &["in_progress", "searching", "completed", "failed"],
            &[may("action", Object)],
        ),
        item(
            "file_search_call",
            "fs",
            &[
                "in_progress",
                "searching",
                "completed",
                "incomplete",
                "failed",
            ],
            &[must("queries", List), may("results", List)],
        ),
        item(
            "code_interpreter_call",
            "ci",
            &[
                "in_progress",
                "interpreting",
                "completed",
                "incomplete",
                "failed",
            ],
            &[
                must("container_id", Name),
                may("code", Text),
                may("outputs", List),
            ],
        ),
        item(
            "image_generation_call",
            "ig",
            &["in_progress", "generating", "completed", "failed"],
            &[may("result", Blob)],
        ),
        item(
            "computer_call",
            "cu",
            USUAL,
            &[
                must("call_id", CallId),
                may("action", Object),
                may("actions", List),
                may("pending_safety_checks", List),
            ],
        ),
        item(
            "computer_call_output",
            "",
            &["in_progress", "completed", "incomplete", "failed"],
            &[
                must("call_id", CallId),
                must("output", Object),
                may("acknowledged_safety_checks", List),
            ],
        ),
        item(
            "local_shell_call",
            "lsh",
            USUAL,
            &[must("call_id", CallId), must("action", Object)],
        ),
        item(
            "local_shell_call_output",
            "",
            USUAL,
            &[must("output", Text)],
        ),
        item(
            "shell_call",
            "sh",
            USUAL,
            &[must("call_id", CallId), must("action", Object)],
        ),
        item(
            "shell_call_output",
            "",
            USUAL,
            &[must("call_id", CallId), must("output", List)],
        ),
        item(
            "apply_patch_call",
            "apc",
            USUAL,
            &[must("call_id", CallId), must("operation", Object)],
        ),
        item(
            "apply_patch_call_output",
            "",
            &["completed", "failed"],
            &[must("call_id", CallId), may("output", Text)],
        ),
        item("tool_search_call", "tsc", USUAL, &[may("call_id", CallId)]),
        item(
            "tool_search_output",
            "tso",
            USUAL,
            &[may("call_id", CallId), must("tools", List)],
        ),
        item("additional_tools", "", USUAL, &[must("tools", List)]),
    ]
};

/// Checks an item other than a message. One of unknown type only has to have a sound id.
pub fn check(node: &Node, type_name: &str) -> Result<(), ApiError> {
    let Some(known) = TYPES.iter().find(|known| known.name == type_name) else {
        return node.check("id", |id| check_id(id, ""));
    };
    node.check("id", |id| check_id(id, known.prefix))?;
    for member in known.members {
        if member.is_required {
            member.shape.check(&node.required(member.name)?)?;
        } else {
            node.check(member.name, |value| member.shape.check(value))?;
        }
    }
    node.check("status", |status| status.one_of(known.statuses).map(drop))
}

/// The long form of `{id}`, which names an earlier item.
pub fn reference(node: &Node) -> Result<String, ApiError> {
    let id = node.required("id")?;
    check_id(&id, "")?;
    let mut writer = ObjectWriter::new();
    writer
        .string("type", "item_reference")
        .string("id", id.text(MAX_ID)?);
    Ok(writer.finish())
}

fn check_id(id: &Node, prefix: &str) -> Result<(), ApiError> {
    id.identifier(MAX_ID)?;
    id.id(prefix).map(drop)
}

impl Shape {
    fn check(self, node: &Node) -> Result<(), ApiError> {
        match self {
            Self::Text => node.text(MAX_TEXT).map(drop),
            Self::Blob => node.text(MAX_BLOB).map(drop),
            Self::Name => node.identifier(128).map(drop),
            Self::CallId => node.identifier(MAX_ID).map(drop),
            Self::Flag => node.boolean().map(drop),
            Self::Object => node.object().map(drop),
            Self::List => node.elements(MAX_LIST).map(drop),
            Self::Output => content::check_output(node),
            Self::Texts(kind) => node.elements(MAX_LIST)?.try_for_each(|part| {
                part.object()?;
                part.required("type")?.one_of(&[kind])?;
                part.required("text")?.text(MAX_TEXT).map(drop)
            }),
        }
    }
}
