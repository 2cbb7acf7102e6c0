//! Bodies that are refused: with which code, and where.

use super::super::create_request;
use crate::error::ApiError;

fn refused(body: &[u8]) -> ApiError {
    match create_request(body) {
        Ok(request) => panic!("{} was taken: {request:?}", String::from_utf8_lossy(body)),
        Err(error) => error,
    }
}

/// Checks a table of bodies, one a line: the `code` and the `param` of its error (`-` is null), then the body.
#[track_caller]
fn check(cases: &str) {
    for case in cases.lines().map(str::trim).filter(|case| !case.is_empty()) {
        let (code, rest) = case.split_once(' ').unwrap();
        let (param, body) = rest.trim_start().split_once(' ').unwrap();
        let error = refused(body.trim_start().as_bytes());
        let got = (
            error.status.as_u16(),
            error.code.as_deref().unwrap_or("-"),
            error.param.as_deref().unwrap_or("-"),
        );
        let start: String = body.chars().take(200).collect();
        assert_eq!(got, (400, code, param), "{start}: {error}");
        assert!(error.message.len() < 600, "{start}: {error}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    for body in [
        "",
        " \n",
        "{",
        "\u{feff}{\"input\":\"x\"}",
        "{\"input\":\"a\nb\"}",
        "{'input':'x'}",
        r#"{"input":"x""#,
        r#"{"input":"x",}"#,
        r#"{"input":"x"} // why"#,
        r#"{"input":NaN}"#,
        r#"{"input":"x","temperature":Infinity}"#,
        r#"{"input":"x","temperature":1e400}"#,
        r#"{"input":"x","top_logprobs":01}"#,
        r#"{"input":"x"}{}"#,
        r#"{"input":"x"} x"#,
        r#"{"input":"\ud800"}"#,
        r#"{"input":"\udc00"}"#,
        r#"{"input":"x","input":"y"}"#,
        r#"{"input":[{"type":"x","type":"y"}]}"#,
    ] {
        let error = refused(body.as_bytes());
        assert_eq!(
            (error.status.as_u16(), error.code, error.param),
            (400, None, None),
            "{body}"
        );
    }
}

#[test]
fn what_is_not_one_object_is_refused() {
    for body in ["null", "true", "0", r#""""#, "[]", r#"["gpt"]"#] {
        let error = refused(body.as_bytes());
        assert_eq!(
            (error.status.as_u16(), error.code.as_deref()),
            (400, Some("invalid_type"))
        );
    }
}

#[test]
fn other_encodings_are_refused() {
    let utf16: Vec<u8> = r#"{"input":"x"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for body in [
        &utf16[..],
        b"\xff\xfe{\0}\0",
        b"{\"input\":\"\xc0\x80\"}",
        b"{\"input\":\"\xed\xa0\x80\"}",
        b"{\"input\":\"\xff\"}",
    ] {
        let error = refused(body);
        assert_eq!((error.status.as_u16(), error.code), (400, None), "{body:?}");
    }
}

#[test]
fn deep_json_is_refused() {
    for depth in [129, 10_000, 100_000] {
        let body = format!(r#"{{"input":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(refused(body.as_bytes()).code, None);
        let body = format!(r#"{{"input":"x","tools":{}"#, r#"{"a":"#.repeat(depth));
        assert_eq!(refused(body.as_bytes()).code, None);
    }
}

#[test]
fn models_and_input_are_checked() {
    check(
        r#"
        invalid_type                  model                         {"model":1,"input":"x"}
        empty_string                  model                         {"model":"","input":"x"}
        invalid_value                 model                         {"model":"a\u0000b","input":"x"}
        invalid_value                 model                         {"model":"a\nb","input":"x"}
        invalid_value                 model                         {"model":"a\u202eb","input":"x"}
        missing_required_parameter    -                             {}
        missing_required_parameter    -                             {"input":null}
        missing_required_parameter    -                             {"input":""}
        missing_required_parameter    -                             {"input":" \n "}
        missing_required_parameter    -                             {"input":[]}
        missing_required_parameter    -                             {"input":[{"role":"user","content":" "}]}
        missing_required_parameter    -                             {"input":[{"role":"user","content":[{"type":"input_text","text":""}]}]}
        missing_required_parameter    -                             {"input":[" ",""]}
        invalid_type                  input                         {"input":5}
        invalid_type                  input                         {"input":{}}
        invalid_type                  input[0]                      {"input":[5]}
        invalid_type                  input[1]                      {"input":["x",null]}
        invalid_type                  input[0]                      {"input":[[]]}
        missing_required_parameter    input[0].type                 {"input":[{}]}
        invalid_type                  input[0].type                 {"input":[{"type":null}]}
        invalid_type                  input[0].type                 {"input":[{"type":7}]}
        empty_string                  input[0].type                 {"input":[{"type":""}]}
        "#,
    );
}

#[test]
fn messages_are_checked() {
    check(
        r#"
        missing_required_parameter    input[0].role                 {"input":[{"type":"message","content":"x"}]}
        invalid_type                  input[0].role                 {"input":[{"type":"message","role":null,"content":"x"}]}
        invalid_value                 input[0].role                 {"input":[{"role":"tool","content":"x"}]}
        invalid_type                  input[0].role                 {"input":[{"role":1,"content":"x"}]}
        missing_required_parameter    input[0].content              {"input":[{"role":"user"}]}
        invalid_type                  input[0].content              {"input":[{"role":"user","content":null}]}
        invalid_type                  input[0].content              {"input":[{"role":"user","content":{}}]}
        invalid_type                  input[0].content[0]           {"input":[{"role":"user","content":[1]}]}
        missing_required_parameter    input[0].content[0].type      {"input":[{"role":"user","content":[{}]}]}
        missing_required_parameter    input[0].content[0].text      {"input":[{"role":"user","content":[{"type":"input_text"}]}]}
        invalid_type                  input[0].content[0].text      {"input":[{"role":"user","content":[{"type":"input_text","text":1}]}]}
        missing_required_parameter    input[0].content[0].text      {"input":[{"role":"user","content":[{"type":"text"}]}]}
        invalid_value                 input[0].content[0].type      {"input":[{"role":"user","content":[{"type":"output_text","text":"x"}]}]}
        invalid_value                 input[0].content[0].type      {"input":[{"role":"assistant","content":[{"type":"input_text","text":"x"}]}]}
        missing_required_parameter    input[0].content[0].refusal   {"input":[{"role":"assistant","content":[{"type":"refusal"}]}]}
        unsupported_content_type      input[0].content[0]           {"input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}
        unsupported_content_type      input[0].content[0]           {"input":[{"role":"user","content":[{"type":"input_audio"}]}]}
        invalid_image_url             input[1].content[1].image_url {"input":["x",{"role":"user","content":["y",{"type":"input_image"}]}]}
        invalid_image_url             input[0].content[0].image_url {"input":[{"role":"user","content":[{"type":"input_image","image_url":""}]}]}
        invalid_type                  input[0].content[0].image_url {"input":[{"role":"user","content":[{"type":"input_image","image_url":5}]}]}
        invalid_image_url             input[0].content[0].image_url {"input":[{"role":"user","content":[{"type":"input_image","image_url":"file:///etc/passwd"}]}]}
        invalid_image_url             input[0].content[0].image_url {"input":[{"role":"user","content":[{"type":"input_image","image_url":"http:///x"}]}]}
        invalid_image_url             input[0].content[0].image_url {"input":[{"role":"user","content":[{"type":"input_image","image_url":"http://x\ty"}]}]}
        invalid_image_url             input[0].content[0].image_url {"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64"}]}]}
        unsupported_content_type      input[0].content[0].image_url {"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:text/html,x"}]}]}
        invalid_content_part          input[0].content[0].detail    {"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x","detail":""}]}]}
        invalid_value                 input[0].content[0].detail    {"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x","detail":"huge"}]}]}
        invalid_image_url             input[0].content[0].image_url.url {"input":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"ftp://x"}}]}]}
        invalid_value                 input[0].status               {"input":[{"role":"user","content":"x","status":"done"}]}
        invalid_value                 input[0].phase                {"input":[{"role":"assistant","content":"x","phase":"thinking"}]}
        "#,
    );
}

#[test]
fn items_are_checked() {
    check(
        r#"
        invalid_id_prefix             input[0].id                   {"input":[{"type":"message","id":"fc_1","role":"user","content":"x"}]}
        invalid_value                 input[0].id                   {"input":[{"type":"message","id":"msg_é","role":"user","content":"x"}]}
        invalid_type                  input[0].id                   {"input":[{"type":"message","id":5,"role":"user","content":"x"}]}
        missing_required_parameter    input[0].call_id              {"input":[{"type":"function_call","name":"f","arguments":"{}"}]}
        empty_string                  input[0].call_id              {"input":[{"type":"function_call","call_id":"","name":"f","arguments":"{}"}]}
        invalid_value                 input[0].name                 {"input":[{"type":"function_call","call_id":"c","name":"f\u0000","arguments":"{}"}]}
        invalid_type                  input[0].arguments            {"input":[{"type":"function_call","call_id":"c","name":"f","arguments":{}}]}
        invalid_value                 input[0].status               {"input":[{"type":"function_call","call_id":"c","name":"f","arguments":"{}","status":"failed"}]}
        missing_required_parameter    input[0].output               {"input":[{"type":"function_call_output","call_id":"c"}]}
        invalid_type                  input[0].output               {"input":[{"type":"function_call_output","call_id":"c","output":1}]}
        unsupported_content_type      input[0].output[0]            {"input":[{"type":"function_call_output","call_id":"c","output":[{"type":"x"}]}]}
        invalid_id_prefix             input[0].id                   {"input":[{"type":"function_call_output","id":"msg_1","call_id":"c","output":""}]}
        missing_required_parameter    input[0].summary              {"input":[{"type":"reasoning"}]}
        invalid_value                 input[0].summary[0].type      {"input":[{"type":"reasoning","summary":[{"type":"text","text":"x"}]}]}
        missing_required_parameter    input[0].id                   {"input":[{"type":"item_reference"}]}
        invalid_type                  input[0].id                   {"input":[{"type":"item_reference","id":null}]}
        empty_string                  input[0].id                   {"input":[{"id":""}]}
        invalid_value                 input[0].id                   {"input":[{"id":"a b"}]}
        missing_required_parameter    input[0].approve              {"input":[{"type":"mcp_approval_response","approval_request_id":"x"}]}
        invalid_type                  input[0].approve              {"input":[{"type":"mcp_approval_response","approval_request_id":"x","approve":"yes"}]}
        invalid_type                  input[0].id                   {"input":[{"type":"unheard_of","id":7}]}
        -                             input                         {"input":[{"id":"msg_1"},{"type":"message","id":"msg_1","role":"user","content":"x"}]}
        "#,
    );
}

#[test]
fn state_is_checked() {
    check(
        r#"
        mutually_exclusive_parameters -                             {"input":"x","previous_response_id":"resp_1","conversation":"c"}
        invalid_id_prefix             previous_response_id          {"input":"x","previous_response_id":"foo"}
        invalid_id_prefix             previous_response_id          {"input":"x","previous_response_id":""}
        invalid_value                 previous_response_id          {"input":"x","previous_response_id":"resp_'; DROP"}
        invalid_type                  previous_response_id          {"input":"x","previous_response_id":["resp_1"]}
        empty_string                  conversation                  {"input":"x","conversation":""}
        invalid_value                 conversation                  {"input":"x","conversation":"  "}
        invalid_value                 conversation                  {"input":"x","conversation":"a\u0000"}
        invalid_type                  conversation                  {"input":"x","conversation":7}
        missing_required_parameter    conversation.id               {"input":"x","conversation":{}}
        invalid_id_prefix             conversation.id               {"input":"x","conversation":{"id":"c"}}
        invalid_type                  stream                        {"input":"x","stream":"maybe"}
        invalid_type                  stream                        {"input":"x","stream":[]}
        invalid_type                  store                         {"input":"x","store":"si"}
        invalid_type                  background                    {"input":"x","background":{}}
        unsupported_parameter         background                    {"input":"x","background":true,"store":false}
        invalid_type                  stream_options                {"input":"x","stream_options":true}
        invalid_type                  stream_options.include_obfuscation {"input":"x","stream_options":{"include_obfuscation":1}}
        invalid_type                  instructions                  {"input":"x","instructions":["x"]}
        invalid_value                 session_id                    {"input":"x","session_id":"a\nb"}
        invalid_value                 on_active                     {"input":"x","on_active":"ignore"}
        invalid_value                 on_active                     {"input":"x","on_active":"enqueue"}
        invalid_value                 on_active                     {"input":"x","on_active":"interrupt","previous_response_id":"resp_1"}
        invalid_value                 on_active                     {"input":"x","on_active":"enqueue","conversation":"c","store":false}
        invalid_value                 session_id                    {"input":"x","session_id":"../up"}
        invalid_value                 session_id                    {"input":"x","session_id":" "}
        "#,
    );
}

#[test]
fn names_of_parameters_are_checked() {
    check(
        r#"
        unsupported_parameter         messages                      {"messages":[]}
        unsupported_parameter         prompt                        {"input":"x","prompt":{"id":"p"}}
        invalid_type                  conversation_history          {"input":"x","conversation_history":"said"}
        invalid_type                  conversation_history[0]       {"input":"x","conversation_history":["said"]}
        missing_required_parameter    conversation_history[1].role  {"input":"x","conversation_history":[{"role":"user","content":"a"},{"content":"b"}]}
        missing_required_parameter    conversation_history[0].content {"input":"x","conversation_history":[{"role":"user"}]}
        invalid_value                 conversation_history[0].role  {"input":"x","conversation_history":[{"role":"tool","content":"b"}]}
        invalid_image_url             conversation_history[0].content[0].image_url {"input":"x","conversation_history":[{"role":"user","content":[{"type":"input_image","image_url":"x"}]}]}
        mutually_exclusive_parameters -                             {"input":"x","conversation":"c","conversation_history":[{"role":"user","content":"a"}]}
        missing_required_parameter    -                             {"conversation_history":[{"role":"user","content":"a"}]}
        unknown_parameter             stor                          {"input":"x","stor":true}
        unknown_parameter             stroe                         {"input":"x","stroe":true}
        unknown_parameter             max_output_token              {"input":"x","max_output_token":20}
        "#,
    );
}

#[test]
fn numbers_and_words_are_checked() {
    check(
        r#"
        decimal_below_min_value       temperature                   {"input":"x","temperature":-0.1}
        decimal_above_max_value       temperature                   {"input":"x","temperature":2.1}
        invalid_type                  temperature                   {"input":"x","temperature":"NaN"}
        decimal_above_max_value       top_p                         {"input":"x","top_p":1.1}
        decimal_below_min_value       presence_penalty              {"input":"x","presence_penalty":-3}
        integer_below_min_value       max_output_tokens             {"input":"x","max_output_tokens":0}
        integer_below_min_value       max_output_tokens             {"input":"x","max_output_tokens":15}
        integer_below_min_value       max_output_tokens             {"input":"x","max_output_tokens":-1}
        invalid_type                  max_output_tokens             {"input":"x","max_output_tokens":100.0}
        invalid_type                  max_output_tokens             {"input":"x","max_output_tokens":1e3}
        integer_above_max_value       max_output_tokens             {"input":"x","max_output_tokens":2147483648}
        integer_above_max_value       max_output_tokens             {"input":"x","max_output_tokens":18446744073709551615}
        invalid_type                  max_output_tokens             {"input":"x","max_output_tokens":18446744073709551616}
        integer_below_min_value       max_tool_calls                {"input":"x","max_tool_calls":-1}
        integer_above_max_value       top_logprobs                  {"input":"x","top_logprobs":21}
        invalid_type                  parallel_tool_calls           {"input":"x","parallel_tool_calls":"true"}
        invalid_value                 truncation                    {"input":"x","truncation":"bogus"}
        invalid_type                  truncation                    {"input":"x","truncation":1}
        invalid_value                 service_tier                  {"input":"x","service_tier":"gold"}
        invalid_value                 include[0]                    {"input":"x","include":["all"]}
        invalid_type                  include                       {"input":"x","include":"reasoning.encrypted_content"}
        invalid_type                  reasoning                     {"input":"x","reasoning":"high"}
        invalid_value                 reasoning.effort              {"input":"x","reasoning":{"effort":"huge"}}
        invalid_value                 text.verbosity                {"input":"x","text":{"verbosity":"x"}}
        missing_required_parameter    text.format.type              {"input":"x","text":{"format":{}}}
        missing_required_parameter    text.format.name              {"input":"x","text":{"format":{"type":"json_schema","schema":{}}}}
        invalid_value                 text.format.name              {"input":"x","text":{"format":{"type":"json_schema","name":"a b","schema":{}}}}
        missing_required_parameter    text.format.schema            {"input":"x","text":{"format":{"type":"json_schema","name":"a"}}}
        invalid_type                  metadata                      {"input":"x","metadata":[]}
        invalid_type                  metadata.k                    {"input":"x","metadata":{"k":1}}
        invalid_type                  metadata.k                    {"input":"x","metadata":{"k":{}}}
        invalid_value                 metadata                      {"input":"x","metadata":{"a\u0000":"x"}}
        invalid_value                 metadata                      {"input":"x","metadata":{"":"x"}}
        empty_string                  safety_identifier             {"input":"x","safety_identifier":""}
        invalid_value                 prompt_cache_retention        {"input":"x","prompt_cache_retention":"1y"}
        invalid_value                 prompt_cache_options.mode     {"input":"x","prompt_cache_options":{"mode":"x"}}
        invalid_value                 context_management[0].type    {"input":"x","context_management":[{"type":"x"}]}
        integer_below_min_value       context_management[0].compact_threshold {"input":"x","context_management":[{"type":"compaction","compact_threshold":9}]}
        missing_required_parameter    moderation.model              {"input":"x","moderation":{}}
        "#,
    );
}

#[test]
fn tools_are_checked() {
    check(
        r#"
        invalid_type                  tools                         {"input":"x","tools":{}}
        invalid_type                  tools[0]                      {"input":"x","tools":["f"]}
        missing_required_parameter    tools[0].type                 {"input":"x","tools":[{}]}
        invalid_value                 tools[0].type                 {"input":"x","tools":[{"type":"teleport"}]}
        missing_required_parameter    tools[0].name                 {"input":"x","tools":[{"type":"function","function":{"name":"f"}}]}
        invalid_value                 tools[0].name                 {"input":"x","tools":[{"type":"function","name":"a b"}]}
        invalid_value                 tools[0].name                 {"input":"x","tools":[{"type":"function","name":"../f"}]}
        invalid_value                 tools[0].name                 {"input":"x","tools":[{"type":"function","name":"é"}]}
        empty_string                  tools[0].name                 {"input":"x","tools":[{"type":"function","name":""}]}
        invalid_type                  tools[0].parameters           {"input":"x","tools":[{"type":"function","name":"f","parameters":"{}"}]}
        invalid_type                  tools[0].strict               {"input":"x","tools":[{"type":"function","name":"f","strict":"yes"}]}
        invalid_value                 tools[1].name                 {"input":"x","tools":[{"type":"function","name":"f"},{"type":"custom","name":"f"}]}
        invalid_value                 tools[0].format.type          {"input":"x","tools":[{"type":"custom","name":"f","format":{"type":"x"}}]}
        invalid_value                 tool_choice                   {"input":"x","tool_choice":"always"}
        invalid_type                  tool_choice                   {"input":"x","tool_choice":7}
        missing_required_parameter    tool_choice.type              {"input":"x","tool_choice":{}}
        invalid_value                 tool_choice.type              {"input":"x","tool_choice":{"type":"x"}}
        missing_required_parameter    tool_choice.name              {"input":"x","tool_choice":{"type":"function","function":{"name":"f"}}}
        invalid_value                 tool_choice                   {"input":"x","tool_choice":{"type":"custom","name":"f"}}
        invalid_value                 tool_choice                   {"input":"x","tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"custom","name":"f"}}
        invalid_value                 tool_choice                   {"input":"x","tool_choice":{"type":"web_search"}}
        invalid_value                 tool_choice                   {"input":"x","tool_choice":{"type":"mcp","server_label":"s"}}
        missing_required_parameter    tool_choice.mode              {"input":"x","tool_choice":{"type":"allowed_tools","tools":[]}}
        invalid_value                 tool_choice.tools[0]          {"input":"x","tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"custom","name":"g"}]}}
        "#,
    );
}

/// Like [`check`], for bodies in which `@` stands for many times the same: how often, and what.
#[track_caller]
fn check_repeated(cases: &str) {
    for case in cases.lines().map(str::trim).filter(|case| !case.is_empty()) {
        let words: Vec<&str> = case.split_whitespace().collect();
        let [code, param, count, unit, body] = words[..] else {
            panic!("{case}")
        };
        let body = body.replace('@', &unit.repeat(count.parse().unwrap()));
        check(&format!("{code} {param} {body}"));
    }
}

#[test]
fn sizes_are_bounded() {
    check_repeated(
        r#"
        string_above_max_length     model                 1000000  x    {"model":"@","input":"x"}
        string_above_max_length     input                 10485761 x    {"input":"@"}
        string_above_max_length     previous_response_id  60       x    {"input":"x","previous_response_id":"resp_@"}
        string_above_max_length     conversation          257      x    {"input":"x","conversation":"@"}
        string_above_max_length     safety_identifier     129      x    {"input":"x","safety_identifier":"@"}
        string_above_max_length     input[0].id           65       x    {"input":[{"id":"@"}]}
        string_above_max_length     input[0].call_id      65       x    {"input":[{"type":"function_call_output","call_id":"@","output":""}]}
        string_above_max_length     tools[0].name         129      x    {"input":"x","tools":[{"type":"function","name":"@"}]}
        string_above_max_length     metadata              65       x    {"input":"x","metadata":{"@":"v"}}
        string_above_max_length     metadata.k            513      x    {"input":"x","metadata":{"k":"@"}}
        array_above_max_length      input                 20000    "",  {"input":[@""]}
        array_above_max_length      input[0].content      1000     "",  {"input":[{"content":[@""]}]}
        array_above_max_length      tools                 9999     {},  {"input":"x","tools":[@{}]}
        array_above_max_length      include               9999     "",  {"input":"x","include":[@""]}
        "#,
    );
}

#[test]
fn members_are_counted() {
    let members = |count| {
        let members: Vec<String> = (0..count).map(|n| format!(r#""name_{n}":"v""#)).collect();
        members.join(",")
    };
    let code = "object_above_max_properties";

    check(&format!(
        r#"{code} metadata {{"input":"x","metadata":{{{}}}}}"#,
        members(17)
    ));
    check(&format!(r#"{code} - {{"input":"x",{}}}"#, members(300)));
}

#[test]
fn messages_say_what_is_wrong() {
    let long_word = format!(r#"{{"input":"x","truncation":"{}"}}"#, "x\\n".repeat(500));
    let bodies = [
        "",
        "{\n  \"input\": \"x\",\n}",
        r#"{"input":"x","input":"y"}"#,
        r#"["gpt"]"#,
        "{}",
        r#"{"input":"x","background":true,"store":false}"#,
        r#"{"messages":[]}"#,
        r#"{"input":"x","stroe":true}"#,
        r#"{"input":[{"role":"user","content":[{"type":"input_text","text":1}]}]}"#,
        r#"{"input":[{"role":"tool","content":"x"}]}"#,
        r#"{"input":"x","max_output_tokens":0}"#,
        r#"{"input":"x","top_p":1.5}"#,
        r#"{"input":"x","truncation":"bogus"}"#,
        &long_word,
        r#"{"input":"x","previous_response_id":"foo"}"#,
        r#"{"input":"x","previous_response_id":"resp_1","conversation":"c"}"#,
        r#"{"input":"x","tools":[{"type":"function","function":{"name":"f"}}]}"#,
        r#"{"input":"x","tool_choice":{"type":"custom","name":"f"}}"#,
        r#"{"input":[{"id":"msg_1"},{"id":"msg_1"}]}"#,
        r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"x"}]}]}"#,
        r#"{"input":[{"type":"function_call_output","call_id":"","output":""}]}"#,
    ];

    let messages = bodies
        .map(|body| refused(body.as_bytes()).message)
        .join("\n");

    insta::assert_snapshot!(messages, @r#"
    We could not parse the JSON body of your request: it is empty.
    We could not parse the JSON body of your request: trailing comma at line 3 column 1.
    We could not parse the JSON body of your request: repeated member 'input' at line 1 column 20.
    The request body must be a JSON object, but got an array.
    One of "input" or "previous_response_id" or 'prompt' or 'conversation' must be provided.
    Unsupported parameter: 'background' is only supported with 'store' set to true.
    Unsupported parameter: 'messages'. In the Responses API, this parameter has moved to 'input'. Try again with the new parameter.
    Unknown parameter: 'stroe'. Did you mean 'store'?
    Invalid type for 'input[0].content[0].text': expected a string, but got an integer instead.
    Invalid value: 'tool'. Supported values are: 'assistant', 'system', 'developer', and 'user'.
    Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 0 instead.
    Invalid 'top_p': decimal above maximum value. Expected a value <= 1, but got 1.5 instead.
    Invalid value: 'bogus'. Supported values are: 'auto' and 'disabled'.
    Invalid value: 'x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?x?…'. Supported values are: 'auto' and 'disabled'.
    Invalid 'previous_response_id': 'foo'. Expected an ID that begins with 'resp'.
    Mutually exclusive parameters: ''. Ensure you are only providing one of: 'previous_response_id' or 'conversation'.
    Missing required parameter: 'tools[0].name'.
    Tool choice 'f' not found in 'tools' parameter.
    Duplicate item found with id msg_1. Remove duplicate items from your input and try again.
    Invalid 'input[0].content[0].image_url': expected an http(s) address or a data URL that holds an image.
    Invalid 'input[0].call_id': empty string. Expected a string with minimum length 1, but got an empty string instead.
    "#);
}

#[test]
fn mcp_servers_are_checked() {
    check(
        r#"
        missing_required_parameter    tools[0].server_label         {"input":"x","tools":[{"type":"mcp","server_url":"https://a.example/mcp"}]}
        invalid_value                 tools[0].server_label         {"input":"x","tools":[{"type":"mcp","server_label":"a b","server_url":"https://a.example/mcp"}]}
        missing_required_parameter    tools[0].server_url           {"input":"x","tools":[{"type":"mcp","server_label":"s"}]}
        unsupported_parameter         tools[0].connector_id         {"input":"x","tools":[{"type":"mcp","server_label":"s","connector_id":"connector_dropbox"}]}
        unsupported_parameter         tools[0].tunnel_id            {"input":"x","tools":[{"type":"mcp","server_label":"s","tunnel_id":"t"}]}
        invalid_type                  tools[0].server_url           {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":7}]}
        invalid_value                 tools[0].server_url           {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"file:///etc/passwd"}]}
        invalid_value                 tools[0].server_url           {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example/\n"}]}
        invalid_value                 tools[1].server_label         {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example"},{"type":"mcp","server_label":"s","server_url":"https://b.example"}]}
        invalid_type                  tools[0].allowed_tools        {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","allowed_tools":"f"}]}
        invalid_type                  tools[0].allowed_tools[0]     {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","allowed_tools":[7]}]}
        invalid_type                  tools[0].allowed_tools.read_only {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","allowed_tools":{"read_only":"yes"}}]}
        invalid_value                 tools[0].require_approval     {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","require_approval":"sometimes"}]}
        invalid_type                  tools[0].require_approval     {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","require_approval":true}]}
        invalid_type                  tools[0].require_approval.never.tool_names {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","require_approval":{"never":{"tool_names":"f"}}}]}
        invalid_type                  tools[0].headers              {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","headers":[]}]}
        invalid_type                  tools[0].headers.x            {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","headers":{"x":7}}]}
        invalid_value                 tools[0].headers.x            {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","headers":{"x":"a\r\nb: c"}}]}
        invalid_value                 tools[0].headers              {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","headers":{"a b":"c"}}]}
        invalid_value                 tools[0].headers              {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","headers":{"Host":"c"}}]}
        invalid_value                 tools[0].headers              {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","headers":{"Mcp-Session-Id":"c"}}]}
        invalid_type                  tools[0].authorization        {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","authorization":{}}]}
        invalid_value                 tools[0].authorization        {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","authorization":"a\nb"}]}
        invalid_value                 tools[0].authorization        {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example","authorization":"a","headers":{"AUTHORIZATION":"b"}}]}
        invalid_value                 tool_choice                   {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example"}],"tool_choice":{"type":"mcp","server_label":"t"}}
        empty_string                  tool_choice.name              {"input":"x","tools":[{"type":"mcp","server_label":"s","server_url":"https://a.example"}],"tool_choice":{"type":"mcp","server_label":"s","name":""}}
        "#,
    );
}
