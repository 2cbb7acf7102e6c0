//! Reads what an MCP server answered to a call.

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents, ServerResult};

use super::super::{Output, ToolPart, ToolResult};
use super::oversized;

/// The answer as the model gets it.
pub(super) fn output(answer: ServerResult) -> Output {
    match answer {
        ServerResult::CallToolResult(result) => of_result(result),
        ServerResult::InputRequiredResult(_) => {
            ToolResult::error("The tool asks for more input from a person, which is not supported.")
                .into()
        }
        ServerResult::CreateTaskResult(_) => {
            ToolResult::error("The tool answers later, which is not supported.").into()
        }
        // Results of other requests, and those that fit no known one: the enum is rmcp's.
        _ => {
            ToolResult::error("The tool's server gave an answer that cannot be understood.").into()
        }
    }
}

fn of_result(result: CallToolResult) -> Output {
    let total = |meta: &rmcp::model::MetaObject| meta.get(oversized::TOTAL_KEY)?.as_u64();
    let cut_from_bytes = result.meta.as_ref().and_then(total);
    let mut parts: Vec<ToolPart> = result.content.into_iter().map(part).collect();
    if parts.is_empty()
        && let Some(structured) = result.structured_content
    {
        parts.push(ToolPart::Text(structured.to_string()));
    }
    Output {
        result: ToolResult {
            parts,
            is_error: result.is_error == Some(true),
        },
        cut_from_bytes,
    }
}

fn part(block: ContentBlock) -> ToolPart {
    match block {
        ContentBlock::Text(text) => ToolPart::Text(text.text),
        ContentBlock::Image(image) if image.mime_type.starts_with("image/") => ToolPart::Image {
            data_url: format!("data:{};base64,{}", image.mime_type, image.data),
        },
        ContentBlock::Image(image) => left_out("image", &image.mime_type, image.data.len()),
        ContentBlock::Audio(audio) => left_out("audio", &audio.mime_type, audio.data.len()),
        ContentBlock::Resource(embedded) => resource(embedded.resource),
        ContentBlock::ResourceLink(link) => {
            ToolPart::Text(format!("[resource {} at {}]", link.name, link.uri))
        }
        // A kind that rmcp learns of later.
        _ => ToolPart::Text(String::from("[content of an unknown kind]")),
    }
}

fn resource(contents: ResourceContents) -> ToolPart {
    match contents {
        ResourceContents::TextResourceContents { text, .. } => ToolPart::Text(text),
        ResourceContents::BlobResourceContents {
            mime_type, blob, ..
        } => left_out(
            "resource",
            mime_type.as_deref().unwrap_or("unknown type"),
            blob.len(),
        ),
        _ => ToolPart::Text(String::from("[resource of an unknown kind]")),
    }
}

fn left_out(kind: &str, mime_type: &str, base64_bytes: usize) -> ToolPart {
    let size = base64_bytes / 4 * 3;
    ToolPart::Text(format!(
        "[{kind} of {mime_type}, about {size} bytes, left out]"
    ))
}
