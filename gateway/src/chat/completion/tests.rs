//! Whole answers of all kinds.

use talaria_domain::model::{Outcome, server_error};

use super::*;
use crate::chat::example::{Say, events, final_response};

fn shown(said: &[Say], outcome: Outcome) -> String {
    let response = final_response(&events(said, outcome));
    match Completion::of(&response, false) {
        Completion::Answer { body, .. } => {
            let message = &body["choices"][0]["message"];
            let finish = &body["choices"][0]["finish_reason"];
            format!("{message} {finish} {}", body["hermes"])
        }
        Completion::Nothing(trouble) => format!("{trouble:?}"),
    }
}

#[test]
fn a_whole_answer_has_every_member_that_openai_s_has() {
    let response = final_response(&events(&[Say::Text(&["Hello"])], Outcome::Completed));

    let Completion::Answer { body, trouble } = Completion::of(&response, false) else {
        panic!("an answer is expected");
    };

    assert_eq!(trouble, None);
    insta::assert_snapshot!(body, @r#"{"id":"chatcmpl-01923456789a7bcd8ef0123456789abc","object":"chat.completion","created":1741476542,"model":"gpt-\"4o\"","choices":[{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":8,"completion_tokens":3,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":1,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#);
}

#[test]
fn messages_say_what_the_model_did() {
    let failed = || Outcome::Failed(server_error("The model tripped."));
    let limit = || Outcome::Incomplete {
        reason: "max_output_tokens".to_owned(),
    };
    let call = Say::Call("c1", "weather", &["{}"]);
    let lines = [
        shown(
            &[
                Say::Summary(&["S"]),
                Say::Text(&["A"]),
                Say::Thought(&["T"]),
                Say::Text(&["B"]),
            ],
            Outcome::Completed,
        ),
        shown(&[Say::Refusal("No.")], Outcome::Completed),
        shown(&[Say::Text(&["Wait."]), call.clone()], Outcome::Completed),
        shown(
            &[call.clone(), Say::CustomCall("c2", "shell", &["ls"])],
            Outcome::Completed,
        ),
        shown(&[], Outcome::Completed),
        shown(&[Say::Text(&["Once"])], limit()),
        shown(&[Say::HalfCall("c1", "weather", &["{\"ci"])], limit()),
        shown(&[Say::HalfCall("c1", "weather", &["{\"ci"])], failed()),
        shown(&[], limit()),
        shown(&[Say::Text(&["So f"])], failed()),
        shown(&[], failed()),
        shown(
            &[Say::Text(&["Onc"]), Say::Crash, Say::Text(&["Once"])],
            Outcome::Completed,
        ),
    ];

    insta::assert_snapshot!(lines.join("\n"), @r#"
    {"role":"assistant","content":"A\n\nB","refusal":null,"annotations":[],"reasoning_content":"S\n\nT"} "stop" null
    {"role":"assistant","content":null,"refusal":"No.","annotations":[]} "stop" null
    {"role":"assistant","content":"Wait.","refusal":null,"annotations":[],"tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{}"}}]} "tool_calls" null
    {"role":"assistant","content":null,"refusal":null,"annotations":[],"tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{}"}},{"id":"c2","type":"custom","custom":{"name":"shell","input":"ls"}}]} "tool_calls" null
    {"role":"assistant","content":"","refusal":null,"annotations":[]} "stop" null
    {"role":"assistant","content":"Once","refusal":null,"annotations":[]} "length" {"completed":false,"partial":true,"failed":false,"error":null,"error_code":"output_truncated"}
    {"role":"assistant","content":null,"refusal":null,"annotations":[],"tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{\"ci"}}]} "length" {"completed":false,"partial":true,"failed":false,"error":null,"error_code":"output_truncated"}
    Trouble { completed: false, partial: false, failed: true, error: Some("The model tripped."), error_code: "agent_error" }
    {"role":"assistant","content":"","refusal":null,"annotations":[]} "length" {"completed":false,"partial":true,"failed":false,"error":null,"error_code":"output_truncated"}
    {"role":"assistant","content":"So f","refusal":null,"annotations":[]} "error" {"completed":false,"partial":false,"failed":true,"error":"The model tripped.","error_code":"agent_error"}
    Trouble { completed: false, partial: false, failed: true, error: Some("The model tripped."), error_code: "agent_error" }
    {"role":"assistant","content":"Once","refusal":null,"annotations":[]} "stop" null
    "#);
}

#[test]
fn the_server_s_own_calls_are_not_shown() {
    let said = [
        Say::Call("c1", "terminal", &["{}"]),
        Say::Item(json!({"type": "function_call_output", "call_id": "c1", "output": "x"})),
        Say::Item(json!({"type": "web_search_call", "id": "w", "status": "completed"})),
        Say::Text(&["Done."]),
    ];

    insta::assert_snapshot!(shown(&said, Outcome::Completed), @r#"{"role":"assistant","content":"Done.","refusal":null,"annotations":[]} "stop" null"#);
}

#[test]
fn annotations_count_from_the_beginning_of_the_whole_text() {
    let cited = json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Cited",
        "annotations": [{"type": "url_citation", "start_index": 0, "end_index": 5, "url": "u", "title": "t"}]}]});

    insta::assert_snapshot!(shown(&[Say::Text(&["é!"]), Say::Item(cited)], Outcome::Completed), @r#"{"role":"assistant","content":"é!\n\nCited","refusal":null,"annotations":[{"type":"url_citation","url_citation":{"start_index":4,"end_index":9,"url":"u","title":"t"}}]} "stop" null"#);
}
