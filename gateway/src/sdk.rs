//! Which clients take every frame of a stream for one that OpenAI sends.

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue};

/// OpenAI's SDKs send it, and nobody else.
const X_STAINLESS_LANG: HeaderName = HeaderName::from_static("x-stainless-lang");

/// Whether the request is of OpenAI's SDKs or of the AI SDK: a frame that they do not know breaks them.
pub fn is_strict(headers: &HeaderMap) -> bool {
    let agent = headers
        .get(USER_AGENT)
        .map_or(&b""[..], HeaderValue::as_bytes);
    headers.contains_key(X_STAINLESS_LANG) || is_ai_sdk(agent)
}

/// What the program says of itself comes first: `shop/1.2 ai-sdk-openai/4.0.118 …`, and before version 7 `ai-sdk/openai/3.0.141`.
fn is_ai_sdk(agent: &[u8]) -> bool {
    let mut products = agent.split(u8::is_ascii_whitespace);
    products.any(|product| product.starts_with(b"ai-sdk-") || product.starts_with(b"ai-sdk/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdks_are_known_by_what_they_send() {
        let strict = |name: &'static str, value: &'static str| {
            let name = HeaderName::from_static(name);
            is_strict(
                &[(name, HeaderValue::from_static(value))]
                    .into_iter()
                    .collect(),
            )
        };

        assert!(!is_strict(&HeaderMap::new()));
        assert!(strict("x-stainless-lang", "python"));
        let seven = "ai-sdk-openai/4.0.118 ai-sdk-provider-utils/5.0.81 node.js/v20.20.2";
        assert!(strict("user-agent", seven));
        assert!(strict("user-agent", "shop/1.2 ai-sdk/openai/3.0.141"));
        assert!(!strict("user-agent", "Mozilla/5.0 (not ai-sdk)"));
        assert!(!strict("user-agent", "curl/8.0"));
    }
}
