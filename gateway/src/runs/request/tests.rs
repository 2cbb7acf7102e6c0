use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(body: &Value, header: Option<&str>) -> Result<RunRequest, ApiError> {
    let session = Session {
        id: header.map(str::to_owned),
        key: Some("key".to_owned()),
    };
    create_run_request(body.to_string().as_bytes(), session)
}

#[test]
fn a_run_is_stored_and_runs_in_the_background() {
    let run = read(&json!({"input": "hi", "stream": true, "model": "m"}), None).unwrap();

    let expected = RunRequest {
        model: "m".to_owned(),
        input: create_request(br#"{"input":"hi"}"#).unwrap().input,
        store: true,
        background: true,
        parameters: "{}".into(),
        session_key: "key".to_owned(),
        ..RunRequest::default()
    };
    assert_eq!(run, expected);
}

/// REQ-46
#[test]
fn a_session_is_continued_unless_something_else_is() {
    let id = "resp_019234567890701280000000000000aa";
    for (more, header, session, continues) in [
        (json!({}), None, "", false),
        (json!({}), Some("header"), "header", true),
        (json!({"session_id": "body"}), None, "body", true),
        (json!({"session_id": "body"}), Some("header"), "body", true),
        (
            json!({"previous_response_id": id}),
            Some("header"),
            "header",
            false,
        ),
        (
            json!({"conversation": "c"}),
            Some("header"),
            "header",
            false,
        ),
        (
            json!({"conversation_history": [{"role": "user", "content": "a"}]}),
            Some("header"),
            "header",
            false,
        ),
    ] {
        let mut body = more.clone();
        body["input"] = "hi".into();
        let run = read(&body, header).unwrap();
        assert_eq!(
            (run.session_id.as_str(), run.continues_session),
            (session, continues),
            "{more} {header:?}"
        );
    }
}

#[test]
fn what_is_no_run_is_refused() {
    for (body, code, param) in [
        (json!({}), "missing_required_parameter", "input"),
        (json!({"input": ""}), "missing_required_parameter", "input"),
        (
            json!({"input": [], "conversation": "c"}),
            "missing_required_parameter",
            "input",
        ),
        (json!({"input": 1}), "invalid_type", "input"),
        (
            json!({"input": "hi", "store": false}),
            "unsupported_parameter",
            "store",
        ),
        (
            json!({"input": "hi", "on_active": "enqueue"}),
            "invalid_value",
            "on_active",
        ),
        (
            json!({"input": "hi", "conversation_history": "x"}),
            "invalid_type",
            "conversation_history",
        ),
    ] {
        let error = read(&body, None).unwrap_err();
        assert_eq!(error.status, 400, "{body}");
        assert_eq!(error.code.as_deref(), Some(code), "{body}");
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
    }
    let error = create_run_request(b"{", Session::default()).unwrap_err();
    assert_eq!(error.status, 400);
}

#[test]
fn a_run_is_known_by_both_its_names() {
    let digits = "019234567890701280000000000000aa";
    let id = run_id(&format!("run_{digits}")).unwrap();

    assert_eq!(id.to_string(), format!("resp_{digits}"));
    assert_eq!(run_id(&format!("resp_{digits}")), Ok(id));
    for other in ["run_1", "", "conv_1", &format!("run_{digits}0")] {
        let expected = ApiError::not_found(format!("Run not found: {other}"));
        assert_eq!(run_id(other), Err(expected.with_code("run_not_found")));
    }
}

#[test]
fn lists_are_asked_for_by_status_session_and_key() {
    let list = |statuses: &[Status]| ListResponsesRequest {
        tenant: "t".to_owned(),
        statuses: statuses.iter().map(|status| i32::from(*status)).collect(),
        limit: 20,
        ..ListResponsesRequest::default()
    };
    for (query, expected) in [
        ("", Some(list(&[]))),
        ("status=", Some(list(&[]))),
        ("status=running", Some(list(&[Status::InProgress]))),
        (
            "status=failed,%20queued&beta=1",
            Some(list(&[Status::Queued, Status::Failed, Status::Incomplete])),
        ),
        ("status=stopping", None),
        (
            "session_id=a%2Fb&idempotency_key=k&limit=3&after=run_019234567890701280000000000000aa",
            Some(ListResponsesRequest {
                session_id: Some("a/b".to_owned()),
                idempotency_key: Some("k".to_owned()),
                after: Some("resp_019234567890701280000000000000aa".to_owned()),
                limit: 3,
                ..list(&[])
            }),
        ),
    ] {
        assert_eq!(list_request("t", Some(query)), Ok(expected), "{query}");
    }
    for (query, param) in [
        ("status=done", "status"),
        ("after=run_1", "after"),
        ("limit=0", "limit"),
        ("order=asc", "order"),
        ("session_id=%00", "session_id"),
    ] {
        let error = list_request("t", Some(query)).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), error.param.as_deref()),
            (400, Some(param)),
            "{query}"
        );
    }
}

#[test]
fn a_cursor_that_is_none_is_the_beginning() {
    let header = |id: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("last-event-id", id.parse().unwrap());
        headers
    };
    for (id, expected) in [
        ("1", 1),
        ("17", 17),
        ("18446744073709551615", u64::MAX),
        ("", 0),
        ("0", 0),
        ("017", 0),
        ("+1", 0),
        ("-1", 0),
        ("1.0", 0),
        ("18446744073709551616", 0),
        ("100000000000000000000", 0),
    ] {
        assert_eq!(last_event_id(&header(id), None), expected, "{id}");
    }
    assert_eq!(last_event_id(&HeaderMap::new(), Some("after=7")), 7);
    assert_eq!(last_event_id(&header("9"), Some("after=7")), 9);
    assert_eq!(last_event_id(&HeaderMap::new(), None), 0);
}

#[test]
fn approvals_are_read_in_all_their_spellings() {
    let read = |body: Value| approval(body.to_string().as_bytes());
    for (body, choice, all, request_id) in [
        (json!({"choice": "once"}), ApprovalChoice::Once, false, None),
        (
            json!({"choice": " Approved "}),
            ApprovalChoice::Once,
            false,
            None,
        ),
        (
            json!({"choice": "allow", "all": "yes"}),
            ApprovalChoice::Once,
            true,
            None,
        ),
        (
            json!({"choice": "SESSION", "resolve_all": 1}),
            ApprovalChoice::Session,
            true,
            None,
        ),
        (
            json!({"choice": "always", "request_id": "r"}),
            ApprovalChoice::Always,
            false,
            Some("r"),
        ),
        (
            json!({"choice": "deny", "request_id": null}),
            ApprovalChoice::Deny,
            false,
            None,
        ),
    ] {
        let expected = Approval {
            choice,
            all,
            request_id: request_id.map(str::to_owned),
            reason: None,
            decided_by: "api".to_owned(),
        };
        assert_eq!(read(body.clone()), Ok(expected), "{body}");
    }
    let said = json!({"choice": "deny", "reason": " No. ", "decided_by": "Ada"});
    let said = read(said).unwrap();
    assert_eq!(
        (said.reason.as_deref(), said.decided_by.as_str()),
        (Some("No."), "Ada")
    );
    for (body, code) in [
        (json!({}), "invalid_approval_choice"),
        (
            json!({"choice": "deny", "reason": "x".repeat(4097)}),
            "invalid_approval_request",
        ),
        (
            json!({"choice": "deny", "decided_by": 7}),
            "invalid_approval_request",
        ),
        (json!({"choice": "maybe"}), "invalid_approval_choice"),
        (json!({"choice": 1}), "invalid_approval_choice"),
        (
            json!({"choice": "deny", "request_id": ""}),
            "invalid_approval_request",
        ),
        (
            json!({"choice": "deny", "request_id": 7}),
            "invalid_approval_request",
        ),
        (
            json!({"choice": "deny", "request_id": "x".repeat(257)}),
            "invalid_approval_request",
        ),
        (json!({"choice": "deny", "all": []}), "invalid_type"),
    ] {
        let error = read(body.clone()).unwrap_err();
        assert_eq!(
            (error.status.as_u16(), error.code.as_deref()),
            (400, Some(code)),
            "{body}"
        );
    }
}

proptest! {
    #[test]
    fn anything_is_read_or_refused(text in any::<String>()) {
        let _ = list_request("t", Some(&text));
        let _ = list_request("t", Some(&format!("status={text}&after={text}")));
        let _ = approval(text.as_bytes());
        let _ = create_run_request(text.as_bytes(), Session::default());
        let _ = read_event_id(&text);
    }
}
