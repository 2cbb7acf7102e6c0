//! How servers are spoken with over HTTP: as rmcp does, which two kinds of refusals would leave waiting.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::BoxStream;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::model::{ClientJsonRpcMessage, RequestId, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
};
use sse_stream::Sse;

type Error = StreamableHttpError<reqwest::Error>;
type Headers = HashMap<HeaderName, HeaderValue>;
type Frames = BoxStream<'static, Result<Sse, SseError>>;

/// rmcp's client, which sees a session that the server forgot, and refusals that do not say what they refuse.
#[derive(Clone, Debug)]
pub(super) struct Client(pub reqwest::Client);

impl StreamableHttpClient for Client {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, Error> {
        let asked = asked(&message, session.is_some());
        let answer = self.0.post_message(uri, message, session, auth, headers);
        understood(asked, answer.await)
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: Headers,
        max: usize,
    ) -> Result<StreamableHttpPostResponse, Error> {
        let asked = asked(&message, session.is_some());
        let answer = self
            .0
            .post_message_with_max_sse_event_size(uri, message, session, auth, headers, max);
        understood(asked, answer.await)
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<(), Error> {
        self.0.delete_session(uri, session, auth, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<Frames, Error> {
        self.0
            .get_stream(uri, session, last_event_id, auth, headers)
            .await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth: Option<String>,
        headers: Headers,
        max: usize,
    ) -> Result<Frames, Error> {
        self.0
            .get_stream_with_max_sse_event_size(uri, session, last_event_id, auth, headers, max)
            .await
    }
}

/// A request, and whether it was sent in a session.
#[derive(Clone, Debug)]
struct Asked {
    id: RequestId,
    in_session: bool,
}

fn asked(message: &ClientJsonRpcMessage, in_session: bool) -> Option<Asked> {
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
/// reference servers say 400 with an error of no or another id, and others 400 with plain text. What was refused like this
/// has not been done, so that it may be asked again.
fn understood(
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
            if asked.in_session {
                return Err(Error::SessionExpired);
            }
            Err(Error::UnexpectedServerResponse(error.error.message))
        }
        // The status is nowhere else.
        Err(Error::UnexpectedServerResponse(message))
            if asked.in_session && message.starts_with("HTTP 400 ") =>
        {
            Err(Error::SessionExpired)
        }
        answer => answer,
    }
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
        let forgotten = Error::SessionExpired.to_string();
        let refused = "unexpected server response: No valid session ID provided";
        let bad = "unexpected server response: HTTP 400 Bad Request: no session";
        for (in_session, answer, expected) in [
            (true, error(json!(7)), "an answer"),
            (true, error(json!("server-error")), &*forgotten),
            (true, error(Value::Null), &*forgotten),
            (false, error(Value::Null), refused),
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
