//! Sees from a server's refusal that it forgot the session, which rmcp would wait for in vain.

use rmcp::model::{ClientJsonRpcMessage, RequestId, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{StreamableHttpError, StreamableHttpPostResponse};

type Error = StreamableHttpError<reqwest::Error>;

/// A request, and whether it was sent in a session.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    id: RequestId,
    in_session: bool,
}

pub(super) fn asked(message: &ClientJsonRpcMessage, in_session: bool) -> Option<Asked> {
    let ClientJsonRpcMessage::Request(request) = message else {
        return None;
    };
    Some(Asked {
        id: request.id.clone(),
        in_session,
    })
}

/// The answer, where one that nobody can match to the request would be waited for in vain.
///
/// A server that was started anew does not know the session. It should say 404, for which rmcp begins another; the
/// reference servers say 400 with an error of no or another id, and others 400 with plain text. What was refused for its
/// session has not been done, so that it may be asked again; of any other error nobody knows that.
pub(super) fn understood(
    asked: Option<Asked>,
    answer: Result<StreamableHttpPostResponse, Error>,
) -> Result<StreamableHttpPostResponse, Error> {
    let Some(asked) = asked else {
        return answer;
    };
    match answer {
        Ok(StreamableHttpPostResponse::Json(ServerJsonRpcMessage::Error(error), _))
            if error.id.as_ref() != Some(&asked.id) =>
        {
            if asked.in_session && speaks_of_session(&error.error.message) {
                return Err(Error::SessionExpired);
            }
            Err(Error::UnexpectedServerResponse(error.error.message))
        }
        // The status is nowhere else.
        Err(Error::UnexpectedServerResponse(message))
            if asked.in_session
                && message.starts_with("HTTP 400 ")
                && speaks_of_session(&message) =>
        {
            Err(Error::SessionExpired)
        }
        answer => answer,
    }
}

/// Whether a refusal is about a session that is not there; one that ended in the middle of a call is another thing.
fn speaks_of_session(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("session") && !message.contains("terminated")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(in_session: bool, answer: Result<Value, &'static str>) -> String {
        let asked = Asked {
            id: RequestId::Number(7),
            in_session,
        };
        let answer = match answer {
            Ok(json) => Ok(StreamableHttpPostResponse::Json(
                serde_json::from_value(json).unwrap(),
                None,
            )),
            Err(message) => Err(Error::UnexpectedServerResponse(message.into())),
        };
        match understood(Some(asked), answer) {
            Ok(_) => "an answer".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_session_that_the_server_forgot_is_known_by_what_it_refuses() {
        let error = |id: Value| {
            let error = json!({"code": -32000, "message": "No valid session ID provided"});
            let mut message = json!({"jsonrpc": "2.0", "error": error});
            if !id.is_null() {
                message["id"] = id;
            }
            Ok(message)
        };
        let other = |message: &str| {
            let error = json!({"code": -32603, "message": message});
            Ok(json!({"jsonrpc": "2.0", "error": error}))
        };
        let terminated =
            "unexpected server response: Session terminated before the request completed";
        let broke = "unexpected server response: Error handling POST request";
        let bad_request = "unexpected server response: HTTP 400 Bad Request: no";
        let forgotten = Error::SessionExpired.to_string();
        let refused = "unexpected server response: No valid session ID provided";
        let bad = "unexpected server response: HTTP 400 Bad Request: no session";
        for (in_session, answer, expected) in [
            (true, error(json!(7)), "an answer"),
            (true, error(json!("server-error")), &*forgotten),
            (true, error(Value::Null), &*forgotten),
            (false, error(Value::Null), refused),
            (
                true,
                other("Session terminated before the request completed"),
                terminated,
            ),
            (true, other("Error handling POST request"), broke),
            (true, Err("HTTP 400 Bad Request: no"), bad_request),
            (true, Err("HTTP 400 Bad Request: no session"), &*forgotten),
            (false, Err("HTTP 400 Bad Request: no session"), bad),
            (
                true,
                Err("HTTP 403 Forbidden: no"),
                "unexpected server response: HTTP 403 Forbidden: no",
            ),
            (
                true,
                Ok(json!({"jsonrpc": "2.0", "id": 7, "result": {}})),
                "an answer",
            ),
        ] {
            assert_eq!(shown(in_session, answer.clone()), expected, "{answer:?}");
        }
    }
}
