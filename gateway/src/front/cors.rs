//! What web pages of allowed origins may send and read.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::Cors;

/// Headers that pages may always send.
const SENT: &str = "Authorization, Content-Type, Idempotency-Key, X-Hermes-Session-Id, \
                    X-Hermes-Session-Key, Last-Event-ID";

/// Further headers that pages may send if they ask: what OpenAI's SDKs add in a browser, and our own.
const ASKED: [&str; 8] = [
    "openai-organization",
    "openai-project",
    "openai-beta",
    "x-client-request-id",
    "user-agent",
    "accept",
    "cache-control",
    "x-request-id",
];
const ASKED_PREFIXES: [&str; 2] = ["x-stainless-", "x-talaria-"];

/// More than any page asks for.
const MAX_ASKED_BYTES: usize = 2048;

const ANSWER: [(HeaderName, &str); 3] = [
    (
        header::ACCESS_CONTROL_ALLOW_METHODS,
        "GET, POST, DELETE, OPTIONS",
    ),
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        "x-request-id, Retry-After, Idempotency-Replayed, X-Hermes-Session-Id, \
         X-Hermes-Session-Key, X-Hermes-Completed, X-Hermes-Partial, X-Hermes-Error",
    ),
    (header::ACCESS_CONTROL_MAX_AGE, "600"),
];

/// A page that may use the façade.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// What the answer says of the origins that may read it.
    allowed: HeaderValue,
    /// Whether another origin would be told otherwise.
    varies: bool,
    /// The names of the headers that it may send.
    headers: HeaderValue,
}

impl Page {
    /// The page that sends `request`, unless it may not, or none does.
    pub fn of(request: &HeaderMap, cors: &Cors) -> Option<Self> {
        let origin = request.get(header::ORIGIN)?;
        let (allowed, varies) = match cors {
            Cors::Any => (HeaderValue::from_static("*"), false),
            Cors::List(origins) => {
                let is_listed = origins.iter().any(|allowed| origin == allowed.as_str());
                (is_listed.then(|| origin.clone())?, true)
            }
        };
        let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        Some(Self {
            allowed,
            varies,
            headers: allowed_headers(asked),
        })
    }

    /// Says on an answer what the page may do.
    pub fn put_headers(self, answer: &mut HeaderMap) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.allowed);
        if self.varies {
            answer.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.headers);
        for (name, value) in ANSWER {
            answer.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// What may always be sent, and what was asked for as far as it may.
fn allowed_headers(asked: Option<&HeaderValue>) -> HeaderValue {
    let asked = asked.and_then(|asked| asked.to_str().ok());
    let mut names = SENT.to_owned();
    for name in asked
        .filter(|asked| asked.len() <= MAX_ASKED_BYTES)
        .into_iter()
        .flat_map(|asked| asked.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
    {
        let name = name.as_str();
        if ASKED.contains(&name) || ASKED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            names.push_str(", ");
            names.push_str(name);
        }
    }
    HeaderValue::try_from(names).unwrap_or_else(|_| HeaderValue::from_static(SENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(names: &str) -> String {
        let allowed = allowed_headers(Some(&HeaderValue::from_str(names).unwrap()));
        let allowed = allowed.to_str().unwrap();
        allowed.strip_prefix(SENT).unwrap().to_owned()
    }

    #[test]
    fn what_sdks_send_from_a_browser_is_allowed_and_nothing_else() {
        for (asked, more) in [
            ("authorization,content-type,idempotency-key", ""),
            (
                "x-stainless-lang, X-Stainless-Retry-Count",
                ", x-stainless-lang, x-stainless-retry-count",
            ),
            (
                "OpenAI-Beta,openai-project",
                ", openai-beta, openai-project",
            ),
            ("x-talaria-tool-items", ", x-talaria-tool-items"),
            ("cookie, x-evil, x-stainless", ""),
            (" , é x,,", ""),
        ] {
            assert_eq!(asks(asked), more, "{asked}");
        }
        assert_eq!(asks(&"x-stainless-lang,".repeat(200)), "");
    }

    #[test]
    fn only_pages_of_allowed_origins_are_let_in() {
        let page = |origin: Option<&'static str>, cors: &Cors| {
            let mut request = HeaderMap::new();
            if let Some(origin) = origin {
                request.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            Page::of(&request, cors).map(|page| (page.allowed, page.varies))
        };
        let list = Cors::List(vec!["https://a.example".to_owned()]);
        let listed = HeaderValue::from_static("https://a.example");

        assert_eq!(page(Some("https://a.example"), &list), Some((listed, true)));
        for (origin, cors) in [
            (None, &list),
            (None, &Cors::Any),
            (Some("https://b.example"), &list),
            (Some("https://a.example.b.example"), &list),
            (Some("null"), &list),
            (Some("https://a.example"), &Cors::List(Vec::new())),
        ] {
            assert_eq!(page(origin, cors), None, "{origin:?}");
        }
        let any = HeaderValue::from_static("*");
        assert_eq!(page(Some("null"), &Cors::Any), Some((any, false)));
    }
}
