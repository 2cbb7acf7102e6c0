//! Reads what comes with `GET /v1/responses/{id}`: the id and the query.

use std::borrow::Cow;

use talaria_domain::ids::ResponseId;

use crate::check::quoted;
use crate::error::ApiError;

/// How a response is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetrieveQuery {
    /// As a stream of events rather than as it stands.
    pub stream: bool,
    /// The last sequence number that the client has; `None` is from the first event.
    pub starting_after: Option<u64>,
}

/// Reads the query of a retrieve request. Keys that are not known are ignored: SDKs add their own.
pub fn parse(query: Option<&str>) -> Result<RetrieveQuery, ApiError> {
    let (mut stream, mut starting_after) = (None, None);
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match name.as_ref() {
            "stream" => once(&mut stream, "stream", value)?,
            "starting_after" => once(&mut starting_after, "starting_after", value)?,
            "include_obfuscation" => drop(flag("include_obfuscation", &value)?),
            _ => {}
        }
    }
    Ok(RetrieveQuery {
        stream: stream.map_or(Ok(false), |value| flag("stream", &value))?,
        starting_after: starting_after.map_or(Ok(None), |value| cursor(&value))?,
    })
}

/// Reads the id of a response; what is no id of ours is one that does not exist.
pub fn response_id(id: &str) -> Result<ResponseId, ApiError> {
    ResponseId::parse(id).ok_or_else(|| ApiError::response_not_found(id))
}

fn once<'a>(
    slot: &mut Option<Cow<'a, str>>,
    name: &str,
    value: Cow<'a, str>,
) -> Result<(), ApiError> {
    if slot.replace(value).is_some() {
        return Err(invalid("invalid_value", name, "it is given twice"));
    }
    Ok(())
}

fn flag(name: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => {
            let message = format!(
                "Invalid value: {}. Supported values are: 'true' and 'false'.",
                quoted(value)
            );
            Err(ApiError::invalid("invalid_value", message).with_param(name))
        }
    }
}

/// Reads a sequence number; -1 stands for before the first.
fn cursor(value: &str) -> Result<Option<u64>, ApiError> {
    const NAME: &str = "starting_after";
    let digits = value.strip_prefix('-').unwrap_or(value);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let why = format!("expected an integer, but got {} instead", quoted(value));
        return Err(invalid("invalid_type", NAME, &why));
    }
    if value == "-1" {
        return Ok(None);
    }
    if digits.len() < value.len() {
        let why = format!(
            "integer below minimum value. Expected a value >= -1, but got {} instead",
            quoted(value)
        );
        return Err(invalid("integer_below_min_value", NAME, &why));
    }
    value.parse().map(Some).map_err(|_| {
        let why = format!(
            "integer above maximum value. Expected a value <= {}, but got {} instead",
            u64::MAX,
            quoted(value)
        );
        invalid("integer_above_max_value", NAME, &why)
    })
}

fn invalid(code: &str, name: &str, why: &str) -> ApiError {
    ApiError::invalid(code, format!("Invalid '{name}': {why}.")).with_param(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries_that_sdks_send_are_read() {
        let asked = |stream, starting_after| RetrieveQuery {
            stream,
            starting_after,
        };
        for (query, expected) in [
            (None, asked(false, None)),
            (Some(""), asked(false, None)),
            (Some("stream=true&starting_after=0"), asked(true, Some(0))),
            (Some("stream=1&starting_after=-1"), asked(true, None)),
            (Some("stream=0"), asked(false, None)),
            (
                Some("starting_after=18446744073709551615"),
                asked(false, Some(u64::MAX)),
            ),
            (
                Some("include%5B%5D=a&include[]=b&include=c&beta=true"),
                asked(false, None),
            ),
            (
                Some("stream=true&include_obfuscation=false"),
                asked(true, None),
            ),
        ] {
            assert_eq!(parse(query), Ok(expected), "{query:?}");
        }
    }

    #[test]
    fn bad_queries_are_refused() {
        for (query, code, param) in [
            ("stream=yes", "invalid_value", "stream"),
            ("stream=TRUE", "invalid_value", "stream"),
            ("stream=", "invalid_value", "stream"),
            ("stream", "invalid_value", "stream"),
            ("stream=true&stream=true", "invalid_value", "stream"),
            (
                "include_obfuscation=maybe",
                "invalid_value",
                "include_obfuscation",
            ),
            ("starting_after=", "invalid_type", "starting_after"),
            ("starting_after=-", "invalid_type", "starting_after"),
            ("starting_after=abc", "invalid_type", "starting_after"),
            ("starting_after=1.5", "invalid_type", "starting_after"),
            ("starting_after=1e3", "invalid_type", "starting_after"),
            ("starting_after=%2B5", "invalid_type", "starting_after"),
            ("starting_after=+5", "invalid_type", "starting_after"),
            ("starting_after=%D9%A1", "invalid_type", "starting_after"),
            (
                "starting_after=-2",
                "integer_below_min_value",
                "starting_after",
            ),
            (
                "starting_after=18446744073709551616",
                "integer_above_max_value",
                "starting_after",
            ),
            (
                "starting_after=1&starting_after=2",
                "invalid_value",
                "starting_after",
            ),
        ] {
            let error = parse(Some(query)).unwrap_err();
            assert_eq!(error.status, 400, "{query}");
            assert_eq!(error.code.as_deref(), Some(code), "{query}");
            assert_eq!(error.param.as_deref(), Some(param), "{query}");
        }
    }

    #[test]
    fn what_is_no_id_of_ours_does_not_exist() {
        let id = "resp_0192345678 9a7bcd8ef0123456789abc".replace(' ', "");

        assert_eq!(response_id(&id).unwrap().to_string(), id);
        for (id, message) in [
            ("resp_", "Response not found: resp_"),
            ("../../etc", "Response not found: ../../etc"),
            ("resp_\r\nx: y\0é", "Response not found: resp_??x: y??"),
        ] {
            assert_eq!(response_id(id), Err(ApiError::not_found(message)));
        }
        assert_eq!(
            response_id(&"x".repeat(9_999)).unwrap_err().message.len(),
            84
        );
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in any::<String>()) {
            let _ = parse(Some(&query));
            let _ = parse(Some(&format!("starting_after={query}&stream={query}")));
        }
    }
}
