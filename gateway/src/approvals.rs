//! `X-Talaria-Approvals`: what a response does with calls that a person has to agree to.

use http::{HeaderMap, HeaderName};
use talaria_proto::v1::Approvals;

use crate::error::ApiError;

const APPROVALS: HeaderName = HeaderName::from_static("x-talaria-approvals");

/// Reads and checks the header: `next_request` has the response complete with its questions, as OpenAI does, and `wait`
/// has the run wait for `POST /v1/runs/{id}/approval`. Without it, `default`.
pub fn from_headers(headers: &HeaderMap, default: Approvals) -> Result<Approvals, ApiError> {
    Ok(given(headers)?.unwrap_or(default))
}

/// What the header says, if it is there.
pub fn given(headers: &HeaderMap) -> Result<Option<Approvals>, ApiError> {
    let mut values = headers.get_all(APPROVALS).iter();
    let value = values.next().map_or(Ok(""), |value| value.to_str());
    match (value.map(str::trim), values.next()) {
        (Ok(""), None) => Ok(None),
        (Ok("next_request"), None) => Ok(Some(Approvals::InNextRequest)),
        (Ok("wait"), None) => Ok(Some(Approvals::Wait)),
        _ => {
            let message = "Invalid header 'X-Talaria-Approvals': it must be next_request or wait.";
            Err(ApiError::invalid("invalid_value", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_request_says_once_and_in_one_of_two_words_what_it_wants() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(APPROVALS, HeaderValue::from_static(value));
            }
            from_headers(&headers, Approvals::Wait).ok()
        };

        assert_eq!(read(&[]), Some(Approvals::Wait));
        assert_eq!(read(&[" next_request "]), Some(Approvals::InNextRequest));
        assert_eq!(read(&["wait"]), Some(Approvals::Wait));
        assert_eq!(read(&["always"]), None);
        assert_eq!(read(&["wait", "wait"]), None);
    }
}
