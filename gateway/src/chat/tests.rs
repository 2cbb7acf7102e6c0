//! What is kept of a completion, to whom progress is shown, and what headers say.

use super::*;

fn request(store: Option<bool>, session: bool) -> ChatRequest {
    let session = Session {
        id: session.then(|| "s".to_owned()),
        key: None,
    };
    let body = json!({"messages": [{"role": "user", "content": "x"}], "store": store});
    chat_request(body.to_string().as_bytes(), &session, "default").unwrap()
}

#[test]
fn a_completion_is_kept_when_there_is_something_to_come_back_with() {
    use ChatDisconnect::{BySession, Cancel, Detach};
    use Keeping::{Attended, Detached, Ephemeral};
    let table = [
        // (setting, body's store, session, key) -> what is kept; an error where there is no answer.
        (BySession, None, false, false, Some(Ephemeral)),
        (BySession, None, true, false, Some(Detached)),
        (BySession, None, false, true, Some(Detached)),
        (BySession, Some(true), false, false, Some(Attended)),
        (BySession, Some(false), true, false, Some(Ephemeral)),
        (BySession, Some(false), false, true, None),
        (Detach, None, false, false, Some(Detached)),
        (Detach, Some(false), false, false, Some(Ephemeral)),
        (Cancel, None, false, false, Some(Ephemeral)),
        (Cancel, None, true, true, Some(Attended)),
    ];
    let key = Idempotency::default();
    for (setting, store, session, has_key, expected) in table {
        let kept = Keeping::of(setting, &request(store, session), has_key.then_some(&key));
        let case = format!("{setting:?} {store:?} {session} {has_key}");
        match expected {
            Some(expected) => assert_eq!(kept, Ok(expected), "{case}"),
            None => assert_eq!(kept, Err(idempotency::requires_store()), "{case}"),
        }
    }
}

#[test]
fn progress_is_shown_to_whom_it_does_not_break() {
    let wants = |pairs: &[(&'static str, &'static str)]| {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        wants_progress(&pairs.collect())
    };

    assert!(wants(&[]));
    assert!(!wants(&[("x-talaria-tool-progress", "OFF")]));
    assert!(!wants(&[("x-stainless-lang", "python")]));
    assert!(!wants(&[("user-agent", "ai-sdk-openai/4.0.118")]));
    assert!(wants(&[
        ("x-stainless-lang", "python"),
        ("x-talaria-tool-progress", "on")
    ]));
}

#[test]
fn an_answer_that_is_not_whole_says_so_in_its_headers() {
    let mut headers = HeaderMap::new();
    let trouble = Trouble {
        completed: false,
        partial: true,
        failed: false,
        error: Some("é\n".repeat(150)),
        error_code: "agent_error",
    };
    put_trouble(&mut headers, &trouble);

    assert_eq!(headers[COMPLETED], "false");
    assert_eq!(headers[PARTIAL], "true");
    assert_eq!(headers[ERROR], "?".repeat(200));
}
