//! How a run ended, in the words of chat completions and of Hermes' clients.

use serde::Serialize;
use talaria_proto::v1::{Response, Status};

/// The end of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub finish: FinishReason,
    /// What went wrong; none where the answer is whole.
    pub trouble: Option<Trouble>,
}

/// Why the model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    Stop,
    Length,
    ToolCalls,
    /// Of the request's deprecated `functions`.
    FunctionCall,
    ContentFilter,
    /// Hermes' own: the run failed or was cancelled.
    Error,
}

/// What Hermes' clients are told about an answer that is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    pub completed: bool,
    /// The answer was cut off, and what there is of it can be used.
    pub partial: bool,
    pub failed: bool,
    pub error: Option<String>,
    pub error_code: &'static str,
}

/// What a completed run leaves to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Nothing,
    ToolCalls,
    FunctionCall,
    /// Half of a call was shown, and the whole one cannot be shown any more.
    HalfACall,
}

impl Ending {
    /// The end of `response`, which has ended.
    pub fn of(response: &Response, left: Left) -> Self {
        match response.status() {
            Status::Completed => Self::completed(left),
            Status::Incomplete => Self::cut_off(response.incomplete_reason.as_deref()),
            Status::Cancelled => Self::failed("The run was cancelled."),
            Status::Failed => Self::failed(match &response.error {
                Some(error) if !error.message.is_empty() => &error.message,
                _ => "The run failed.",
            }),
            // Only responses that have ended come here.
            Status::Unspecified | Status::Queued | Status::InProgress => {
                Self::failed("The run did not end.")
            }
        }
    }

    /// The end of a run that failed, or of which nothing more can be said.
    pub fn failed(message: &str) -> Self {
        Self {
            finish: FinishReason::Error,
            trouble: Some(Trouble {
                completed: false,
                partial: false,
                failed: true,
                error: Some(message.to_owned()),
                error_code: "agent_error",
            }),
        }
    }

    fn completed(left: Left) -> Self {
        let finish = match left {
            Left::Nothing => FinishReason::Stop,
            Left::ToolCalls => FinishReason::ToolCalls,
            Left::FunctionCall => FinishReason::FunctionCall,
            Left::HalfACall => {
                return Self::failed(
                    "The server that ran this completion was lost in the middle of a tool call. \
                     Please ask again.",
                );
            }
        };
        Self {
            finish,
            trouble: None,
        }
    }

    /// Whatever limit was reached, clients know it as `length`.
    fn cut_off(reason: Option<&str>) -> Self {
        let (finish, error_code) = match reason {
            Some("content_filter") => (FinishReason::ContentFilter, "content_filter"),
            _ => (FinishReason::Length, "output_truncated"),
        };
        Self {
            finish,
            trouble: Some(Trouble {
                completed: false,
                partial: true,
                failed: false,
                error: None,
                error_code,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use talaria_proto::v1::ResponseError;

    use super::*;

    fn ending(status: Status, reason: Option<&str>, error: &str, left: Left) -> String {
        let response = Response {
            status: status.into(),
            incomplete_reason: reason.map(str::to_owned),
            error: Some(ResponseError {
                message: error.to_owned(),
                ..ResponseError::default()
            }),
            ..Response::default()
        };
        let Ending { finish, trouble } = Ending::of(&response, left);
        serde_json::json!([finish, trouble]).to_string()
    }

    #[test]
    fn every_end_has_a_finish_reason_and_only_whole_answers_no_trouble() {
        let ends = [
            ending(Status::Completed, None, "", Left::Nothing),
            ending(Status::Completed, None, "", Left::ToolCalls),
            ending(Status::Completed, None, "", Left::FunctionCall),
            ending(Status::Completed, None, "", Left::HalfACall),
            ending(
                Status::Incomplete,
                Some("max_output_tokens"),
                "",
                Left::ToolCalls,
            ),
            ending(Status::Incomplete, Some("max_steps"), "", Left::Nothing),
            ending(
                Status::Incomplete,
                Some("content_filter"),
                "",
                Left::Nothing,
            ),
            ending(Status::Failed, None, "The model tripped.", Left::ToolCalls),
            ending(Status::Failed, None, "", Left::Nothing),
            ending(Status::Cancelled, None, "", Left::Nothing),
        ];

        insta::assert_snapshot!(ends.join("\n"), @r#"
        ["stop",null]
        ["tool_calls",null]
        ["function_call",null]
        ["error",{"completed":false,"partial":false,"failed":true,"error":"The server that ran this completion was lost in the middle of a tool call. Please ask again.","error_code":"agent_error"}]
        ["length",{"completed":false,"partial":true,"failed":false,"error":null,"error_code":"output_truncated"}]
        ["length",{"completed":false,"partial":true,"failed":false,"error":null,"error_code":"output_truncated"}]
        ["content_filter",{"completed":false,"partial":true,"failed":false,"error":null,"error_code":"content_filter"}]
        ["error",{"completed":false,"partial":false,"failed":true,"error":"The model tripped.","error_code":"agent_error"}]
        ["error",{"completed":false,"partial":false,"failed":true,"error":"The run failed.","error_code":"agent_error"}]
        ["error",{"completed":false,"partial":false,"failed":true,"error":"The run was cancelled.","error_code":"agent_error"}]
        "#);
    }
}
