//! Listing responses.

use talaria_domain::run::End;
use talaria_proto::v1::{ListResponsesRequest, ListResponsesResponse, Status};
use talaria_runtime::ids;

use crate::fixture::{Fixture, Setup, TENANT, Writer};

async fn list(
    fixture: &Fixture,
    request: ListResponsesRequest,
) -> anyhow::Result<ListResponsesResponse> {
    let request = ListResponsesRequest {
        tenant: TENANT.into(),
        ..request
    };
    let mut client = fixture.client.clone();
    Ok(client.list_responses(request).await?.into_inner())
}

async fn names(fixture: &Fixture, request: ListResponsesRequest) -> anyhow::Result<Vec<String>> {
    let found = list(fixture, request).await?.responses;
    Ok(found.into_iter().map(|found| found.response_id).collect())
}

fn all() -> ListResponsesRequest {
    ListResponsesRequest {
        limit: 100,
        ..Default::default()
    }
}

fn of(status: Status) -> ListResponsesRequest {
    ListResponsesRequest {
        statuses: vec![status.into()],
        ..all()
    }
}

struct Four {
    completed: Writer,
    failed: Writer,
    active: Writer,
    waiting: Writer,
}

async fn four(fixture: &Fixture) -> anyhow::Result<Four> {
    let conversation = ids::new_id();
    let completed = fixture
        .completed(Setup {
            session: Some("s"),
            key: Some("k"),
            ..Setup::default()
        })
        .await?;
    let failed = fixture
        .ended(Setup::default(), "x", &End::Cancelled)
        .await?;
    let active = fixture
        .active(Setup {
            conversation: Some(conversation),
            new_name: Some("pets"),
            session: Some("s"),
            ..Setup::default()
        })
        .await?;
    let waiting = fixture
        .active(Setup {
            conversation: Some(conversation),
            waits: true,
            ..Setup::default()
        })
        .await?;
    Ok(Four {
        completed,
        failed,
        active,
        waiting,
    })
}

#[tokio::test]
async fn the_newest_come_first_with_what_a_list_shows() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let four = four(&fixture).await?;

    let found = list(&fixture, all()).await?;

    assert!(!found.has_more);
    let shown: Vec<_> = found
        .responses
        .iter()
        .map(|found| {
            (
                found.response_id.clone(),
                found.status(),
                found.model.as_str(),
                found.session_id.clone(),
                found.idempotency_key.as_deref(),
            )
        })
        .collect();
    let expected = [
        (
            four.waiting.name(),
            Status::Queued,
            "m",
            four.waiting.id.to_string(),
            None,
        ),
        (
            four.active.name(),
            Status::InProgress,
            "m",
            "s".into(),
            None,
        ),
        (
            four.failed.name(),
            Status::Cancelled,
            "m",
            four.failed.id.to_string(),
            None,
        ),
        (
            four.completed.name(),
            Status::Completed,
            "m",
            "s".into(),
            Some("k"),
        ),
    ];
    assert_eq!(shown, expected);
    for (found, run) in found
        .responses
        .iter()
        .zip([four.waiting.id, four.active.id])
    {
        let made_ms = i64::try_from(run.as_u128() >> 80)?;
        assert_eq!(found.created_at_ms, made_ms);
        assert!(found.updated_at_ms >= made_ms - 1000);
    }
    Ok(())
}

#[tokio::test]
async fn lists_are_narrowed_by_status_session_and_key() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let four = four(&fixture).await?;
    let of_session = |session: String| ListResponsesRequest {
        session_id: Some(session),
        ..all()
    };
    let of_key = |key: &str| ListResponsesRequest {
        idempotency_key: Some(key.into()),
        ..all()
    };

    assert_eq!(
        names(&fixture, of(Status::Queued)).await?,
        [four.waiting.name()]
    );
    assert_eq!(
        names(&fixture, of(Status::InProgress)).await?,
        [four.active.name()]
    );
    assert_eq!(
        names(&fixture, of(Status::Cancelled)).await?,
        [four.failed.name()]
    );
    assert_eq!(names(&fixture, of(Status::Incomplete)).await?, [""; 0]);
    let open = ListResponsesRequest {
        statuses: vec![Status::Queued.into(), Status::InProgress.into()],
        ..all()
    };
    assert_eq!(
        names(&fixture, open).await?,
        [four.waiting.name(), four.active.name()]
    );
    assert_eq!(
        names(&fixture, of_session("s".into())).await?,
        [four.active.name(), four.completed.name()]
    );
    let completed_of_session = ListResponsesRequest {
        session_id: Some("s".into()),
        ..of(Status::Completed)
    };
    assert_eq!(
        names(&fixture, completed_of_session).await?,
        [four.completed.name()]
    );
    assert_eq!(
        names(&fixture, of_session(four.failed.id.to_string())).await?,
        [four.failed.name()],
        "its own session"
    );
    assert_eq!(
        names(&fixture, of_session(four.completed.id.to_string())).await?,
        [""; 0],
        "it has another session"
    );
    assert_eq!(names(&fixture, of_key("k")).await?, [four.completed.name()]);
    assert_eq!(names(&fixture, of_key("other")).await?, [""; 0]);
    let foreign = ListResponsesRequest {
        tenant: "b".into(),
        ..all()
    };
    let mut client = fixture.client.clone();
    let foreign = client.list_responses(foreign).await?.into_inner();
    assert_eq!(foreign, ListResponsesResponse::default());
    Ok(())
}

#[tokio::test]
async fn pages_follow_each_other_to_the_end() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.insert(0, fixture.completed(Setup::default()).await?.name());
    }

    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = list(
            &fixture,
            ListResponsesRequest {
                after: after.take(),
                limit: 2,
                ..Default::default()
            },
        )
        .await?;
        pages.extend(page.responses.into_iter().map(|found| found.response_id));
        if !page.has_more {
            break;
        }
        after = pages.last().cloned();
    }

    assert_eq!(pages, made);
    Ok(())
}
