//! Bodies that are taken, and the whole of what is read from them.

use bytes::Bytes;
use talaria_proto::v1::{OnActive, RunRequest};

use super::super::create_request;

/// A stored request without anything; tests fill in what differs.
fn request(items: &[&str]) -> RunRequest {
    RunRequest {
        input: items
            .iter()
            .map(|item| Bytes::copy_from_slice(item.as_bytes()))
            .collect(),
        store: true,
        parameters: Bytes::from_static(b"{}"),
        ..RunRequest::default()
    }
}

fn read(body: &str) -> RunRequest {
    create_request(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

const HELLO: &str =
    r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"Hello"}]}"#;

#[test]
fn a_string_is_one_user_message() {
    assert_eq!(
        read(r#"{"model":"gpt-5.2","input":"Hello"}"#),
        RunRequest {
            model: "gpt-5.2".to_owned(),
            ..request(&[HELLO])
        }
    );
}

#[test]
fn everything_that_can_be_asked_for_is_read() {
    let body = r#"{
        "model": "hermes-agent",
        "input": [{"role": "user", "content": "Hello"}],
        "instructions": "Be brief.",
        "conversation": {"id": "conv_1"},
        "store": true, "background": true, "stream": true,
        "stream_options": {"include_obfuscation": false},
        "include": ["reasoning.encrypted_content"],
        "tools": [
            {"type": "function", "name": "f", "parameters": {"a": 1.0, "b": 18446744073709551616}, "strict": null},
            {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
            {"type": "web_search", "search_context_size": "low"}
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]},
        "parallel_tool_calls": false, "max_tool_calls": 3, "max_output_tokens": 16,
        "temperature": 1e0, "top_p": 0.50, "top_logprobs": 20, "presence_penalty": -2, "frequency_penalty": 2,
        "truncation": "auto",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": true}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": null},
        "metadata": {"k": "a b\u0000"},
        "service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "p", "prompt_cache_retention": "24h",
        "context_management": [{"type": "compaction", "compact_threshold": 1000}],
        "user": null, "on_active": "interrupt", "session_id": "s", "max_tokens": 5, "provider": "x"
    }"#;

    let mut read = read(body);
    let parameters = std::mem::take(&mut read.parameters);

    assert_eq!(
        read,
        RunRequest {
            model: "hermes-agent".to_owned(),
            instructions: Some("Be brief.".to_owned()),
            conversation: Some("conv_1".to_owned()),
            background: true,
            stream: true,
            parameters: Bytes::new(),
            session_id: "s".to_owned(),
            on_active: OnActive::Interrupt.into(),
            ..request(&[HELLO])
        }
    );
    let parameters = std::str::from_utf8(&parameters)
        .unwrap()
        .replace(",\"", ",\n\"");
    insta::assert_snapshot!(parameters, @r#"
    {"include":["reasoning.encrypted_content"],
    "tools":[{"type":"function",
    "name":"f",
    "parameters":{"a":1.0,
    "b":18446744073709551616},
    "strict":null},{"type":"custom",
    "name":"c",
    "format":{"type":"grammar",
    "syntax":"lark",
    "definition":"x"}},{"type":"web_search",
    "search_context_size":"low"}],
    "metadata":{"k":"a b\u0000"},
    "text":{"format":{"type":"json_schema",
    "name":"n",
    "schema":{},
    "strict":true},
    "verbosity":"low"},
    "temperature":1e0,
    "top_p":0.50,
    "presence_penalty":-2,
    "frequency_penalty":2,
    "parallel_tool_calls":false,
    "max_output_tokens":16,
    "max_tool_calls":3,
    "reasoning":{"effort":"low",
    "summary":null},
    "safety_identifier":"s",
    "prompt_cache_key":"p",
    "prompt_cache_retention":"24h",
    "truncation":"auto",
    "service_tier":"auto",
    "top_logprobs":20,
    "context_management":[{"type":"compaction",
    "compact_threshold":1000}],
    "tool_choice":{"type":"allowed_tools",
    "mode":"auto",
    "tools":[{"type":"function",
    "name":"f"},{"type":"web_search"}]}}
    "#);
}

#[test]
fn short_messages_get_their_long_form() {
    for (short, long) in [
        (r#""Hello""#, HELLO),
        (r#"{"content":"Hello"}"#, HELLO),
        (r#"{"role":"user","content":"Hello"}"#, HELLO),
        (r#"{"type":null,"role":"user","content":["Hello"]}"#, HELLO),
        (
            r#"{"role":"user","content":[{"type":"text","text":"Hello"}]}"#,
            HELLO,
        ),
        (
            r#"{"type":"message","role":"system","content":"\u0041\u0000","id":"msg_1"}"#,
            r#"{"type":"message","role":"system","content":[{"type":"input_text","text":"\u0041\u0000"}],"id":"msg_1"}"#,
        ),
        (
            r#"{"role":"assistant","content":"Yes","phase":"commentary"}"#,
            r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Yes","annotations":[]}],"phase":"commentary"}"#,
        ),
        (
            r#"{"role":"user","content":[{"type":"input_text","text":"x","n":1.0},{"type":"image_url","image_url":{"url":"https://x.y/z.png","detail":"low"}}]}"#,
            r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"x","n":1.0},{"type":"input_image","image_url":"https://x.y/z.png","detail":"low"}]}"#,
        ),
        (
            r#"{"id":"msg_1"}"#,
            r#"{"type":"item_reference","id":"msg_1"}"#,
        ),
        (
            r#"{"id":"msg_1","type":null}"#,
            r#"{"type":"item_reference","id":"msg_1"}"#,
        ),
    ] {
        let body = format!(r#"{{"input":[{short}],"conversation":"c"}}"#);
        let expected = RunRequest {
            conversation: Some("c".to_owned()),
            ..request(&[long])
        };
        assert_eq!(read(&body), expected, "{short}");
    }
}

#[test]
fn other_items_keep_their_bytes() {
    for item in [
        r#"{"role":"developer","type":"message","content":[{"text":"x","type":"input_text","\u0078":1e2}]}"#,
        r#"{"type":"message","role":"assistant","id":"msg_1","status":"completed","content":[{"type":"refusal","refusal":"no"}]}"#,
        r#"{"type":"message","role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,AA==","detail":"auto"}]}"#,
        r#"{"type":"function_call","call_id":"call_1","name":"f","arguments":"{\"n\":1.0}","id":"fc_1","status":"completed"}"#,
        r#"{"type":"function_call_output","call_id":"call_1","output":"\u0000","id":"fco_1"}"#,
        r#"{"type":"function_call_output","call_id":"call_1","output":[{"type":"input_text","text":"x"}]}"#,
        r#"{"type":"custom_tool_call","call_id":"call_1","name":"f","input":"x"}"#,
        r#"{"type":"custom_tool_call_output","call_id":"call_1","output":"x"}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"x"}],"encrypted_content":"e"}"#,
        r#"{"type":"reasoning","summary":[],"content":[]}"#,
        r#"{"type":"compaction","encrypted_content":"e"}"#,
        r#"{"type":"compaction_trigger"}"#,
        r#"{"type":"item_reference","id":"rs_1"}"#,
        r#"{"type":"mcp_list_tools","id":"mcpl_1","server_label":"s","tools":[]}"#,
        r#"{"type":"mcp_call","id":"mcp_1","server_label":"s","name":"n","arguments":"{}","output":null,"error":null}"#,
        r#"{"type":"mcp_approval_request","id":"mcpr_1","server_label":"s","name":"n","arguments":"{}"}"#,
        r#"{"type":"mcp_approval_response","approval_request_id":"mcpr_1","approve":true}"#,
        r#"{"type":"web_search_call","id":"ws_1","status":"completed","action":{"type":"search"}}"#,
        r#"{"type":"file_search_call","id":"fs_1","status":"completed","queries":[],"results":null}"#,
        r#"{"type":"code_interpreter_call","id":"ci_1","status":"completed","container_id":"c","code":null,"outputs":null}"#,
        r#"{"type":"image_generation_call","id":"ig_1","status":"completed","result":null}"#,
        r#"{"type":"computer_call","id":"cu_1","call_id":"c","action":{},"pending_safety_checks":[],"status":"completed"}"#,
        r#"{"type":"computer_call_output","call_id":"c","output":{"type":"computer_screenshot"}}"#,
        r#"{"type":"local_shell_call","id":"lsh_1","call_id":"c","action":{},"status":"completed"}"#,
        r#"{"type":"local_shell_call_output","id":"c","output":"{}"}"#,
        r#"{"type":"shell_call","id":"sh_1","call_id":"c","action":{},"status":"completed"}"#,
        r#"{"type":"shell_call_output","call_id":"c","output":[]}"#,
        r#"{"type":"apply_patch_call","call_id":"c","operation":{},"status":"completed"}"#,
        r#"{"type":"apply_patch_call_output","call_id":"c","status":"failed","output":null}"#,
        r#"{"type":"tool_search_call","id":"tsc_1","call_id":null,"status":"completed"}"#,
        r#"{"type":"tool_search_output","id":"tso_1","call_id":null,"tools":[]}"#,
        r#"{"type":"additional_tools","role":"developer","tools":[]}"#,
        r#"{"type":"future_item","anything":{"n":18446744073709551616,"m":-0}}"#,
    ] {
        assert_eq!(
            read(&format!(r#"{{"input":[{item}]}}"#)),
            request(&[item]),
            "{item}"
        );
    }
}

#[test]
fn items_stand_on_one_line() {
    let body = "{\"input\":[{\n\t\"type\" : \"x y\",\r\n \"s\" : \"a \\n b\" }]}";

    assert_eq!(read(body), request(&[r#"{"type":"x y","s":"a \n b"}"#]));
}

#[test]
fn earlier_turns_need_no_new_input() {
    for input in ["", r#""input":[],"#, r#""input":"","#, r#""input":null,"#] {
        let body = format!(r#"{{{input}"previous_response_id":"resp_1"}}"#);
        let expected = RunRequest {
            previous_response_id: Some("resp_1".to_owned()),
            ..request(&[])
        };
        assert_eq!(read(&body), expected, "{body}");
    }
}

#[test]
fn booleans_may_be_spelled_as_hermes_clients_do() {
    assert_eq!(
        read(r#"{"input":"Hello","stream":"Yes","store":"0","background":0}"#),
        RunRequest {
            stream: true,
            store: false,
            ..request(&[HELLO])
        }
    );
    assert_eq!(
        read(r#"{"input":"Hello","stream":null,"store":null,"background":"off"}"#),
        request(&[HELLO])
    );
}

#[test]
fn conversations_may_have_free_names() {
    let body = r#"{"input":"Hello","conversation":"Ärger mit 猫 / 2"}"#;

    let conversation = Some("Ärger mit 猫 / 2".to_owned());
    assert_eq!(
        read(body),
        RunRequest {
            conversation,
            ..request(&[HELLO])
        }
    );
}

#[test]
fn parameters_of_other_servers_are_ignored() {
    let body = r#"{"input":"Hello","stop":["x"],"n":1,"seed":1,"models":[],"response_format":{},"image":{},
        "access_programs":[],"extra_body":{},"messages":null,"conversation_history":null}"#;

    assert_eq!(read(body), request(&[HELLO]));
}

#[test]
fn a_history_stands_before_the_input() {
    let body = r#"{
        "conversation_history": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
        ],
        "previous_response_id": "resp_1",
        "input": "Hello"
    }"#;
    let hi = r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Hi","annotations":[]}]}"#;

    assert_eq!(
        read(body),
        RunRequest {
            previous_response_id: Some("resp_1".to_owned()),
            brings_history: true,
            ..request(&[HELLO, hi, HELLO])
        }
    );
    let none = r#"{"conversation_history": [], "input": "Hello"}"#;
    assert_eq!(read(none), request(&[HELLO]));
}

#[test]
fn what_to_do_about_an_active_response_is_read() {
    for (name, expected) in [
        ("reject", OnActive::Reject),
        ("enqueue", OnActive::Enqueue),
        ("interrupt", OnActive::Interrupt),
    ] {
        let body = format!(r#"{{"input":"Hello","conversation":"c","on_active":"{name}"}}"#);
        let expected = RunRequest {
            conversation: Some("c".to_owned()),
            on_active: expected.into(),
            ..request(&[HELLO])
        };
        assert_eq!(read(&body), expected, "{name}");
    }
    assert_eq!(
        read(r#"{"input":"Hello","on_active":"reject"}"#),
        request(&[HELLO])
    );
}

#[test]
fn mcp_servers_may_be_named_in_each_form() {
    let server = r#""type":"mcp","server_label":"s","server_url":"https://a.example/mcp""#;
    for more in [
        "",
        r#","allowed_tools":null,"headers":null,"require_approval":null,"server_description":null,"authorization":null"#,
        r#","allowed_tools":["a","b c"],"require_approval":"never","server_description":"Docs.","authorization":"t""#,
        r#","allowed_tools":{"tool_names":["a"],"read_only":true},"require_approval":{"always":{"tool_names":["a"]},"never":{"read_only":true}}"#,
        r#","headers":{"X-Key":"a b","Authorization":"Basic eA=="},"require_approval":"always","connector_id":null"#,
    ] {
        let tools = format!(r"[{{{server}{more}}}]");
        for choice in [
            r#"{"type":"mcp","server_label":"s"}"#,
            r#"{"type":"mcp","server_label":"s","name":"a"}"#,
            r#"{"type":"allowed_tools","mode":"auto","tools":[{"type":"mcp","server_label":"s"}]}"#,
        ] {
            let parameters = format!(r#"{{"tools":{tools},"tool_choice":{choice}}}"#);
            let body = format!(r#"{{"input":"Hello",{}"#, &parameters[1..]);
            let expected = RunRequest {
                parameters: parameters.into(),
                ..request(&[HELLO])
            };
            assert_eq!(read(&body), expected, "{body}");
        }
    }
}
