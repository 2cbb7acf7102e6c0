//! What a request asks the mock for.

use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;

use super::answer::Text;

const DEFAULT_TOKENS: u32 = 20;

/// The text and pace of an answer, from `tokens=N seed=S pace_ms=M pause_at=N pause_ms=M` anywhere in the request's
/// text, in any order; each may be left out.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub text: Text,
    pub pace: Pace,
    pub stream: bool,
}

/// When which token is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// From one token to the next; zero is as fast as the client takes them.
    pub tick: Duration,
    /// After so many tokens,
    pub pause_at: Option<u32>,
    /// it waits for so long.
    pub pause: Duration,
}

impl Pace {
    /// One token each `tick`; zero is as fast as the client takes them.
    pub fn every(tick: Duration) -> Self {
        Self {
            tick,
            ..Self::default()
        }
    }
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
        let millis = |name| Duration::from_millis(number(body, name).unwrap_or(0).into());
        Some(Self {
            text: Text {
                tokens: number(body, "tokens=").unwrap_or(DEFAULT_TOKENS),
                seed: number(body, "seed=").unwrap_or(0),
            },
            pace: Pace {
                tick: millis("pace_ms="),
                pause_at: number(body, "pause_at="),
                pause: millis("pause_ms="),
            },
            stream: request.stream.unwrap_or(false),
        })
    }

    /// What a GET of a response asks for in its query: `stream=true&tokens=N`.
    pub fn query(query: &str) -> Self {
        Self {
            text: Text::plain(number(query.as_bytes(), "tokens=").unwrap_or(DEFAULT_TOKENS)),
            pace: Pace::default(),
            stream: query.contains("stream=true"),
        }
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
                text: Text::plain(tokens),
                pace: Pace {
                    tick: Duration::from_millis(pace_ms),
                    ..Pace::default()
                },
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
        assert_eq!(
            read(r#"{"input":"seed=3 pause_at=5 pause_ms=40"}"#),
            Some(Asked {
                text: Text {
                    tokens: 20,
                    seed: 3
                },
                pace: Pace {
                    tick: Duration::ZERO,
                    pause_at: Some(5),
                    pause: Duration::from_millis(40),
                },
                stream: false,
            })
        );
        assert_eq!(
            Some(Asked::query("stream=true&tokens=9")),
            asked(9, 0, true)
        );
    }
}
