//! A database that an earlier version left behind goes on under this one.

use std::time::Duration;

use anyhow::Context;
use talaria_domain::ids::ResponseId;
use talaria_domain::run::End;
use talaria_domain::snapshot::Snapshot;
use talaria_proto::v1::{
    ClaimRunsRequest, ClaimRunsResponse, ClaimedRun, DeleteResponseRequest,
    FindIdempotencyKeyRequest, GetResponseRequest, ListConversationItemsRequest,
    ListInputItemsRequest, ListResponsesRequest, LoadContextRequest, RenewLeaseRequest, Response,
    Status,
};
use talaria_runtime::ids;
use talaria_testkit::deadline::within;
use talaria_testkit::postgres::TestDatabase;
use uuid::Uuid;

use crate::fixture::{Client, Fixture, Setup, Writer, log};

/// Every migration that was released, and rows as that version wrote them: the same scenes for each.
const RELEASED: [(i32, &str); 3] = [
    (1, include_str!("../fixtures/V0001.sql")),
    (WITH_SESSIONS, include_str!("../fixtures/V0002.sql")),
    (3, include_str!("../fixtures/V0003.sql")),
];

/// The first version that kept sessions and idempotency keys.
const WITH_SESSIONS: i32 = 2;

const OF_RELEASE: &str = "default";

const POLL: Duration = Duration::from_millis(50);

/// A store on a database that the version with migration `version` wrote, brought to this version.
async fn migrated(version: i32, rows: &str) -> anyhow::Result<Fixture> {
    let database = TestDatabase::empty().await?;
    talaria_store::migrate_to(&database.url, version).await?;
    database
        .connect()
        .await?
        .batch_execute(rows)
        .await
        .context("writing the rows of the earlier version")?;
    talaria_store::migrate(&database.url).await?;
    assert_eq!(talaria_store::migrate(&database.url).await?, 0);
    Fixture::on(database, |_| {})
}

/// A migration that has to wait for a table lets go of it again and again, so that those behind it get theirs.
#[tokio::test]
async fn a_migration_that_waits_stands_in_nobodys_way_for_long() -> anyhow::Result<()> {
    let database = TestDatabase::empty().await?;
    talaria_store::migrate_to(&database.url, 4).await?;
    let reader = database.connect().await?;
    reader
        .batch_execute("BEGIN; LOCK TABLE orchestrator IN ACCESS SHARE MODE")
        .await?;
    let beside = async {
        let session = database.connect().await?;
        let waiting = "SELECT FROM pg_locks
            WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND NOT granted AND mode = 'AccessExclusiveLock'";
        while session.query(waiting, &[]).await?.is_empty() {
            tokio::time::sleep(POLL).await;
        }
        session
            .query("SELECT incarnation FROM orchestrator", &[])
            .await?;
        reader.batch_execute("COMMIT").await?;
        anyhow::Ok(())
    };

    let both = async { tokio::join!(talaria_store::migrate(&database.url), beside) };
    let (applied, beside) = within("the migration", both).await?;

    beside?;
    assert_eq!(applied?, 1);
    Ok(())
}

/// The ids of all responses, the oldest first.
async fn responses(fixture: &Fixture) -> anyhow::Result<Vec<Uuid>> {
    let session = fixture.session().await?;
    let rows = session
        .query("SELECT id FROM response ORDER BY id", &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn get(fixture: &Fixture, id: Uuid) -> anyhow::Result<Response> {
    let request = GetResponseRequest {
        tenant: OF_RELEASE.into(),
        response_id: ResponseId(id).to_string(),
    };
    let mut client = fixture.client.clone();
    let found = client.get_response(request).await?.into_inner();
    found.response.context("no response")
}

/// The sessions that the responses belong to.
fn sessions(version: i32, ids: &[Uuid]) -> Vec<String> {
    let mut sessions: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    if version >= WITH_SESSIONS {
        sessions[..2].fill("ada".into());
        let like_the_second = sessions[2].clone();
        sessions[3] = like_the_second;
    }
    sessions
}

fn texts(response: &Response) -> Vec<String> {
    let items = response.output.iter();
    items
        .map(|item| String::from_utf8_lossy(item).into_owned())
        .collect()
}

/// REQ-44
#[tokio::test]
async fn what_an_earlier_version_wrote_is_read_and_replayed() -> anyhow::Result<()> {
    for (version, rows) in RELEASED {
        let fixture = migrated(version, rows).await?;
        let ids = responses(&fixture).await?;
        let mut statuses = Vec::new();
        for id in &ids {
            let response = get(&fixture, *id).await?;
            statuses.push(response.status());
            let name = ResponseId(*id).to_string();
            let mut client = fixture.client.clone();
            let events = log(&mut client, OF_RELEASE, &name, None).await?;
            assert_eq!(Snapshot::of(&events)?.response(), response);
        }
        let completed = Status::Completed;
        assert_eq!(
            statuses,
            [
                completed,
                completed,
                completed,
                completed,
                completed,
                Status::Failed,
                Status::InProgress
            ]
        );
        for (id, said) in ids.iter().zip(["one", "two", "cat", "dog", "Bern"]) {
            let shown = texts(&get(&fixture, *id).await?).concat();
            assert!(shown.contains(said), "{shown}");
        }
    }
    Ok(())
}

/// REQ-44, REQ-48
#[tokio::test]
async fn what_an_earlier_version_wrote_is_continued() -> anyhow::Result<()> {
    for (version, rows) in RELEASED {
        let fixture = migrated(version, rows).await?;
        let ids = responses(&fixture).await?;
        let mut client = fixture.client.clone();

        let chained = LoadContextRequest {
            tenant: OF_RELEASE.into(),
            previous_response_id: Some(ResponseId(ids[1]).to_string()),
            ..Default::default()
        };
        let context = client.load_context(chained).await?.into_inner();
        assert_eq!(context.turns.len(), 2);
        let mut sessions = sessions(version, &ids);
        assert_eq!(context.session_id.as_ref(), Some(&sessions[1]));

        let pets = || LoadContextRequest {
            tenant: OF_RELEASE.into(),
            conversation: Some("pets".into()),
            ..Default::default()
        };
        let context = client.load_context(pets()).await?.into_inner();
        assert_eq!(
            context.parent_response_id,
            Some(ResponseId(ids[3]).to_string())
        );
        assert_eq!(context.turns.len(), 2);
        let items = ListConversationItemsRequest {
            tenant: OF_RELEASE.into(),
            conversation: "pets".into(),
        };
        let items = client.list_conversation_items(items).await?.into_inner();
        assert_eq!(items.items.len(), 4);
        let inputs = ListInputItemsRequest {
            tenant: OF_RELEASE.into(),
            response_id: ResponseId(ids[3]).to_string(),
        };
        let inputs = client.list_input_items(inputs).await?.into_inner();
        assert_eq!(inputs.items, items.items[..3]);

        let listed = ListResponsesRequest {
            tenant: OF_RELEASE.into(),
            limit: 100,
            ..Default::default()
        };
        let listed = client.list_responses(listed).await?.into_inner();
        let listed: Vec<String> = listed
            .responses
            .into_iter()
            .map(|found| found.session_id)
            .collect();
        sessions.reverse();
        assert_eq!(listed, sessions);
    }
    Ok(())
}

#[tokio::test]
async fn a_session_and_a_key_of_an_earlier_version_stand_for_what_they_did() -> anyhow::Result<()> {
    let with_them = RELEASED
        .into_iter()
        .filter(|(version, _)| *version >= WITH_SESSIONS);
    for (version, rows) in with_them {
        let fixture = migrated(version, rows).await?;
        let ids = responses(&fixture).await?;
        let mut client = fixture.client.clone();

        let of_session = LoadContextRequest {
            tenant: OF_RELEASE.into(),
            session_id: Some("ada".into()),
            ..Default::default()
        };
        let context = client.load_context(of_session).await?.into_inner();
        assert_eq!(
            context.parent_response_id,
            Some(ResponseId(ids[1]).to_string())
        );
        assert_eq!(context.turns.len(), 2);

        let of_key = FindIdempotencyKeyRequest {
            tenant: OF_RELEASE.into(),
            key: "order-66".into(),
        };
        let found = client.find_idempotency_key(of_key).await?.into_inner();
        assert_eq!(found.response_id, ResponseId(ids[6]).to_string());
    }
    Ok(())
}

/// Claims as a process that has just been started: it waits for as long as its lease is, since others may want to renew
/// theirs first.
async fn claim_once_it_may(client: &mut Client) -> anyhow::Result<ClaimRunsResponse> {
    let owner = ids::new_id().to_string();
    loop {
        let renewal = RenewLeaseRequest {
            incarnation: owner.clone(),
            lease_ms: 1000,
            ..Default::default()
        };
        client.renew_lease(renewal).await?;
        let claim = ClaimRunsRequest {
            owner: owner.clone(),
            limit: 10,
            ..Default::default()
        };
        let claimed = client.claim_runs(claim).await?.into_inner();
        if !claimed.runs.is_empty() {
            return Ok(claimed);
        }
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn a_run_of_an_earlier_version_is_taken_over_and_ends() -> anyhow::Result<()> {
    for (version, rows) in RELEASED {
        let fixture = migrated(version, rows).await?;
        let mut client = fixture.client.clone();
        let claimed = within("the claim", claim_once_it_may(&mut client)).await??;
        assert_eq!(claimed.cancelled, [""; 0]);
        let [claimed]: [ClaimedRun; 1] = claimed
            .runs
            .try_into()
            .map_err(|_| anyhow::anyhow!("not one run"))?;
        assert_eq!((claimed.epoch, claimed.attempt), (2, 2));
        assert!(!claimed.begins && !claimed.cancelled);

        let mut run = Writer::resume(&fixture, &claimed)?;
        run.run.start();
        run.finish("the whole answer", &End::Completed).await?;

        let ended = get(&fixture, run.id).await?;
        assert_eq!(ended.status(), Status::Completed);
        let shown = texts(&ended);
        assert!(shown[0].contains("Half a "), "{shown:?}");
        let work = LoadContextRequest {
            tenant: OF_RELEASE.into(),
            conversation: Some("work".into()),
            ..Default::default()
        };
        let context = client.load_context(work).await?.into_inner();
        assert_eq!(context.parent_response_id, Some(run.name()));
    }
    Ok(())
}

#[tokio::test]
async fn what_an_earlier_version_wrote_is_deleted_without_a_trace() -> anyhow::Result<()> {
    for (version, rows) in RELEASED {
        let fixture = migrated(version, rows).await?;
        let mut client = fixture.client.clone();
        for id in responses(&fixture).await? {
            let delete = DeleteResponseRequest {
                tenant: OF_RELEASE.into(),
                response_id: ResponseId(id).to_string(),
            };
            client.delete_response(delete).await?;
        }
        for table in [
            "response",
            "run_request",
            "response_final",
            "turn",
            "event_chunk",
            "idempotency_key",
        ] {
            assert_eq!(fixture.count(table).await?, 0, "{table}");
        }
        fixture.completed(Setup::default()).await?;
    }
    Ok(())
}

/// REQ-54
#[tokio::test]
async fn what_an_earlier_version_wrote_counts_for_the_cap() -> anyhow::Result<()> {
    for (version, rows) in RELEASED {
        let fixture = migrated(version, rows).await?;
        let ids = responses(&fixture).await?;

        assert_eq!(fixture.store.evict_responses(2).await?, 4);

        assert_eq!(responses(&fixture).await?, ids[4..]);
    }
    Ok(())
}
