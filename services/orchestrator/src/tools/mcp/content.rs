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
        ContentBlock::Image(image) => match picture(&image.mime_type, &image.data) {
            Some(data_url) => ToolPart::Image { data_url },
            None => left_out("image", &image.mime_type, image.data.len()),
        },
        ContentBlock::Audio(audio) => left_out("audio", &audio.mime_type, audio.data.len()),
        ContentBlock::Resource(embedded) => resource(embedded.resource),
        ContentBlock::ResourceLink(link) => {
            ToolPart::Text(format!("[resource {} at {}]", link.name, link.uri))
        }
        // A kind that rmcp learns of later.
        _ => ToolPart::Text(String::from("[content of an unknown kind]")),
    }
}

/// A picture that models can look at. Any other in its context fails the model call, and each one after it.
fn picture(mime_type: &str, data: &str) -> Option<String> {
    let mime_type = match mime_type {
        "image/jpg" => "image/jpeg",
        "image/png" | "image/jpeg" | "image/gif" | "image/webp" => mime_type,
        _ => return None,
    };
    // Some encoders break lines.
    let data: String = data.split_ascii_whitespace().collect();
    let digits = data.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
    let is_base64 =
        !digits.is_empty() && digits.bytes().all(is_digit) && data.len().is_multiple_of(4);
    is_base64.then(|| format!("data:{mime_type};base64,{data}"))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_picture_that_upstreams_refuse_is_described_and_does_not_fail_the_run() {
        let shown = |mime_type: &str, data: &str| {
            let block = json!({"type": "image", "mimeType": mime_type, "data": data});
            part(serde_json::from_value(block).unwrap())
        };
        let image = |data_url: &str| ToolPart::Image {
            data_url: data_url.to_owned(),
        };
        let described = |text: &str| ToolPart::Text(text.to_owned());

        for (mime_type, data, expected) in [
            ("image/png", "AAA=", image("data:image/png;base64,AAA=")),
            (
                "image/jpg",
                "AAAA\nBB==\n",
                image("data:image/jpeg;base64,AAAABB=="),
            ),
            (
                "image/svg+xml",
                "AAAA",
                described("[image of image/svg+xml, about 3 bytes, left out]"),
            ),
            (
                "image/png",
                "<no base64>",
                described("[image of image/png, about 6 bytes, left out]"),
            ),
            (
                "image/png",
                "",
                described("[image of image/png, about 0 bytes, left out]"),
            ),
        ] {
            assert_eq!(shown(mime_type, data), expected, "{mime_type} {data:?}");
        }
    }
}
