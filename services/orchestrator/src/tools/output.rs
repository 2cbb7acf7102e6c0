//! Makes what a tool said fit, and says so.

use super::{Output, OutputLimits, ToolPart, ToolResult};

/// The result with its text and images cut to the limits, and a marker where something is left out.
pub(super) fn limited(output: Output, limits: OutputLimits) -> ToolResult {
    let ToolResult { parts, is_error } = output.result;
    let total = total_text_bytes(&parts);
    let fits = output.cut_from_bytes.is_none() && total <= limits.text_bytes;
    let mut text_left = limits.text_bytes;
    let mut shown = 0;
    let mut image_left = limits.image_bytes;
    let mut kept = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            ToolPart::Text(text) if fits => kept.push(ToolPart::Text(text)),
            ToolPart::Text(mut text) => {
                let length = text.floor_char_boundary(text_left);
                // What comes after a gap would read as if it belonged before it.
                text_left = if length < text.len() {
                    0
                } else {
                    text_left - length
                };
                text.truncate(length);
                shown += length;
                if !text.is_empty() {
                    kept.push(ToolPart::Text(text));
                }
            }
            ToolPart::Image { data_url } if data_url.len() <= image_left => {
                image_left -= data_url.len();
                kept.push(ToolPart::Image { data_url });
            }
            ToolPart::Image { data_url } => {
                let size = data_url.len();
                kept.push(ToolPart::Text(format!("[image of {size} bytes left out]")));
            }
        }
    }
    if !fits {
        let total = match output.cut_from_bytes {
            Some(bytes) => format!("about {bytes}"),
            None => total.to_string(),
        };
        let marker = format!("[truncated: {shown} of {total} bytes shown]");
        match kept.iter_mut().rev().find_map(text_of) {
            Some(text) => {
                text.push('\n');
                text.push_str(&marker);
            }
            None => kept.push(ToolPart::Text(marker)),
        }
    }
    ToolResult {
        parts: kept,
        is_error,
    }
}

fn total_text_bytes(parts: &[ToolPart]) -> usize {
    let bytes = |part: &ToolPart| match part {
        ToolPart::Text(text) => text.len(),
        ToolPart::Image { .. } => 0,
    };
    parts.iter().map(bytes).sum()
}

fn text_of(part: &mut ToolPart) -> Option<&mut String> {
    match part {
        ToolPart::Text(text) => Some(text),
        ToolPart::Image { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(parts: Vec<ToolPart>, cut_from_bytes: Option<u64>) -> Vec<ToolPart> {
        let result = ToolResult {
            parts,
            is_error: false,
        };
        let limits = OutputLimits {
            text_bytes: 8,
            image_bytes: 20,
        };
        let output = Output {
            result,
            cut_from_bytes,
        };
        limited(output, limits).parts
    }

    fn text(text: &str) -> ToolPart {
        ToolPart::Text(text.to_owned())
    }

    fn image(data_url: &str) -> ToolPart {
        ToolPart::Image {
            data_url: data_url.to_owned(),
        }
    }

    #[test]
    fn what_fits_is_left_alone() {
        let parts = vec![
            text("1234"),
            image("data:image/png,1"),
            text("5678"),
            text(""),
        ];
        assert_eq!(shown(parts.clone(), None), parts);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters_with_a_marker() {
        let parts = vec![text("12345"), text("äöü"), text("more")];
        let expected = [text("12345"), text("ä\n[truncated: 7 of 15 bytes shown]")];
        assert_eq!(shown(parts, None), expected);
    }

    #[test]
    fn an_answer_of_which_only_the_beginning_was_read_says_so() {
        let expected = [text("1234\n[truncated: 4 of about 1000 bytes shown]")];
        assert_eq!(shown(vec![text("1234")], Some(1000)), expected);
        let expected = [text("[truncated: 0 of about 1000 bytes shown]")];
        assert_eq!(shown(vec![], Some(1000)), expected);
    }

    #[test]
    fn images_that_do_not_fit_are_named() {
        let parts = vec![image("data:image/png,12345"), image("data:image/png,1")];
        let expected = [
            image("data:image/png,12345"),
            text("[image of 16 bytes left out]"),
        ];
        assert_eq!(shown(parts, None), expected);
    }
}
