//! `X-Hermes-Session-Id` and `X-Hermes-Session-Key`: which thread of a user a request belongs to.
//!
//! Source of the names and the checks: the Hermes API server.

use http::{HeaderMap, HeaderName, HeaderValue};
use talaria_domain::ids::ResponseId;
use talaria_proto::v1::Response;

use crate::error::ApiError;

pub const SESSION_ID: HeaderName = HeaderName::from_static("x-hermes-session-id");
pub const SESSION_KEY: HeaderName = HeaderName::from_static("x-hermes-session-key");

/// The longest id or key, in characters.
const MAX_CHARACTERS: usize = 256;

/// What a request's headers say about its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    pub id: Option<String>,
    pub key: Option<String>,
}

impl Session {
    /// Reads and checks both headers; blank ones count as absent.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, ApiError> {
        let id = header(headers, &SESSION_ID, "Invalid session ID")?;
        let key = header(headers, &SESSION_KEY, "Invalid session key")?;
        if let Some(id) = &id {
            check_id(id)?;
        }
        if let Some(key) = &key {
            check_length(key, "Session key too long")?;
        }
        Ok(Self { id, key })
    }
}

/// Checks a session id, wherever it was given: not blank, at most 256 characters, nothing that could be a path.
pub fn check_id(id: &str) -> Result<(), ApiError> {
    check_length(id, "Session ID too long")?;
    let drive = id.as_bytes().get(1) == Some(&b':') && id.as_bytes()[0].is_ascii_alphabetic();
    let unsafe_path = drive || id.contains("..") || id.contains(['/', '\\']);
    if unsafe_path || id.trim().is_empty() || id.chars().any(char::is_control) {
        return Err(ApiError::bad_request("Invalid session ID"));
    }
    Ok(())
}

fn check_length(text: &str, too_long: &str) -> Result<(), ApiError> {
    if text.chars().count() > MAX_CHARACTERS {
        return Err(ApiError::bad_request(too_long));
    }
    Ok(())
}

fn header(
    headers: &HeaderMap,
    name: &HeaderName,
    invalid: &str,
) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes()).ok();
    let text = text.filter(|text| values.next().is_none() && !text.chars().any(char::is_control));
    let text = text.ok_or_else(|| ApiError::bad_request(invalid))?.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The session of a response.
pub fn of_response(response: &Response) -> String {
    if !response.session_id.is_empty() {
        return response.session_id.clone();
    }
    ResponseId::parse(&response.id).map_or_else(String::new, |id| id.0.to_string())
}

/// Says on an answer which session and key its response has, as far as a header can hold them.
pub fn put_headers(headers: &mut HeaderMap, response: &Response) {
    put(headers, SESSION_ID, &of_response(response));
    put(headers, SESSION_KEY, &response.session_key);
}

/// Sets one of the two headers, unless the text is empty or none that a header can hold.
pub fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if text.is_empty() {
        return;
    }
    if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&'static str, &'static [u8])]) -> Result<Session, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        Session::from_headers(&headers).map_err(|error| error.message)
    }

    fn session(id: Option<&str>, key: Option<&str>) -> Session {
        Session {
            id: id.map(str::to_owned),
            key: key.map(str::to_owned),
        }
    }

    #[test]
    fn headers_tell_the_session_and_blank_ones_nothing() {
        const ID: &str = "x-hermes-session-id";
        const KEY: &str = "x-hermes-session-key";

        assert_eq!(read(&[]), Ok(session(None, None)));
        assert_eq!(read(&[(ID, b" "), (KEY, b"")]), Ok(session(None, None)));
        assert_eq!(
            read(&[(ID, " café ".as_bytes()), (KEY, b"user/1")]),
            Ok(session(Some("café"), Some("user/1")))
        );
        for (pairs, message) in [
            (&[(ID, &b"a\tb"[..])][..], "Invalid session ID"),
            (&[(ID, b"a"), (ID, b"b")], "Invalid session ID"),
            (&[(ID, b"\xff")], "Invalid session ID"),
            (&[(KEY, b"a\tb")], "Invalid session key"),
        ] {
            assert_eq!(read(pairs), Err(message.to_owned()), "{pairs:?}");
        }
    }

    #[test]
    fn a_session_id_can_be_no_path() {
        let longest = "é".repeat(MAX_CHARACTERS);
        for id in ["a", "api-0123", "a.b", "user:1", &longest] {
            assert_eq!(check_id(id), Ok(()), "{id}");
        }
        for id in ["../a", "a/b", "a\\b", "c:temp", " ", "", "a\u{85}b"] {
            let invalid = ApiError::bad_request("Invalid session ID");
            assert_eq!(check_id(id), Err(invalid), "{id}");
        }
        let too_long = ApiError::bad_request("Session ID too long");
        assert_eq!(check_id(&(longest + "x")), Err(too_long));
    }

    #[test]
    fn a_response_without_a_session_is_its_own() {
        let response = Response {
            id: "resp_01923456789a7bcd8ef0123456789abc".to_owned(),
            ..Response::default()
        };
        let mut headers = HeaderMap::new();

        put_headers(&mut headers, &response);

        assert_eq!(headers[SESSION_ID], "01923456-789a-7bcd-8ef0-123456789abc");
        assert_eq!(headers.get(SESSION_KEY), None);
    }
}
