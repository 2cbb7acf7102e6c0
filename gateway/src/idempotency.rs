//! `Idempotency-Key`: a request that is sent again is the same run.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use talaria_proto::v1::{Idempotency, ToolItems};

use crate::error::ApiError;
use crate::session::Session;
use crate::{approvals, tool_items};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest key, in characters.
const MAX_KEY: usize = 255;

/// Reads the key of a request, and hashes what must be the same for it to be the same request: the route, the body
/// whatever its spelling, the session, and the shape of tool calls if one is asked for.
pub fn read(
    headers: &HeaderMap,
    route: &str,
    body: &[u8],
    session: &Session,
) -> Result<Option<Idempotency>, ApiError> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    let visible = !key.is_empty() && key.as_bytes().iter().all(u8::is_ascii_graphic);
    let key = key
        .to_str()
        .ok()
        .filter(|key| visible && key.len() <= MAX_KEY);
    let (Some(key), None) = (key, keys.next()) else {
        let message = "Idempotency-Key must be one value of 1 to 255 visible ASCII characters.";
        return Err(ApiError::invalid("invalid_idempotency_key", message));
    };
    Ok(Some(Idempotency {
        key: key.to_owned(),
        request_hash: hash(route, body, session, &talaria_headers(headers)?).into(),
    }))
}

/// The refusal of a key for a request that is not stored.
pub fn requires_store() -> ApiError {
    let message = "Idempotency-Key requires 'store' to be true: an ephemeral run cannot be found \
                   again.";
    ApiError::invalid("idempotency_requires_store", message).with_param("store")
}

/// Says on an answer that its run was started by an earlier request.
pub fn put_replayed(headers: &mut HeaderMap) {
    headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
}

/// What the headers of our own ask for, in words.
fn talaria_headers(headers: &HeaderMap) -> Result<Vec<&'static str>, ApiError> {
    let tool_items = match tool_items::from_headers(headers)? {
        ToolItems::Unspecified => None,
        given => Some(given.as_str_name()),
    };
    let approvals = approvals::given(headers)?.map(|given| given.as_str_name());
    Ok(tool_items.into_iter().chain(approvals).collect())
}

fn hash(route: &str, body: &[u8], session: &Session, words: &[&str]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    part(route.as_bytes());
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(mut members)) => {
            // A parameter that is null was not given.
            members.retain(|_, value| !value.is_null());
            part(canonical(Value::Object(members)).to_string().as_bytes());
        }
        _ => part(body),
    }
    for text in [&session.id, &session.key] {
        part(text.as_deref().unwrap_or_default().as_bytes());
    }
    for word in words {
        part(word.as_bytes());
    }
    hasher.finalize().to_vec()
}

/// The same value with the members of all its objects in order.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(String, Value)> = members.into_iter().collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            let canonical = |(name, value)| (name, canonical(value));
            Value::Object(members.into_iter().map(canonical).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(canonical).collect()),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(keys: &[&str]) -> Result<Option<String>, ApiError> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(
                IDEMPOTENCY_KEY,
                HeaderValue::from_bytes(key.as_bytes()).unwrap(),
            );
        }
        let read = read(&headers, "/r", b"{}", &Session::default())?;
        Ok(read.map(|idempotency| idempotency.key))
    }

    #[test]
    fn a_key_is_one_value_of_visible_ascii() {
        let longest = "k".repeat(MAX_KEY);

        assert_eq!(given(&[]), Ok(None));
        for key in ["k", "a-B_0:~!", &longest] {
            assert_eq!(given(&[key]), Ok(Some(key.to_owned())));
        }
        let too_long = "k".repeat(MAX_KEY + 1);
        for keys in [&["a b"][..], &[""], &["é"], &[&too_long], &["a", "a"]] {
            let code = given(keys).map_err(|error| error.code);
            assert_eq!(
                code,
                Err(Some("invalid_idempotency_key".to_owned())),
                "{keys:?}"
            );
        }
    }

    /// REQ-32
    #[test]
    fn the_whole_request_is_compared_and_not_its_spelling() {
        let none = Session::default();
        let session = |id: &str| Session {
            id: Some(id.to_owned()),
            key: None,
        };
        let hash = |route, body: &[u8], session: &Session| super::hash(route, body, session, &[]);
        let base = hash("/r", br#"{"input":"x","tools":[{"a":1,"b":null}]}"#, &none);

        for same in [
            r#" {"tools": [{"b":null, "a":1}], "input":"\u0078"} "#,
            r#"{"input":"x","tools":[{"a":1,"b":null}],"store":null}"#,
        ] {
            assert_eq!(hash("/r", same.as_bytes(), &none), base, "{same}");
        }
        for other in [
            r#"{"input":"y","tools":[{"a":1,"b":null}]}"#,
            r#"{"input":"x","tools":[{"a":1}]}"#,
            r#"{"input":"x","tools":[{"a":1.5,"b":null}]}"#,
            r#"{"input":"x","tools":[{"a":1,"b":null}],"stream":true}"#,
            r#"{"input":"x","tools":[{"a":1,"b":null}],"conversation":"c"}"#,
            "not JSON",
        ] {
            assert_ne!(hash("/r", other.as_bytes(), &none), base, "{other}");
        }
        let body = br#"{"input":"x","tools":[{"a":1,"b":null}]}"#;
        assert_ne!(hash("/other", body, &none), base);
        assert_ne!(hash("/r", body, &session("s")), base);
        assert_ne!(
            hash("/r", body, &session("s")),
            hash("/r", body, &session("t"))
        );
        assert_ne!(super::hash("/r", body, &none, &["MCP_CALL"]), base);
    }
}
