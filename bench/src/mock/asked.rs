//! What a request asks the mock for.

use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;

const DEFAULT_TOKENS: u32 = 20;

/// The length and pace of an answer, from `tokens=N pace_ms=M` anywhere in the request's text.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub tokens: u32,
    /// From one token to the next; zero is as fast as the client takes them.
    pub pace: Duration,
    pub stream: bool,
}

impl Asked {
    /// Reads a request's body; `None` if it is no JSON object.
    pub fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Request {
            #[serde(default)]
            stream: Option<bool>,
        }
        let request: Request = serde_json::from_slice(body).ok()?;
        Some(Self {
            tokens: number(body, "tokens=").unwrap_or(DEFAULT_TOKENS),
            pace: Duration::from_millis(number(body, "pace_ms=").unwrap_or(0).into()),
            stream: request.stream.unwrap_or(false),
        })
    }
}

/// The number after the last `name`: earlier ones belong to earlier turns.
fn number(body: &[u8], name: &str) -> Option<u32> {
    let after = memmem::rfind(body, name.as_bytes())? + name.len();
    let digits = body[after..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    std::str::from_utf8(&body[after..after + digits])
        .ok()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_pace_come_from_the_last_text() {
        let read = |body: &str| Asked::read(body.as_bytes());
        let asked = |tokens, pace_ms, stream| {
            Some(Asked {
                tokens,
                pace: Duration::from_millis(pace_ms),
                stream,
            })
        };

        assert_eq!(read("{}"), asked(20, 0, false));
        assert_eq!(
            read(r#"{"input":"tokens=7 pace_ms=20","stream":true}"#),
            asked(7, 20, true)
        );
        assert_eq!(
            read(r#"{"input":[{"content":"tokens=7"},{"content":"tokens=8"}]}"#),
            asked(8, 0, false)
        );
        assert_eq!(
            read(r#"{"input":"tokens=99999999999"}"#),
            asked(20, 0, false)
        );
        assert_eq!(read("no JSON"), None);
    }
}
