//! One part of an item: text, refusal, thought or summary.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::super::wire::Event;

/// Where in its item a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Content,
    Summary,
}

impl Place {
    pub(super) fn of_part(kind: &str) -> Self {
        match kind {
            "summary_text" => Self::Summary,
            _ => Self::Content,
        }
    }

    pub(super) fn index_field(self) -> &'static str {
        match self {
            Self::Content => "content_index",
            Self::Summary => "summary_index",
        }
    }

    /// What an item of this type may hold here.
    pub(super) fn part_kinds(self, item_type: &str) -> &'static [&'static str] {
        match (item_type, self) {
            ("message", Self::Content) => &["output_text", "refusal"],
            ("reasoning", Self::Content) => &["reasoning_text"],
            ("reasoning", Self::Summary) => &["summary_text"],
            _ => &[],
        }
    }
}

/// A part that was added, with what came for it since.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) kind: String,
    pub(super) text: String,
    text_is_done: bool,
    annotations: Vec<Value>,
    done: Option<Value>,
}

impl Part {
    /// Takes a part as it is added: with nothing in it.
    pub(super) fn open(part: &Value) -> anyhow::Result<Self> {
        let kind = part["type"].as_str().context("the part has no type")?;
        let opened = Self {
            kind: kind.to_owned(),
            text: String::new(),
            text_is_done: false,
            annotations: Vec::new(),
            done: None,
        };
        opened.check_body(part)?;
        Ok(opened)
    }

    /// Takes a delta or the end of the part's text.
    pub(super) fn stream(
        &mut self,
        event: &Event,
        end: &str,
        kind: &str,
        field: &str,
    ) -> anyhow::Result<()> {
        ensure!(
            self.kind == kind,
            "the part is a {}, not a {kind}",
            self.kind
        );
        ensure!(!self.text_is_done, "the text is done already");
        ensure!(
            kind != "output_text" || event.data["logprobs"].is_array(),
            "logprobs is not a list"
        );
        if end == "delta" {
            self.text.push_str(event.string("delta")?);
            return Ok(());
        }
        ensure!(end == "done", "clients do not know this event");
        let whole = event.string(field)?;
        ensure!(
            whole == self.text,
            "{field} is not the deltas together: {whole:?} instead of {:?}",
            self.text
        );
        self.text_is_done = true;
        Ok(())
    }

    pub(super) fn annotate(&mut self, index: usize, annotation: Value) -> anyhow::Result<()> {
        ensure!(self.kind == "output_text", "the part is a {}", self.kind);
        ensure!(self.done.is_none(), "the part is done already");
        ensure!(
            index == self.annotations.len(),
            "annotation_index is {index}, but {} annotations were added before",
            self.annotations.len()
        );
        self.annotations.push(annotation);
        Ok(())
    }

    /// Takes the part as it is done: the same one, with what was streamed in it.
    pub(super) fn close(&mut self, part: &Value) -> anyhow::Result<()> {
        ensure!(self.done.is_none(), "the part was done before");
        ensure!(self.text_is_done, "the part's text was never done");
        ensure!(
            part["type"] == self.kind.as_str(),
            "the part's type changed from {}",
            self.kind
        );
        self.check_body(part)?;
        self.done = Some(part.clone());
        Ok(())
    }

    pub(super) fn closed(&self) -> anyhow::Result<&Value> {
        self.done.as_ref().context("a part was never done")
    }

    /// Whether its text is what the user asked for.
    pub(super) fn is_answer(&self) -> bool {
        self.kind == "output_text"
    }

    /// A part says what has been streamed into it so far.
    fn check_body(&self, part: &Value) -> anyhow::Result<()> {
        let field = if self.kind == "refusal" {
            "refusal"
        } else {
            "text"
        };
        ensure!(
            part[field] == self.text.as_str(),
            "the part's {field} is {}, not {:?}",
            part[field],
            self.text
        );
        if self.kind == "output_text" {
            ensure!(
                part["logprobs"].is_array(),
                "the part's logprobs is not a list"
            );
            ensure!(
                part["annotations"] == json!(self.annotations),
                "the part's annotations are not those that were added"
            );
        }
        Ok(())
    }
}
