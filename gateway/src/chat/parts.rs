//! What a response's items hold for a chat client: texts, thoughts and calls.

use serde::Serialize;
use serde_json::{Value, json};
use talaria_domain::json::RawObject;
use talaria_proto::v1::{Response, Usage};

/// A call of one of the client's own tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// Arguments of a function, or the input of a custom tool.
    pub text: String,
    pub kind: CallKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Function,
    Custom,
}

impl Call {
    /// Reads an item that calls a tool.
    pub fn read(item: &Value) -> Option<Self> {
        let kind = match item["type"].as_str()? {
            "function_call" => CallKind::Function,
            "custom_tool_call" => CallKind::Custom,
            _ => return None,
        };
        Some(Self {
            id: text(item, "call_id").to_owned(),
            name: text(item, "name").to_owned(),
            text: text(item, kind.members().1).to_owned(),
            kind,
        })
    }

    /// As it stands in a message's `tool_calls`.
    pub fn to_json(&self) -> Value {
        let (member, text) = self.kind.members();
        json!({
            "id": self.id, "type": member, (member): {"name": self.name, (text): self.text},
        })
    }

    /// As it stands in a message's deprecated `function_call`.
    pub fn to_function_call(&self) -> Value {
        json!({"name": self.name, "arguments": self.text})
    }
}

impl CallKind {
    /// The member of a chat tool call, and the member of that one which holds its text.
    pub fn members(self) -> (&'static str, &'static str) {
        match self {
            Self::Function => ("function", "arguments"),
            Self::Custom => ("custom", "input"),
        }
    }
}

/// The names of the tools that are the client's to run: those that its request offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnTools(Vec<String>);

impl OwnTools {
    /// Reads them from the request as the response repeats it.
    pub fn of(response: &Response) -> Self {
        let tools = RawObject::parse(&response.settings)
            .ok()
            .and_then(|settings| serde_json::from_str::<Vec<Value>>(settings.get("tools")?).ok());
        let own = |tool: Value| {
            let is_own = tool["type"] == "function" || tool["type"] == "custom";
            is_own.then(|| text(&tool, "name").to_owned())
        };
        Self(
            tools
                .unwrap_or_default()
                .into_iter()
                .filter_map(own)
                .collect(),
        )
    }

    pub fn contain(&self, name: &str) -> bool {
        self.0.iter().any(|own| own == name)
    }

    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }
}

/// A member that is a string, or the empty one.
pub fn text<'v>(object: &'v Value, name: &str) -> &'v str {
    object[name].as_str().unwrap_or_default()
}

/// Whether an item was cut off.
pub fn is_cut(item: &Value) -> bool {
    item["status"] == "incomplete"
}

/// The texts of an item's parts of one type; `member` holds the parts and `field` their text.
pub fn part_texts<'v>(
    item: &'v Value,
    member: &str,
    kind: &'static str,
    field: &'static str,
) -> impl Iterator<Item = (usize, &'v str)> {
    let parts = item[member].as_array().map_or(&[][..], Vec::as_slice);
    parts
        .iter()
        .enumerate()
        .filter(move |(_, part)| part["type"] == kind)
        .map(move |(index, part)| (index, text(part, field)))
}

/// An annotation as chat completions nest it; `offset` characters stand before its text.
pub fn annotation(annotation: &Value, offset: usize) -> Value {
    let kind = text(annotation, "type");
    let Some(members) = annotation.as_object() else {
        return annotation.clone();
    };
    let mut inner = members.clone();
    inner.shift_remove("type");
    for name in ["start_index", "end_index"] {
        if let Some(index) = inner.get(name).and_then(Value::as_u64) {
            inner.insert(name.to_owned(), (index + offset as u64).into());
        }
    }
    json!({"type": kind, (kind): inner})
}

/// `usage` as chat completions count it.
#[derive(Serialize)]
pub struct ChatUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u64,
    audio_tokens: u64,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
struct CompletionDetails {
    reasoning_tokens: u64,
    audio_tokens: u64,
    accepted_prediction_tokens: u64,
    rejected_prediction_tokens: u64,
}

impl From<Usage> for ChatUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.input_tokens,
            completion_tokens: usage.output_tokens,
            total_tokens: usage.total_tokens,
            prompt_tokens_details: PromptDetails {
                cached_tokens: usage.cached_tokens,
                audio_tokens: 0,
            },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: usage.reasoning_tokens,
                audio_tokens: 0,
                accepted_prediction_tokens: 0,
                rejected_prediction_tokens: 0,
            },
        }
    }
}

/// The id of the chat completion that a response is shown as.
pub fn completion_id(response: &Response) -> String {
    let id = talaria_domain::ids::ResponseId::parse(&response.id);
    id.map_or_else(
        || response.id.clone(),
        talaria_domain::ids::ResponseId::chat_completion_id,
    )
}
