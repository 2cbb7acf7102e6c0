//! Bodies of requests, good and bad.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(body: &Value) -> Result<ChatRequest, ApiError> {
    chat_request(body.to_string().as_bytes(), &Session::default(), "default")
}

fn in_session(body: &Value) -> Result<ChatRequest, ApiError> {
    let session = Session {
        id: Some("s1".to_owned()),
        key: Some("k".to_owned()),
    };
    chat_request(body.to_string().as_bytes(), &session, "default")
}

/// Instructions, items and parameters, one a line.
fn shown(request: &ChatRequest) -> String {
    let run = &request.run;
    let instructions = format!("{:?}", run.instructions);
    let items = run.input.iter();
    let items = items.map(|item| String::from_utf8(item.to_vec()).unwrap());
    let parameters = String::from_utf8(run.parameters.to_vec()).unwrap();
    let lines: Vec<String> = [instructions]
        .into_iter()
        .chain(items)
        .chain([parameters])
        .collect();
    lines.join("\n")
}

fn said(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[test]
fn messages_become_instructions_and_items() {
    let body = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
            {"type": "input_image", "image_url": "data:image/png;base64,AA"},
        ]},
        {"role": "assistant", "content": "A cat.", "name": "x", "reasoning_content": "ignored"},
        {"role": "system", "content": "Now in French."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"a\": 1}"}},
            {"id": "c2", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
        ]},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "file"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "assistant", "content": null, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Go on", "unknown": 1},
    ]});

    insta::assert_snapshot!(shown(&read(&body).unwrap()), @r#"
    Some("Be brief.\nAnd\nkind.")
    {"type":"message","role":"user","content":[{"type":"input_text","text":"What is this?"},{"type":"input_image","image_url":"https://example.org/a.png","detail":"low"},{"type":"input_image","image_url":"data:image/png;base64,AA"}]}
    {"type":"message","role":"assistant","content":[{"type":"output_text","text":"A cat.","annotations":[]}]}
    {"type":"message","role":"system","content":[{"type":"input_text","text":"Now in French."}]}
    {"type":"message","role":"user","content":[{"type":"input_text","text":"Weather?"}]}
    {"type":"function_call","call_id":"c1","name":"weather","arguments":"{\"a\": 1}"}
    {"type":"custom_tool_call","call_id":"c2","name":"shell","input":"ls"}
    {"type":"custom_tool_call_output","call_id":"c2","output":[{"type":"input_text","text":"file"}]}
    {"type":"function_call_output","call_id":"c1","output":"rain"}
    {"type":"message","role":"assistant","content":[{"type":"refusal","refusal":"No."}]}
    {"type":"message","role":"assistant","content":[{"type":"output_text","text":"a","annotations":[]},{"type":"refusal","refusal":"b"}]}
    {"type":"message","role":"user","content":[{"type":"input_text","text":"Go on"}]}
    {}
    "#);
}

/// REQ-80
#[test]
fn in_a_session_only_what_follows_the_last_answer_is_new() {
    let body = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]});
    let request = in_session(&body).unwrap();

    insta::assert_snapshot!(shown(&request), @r#"
    Some("Be brief.")
    {"type":"message","role":"user","content":[{"type":"input_text","text":"Two"}]}
    {"type":"message","role":"user","content":[{"type":"input_text","text":"Three"}]}
    {}
    "#);
    let run = request.run;
    assert!(run.continues_session);
    assert_eq!(
        (run.session_id.as_str(), run.session_key.as_str()),
        ("s1", "k")
    );
    let answered = json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]});
    let nothing_new = in_session(&answered).unwrap_err();
    assert_eq!(nothing_new.message, "No user message found in messages");
    assert_eq!(read(&answered).unwrap().run.input.len(), 2);
}

#[test]
fn parameters_are_spelt_as_the_responses_api_spells_them() {
    let body = json!({"messages": said("x"), "model": "m", "temperature": 0.5, "top_p": 1, "stop": ["a"],
        "seed": 7, "logit_bias": {"1": -100}, "presence_penalty": 1, "frequency_penalty": -1, "max_tokens": 9,
        "max_completion_tokens": 1, "reasoning_effort": "low", "reasoning": {"summary": "auto"}, "verbosity": "low",
        "logprobs": true, "top_logprobs": 2, "parallel_tool_calls": false, "service_tier": "flex", "metadata": {"a": "b"},
        "user": "u", "safety_identifier": "s", "prompt_cache_key": "p", "prompt_cache_retention": "24h", "n": 1,
        "modalities": ["text"], "audio": null, "unknown": {}, "messagez": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1.5}, "strict": true}}});
    let request = read(&body).unwrap();

    insta::assert_snapshot!(shown(&request), @r#"
    None
    {"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}
    {"metadata":{"a":"b"},"temperature":0.5,"top_p":1,"presence_penalty":1,"frequency_penalty":-1,"parallel_tool_calls":false,"user":"u","safety_identifier":"s","prompt_cache_key":"p","prompt_cache_retention":"24h","service_tier":"flex","stop":["a"],"seed":7,"logit_bias":{"1":-100},"max_output_tokens":1,"include":["message.output_text.logprobs"],"top_logprobs":2,"text":{"format":{"type":"json_schema","name":"n","schema":{"a":1.5},"strict":true},"verbosity":"low"},"reasoning":{"summary":"auto","effort":"low"}}
    "#);
    assert_eq!(request.run.model, "m");
}

#[test]
fn tools_become_flat() {
    let body = json!({"messages": said("x"),
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "F", "parameters": {"type": "object"}, "strict": true}},
            {"type": "function", "function": {"name": "g"}},
            {"type": "custom", "custom": {"name": "h", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}}},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
            {"type": "function", "function": {"name": "g"}}, {"type": "custom", "custom": {"name": "h"}}]}}});
    let named = |choice: Value| {
        let mut body = body.clone();
        body["tool_choice"] = choice;
        let parameters: Value =
            serde_json::from_slice(&read(&body).unwrap().run.parameters).unwrap();
        parameters["tool_choice"].clone()
    };

    insta::assert_snapshot!(shown(&read(&body).unwrap()), @r#"
    None
    {"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}
    {"tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"g"},{"type":"custom","name":"h"}]},"tools":[{"type":"function","name":"f","description":"F","parameters":{"type":"object"},"strict":true},{"type":"function","name":"g","strict":false},{"type":"custom","name":"h","format":{"syntax":"lark","definition":"x","type":"grammar"}},{"type":"web_search"}]}
    "#);
    let function = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(named(function), json!({"type": "function", "name": "f"}));
    assert_eq!(named(json!("required")), "required");
}

#[test]
fn deprecated_functions_are_tools_too() {
    let body = json!({
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
        ],
        "functions": [{"name": "f", "parameters": {"type": "object"}}],
        "function_call": {"name": "f"},
    });
    let request = read(&body).unwrap();

    insta::assert_snapshot!(shown(&request), @r#"
    None
    {"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}
    {"type":"function_call","call_id":"call_1","name":"f","arguments":"{}"}
    {"type":"function_call_output","call_id":"call_1","output":"1"}
    {"parallel_tool_calls":false,"tool_choice":{"type":"function","name":"f"},"tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":false}]}
    "#);
    assert!(request.is_legacy);
}

#[test]
fn hermes_spellings_of_booleans_are_understood() {
    let options = |stream: Value, store: Value, usage: Value| {
        let body = json!({"messages": said("x"), "stream": stream, "store": store, "stream_options": {"include_usage": usage}});
        let request = read(&body).unwrap();
        (request.run.stream, request.store, request.usage)
    };

    let off = (false, None, UsageFrame::WithFinish);
    assert_eq!(options(Value::Null, Value::Null, Value::Null), off);
    let on = (true, Some(false), UsageFrame::OfItsOwn);
    assert_eq!(options(json!("yes"), json!("off"), json!(true)), on);
    let on = (false, Some(true), UsageFrame::WithFinish);
    assert_eq!(options(json!("false"), json!(1), json!("no")), on);
}

/// REQ-79
#[test]
fn a_session_is_derived_from_how_the_conversation_opens() {
    let opening = |tenant: &str, system: &str, more: Value| {
        let mut messages = vec![
            json!({"role": "system", "content": system}),
            json!({"role": "user", "content": "Hi"}),
        ];
        messages.extend(more.as_array().cloned().unwrap_or_default());
        let body = json!({"messages": messages}).to_string();
        let request = chat_request(body.as_bytes(), &Session::default(), tenant).unwrap();
        assert!(!request.run.continues_session);
        request.run.session_id
    };
    let later =
        json!([{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "More"}]);

    let first = opening("default", "Be brief.", Value::Null);
    // The first 16 digits of the SHA-256 of "Be brief.\nHi".
    assert_eq!(first, "api-5c909ed0697e0851");
    assert_eq!(opening("default", "Be brief.", later), first);
    assert_ne!(opening("default", "Be long.", Value::Null), first);
    assert_ne!(opening("other", "Be brief.", Value::Null), first);
}

/// What is refused: the code and the param (`-` is null), then the body's further members.
const BAD: &str = r#"
    -                          messages                       {}
    -                          messages                       {"messages":[]}
    -                          messages                       {"messages":"x"}
    -                          messages                       {"messages":null}
    -                          messages                       {"messages":[{"role":"system","content":"x"}]}
    -                          messages                       {"messages":[{"role":"user","content":" \n"}]}
    -                          messages                       {"messages":[{"role":"user","content":[{"type":"text","text":" "}]}]}
    -                          messages                       {"messages":[{"role":"user"}]}
    invalid_type               messages[0]                    {"messages":["x"]}
    missing_required_parameter messages[0].role               {"messages":[{"content":"x"}]}
    invalid_value              messages[0].role               {"messages":[{"role":"root","content":"x"}]}
    invalid_type               messages[0].content            {"messages":[{"role":"user","content":7}]}
    invalid_image_url          messages[0].content[0].image_url.url {"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///x"}}]}]}
    invalid_image_url          messages[0].content[0].image_url     {"messages":[{"role":"user","content":[{"type":"input_image"}]}]}
    unsupported_content_type   messages[0].content[0].image_url     {"messages":[{"role":"user","content":[{"type":"input_image","image_url":"data:text/plain,x"}]}]}
    invalid_content_part       messages[0].content[0].image_url.detail {"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://e.org/a","detail":" "}}]}]}
    unsupported_content_type   messages[0].content[0]         {"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"f"}}]}]}
    unsupported_content_type   messages[0].content[0]         {"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}]}
    missing_required_parameter messages[1].tool_call_id       {"messages":[{"role":"user","content":"x"},{"role":"tool","content":"x"}]}
    invalid_value              messages[1].name               {"messages":[{"role":"user","content":"x"},{"role":"function","name":"f","content":"x"}]}
    missing_required_parameter messages[0].tool_calls[0].id   {"messages":[{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"f"}}]}]}
    missing_required_parameter messages[0].tool_calls[0].function {"messages":[{"role":"assistant","tool_calls":[{"id":"c"}]}]}
    invalid_type               messages[0].tool_calls[0].function.arguments {"messages":[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":{}}}]}]}
    unsupported_value          n                              {"n":2}
    integer_below_min_value    n                              {"n":0}
    unsupported_parameter      audio                          {"audio":{"voice":"alloy"}}
    unsupported_value          modalities[1]                  {"modalities":["text","audio"]}
    invalid_type               stream                         {"stream":"maybe"}
    invalid_type               model                          {"model":7}
    decimal_above_max_value    temperature                    {"temperature":2.5}
    integer_below_min_value    max_tokens                     {"max_tokens":0}
    invalid_type               max_completion_tokens          {"max_completion_tokens":"9"}
    invalid_type               stop                           {"stop":7}
    invalid_type               seed                           {"seed":"x"}
    decimal_above_max_value    logit_bias.1                   {"logit_bias":{"1":101}}
    invalid_value              reasoning_effort               {"reasoning_effort":"huge"}
    invalid_value              response_format.type           {"response_format":{"type":"xml"}}
    missing_required_parameter response_format.json_schema.name {"response_format":{"type":"json_schema","json_schema":{"schema":{}}}}
    invalid_type               tools                          {"tools":{}}
    missing_required_parameter tools[0].function              {"tools":[{"type":"function","name":"f"}]}
    invalid_value              tools[0].function.name         {"tools":[{"type":"function","function":{"name":"a b"}}]}
    invalid_value              tools[0].type                  {"tools":[{"type":"teleport"}]}
    invalid_value              tools[1].name                  {"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}]}
    invalid_value              tool_choice                    {"tool_choice":{"type":"custom","custom":{"name":"f"}}}
    invalid_value              tool_choice                    {"tool_choice":"sometimes"}
    invalid_type               metadata                       {"metadata":[]}
    invalid_type               stream_options                 {"stream_options":true}
"#;

#[test]
fn bad_requests_are_refused_with_the_place_that_is_wrong() {
    for line in BAD.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut columns = line.splitn(3, char::is_whitespace);
        let code = columns.next().unwrap();
        let rest = line[code.len()..].trim_start();
        let (param, body) = rest.split_once(' ').unwrap();
        let mut body: Value = serde_json::from_str(body.trim()).unwrap();
        let needs_messages = body
            .as_object()
            .is_some_and(|it| !it.is_empty() && !it.contains_key("messages"));
        if needs_messages {
            body["messages"] = said("x");
        }

        let error = read(&body).unwrap_err();

        let got = (
            error.code.as_deref().unwrap_or("-"),
            error.param.as_deref().unwrap_or("-"),
        );
        assert_eq!(got, (code, param), "{line}\n{error}");
        assert_eq!(error.status, 400);
    }
}

/// JSON that is made of the words that requests are made of.
/// Looking through all calls for each output would take a minute.
#[test]
fn one_client_s_long_history_of_tool_calls_does_not_hold_up_the_others() {
    let calls = vec![json!({"id": "a", "function": {"name": "f"}}); 1000];
    let mut messages = vec![json!({"role": "user", "content": "Hi"})];
    messages.extend(vec![json!({"role": "assistant", "tool_calls": calls}); 100]);
    messages.extend(vec![json!({"role": "tool", "tool_call_id": "z"}); 19_000]);
    let body = json!({"messages": messages});

    let start = Instant::now();
    let request = read(&body).unwrap();

    assert_eq!(request.run.input.len(), 1 + 100_000 + 19_000);
    assert!(start.elapsed() < Duration::from_secs(20));
}

fn any_json() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 24] = [
        "role",
        "content",
        "user",
        "assistant",
        "tool",
        "type",
        "text",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "tool_call_id",
        "image_url",
        "url",
        "custom",
        "input",
        "function_call",
        "system",
        "refusal",
        "detail",
        "call_1",
        "https://e.org/a",
        "",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(&WORDS[..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let members =
            prop::collection::vec((prop::sample::select(&WORDS[..]), inner.clone()), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            members.prop_map(|members| {
                let members = members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value));
                Value::Object(members.collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_sent_is_read_or_refused(
        messages in prop::collection::vec(any_json(), 0..4),
        tools in any_json(),
        choice in any_json(),
        rest in any_json(),
    ) {
        let body = json!({"messages": messages, "tools": tools, "tool_choice": choice, "functions": rest});
        for read in [read(&body), in_session(&body), read(&json!({"messages": messages, "response_format": rest}))] {
            match read {
                Ok(request) => {
                    for item in &request.run.input {
                        let item: Value = serde_json::from_slice(item)?;
                        prop_assert!(item["type"].is_string());
                    }
                    prop_assert!(serde_json::from_slice::<Value>(&request.run.parameters)?.is_object());
                }
                Err(error) => prop_assert_eq!(error.status, 400),
            }
        }
    }
}
