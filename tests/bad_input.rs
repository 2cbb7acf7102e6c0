//! Requests that are refused: each in OpenAI's envelope, and none of them leaves anything behind.

use anyhow::{Context, ensure};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use talaria_testkit::stack::{Options, Stack};
use talaria_testkit::upstream::{ResponsesStream, Script};

const TALARIA: &str = env!("CARGO_BIN_EXE_talaria");
const MAX_BODY_BYTES: usize = 100_000;
const KEY: &str = "tal-0123456789abcdef";

/// Bodies of `POST /v1/responses` that are 400: the code and the param (`-` is null), then the body.
///
/// `@` in a body stands for 600 times `x`; `\0` and the like are JSON's escapes.
const BODIES: &str = r#"
    -                           -                           {"input":"x"
    -                           -                           {"input":"x",}
    -                           -                           {"input":"x"}{"input":"y"}
    -                           -                           {"input":"x","input":"y"}
    -                           -                           {"input":"\ud800"}
    -                           -                           {"input":"\udc00 x"}
    -                           -                           {"input":[{"role":"user","content":"\ud83d"}]}
    -                           -                           {"input":NaN}
    -                           -                           <input>x</input>
    invalid_type                -                           []
    invalid_type                -                           "x"
    invalid_type                -                           null
    invalid_type                -                           17
    missing_required_parameter  -                           {}
    missing_required_parameter  -                           {"model":"agent"}
    missing_required_parameter  -                           {"input":null}
    missing_required_parameter  -                           {"input":[]}
    missing_required_parameter  -                           {"input":" \n\t"}
    invalid_type                input                       {"input":5}
    invalid_type                input                       {"input":{"role":"user","content":"x"}}
    invalid_type                input[1]                    {"input":["x",null]}
    missing_required_parameter  input[0].type               {"input":[{}]}
    invalid_value               input[0].role               {"input":[{"role":"root","content":"x"}]}
    missing_required_parameter  input[0].content            {"input":[{"role":"user"}]}
    invalid_type                input[0].content            {"input":[{"role":"user","content":7}]}
    missing_required_parameter  input[0].content[0].type    {"input":[{"role":"user","content":[{"text":"x"}]}]}
    invalid_type                input[0].content[1].text    {"input":[{"role":"user","content":["x",{"type":"input_text","text":[]}]}]}
    unsupported_content_type    input[0].content[0]         {"input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}
    invalid_image_url           input[0].content[0].image_url {"input":[{"role":"user","content":[{"type":"input_image","image_url":"file:///etc/passwd"}]}]}
    missing_required_parameter  input[0].output             {"input":[{"type":"function_call_output","call_id":"c"}]}
    missing_required_parameter  input[0].call_id            {"input":[{"type":"function_call_output","output":"x"}]}
    invalid_type                input[0].output             {"input":[{"type":"function_call_output","call_id":"c","output":{}}]}
    -                           input                       {"input":[{"type":"function_call_output","call_id":"c","output":"x"}]}
    -                           input                       {"input":[{"type":"message","id":"msg_1","role":"user","content":"x"},{"type":"message","id":"msg_1","role":"user","content":"y"}]}
    invalid_type                model                       {"model":1,"input":"x"}
    empty_string                model                       {"model":"","input":"x"}
    invalid_value               model                       {"model":"a\u0000b","input":"x"}
    string_above_max_length     model                       {"model":"@","input":"x"}
    invalid_type                stream                      {"input":"x","stream":"maybe"}
    invalid_type                store                       {"input":"x","store":[]}
    invalid_type                background                  {"input":"x","background":{}}
    unsupported_parameter       background                  {"input":"x","background":true,"store":false}
    invalid_type                instructions                {"input":"x","instructions":["x"]}
    invalid_type                temperature                 {"input":"x","temperature":"hot"}
    decimal_above_max_value     temperature                 {"input":"x","temperature":2.5}
    decimal_below_min_value     top_p                       {"input":"x","top_p":-1}
    integer_below_min_value     max_output_tokens           {"input":"x","max_output_tokens":0}
    integer_above_max_value     max_output_tokens           {"input":"x","max_output_tokens":18446744073709551615}
    invalid_type                max_output_tokens           {"input":"x","max_output_tokens":1.5}
    invalid_type                parallel_tool_calls         {"input":"x","parallel_tool_calls":"yes"}
    invalid_value               truncation                  {"input":"x","truncation":"sometimes"}
    invalid_value               service_tier                {"input":"x","service_tier":"gold"}
    invalid_type                metadata                    {"input":"x","metadata":[]}
    invalid_type                metadata.k                  {"input":"x","metadata":{"k":1}}
    string_above_max_length     metadata.k                  {"input":"x","metadata":{"k":"@"}}
    invalid_value               metadata                    {"input":"x","metadata":{"a\u0000":"x"}}
    invalid_value               include[0]                  {"input":"x","include":["everything"]}
    invalid_type                reasoning                   {"input":"x","reasoning":"much"}
    invalid_value               reasoning.effort            {"input":"x","reasoning":{"effort":"huge"}}
    missing_required_parameter  text.format.schema          {"input":"x","text":{"format":{"type":"json_schema","name":"a"}}}
    invalid_type                tools                       {"input":"x","tools":{}}
    missing_required_parameter  tools[0].type               {"input":"x","tools":[{}]}
    invalid_value               tools[0].type               {"input":"x","tools":[{"type":"teleport"}]}
    missing_required_parameter  tools[0].name               {"input":"x","tools":[{"type":"function","function":{"name":"f"}}]}
    invalid_value               tools[0].name               {"input":"x","tools":[{"type":"function","name":"../f"}]}
    invalid_value               tools[1].name               {"input":"x","tools":[{"type":"function","name":"f"},{"type":"function","name":"f"}]}
    invalid_type                tools[0].parameters         {"input":"x","tools":[{"type":"function","name":"f","parameters":"{}"}]}
    invalid_value               tool_choice                 {"input":"x","tool_choice":"always"}
    invalid_value               tool_choice                 {"input":"x","tool_choice":{"type":"function","name":"f"}}
    invalid_type                previous_response_id        {"input":"x","previous_response_id":7}
    invalid_id_prefix           previous_response_id        {"input":"x","previous_response_id":"msg_1"}
    invalid_value               previous_response_id        {"input":"x","previous_response_id":"resp_1' OR '1'='1"}
    invalid_value               previous_response_id        {"input":"x","previous_response_id":"resp_\u0000"}
    string_above_max_length     previous_response_id        {"input":"x","previous_response_id":"resp_@"}
    invalid_type                conversation                {"input":"x","conversation":7}
    empty_string                conversation                {"input":"x","conversation":""}
    invalid_value               conversation                {"input":"x","conversation":" "}
    invalid_value               conversation                {"input":"x","conversation":"a\u0000b"}
    string_above_max_length     conversation                {"input":"x","conversation":"@"}
    invalid_id_prefix           conversation.id             {"input":"x","conversation":{"id":"resp_1"}}
    mutually_exclusive_parameters -                         {"input":"x","conversation":"c","previous_response_id":"resp_00000000000070008000000000000000"}
    unsupported_parameter       messages                    {"messages":[{"role":"user","content":"x"}]}
    unknown_parameter           stroe                       {"input":"x","stroe":true}
"#;

/// What comes with every answer, whatever its status.
fn check_headers(headers: &HeaderMap) -> anyhow::Result<()> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    ensure!(
        header("x-content-type-options") == Some("nosniff"),
        "{headers:?}"
    );
    ensure!(
        header("referrer-policy") == Some("no-referrer"),
        "{headers:?}"
    );
    let id = header("x-request-id").unwrap_or_default();
    ensure!(id.starts_with("req_") && id.len() > 20, "{headers:?}");
    Ok(())
}

/// Checks a refusal whole, but for the words of its message; gives the message.
async fn check_refusal(
    answer: Response,
    status: u16,
    code: Option<&str>,
    param: Option<&str>,
) -> anyhow::Result<String> {
    check_headers(answer.headers())?;
    let got = answer.status();
    let content_type = answer.headers().get("content-type").cloned();
    let text = answer.text().await?;
    ensure!(got == status, "{got}: {text}");
    ensure!(
        content_type == Some(HeaderValue::from_static("application/json")),
        "{content_type:?}"
    );
    let body: Value = serde_json::from_str(&text)?;
    let message = body["error"]["message"].as_str().unwrap_or_default();
    let error = json!({
        "message": message, "type": "invalid_request_error", "param": param, "code": code,
    });
    ensure!(body == json!({"error": error}), "{body}");
    ensure!(!message.is_empty() && message.len() < 600, "{message}");
    Ok(message.to_owned())
}

/// A request that is well, so the server is too.
async fn check_alive(stack: &Stack, n: usize) -> anyhow::Result<()> {
    let answer = stack.create(&json!({"input": format!("good {n}")})).await?;
    check_headers(answer.headers())?;
    let response: Value = answer.json().await?;
    ensure!(response["status"] == "completed", "{response}");
    Ok(())
}

fn post(stack: &Stack, body: impl Into<reqwest::Body>) -> RequestBuilder {
    let request = stack.http.post(stack.url("/v1/responses"));
    request
        .header("content-type", "application/json")
        .body(body)
}

fn answers_always(stack: &Stack) {
    stack.upstream.choose(|_| Some(good_answer()));
}

fn good_answer() -> Script {
    ResponsesStream::new().text(&["good"]).completed()
}

async fn small_stack() -> anyhow::Result<Stack> {
    let options = Options {
        server: format!("max_body_bytes = {MAX_BODY_BYTES}"),
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    answers_always(&stack);
    Ok(stack)
}

/// Fails unless exactly `responses` runs were written, and nothing of any other.
async fn check_database(stack: &Stack, responses: i64) -> anyhow::Result<()> {
    let session = stack.database().context("no database")?.connect().await?;
    for (table, expected) in [
        ("response", responses),
        ("response_final", responses),
        ("turn", responses),
        ("run_request", 0),
        ("conversation", 0),
    ] {
        let sql = format!("SELECT count(*) FROM {table}");
        let count: i64 = session.query_one(&sql, &[]).await?.get(0);
        ensure!(count == expected, "{count} rows in {table}");
    }
    let sql = "SELECT count(DISTINCT response_id) FROM event_chunk";
    let count: i64 = session.query_one(sql, &[]).await?.get(0);
    ensure!(count == responses, "events of {count} responses");
    Ok(())
}

/// REQ-105
#[tokio::test]
async fn bodies_that_are_wrong_are_refused_and_leave_nothing_behind() -> anyhow::Result<()> {
    let stack = small_stack().await?;
    let mut broken = Vec::new();
    let mut good = 0;
    let cases = BODIES
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    for (n, case) in cases.enumerate() {
        let (code, rest) = case.split_once(' ').context("no code")?;
        let (param, body) = rest.trim_start().split_once(' ').context("no param")?;
        let body = body.trim_start().replace('@', &"x".repeat(600));
        let given = |word: &'static str| Some(word).filter(|word| *word != "-");
        let answer = post(&stack, body).send().await?;
        if let Err(error) = check_refusal(answer, 400, given(code), given(param)).await {
            broken.push(format!("{case}\n    {error:#}"));
        }
        if n % 10 == 0 {
            good += 1;
            check_alive(&stack, n)
                .await
                .with_context(|| format!("after {case}"))?;
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    check_database(&stack, good).await?;
    assert_eq!(
        i64::try_from(stack.upstream.requests().len())?,
        good,
        "refusals ask nobody"
    );
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_good_json_are_refused() -> anyhow::Result<()> {
    let stack = small_stack().await?;
    let utf16: Vec<u8> = r#"{"input":"x"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let deep = |open: &str, close: &str| {
        let (open, close) = (open.repeat(10_000), close.repeat(10_000));
        format!(r#"{{"input":{open}1{close}}}"#).into_bytes()
    };
    for (n, body) in [
        Vec::new(),
        b"\0".to_vec(),
        b"{\"input\":\"a\0b\"}".to_vec(),
        b"{\"input\":\"\xff\"}".to_vec(),
        b"{\"input\":\"\xc0\x80\"}".to_vec(),
        b"{\"input\":\"\xed\xa0\x80\"}".to_vec(),
        b"\xef\xbb\xbf{\"input\":\"x\"}".to_vec(),
        utf16,
        deep("[", "]"),
        deep(r#"{"a":"#, "}"),
        deep("[", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = post(&stack, body.clone()).send().await?;
        let message = check_refusal(answer, 400, None, None)
            .await
            .with_context(|| format!("{n}: {:?}", body.get(..20)))?;
        assert!(
            message.starts_with("We could not parse the JSON body"),
            "{message}"
        );
    }
    check_alive(&stack, 0).await?;
    check_database(&stack, 1).await
}

#[tokio::test]
async fn bodies_that_are_too_large_or_of_another_type_are_refused() -> anyhow::Result<()> {
    let stack = small_stack().await?;
    let body_of = |bytes: usize| {
        let frame = r#"{"input":""}"#.len();
        format!(r#"{{"input":"{}"}}"#, "x".repeat(bytes - frame))
    };
    let just_fits = post(&stack, body_of(MAX_BODY_BYTES)).send().await?;
    assert_eq!(just_fits.status(), 200);
    let too_large = post(&stack, body_of(MAX_BODY_BYTES + 1)).send().await?;
    check_refusal(too_large, 413, Some("body_too_large"), None).await?;
    let pieces = [body_of(MAX_BODY_BYTES), " ".repeat(9)].map(Ok::<_, std::io::Error>);
    let unannounced = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let too_large = post(&stack, unannounced).send().await?;
    check_refusal(too_large, 413, Some("body_too_large"), None).await?;

    let plain = || {
        stack
            .http
            .post(stack.url("/v1/responses"))
            .body(r#"{"input":"x"}"#)
    };
    for request in [
        plain(),
        plain().header("content-type", "text/plain"),
        plain().header("content-type", "application/x-www-form-urlencoded"),
        plain().header("content-type", "application/jsonp"),
        plain().header("content-type", "multipart/form-data; boundary=x"),
        post(&stack, "\x1f\u{8b}").header("content-encoding", "gzip"),
        post(&stack, "{}").header("content-encoding", "br"),
    ] {
        check_refusal(
            request.send().await?,
            415,
            Some("unsupported_media_type"),
            None,
        )
        .await?;
    }
    let spelt = plain().header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(spelt.send().await?.status(), 200);
    check_database(&stack, 2).await
}

#[tokio::test]
async fn text_that_databases_dislike_is_kept_as_it_is() -> anyhow::Result<()> {
    let stack = small_stack().await?;
    let odd = "NUL \0, ESC \u{1b}, \u{feff}, \u{fffd}, \u{10ffff}, '; DROP TABLE turn; --";
    let body = json!({"input": odd, "instructions": odd, "metadata": {"k": "v\0"}});
    let response = stack.create_json(&body).await?;

    let request = stack.upstream.request(0).await?;
    assert_eq!(request.body["input"][0]["content"][0]["text"], odd);
    assert_eq!(request.body["instructions"], odd);
    assert_eq!(response["instructions"], odd);
    let id = response["id"].as_str().context("no id")?;
    assert_eq!(stack.get(id).await?, (200, response.clone()));
    Ok(())
}

/// REQ-11
#[tokio::test]
async fn paths_methods_ids_and_queries_that_are_wrong_are_refused() -> anyhow::Result<()> {
    let stack = small_stack().await?;
    let known = stack.create_json(&json!({"input": "x"})).await?;
    let known = known["id"].as_str().context("no id")?;
    let cases = "
        404 GET    -               -              /
        404 GET    -               -              /v1
        404 GET    -               -              /v1/responsesx
        404 POST   -               -              /v1/unknown
        404 GET    -               -              /v1/responses/../../etc/passwd
        404 GET    -               -              /v1/responses/KNOWN/unknown
        405 PUT    -               -              /v1/responses
        405 PATCH  -               -              /v1/responses/KNOWN
        405 POST   -               -              /health
        405 DELETE -               -              /v1/models
        404 GET    -               -              /v1/responses/resp_00000000000070008000000000000000
        404 GET    -               -              /v1/responses/resp_1
        404 GET    -               -              /v1/responses/resp_%00
        404 GET    -               -              /v1/responses/%F0%9F%8C%8D
        404 GET    -               -              /v1/responses/%FF
        404 POST   -               -              /v1/runs/%C3%28/stop
        404 GET    -               -              /v1/conversations/c/items/%FF
        404 GET    -               -              /v1/responses/KNOWN%20
        404 GET    -               -              /v1/responses/resp_1'%20OR%20'1'='1
        404 GET    -               -              /v1/responses/resp_00000000000070008000000000000000?stream=true
        404 DELETE -               -              /v1/responses/resp_00000000000070008000000000000000
        404 DELETE -               -              /v1/responses/..%2F..%2Fetc
        404 GET    model_not_found model          /v1/models/unknown
        400 GET    invalid_value   stream         /v1/responses/KNOWN?stream=maybe
        400 GET    invalid_value   stream         /v1/responses/KNOWN?stream=true&stream=true
        400 GET    invalid_type    starting_after /v1/responses/KNOWN?stream=true&starting_after=x
        400 GET    invalid_type    starting_after /v1/responses/KNOWN?stream=true&starting_after=1.5
        400 GET    invalid_type    starting_after /v1/responses/KNOWN?stream=true&starting_after=
        400 GET    invalid_value   starting_after /v1/responses/KNOWN?stream=true&starting_after=1&starting_after=2
        400 GET    integer_below_min_value starting_after /v1/responses/KNOWN?stream=true&starting_after=-2
        400 GET    integer_above_max_value starting_after /v1/responses/KNOWN?stream=true&starting_after=18446744073709551616
        400 GET    invalid_value   starting_after /v1/responses/KNOWN?stream=true&starting_after=9999
    ";
    let mut broken = Vec::new();
    for case in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = case.split_whitespace().collect();
        let [status, method, code, param, path] = words[..] else {
            anyhow::bail!("{case}");
        };
        let url = stack.url(&path.replace("KNOWN", known));
        let given = |word| Some(word).filter(|word| *word != "-");
        let request = stack.http.request(method.parse::<Method>()?, url);
        let answer = request.send().await?;
        let checked = check_refusal(answer, status.parse()?, given(code), given(param)).await;
        if let Err(error) = checked {
            broken.push(format!("{case}\n    {error:#}"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert_eq!(stack.get(known).await?.0, 200);
    check_database(&stack, 1).await
}

/// REQ-87
#[tokio::test]
async fn only_the_right_key_lets_anyone_in() -> anyhow::Result<()> {
    let options = Options {
        environment: vec![("TALARIA_API_KEY".into(), KEY.into())],
        ..Options::default()
    };
    let stack = Stack::serve_with(TALARIA, options).await?;
    answers_always(&stack);
    let request = |key: Option<&[u8]>| -> anyhow::Result<RequestBuilder> {
        let request = post(&stack, r#"{"input":"x"}"#);
        Ok(match key {
            Some(key) => request.header("authorization", HeaderValue::from_bytes(key)?),
            None => request,
        })
    };
    let right = format!("Bearer {KEY}");
    let wrong: [&[u8]; 12] = [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        KEY.as_bytes(),
        b"Basic dGFsLTAxMjM0NTY3ODlhYmNkZWY6",
        b"Token tal-0123456789abcdef",
        b"Bearer tal-0123456789abcde",
        b"Bearer tal-0123456789abcdef0",
        b"Bearer TAL-0123456789ABCDEF",
        b"Bearer tal-0123456789abcdef\xff",
        b"Bearer tal-0123456789abcdef, Bearer tal-0123456789abcdef",
    ];
    for key in wrong.into_iter().map(Some).chain([None]) {
        let answer = request(key)?.send().await?;
        let message = check_refusal(answer, 401, Some("invalid_api_key"), None).await?;
        assert!(!message.contains(KEY), "{message}");
    }
    let twice = request(Some(right.as_bytes()))?.header("authorization", &right);
    check_refusal(twice.send().await?, 401, Some("invalid_api_key"), None).await?;
    for path in [
        "/v1/models",
        "/v1/responses/resp_1",
        "/v1/responses/resp_1?stream=true",
    ] {
        let answer = stack.http.get(stack.url(path)).send().await?;
        check_refusal(answer, 401, Some("invalid_api_key"), None).await?;
    }
    for path in ["/health", "/v1/health", "/health/ready"] {
        let answer = stack.http.get(stack.url(path)).send().await?;
        assert_eq!(answer.status(), 200, "{path}");
        check_headers(answer.headers())?;
    }
    for key in [
        right.clone(),
        format!("bearer {KEY}"),
        format!("Bearer  {KEY}"),
    ] {
        let answer = request(Some(key.as_bytes()))?.send().await?;
        assert_eq!(answer.status(), 200, "{key}");
    }
    check_database(&stack, 3).await
}

#[tokio::test]
async fn a_server_without_a_key_answers_only_to_names_of_this_machine() -> anyhow::Result<()> {
    let stack = small_stack().await?;
    let named = |host: &str| {
        let request = stack.http.get(stack.url("/v1/models"));
        request.header("host", host).send()
    };
    for host in [
        "evil.example",
        "evil.example:8642",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.0.1",
        "[::2]:80",
        "",
    ] {
        check_refusal(named(host).await?, 403, None, None)
            .await
            .with_context(|| host.to_owned())?;
    }
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.2:8642",
        "[::1]:8642",
    ] {
        assert_eq!(named(host).await?.status(), 200, "{host}");
    }
    let health = stack
        .http
        .get(stack.url("/health"))
        .header("host", "evil.example");
    check_refusal(health.send().await?, 403, None, None).await?;
    Ok(())
}

/// REQ-90
#[tokio::test]
async fn web_pages_are_let_in_only_from_allowed_origins() -> anyhow::Result<()> {
    let closed = small_stack().await?;
    let origin = "https://app.example";
    let from = |stack: &Stack, method: Method, origin: &str| {
        let request = stack.http.request(method, stack.url("/v1/responses"));
        request
            .header("origin", origin)
            .header("content-type", "application/json")
            .body(r#"{"input":"x"}"#)
            .send()
    };
    for origin in [origin, "null", "http://127.0.0.1:1"] {
        for method in [Method::POST, Method::OPTIONS] {
            let answer = from(&closed, method, origin).await?;
            assert!(
                answer
                    .headers()
                    .get("access-control-allow-origin")
                    .is_none()
            );
            check_refusal(answer, 403, None, None).await?;
        }
    }
    check_database(&closed, 0).await?;

    let options = Options {
        environment: vec![("TALARIA_CORS_ORIGINS".into(), origin.into())],
        ..Options::default()
    };
    let open = Stack::serve_with(TALARIA, options).await?;
    answers_always(&open);
    let header = |answer: &Response, name: &str| {
        let value = answer.headers().get(name)?.to_str().ok()?;
        Some(value.to_ascii_lowercase())
    };
    let preflight = open
        .http
        .request(Method::OPTIONS, open.url("/v1/responses"))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization, idempotency-key",
        )
        .send()
        .await?;
    assert!(preflight.status().is_success(), "{preflight:?}");
    for word in ["get", "post", "delete", "options"] {
        let methods = header(&preflight, "access-control-allow-methods").unwrap_or_default();
        assert!(methods.contains(word), "{methods}");
    }
    for word in ["authorization", "content-type", "idempotency-key"] {
        let names = header(&preflight, "access-control-allow-headers").unwrap_or_default();
        assert!(names.contains(word), "{names}");
    }
    let allowed = from(&open, Method::POST, origin).await?;
    assert_eq!(allowed.status(), 200);
    let missing = open.http.get(open.url("/nowhere")).header("origin", origin);
    let missing = missing.send().await?;
    for answer in [&preflight, &allowed, &missing] {
        check_headers(answer.headers())?;
        assert_eq!(
            header(answer, "access-control-allow-origin").as_deref(),
            Some(origin)
        );
        assert_eq!(header(answer, "vary").as_deref(), Some("origin"));
    }
    for stranger in [
        "https://evil.example",
        "https://app.example.evil.example",
        "http://app.example",
    ] {
        let answer = from(&open, Method::POST, stranger).await?;
        check_refusal(answer, 403, None, None).await?;
    }
    check_database(&open, 1).await
}
