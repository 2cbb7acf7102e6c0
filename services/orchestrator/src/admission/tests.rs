use super::*;

fn asking(on_active: OnActive) -> RunRequest {
    RunRequest {
        conversation: Some("c".into()),
        store: true,
        on_active: on_active.into(),
        ..RunRequest::default()
    }
}

fn context(busy: bool) -> LoadContextResponse {
    LoadContextResponse {
        conversation_id: Some("conv_1".into()),
        busy,
        ..LoadContextResponse::default()
    }
}

#[test]
fn only_a_stored_request_that_says_so_waits_for_its_conversation() {
    let mut ephemeral = asking(OnActive::Enqueue);
    ephemeral.store = false;
    let alone = RunRequest {
        conversation: None,
        ..asking(OnActive::Enqueue)
    };
    let table = [
        (asking(OnActive::Reject), true, Wait::Not),
        (asking(OnActive::Enqueue), true, Wait::InLine),
        (asking(OnActive::Enqueue), false, Wait::Not),
        (asking(OnActive::Interrupt), true, Wait::Interrupting),
        (asking(OnActive::Interrupt), false, Wait::Not),
        (ephemeral, true, Wait::Not),
        (alone, true, Wait::Not),
    ];
    for (request, busy, expected) in table {
        assert_eq!(
            wait(&request, &context(busy), false),
            expected,
            "{request:?}"
        );
    }
}

#[test]
fn a_late_try_waits_in_line_where_there_is_one() {
    let request = asking(OnActive::Enqueue);

    assert_eq!(wait(&request, &context(false), true), Wait::InLine);
    let new_name = LoadContextResponse::default();
    assert_eq!(wait(&request, &new_name, true), Wait::Not);
    let rejecting = asking(OnActive::Reject);
    assert_eq!(wait(&rejecting, &context(false), true), Wait::Not);
}

#[test]
fn a_full_server_still_takes_who_waits_in_line_until_the_line_is_full_too() {
    let request = asking(OnActive::Enqueue);
    let asked = Asked {
        id: Uuid::nil(),
        owner: Uuid::nil(),
        tenant: "t",
        agent_name: "a",
        inherit_instructions: true,
        request: &request,
        idempotency: None,
        no_place: Some(Reason::RateLimitExceeded.status("full")),
        may_be_pending: false,
        limit: Limit::begin(),
    };
    let long_line = LoadContextResponse {
        waiting: LONGEST_LINE,
        ..context(true)
    };

    let message = |room: Result<(), Status>| room.map_err(|status| status.message().to_owned());
    assert_eq!(
        message(check_room(&asked, Wait::Not, &context(false))),
        Err("full".into())
    );
    assert_eq!(
        message(check_room(&asked, Wait::InLine, &context(true))),
        Ok(())
    );
    assert_eq!(
        message(check_room(&asked, Wait::Interrupting, &long_line)),
        Err("Too many responses wait in the conversation (max 1000)".into())
    );
}

/// REQ-45, REQ-48
#[test]
fn a_session_is_the_given_one_or_the_inherited_one_or_its_own() {
    let id = Uuid::from_u128(1);
    let given = RunRequest {
        session_id: "given".into(),
        ..RunRequest::default()
    };
    let none = RunRequest::default();

    assert_eq!(session(id, &given, Some("inherited".into())), "given");
    assert_eq!(session(id, &none, Some("inherited".into())), "inherited");
    assert_eq!(session(id, &none, Some(String::new())), id.to_string());
    assert_eq!(
        session(id, &none, None),
        "00000000-0000-0000-0000-000000000001"
    );
}
