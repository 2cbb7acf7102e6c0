//! What an upstream says and is asked, in one vocabulary for every kind of upstream.

use bytes::Bytes;
use serde_json::{Map, Value};
use talaria_proto::v1::{ResponseError, Usage};

/// A JSON object, with its members in the order in which they came.
pub type Object = Map<String, Value>;

/// The upstream's own name for an item within one model call: its output index, tool call index, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemKey(pub u64);

/// Which text of an item a delta continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `output_text` of a message's content part.
    Text,
    /// `refusal` of a message's content part.
    Refusal,
    /// `summary_text` of a reasoning item's summary part.
    ReasoningSummary,
    /// `reasoning_text` of a reasoning item's content part.
    ReasoningText,
    /// `arguments` of a `function_call`, or of an `mcp_call`.
    Arguments,
    /// `input` of a `custom_tool_call`.
    Input,
}

/// One thing that an upstream said during a model call.
///
/// Upstreams leave much out. Nothing here has to be announced: a delta for an unknown key opens its item, an item that
/// is never done is done when the call ends, and `Finished::output` fills in what was never streamed.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// An item begins. `item` is the upstream's object; `type` is a string.
    ItemAdded { key: ItemKey, item: Object },
    /// Text goes on. `part` is the content or summary index; 0 for `Arguments` and `Input`.
    Delta {
        key: ItemKey,
        field: Field,
        part: u32,
        delta: String,
        logprobs: Vec<Value>,
    },
    /// The whole text of `field`, as the upstream repeats it at the end of a part.
    Text {
        key: ItemKey,
        field: Field,
        part: u32,
        text: String,
    },
    /// An annotation of an `output_text` part.
    Annotation {
        key: ItemKey,
        part: u32,
        annotation: Object,
    },
    /// A hosted tool call moves on. `name` is OpenAI's event type, `fields` its members besides `type`,
    /// `sequence_number`, `item_id` and `output_index`.
    Progress {
        key: ItemKey,
        name: String,
        fields: Object,
    },
    /// An item ends. `item` is the upstream's whole object; `type` is a string.
    ItemDone { key: ItemKey, item: Object },
    /// The upstream keeps what it makes under this id, so that its stream can be gone on with.
    Began {
        upstream: String,
        response_id: String,
    },
    /// All that the upstream's events up to this number say has been told.
    Heard { cursor: u64 },
    /// The call ended; nothing follows.
    Finished {
        outcome: Outcome,
        usage: Option<Usage>,
        output: Vec<Object>,
    },
}

/// How a model call ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Completed,
    /// `reason` as in `incomplete_details.reason`: `max_output_tokens` or `content_filter`.
    Incomplete {
        reason: String,
    },
    Failed(ResponseError),
}

/// One model call: what the upstream is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCall {
    /// The upstream's name for the model.
    pub model: String,
    /// The agent's instructions, then the client's.
    pub instructions: Option<String>,
    /// The whole context, oldest first: input and output items as OpenAI's JSON.
    pub context: Vec<CallItem>,
    /// The request parameters that the client gave (`tools`, `temperature`, `text`, `reasoning`, …), as OpenAI's
    /// Responses API names them.
    pub parameters: Object,
}

/// One item of a model call's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallItem {
    /// The item, one JSON object.
    pub json: Bytes,
    /// The id under which this upstream knows the item, if it made it; our own `id` means nothing to it.
    pub upstream_id: Option<String>,
}

/// A `response.error` of type `server_error`.
pub fn server_error(message: impl Into<String>) -> ResponseError {
    ResponseError {
        code: "server_error".to_owned(),
        message: message.into(),
        r#type: "server_error".to_owned(),
        param: None,
    }
}
