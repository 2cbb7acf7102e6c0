//! What goes by itself, and what never does.

use std::time::Duration;

use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_domain::run::End;
use talaria_proto::v1::{
    AddConversationItemsRequest, DeleteConversationRequest, LoadContextRequest, Response, Status,
    Turn,
};
use talaria_runtime::ids;
use talaria_store::{ImportedResponse, Importer, Sweep};
use uuid::Uuid;

use crate::fixture::{Fixture, Setup, TENANT, Writer, message};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// REQ-54
#[tokio::test]
async fn the_least_recently_used_go_first_and_reading_counts_as_use() -> anyhow::Result<()> {
    let fixture = Fixture::with(|config| config.max_responses = 1000).await?;
    let mut runs = Vec::new();
    for hours in [5, 4, 3, 2] {
        let run = fixture.completed(Setup::default()).await?;
        fixture.age(&run, HOUR * hours).await?;
        runs.push(run);
    }
    runs[0].get().await?;
    until_read(&fixture, &runs[0]).await?;

    assert_eq!(evict(&fixture, 2).await?, 2);

    let mut left = Vec::new();
    for run in &runs {
        left.push(fixture.exists(run).await?);
    }
    assert_eq!(left, [true, false, false, true]);
    assert_eq!(fixture.store.evict_responses(2).await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_was_imported_does_not_drive_out_what_was_used_later() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let run = fixture.completed(Setup::default()).await?;
    fixture.age(&run, HOUR).await?;
    let importer = Importer::new(&fixture.database.url, TENANT.into())?;
    let mut response = Response::default();
    response.set_status(Status::Completed);
    let hermes = [3, 4, 5].map(|id| Uuid::from_u128(id << 100));
    for (used_at, id) in [1.6e9, 1.7e9, 1.5e9].into_iter().zip(hermes) {
        let import = ImportedResponse {
            id,
            response: response.clone(),
            turn: Turn::default(),
            parent_turn: None,
            conversation: None,
            event_count: 1,
            used_at,
        };
        importer.response_import(&import).await?;
    }

    fixture.store.evict_responses(2).await?;

    let session = fixture.session().await?;
    let rows = session
        .query("SELECT id FROM response ORDER BY id", &[])
        .await?;
    let left: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(left, [hermes[1], run.id]);
    Ok(())
}

/// Removes what is beyond the cap. The store looks by itself soon after a run ends, and one looks at a time.
async fn evict(fixture: &Fixture, max: u64) -> anyhow::Result<usize> {
    let evicted = async {
        loop {
            let count = fixture.store.evict_responses(max).await?;
            if count > 0 {
                return anyhow::Ok(count);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), evicted).await?
}

/// Waits until it is written down that the response was read.
async fn until_read(fixture: &Fixture, run: &Writer) -> anyhow::Result<()> {
    let session = fixture.session().await?;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let row = session
            .query_one(
                "SELECT used_at IS NOT NULL FROM response WHERE id = $1",
                &[&run.id],
            )
            .await?;
        if row.get(0) {
            return Ok(());
        }
        anyhow::ensure!(
            std::time::Instant::now() < deadline,
            "it was never written down"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// REQ-54, REQ-59
#[tokio::test]
async fn the_cap_is_held_by_itself_soon_after_a_run_ends() -> anyhow::Result<()> {
    let fixture = Fixture::with(|config| config.max_responses = 2).await?;
    for _ in 0..4 {
        fixture.completed(Setup::default()).await?;
    }

    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while fixture.count("response").await? > 2 {
        anyhow::ensure!(std::time::Instant::now() < deadline, "nothing went");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fixture.count("response").await?, 2);
    fixture.store.stop().await;
    Ok(())
}

/// REQ-55
#[tokio::test]
async fn a_response_that_has_not_ended_never_goes() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let conversation = ids::new_id();
    let mut active = fixture
        .active(Setup {
            conversation: Some(conversation),
            new_name: Some("pets"),
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
    for run in [&active, &waiting] {
        fixture.age(run, DAY * 100).await?;
    }

    assert_eq!(fixture.store.evict_responses(0).await?, 0);
    assert_eq!(fixture.store.expire_responses(Duration::ZERO).await?, 0);

    active.finish("done", &End::Completed).await?;
    assert!(fixture.exists(&active).await? && fixture.exists(&waiting).await?);
    assert_eq!(fixture.store.evict_responses(0).await?, 1);
    assert!(fixture.exists(&waiting).await?);
    Ok(())
}

/// REQ-31, REQ-43
#[tokio::test]
async fn an_evicted_response_takes_its_key_and_pointers_along() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let conversation = ids::new_id();
    fixture
        .completed(Setup {
            conversation: Some(conversation),
            new_name: Some("pets"),
            key: Some("key"),
            ..Setup::default()
        })
        .await?;

    assert_eq!(fixture.store.evict_responses(0).await?, 1);

    assert_eq!(fixture.pointers(conversation).await?, (None, None, None));
    for table in [
        "response",
        "idempotency_key",
        "response_final",
        "event_chunk",
        "turn",
    ] {
        assert_eq!(fixture.count(table).await?, 0, "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn what_continues_from_an_evicted_response_is_whole() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let first = fixture.completed(Setup::default()).await?;
    fixture.age(&first, HOUR).await?;
    let second = fixture
        .completed(Setup {
            parent: Some(&first),
            ..Setup::default()
        })
        .await?;

    assert_eq!(fixture.store.evict_responses(1).await?, 1);

    assert!(!fixture.exists(&first).await?);
    let context = fixture
        .load(LoadContextRequest {
            previous_response_id: Some(second.name()),
            ..Default::default()
        })
        .await?;
    assert_eq!(context.turns.len(), 2);
    assert_eq!(fixture.store.evict_responses(0).await?, 1);
    assert_eq!(fixture.count("turn").await?, 0);
    Ok(())
}

#[tokio::test]
async fn each_tenant_has_a_cap_of_its_own_and_replicas_do_not_evict_twice() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    for _ in 0..6 {
        fixture.completed(Setup::default()).await?;
    }
    let session = fixture.session().await?;
    session
        .batch_execute(
            "UPDATE response SET tenant = 'b' WHERE id IN (SELECT id FROM response ORDER BY id LIMIT 2);
             UPDATE turn t SET tenant = r.tenant FROM response r WHERE r.id = t.id",
        )
        .await?;
    let second =
        talaria_store::Store::start(&talaria_store::Config::new(fixture.database.url.clone()))?;

    let (first, second) = tokio::join!(fixture.store.evict_responses(2), second.evict_responses(2));

    assert_eq!(first? + second?, 2);
    assert_eq!(fixture.count("response WHERE tenant = 'a'").await?, 2);
    assert_eq!(fixture.count("response WHERE tenant = 'b'").await?, 2);
    Ok(())
}

#[tokio::test]
async fn old_responses_go_by_when_they_ended() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let old = fixture.completed(Setup::default()).await?;
    let young = fixture.completed(Setup::default()).await?;
    let long = fixture.completed(Setup::default()).await?;
    let released = fixture.completed(Setup::default()).await?;
    let session = fixture.session().await?;
    // These were made 40 days ago; one has been going on until an hour ago, one does not say when it ended.
    for run in [&old, &long, &released] {
        let id = Uuid::from_u128(run.id.as_u128() - ((40 * 86_400_000_u128) << 80));
        session
            .batch_execute(&format!(
                "UPDATE response SET id = '{id}' WHERE id = '{}'",
                run.id
            ))
            .await?;
    }
    session
        .batch_execute(
            "UPDATE response SET updated_at = NULL
             WHERE id IN (SELECT id FROM response ORDER BY id DESC OFFSET 1 LIMIT 1);
             UPDATE response SET updated_at = clock_timestamp() - interval '39 days'
             WHERE id IN (SELECT id FROM response ORDER BY id LIMIT 1)",
        )
        .await?;

    assert_eq!(fixture.store.expire_responses(DAY * 100).await?, 0);
    assert_eq!(fixture.store.expire_responses(DAY * 30).await?, 2);

    assert_eq!(fixture.count("response").await?, 2);
    assert!(fixture.exists(&young).await?);
    assert_eq!(fixture.store.expire_responses(DAY * 30).await?, 0);
    Ok(())
}

#[tokio::test]
async fn looking_for_old_responses_does_not_go_through_all_young_ones() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let session = fixture.session().await?;
    // A function that tells how often it was asked, and responses that do not say when they ended.
    session
        .batch_execute(&format!(
            "CREATE SEQUENCE asked;
             ALTER FUNCTION uuid_v7_floor RENAME TO quiet_floor;
             CREATE FUNCTION uuid_v7_floor(instant timestamptz) RETURNS uuid
                 LANGUAGE sql IMMUTABLE AS 'SELECT quiet_floor(instant) FROM nextval(''asked'')';
             INSERT INTO response (id, tenant, status, epoch, next_seq)
             SELECT quiet_floor(clock_timestamp() - n * interval '1 second'), '{TENANT}', 3, 1, 1
             FROM generate_series(1, 1000) AS n"
        ))
        .await?;

    assert_eq!(fixture.store.expire_responses(DAY * 30).await?, 0);

    let row = session.query_one("SELECT nextval('asked')", &[]).await?;
    let asked: i64 = row.get(0);
    assert!(asked < 50, "asked {asked} times");
    Ok(())
}

#[tokio::test]
async fn turns_that_nothing_needs_any_more_are_swept() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let conversation = ids::new_id();
    let mut run = fixture
        .completed(Setup {
            conversation: Some(conversation),
            new_name: Some("pets"),
            ..Setup::default()
        })
        .await?;
    let kept = fixture.completed(Setup::default()).await?;
    let turn = ids::new_id();
    let add = AddConversationItemsRequest {
        tenant: TENANT.into(),
        conversation: "pets".into(),
        items: vec![message(turn, 0, "by the way")],
        turn_id: turn.to_string(),
    };
    let mut client = fixture.client.clone();
    client.add_conversation_items(add).await?;
    let mut sweep = Sweep::default();
    assert_eq!(fixture.store.sweep_turns(&mut sweep).await?, 0);
    assert_eq!(fixture.count("turn").await?, 3);

    run.delete().await?;
    assert_eq!(fixture.pointers(conversation).await?, (None, None, None));
    assert_eq!(
        fixture.count("turn").await?,
        3,
        "the added turn continues from it"
    );

    let mut sweep = Sweep::default();
    assert_eq!(fixture.store.sweep_turns(&mut sweep).await?, 2);
    assert_eq!(fixture.count("turn").await?, 1);
    let context = fixture
        .load(LoadContextRequest {
            previous_response_id: Some(kept.name()),
            ..Default::default()
        })
        .await?;
    assert_eq!(context.turns.len(), 1);
    let delete = DeleteConversationRequest {
        tenant: TENANT.into(),
        conversation: ConversationId(conversation).to_string(),
    };
    client.delete_conversation(delete).await?;
    Ok(())
}

/// A partition of the day `days_ago`, and a finished response of that day with its log.
async fn of_day(fixture: &Fixture, days_ago: u32) -> anyhow::Result<(String, Uuid)> {
    let run = fixture.completed(Setup::default()).await?;
    let back = u128::from(days_ago) * 86_400_000;
    let id = Uuid::from_u128(run.id.as_u128() - (back << 80));
    let session = fixture.session().await?;
    let row = session
        .query_one(
            "SELECT to_char((clock_timestamp() AT TIME ZONE 'UTC')::date - $1::int, 'YYYYMMDD')",
            &[&i32::try_from(days_ago)?],
        )
        .await?;
    let partition = format!("event_chunk_{}", row.get::<_, String>(0));
    session
        .batch_execute(&format!(
            "CREATE TABLE IF NOT EXISTS {partition} PARTITION OF event_chunk
                 FOR VALUES FROM (uuid_v7_floor((clock_timestamp() AT TIME ZONE 'UTC')::date::timestamp
                                      AT TIME ZONE 'UTC' - interval '{days_ago} days'))
                 TO (uuid_v7_floor((clock_timestamp() AT TIME ZONE 'UTC')::date::timestamp
                                      AT TIME ZONE 'UTC' - interval '{days_ago} days' + interval '1 day'));
             UPDATE response
             SET id = '{id}', updated_at = clock_timestamp() - interval '{days_ago} days'
             WHERE id = '{old}';
             UPDATE turn SET id = '{id}' WHERE id = '{old}';
             UPDATE response_final SET response_id = '{id}' WHERE response_id = '{old}';
             UPDATE event_chunk SET response_id = '{id}' WHERE response_id = '{old}'",
            old = run.id
        ))
        .await?;
    Ok((partition, id))
}

#[tokio::test]
async fn a_day_of_the_event_log_goes_whole_when_nothing_in_it_is_young() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (third, of_third) = of_day(&fixture, 3).await?;
    let (fifth, of_fifth) = of_day(&fixture, 5).await?;
    let (seventh, of_seventh) = of_day(&fixture, 7).await?;
    let session = fixture.session().await?;
    session
        .batch_execute(&format!(
            "UPDATE response SET status = 2 WHERE id = '{of_fifth}';
             UPDATE response SET updated_at = clock_timestamp() WHERE id = '{of_seventh}'"
        ))
        .await?;

    let mut dropped = fixture.store.drop_event_partitions(DAY * 30).await?;
    assert_eq!(dropped, [""; 0]);
    dropped = fixture.store.drop_event_partitions(DAY).await?;
    assert_eq!(
        dropped,
        [third],
        "{fifth} has an active one, {seventh} one that just ended"
    );

    let name = ResponseId(of_third).to_string();
    let mut client = fixture.client.clone();
    let rebuilt = crate::fixture::log(&mut client, TENANT, &name, None).await?;
    assert!(!rebuilt.is_empty());
    session
        .batch_execute(&format!(
            "UPDATE response SET status = 3 WHERE id = '{of_fifth}';
             UPDATE response SET updated_at = clock_timestamp() - interval '2 days' WHERE id = '{of_seventh}'"
        ))
        .await?;
    let dropped = fixture.store.drop_event_partitions(DAY).await?;
    assert_eq!(dropped, [seventh, fifth]);
    assert_eq!(
        fixture.store.drop_event_partitions(Duration::ZERO).await?,
        [""; 0]
    );
    Ok(())
}

#[tokio::test]
async fn a_reader_of_the_log_is_not_kept_waiting_by_a_day_that_cannot_go() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (third, _) = of_day(&fixture, 3).await?;
    let mut reader = fixture.session().await?;
    let reading = reader.transaction().await?;
    reading
        .query("SELECT count(*) FROM event_chunk", &[])
        .await?;

    assert!(fixture.store.drop_event_partitions(DAY).await.is_err());
    let mut run = fixture.completed(Setup::default()).await?;
    assert!(!run.log(None).await?.is_empty());

    reading.rollback().await?;
    assert_eq!(fixture.store.drop_event_partitions(DAY).await?, [third]);
    Ok(())
}

/// What must hold between the tables whenever nothing is under way; each query finds what breaks it.
const LAWS: [&str; 7] = [
    "SELECT id FROM conversation c
     WHERE latest_completed_response_id IS NOT NULL
       AND NOT EXISTS (
           SELECT 1 FROM response r WHERE r.id = c.latest_completed_response_id AND r.status = 3
       )",
    "SELECT id FROM conversation WHERE active_response_id IS NOT NULL",
    "SELECT id FROM conversation c
     WHERE head_turn_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM turn t WHERE t.id = c.head_turn_id)",
    "SELECT id FROM turn t
     WHERE parent_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM turn p WHERE p.id = t.parent_id)",
    "SELECT response_id FROM response_final WHERE response_id NOT IN (SELECT id FROM response)",
    "SELECT response_id FROM event_chunk WHERE response_id NOT IN (SELECT id FROM response)",
    "SELECT response_id FROM run_request",
];

/// REQ-43, REQ-55
#[tokio::test]
async fn forgetting_while_runs_begin_and_end_leaves_nothing_half() -> anyhow::Result<()> {
    let fixture = std::sync::Arc::new(Fixture::new().await?);
    let second =
        talaria_store::Store::start(&talaria_store::Config::new(fixture.database.url.clone()))?;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..4 {
        let fixture = fixture.clone();
        writers.spawn(async move { converse(&fixture, &format!("name {}", number % 2)).await });
    }
    let done = tokio_util::sync::CancellationToken::new();
    let forgetters = async {
        let mut sweep = Sweep::default();
        while !done.is_cancelled() {
            let (first, second) =
                tokio::join!(fixture.store.evict_responses(1), second.evict_responses(2));
            first?;
            second?;
            fixture.store.sweep_turns(&mut sweep).await?;
        }
        anyhow::Ok(())
    };
    let writing = async {
        while let Some(written) = writers.join_next().await {
            written??;
        }
        done.cancel();
        anyhow::Ok(())
    };
    let (forgotten, written) = tokio::join!(forgetters, writing);
    forgotten?;
    written?;

    let session = fixture.session().await?;
    for law in LAWS {
        let broken = session.query(law, &[]).await?;
        assert_eq!(broken.len(), 0, "{law}");
    }
    fixture.store.evict_responses(0).await?;
    while fixture.store.sweep_turns(&mut Sweep::default()).await? > 0 {}
    assert_eq!(fixture.count("turn").await?, 0);
    Ok(())
}

/// Runs one after the other in a conversation that others use too; deletes every third.
async fn converse(fixture: &Fixture, name: &str) -> anyhow::Result<()> {
    for round in 0..25 {
        let load = LoadContextRequest {
            conversation: Some(name.into()),
            ..Default::default()
        };
        let Ok(context) = fixture.load(load).await else {
            continue;
        };
        let parent = context.parent_response_id.as_deref();
        let known = context.conversation_id.as_deref();
        let known = known.and_then(ConversationId::parse).map(|id| id.0);
        let setup = Setup {
            parent_id: parent.and_then(ResponseId::parse).map(|id| id.0),
            conversation: Some(known.unwrap_or_else(ids::new_id)),
            new_name: known.is_none().then_some(name),
            ..Setup::default()
        };
        // Somebody was faster, or it was forgotten meanwhile.
        let Ok(mut run) = fixture.active(setup).await else {
            continue;
        };
        run.finish("said", &End::Completed).await?;
        if round % 3 == 0 {
            // The cap may have been faster.
            let _ = run.delete().await;
        }
    }
    Ok(())
}
