//! The store's promises, on a real Postgres: what does not fit stores nothing, what was acknowledged is there, and the
//! end of a run is one step.

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::Context;
use futures::TryStreamExt;
use futures::future::join_all;
use talaria_domain::ids::ResponseId;
use talaria_domain::model::{Field, ItemKey, ModelEvent};
use talaria_domain::run::{End, Run};
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_proto::v1::{
    AdmitRunRequest, AppendBatchRequest, AppendEventsRequest, ClaimRunsRequest,
    DeleteResponseRequest, EndLeaseRequest, Event, EventChunk, FinishRunRequest,
    GetResponseRequest, LoadContextRequest, ReadEventsRequest, RenewLeaseRequest, Response,
    RunRequest, Status, Turn,
};
use talaria_runtime::error::Reason;
use talaria_runtime::{ids, link};
use talaria_store::{Config, Store};
use talaria_testkit::postgres::TestDatabase;
use tonic::{Code, Status as GrpcStatus};
use uuid::Uuid;

#[path = "store/context.rs"]
mod context;
#[path = "store/keys.rs"]
mod keys;
#[path = "store/lines.rs"]
mod lines;
#[path = "store/whole.rs"]
mod whole;

type Client = StoreServiceClient<link::Link>;

struct Fixture {
    client: Client,
    database: TestDatabase,
    store: Store,
}

impl Fixture {
    /// Another store on the same database, as in another process.
    fn second_store(&self) -> anyhow::Result<(Client, Store)> {
        let store = Store::start(&Config::new(self.database.url.clone()))?;
        let client = StoreServiceClient::new(link::local(store.server()));
        Ok((client, store))
    }

    async fn count(&self, table: &str) -> anyhow::Result<i64> {
        let session = self.database.connect().await?;
        let rows = session
            .query_one(&format!("SELECT count(*) FROM {table}"), &[])
            .await?;
        Ok(rows.get(0))
    }
}

async fn fixture() -> anyhow::Result<Fixture> {
    let database = TestDatabase::from_template(&migrations_hash()?, async |url: &str| {
        talaria_store::migrate(url).await?;
        Ok(())
    })
    .await?;
    let store = Store::start(&Config::new(database.url.clone()))?;
    let client = StoreServiceClient::new(link::local(store.server()));
    Ok(Fixture {
        client,
        database,
        store,
    })
}

fn migration_files() -> anyhow::Result<Vec<std::fs::DirEntry>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
    let mut files: Vec<_> = std::fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    Ok(files)
}

fn migrations_hash() -> anyhow::Result<String> {
    let mut hasher = DefaultHasher::new();
    for file in migration_files()? {
        std::fs::read(file.path())?.hash(&mut hasher);
    }
    Ok(format!("{:x}", hasher.finish()))
}

/// A run as an orchestrator would write it.
struct Writer {
    client: Client,
    tenant: &'static str,
    id: Uuid,
    owner: Uuid,
    epoch: i32,
    run: Run,
}

impl Writer {
    fn new(fixture: &Fixture, tenant: &'static str) -> Self {
        let id = ids::new_id();
        let mut response = Response {
            id: ResponseId(id).to_string(),
            ..Default::default()
        };
        response.set_status(Status::InProgress);
        let run = Run::create(id, response);
        Self {
            client: fixture.client.clone(),
            tenant,
            id,
            owner: ids::new_id(),
            epoch: 1,
            run,
        }
    }

    fn name(&self) -> String {
        ResponseId(self.id).to_string()
    }

    fn admission(&mut self) -> AdmitRunRequest {
        let events = self.run.take_events();
        AdmitRunRequest {
            tenant: self.tenant.into(),
            response_id: self.name(),
            owner: self.owner.to_string(),
            status: Status::InProgress.into(),
            request: Some(RunRequest::default()),
            event_count: u32::try_from(events.len()).unwrap(),
            events: Some(EventChunk::of(&events)),
            ..Default::default()
        }
    }

    async fn admit(&mut self) -> Result<(), GrpcStatus> {
        let admission = self.admission();
        self.client.admit_run(admission).await.map(drop)
    }

    fn say(&mut self, text: &str) -> AppendEventsRequest {
        self.run.on_model(ModelEvent::Delta {
            key: ItemKey(0),
            field: Field::Text,
            part: 0,
            delta: text.into(),
            logprobs: Vec::new(),
        });
        self.append()
    }

    fn append(&mut self) -> AppendEventsRequest {
        let events = self.run.take_events();
        AppendEventsRequest {
            response_id: self.name(),
            epoch: self.epoch,
            first_sequence_number: events[0].sequence_number,
            event_count: u32::try_from(events.len()).unwrap(),
            events: Some(EventChunk::of(&events)),
            after_silence: false,
        }
    }

    async fn send(&mut self, append: AppendEventsRequest) -> Result<(), GrpcStatus> {
        self.client.append_events(append).await.map(drop)
    }

    fn end(&mut self, end: &End) -> FinishRunRequest {
        self.run.finish(end, 5);
        FinishRunRequest {
            append: Some(self.append()),
            response: Some(self.run.snapshot().response()),
            turn: Some(Turn {
                input: Vec::new(),
                output: self.run.output(),
            }),
            admission: None,
        }
    }

    async fn get(&mut self) -> Result<Response, GrpcStatus> {
        let request = GetResponseRequest {
            tenant: self.tenant.into(),
            response_id: self.name(),
        };
        Ok(self
            .client
            .get_response(request)
            .await?
            .into_inner()
            .response
            .unwrap())
    }

    async fn log(&mut self, starting_after: Option<u64>) -> anyhow::Result<Vec<Event>> {
        let request = ReadEventsRequest {
            tenant: self.tenant.into(),
            response_id: self.name(),
            starting_after,
        };
        let chunks: Vec<_> = self
            .client
            .read_events(request)
            .await?
            .into_inner()
            .try_collect()
            .await?;
        let mut events = Vec::new();
        for chunk in chunks {
            events.extend(chunk.events.context("no events")?.events()?);
        }
        Ok(events)
    }
}

#[tokio::test]
async fn a_snapshot_is_the_fold_of_the_log_and_the_end_is_what_was_written() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut run = Writer::new(&fixture, "a");
    run.admit().await?;
    for word in ["Hello", " ", "\u{0}wörld"] {
        let append = run.say(word);
        run.send(append).await?;
        assert_eq!(run.get().await?, run.run.snapshot().response());
    }
    run.run.on_model_end();
    let end = run.end(&End::Completed);
    run.client.finish_run(end).await?;

    assert_eq!(run.get().await?, run.run.snapshot().response());
    let log = run.log(None).await?;
    let numbers: Vec<u64> = log.iter().map(|event| event.sequence_number).collect();
    assert_eq!(numbers, (0..log.len() as u64).collect::<Vec<_>>());
    for after in 0..log.len() {
        assert_eq!(run.log(Some(after as u64)).await?, log[after + 1..]);
    }
    Ok(())
}

#[tokio::test]
async fn what_does_not_continue_the_log_stores_nothing() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut run = Writer::new(&fixture, "a");
    run.admit().await?;
    let first = run.say("one");
    run.send(first.clone()).await?;
    let second = run.say("two");

    let changes: [fn(&mut AppendEventsRequest); 4] = [
        |append| append.epoch += 1,
        |append| append.epoch -= 1,
        |append| append.first_sequence_number += 1,
        |append| append.first_sequence_number -= 1,
    ];
    let before = run.log(None).await?;
    for change in changes {
        let mut wrong = second.clone();
        change(&mut wrong);
        let refused = run.send(wrong).await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Reason::RunLost));
        assert_eq!(run.log(None).await?, before);
    }
    let mut other_content = first.clone();
    other_content.events = second.events.clone();
    assert!(run.send(other_content).await.is_err());

    run.send(second).await?;
    run.send(first)
        .await
        .context("repeating what is stored succeeds")?;
    assert_eq!(run.log(None).await?.len(), before.len() + 1);
    Ok(())
}

#[tokio::test]
async fn what_fails_in_a_batch_fails_for_itself() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut runs = Vec::new();
    for _ in 0..5 {
        let mut run = Writer::new(&fixture, "a");
        run.admit().await?;
        runs.push(run);
    }
    let mut appends: Vec<_> = runs.iter_mut().map(|run| run.say("word")).collect();
    appends[1].epoch += 1;
    appends[2].response_id = "no id".into();
    appends[3].event_count = 0;

    let batch = AppendBatchRequest { appends };
    let answer = fixture.client.clone().append_batch(batch).await?;

    let failures = answer.into_inner().failures;
    let failures: Vec<_> = failures
        .iter()
        .map(|failure| (failure.index, Code::from(failure.code)))
        .collect();
    let expected = [
        (1, Code::Aborted),
        (2, Code::NotFound),
        (3, Code::InvalidArgument),
    ];
    assert_eq!(failures, expected);
    for (place, run) in runs.iter_mut().enumerate() {
        let is_stored = run.get().await? == run.run.snapshot().response();
        assert_eq!(is_stored, [0, 4].contains(&place), "{place}");
    }
    Ok(())
}

#[tokio::test]
async fn responses_that_are_asked_for_together_are_not_mixed_up() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut runs = Vec::new();
    for place in 0..40_u32 {
        let mut run = Writer::new(&fixture, ["a", "b"][place as usize % 2]);
        run.admit().await?;
        if place == 9 {
            // One that is too large to be read with others, however well it is packed.
            let words: Vec<String> = (0..20_000).map(|_| ids::new_id().to_string()).collect();
            let append = run.say(&words.concat());
            run.send(append).await?;
        }
        if place % 3 == 0 {
            let end = run.end(&End::Completed);
            run.client.finish_run(end).await?;
        }
        runs.push(run);
    }
    // One asks for what is another's.
    runs[7].tenant = "a";

    let got = join_all(runs.iter_mut().map(Writer::get)).await;

    for (place, (run, got)) in runs.iter().zip(got).enumerate() {
        if place == 7 {
            assert_eq!(
                Reason::of(&got.unwrap_err()),
                Some(Reason::ResponseNotFound)
            );
        } else {
            assert_eq!(got?, run.run.snapshot().response(), "{place}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn two_owners_in_one_batch_do_not_both_hear_that_they_wrote() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut old = Writer::new(&fixture, "a");
    old.admit().await?;
    let claim = ClaimRunsRequest {
        owner: ids::new_id().to_string(),
        limit: 1,
        ..Default::default()
    };
    let claimed = old
        .client
        .claim_runs(claim)
        .await?
        .into_inner()
        .runs
        .remove(0);
    let late = old.say("late");
    let mut new = late.clone();
    new.epoch = claimed.epoch;

    // Deltas are gathered for some milliseconds, so these two share a statement.
    let (mut first, mut second) = (old.client.clone(), old.client.clone());
    let (late, new) = tokio::join!(first.append_events(late), second.append_events(new));

    assert_eq!(Reason::of(&late.unwrap_err()), Some(Reason::RunLost));
    new.context("the owner writes")?;
    Ok(())
}

#[tokio::test]
async fn turns_that_were_only_kept_for_a_deleted_one_go_with_it() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    let mut parent: Option<String> = None;
    let mut names = Vec::new();
    for _ in 0..3 {
        let mut run = Writer::new(&fixture, "a");
        let mut admission = run.admission();
        admission.parent_response_id = parent;
        client.admit_run(admission).await?;
        client.finish_run(run.end(&End::Completed)).await?;
        parent = Some(run.name());
        names.push(run.name());
    }
    let session = fixture.database.connect().await?;
    let mut left = Vec::new();
    for name in names {
        let delete = DeleteResponseRequest {
            tenant: "a".into(),
            response_id: name,
        };
        client.delete_response(delete).await?;
        let turns = session.query_one("SELECT count(*) FROM turn", &[]).await?;
        left.push(turns.get::<_, i64>(0));
    }

    assert_eq!(left, [3, 3, 0]);
    Ok(())
}

#[tokio::test]
async fn a_delete_is_told_as_done_though_somebody_holds_its_turn() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut run = Writer::new(&fixture, "a");
    run.admit().await?;
    run.run.on_model_end();
    let end = run.end(&End::Completed);
    run.client.finish_run(end).await?;
    let mut session = fixture.database.connect().await?;
    let holder = session.transaction().await?;
    holder.query("SELECT id FROM turn FOR UPDATE", &[]).await?;

    let delete = DeleteResponseRequest {
        tenant: "a".into(),
        response_id: run.name(),
    };
    run.client.delete_response(delete).await?;

    assert_eq!(fixture.count("response").await?, 0);
    assert_eq!(fixture.count("turn").await?, 1, "left to a sweep");
    Ok(())
}

#[tokio::test]
async fn a_run_cannot_continue_from_a_turn_that_is_gone() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut run = Writer::new(&fixture, "a");
    let mut admission = run.admission();
    admission.parent_response_id = Some(ResponseId(ids::new_id()).to_string());

    let refused = run.client.admit_run(admission).await.unwrap_err();

    assert_eq!(Reason::of(&refused), Some(Reason::PreviousResponseNotFound));
    assert!(run.get().await.is_err());
    Ok(())
}

#[tokio::test]
async fn appends_of_many_runs_at_once_keep_each_log_in_order() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut run = Writer::new(&fixture, "a");
        runs.spawn(async move {
            run.admit().await?;
            for word in 0..25 {
                let append = run.say(&format!("{word} "));
                run.send(append).await?;
            }
            run.run.on_model_end();
            let end = run.end(&End::Completed);
            run.client.finish_run(end).await?;
            anyhow::ensure!(run.get().await? == run.run.snapshot().response());
            anyhow::ensure!(run.log(None).await?.len() == 25 + 3 + 4);
            Ok(())
        });
    }
    while let Some(run) = runs.join_next().await {
        run??;
    }
    Ok(())
}

#[tokio::test]
async fn each_of_a_batch_that_comes_again_is_compared_with_what_is_stored() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut appends = Vec::new();
    for _ in 0..100 {
        let mut run = Writer::new(&fixture, "a");
        run.admit().await?;
        appends.push(run.say("as it is"));
    }
    let send_all = |appends: &[AppendEventsRequest]| {
        let sent = appends.iter().map(|append| {
            let (mut client, append) = (fixture.client.clone(), append.clone());
            async move { client.append_events(append).await.is_ok() }
        });
        futures::future::join_all(sent.collect::<Vec<_>>())
    };
    assert_eq!(send_all(&appends).await, [true; 100]);

    // Under another epoch, with another start, with other events.
    appends[3].epoch = 2;
    appends[20].first_sequence_number += 1;
    appends[20].event_count -= 1;
    appends[71].events = appends[20].events.clone();
    appends.reverse();
    let mut expected = [true; 100];
    for different in [3, 20, 71] {
        expected[99 - different] = false;
    }

    assert_eq!(send_all(&appends).await, expected);
    Ok(())
}

#[tokio::test]
async fn a_broken_write_does_not_take_the_batch_with_it() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut runs = tokio::task::JoinSet::new();
    for number in 0..30 {
        let mut run = Writer::new(&fixture, "a");
        runs.spawn(async move {
            let mut admission = run.admission();
            // Postgres refuses NUL in a text column, and with it the whole statement.
            let broken = number % 10 == 0;
            if broken {
                admission.tenant = "a\0b".into();
            }
            let admitted = run.client.admit_run(admission).await;
            anyhow::ensure!(admitted.is_ok() != broken, "{number}: {admitted:?}");
            Ok(())
        });
    }
    while let Some(run) = runs.join_next().await {
        run??;
    }
    Ok(())
}

#[tokio::test]
async fn a_response_says_when_it_was_last_written() -> anyhow::Result<()> {
    async fn updated_at_ms(run: &mut Writer) -> anyhow::Result<i64> {
        let request = GetResponseRequest {
            tenant: run.tenant.into(),
            response_id: run.name(),
        };
        let found = run.client.get_response(request).await?.into_inner();
        Ok(found.updated_at_ms)
    }
    let fixture = fixture().await?;
    let session = fixture.database.connect().await?;
    let mut run = Writer::new(&fixture, "a");
    run.admit().await?;
    // Long ago, so that no clock has to tick for a difference.
    let long_ago = "UPDATE response SET updated_at = to_timestamp(1.5)";

    assert!(updated_at_ms(&mut run).await? > 1500);
    session.execute(long_ago, &[]).await?;
    assert_eq!(updated_at_ms(&mut run).await?, 1500);
    let append = run.say("said");
    run.send(append).await?;
    assert!(updated_at_ms(&mut run).await? > 1500);
    session.execute(long_ago, &[]).await?;
    let end = run.end(&End::Completed);
    run.client.finish_run(end).await?;
    assert!(updated_at_ms(&mut run).await? > 1500);
    session
        .execute("UPDATE response SET updated_at = NULL", &[])
        .await?;
    assert_eq!(updated_at_ms(&mut run).await?, 0, "as in the first version");
    Ok(())
}

/// REQ-5, REQ-15
#[tokio::test]
async fn a_finished_run_takes_no_more_and_ends_once() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut run = Writer::new(&fixture, "a");
    run.admit().await?;
    let said = run.say("said");
    run.send(said.clone()).await?;
    let end = run.end(&End::Cancelled);
    run.client.finish_run(end.clone()).await?;

    let first_sequence_number = run.run.snapshot().next_sequence_number();
    let late = AppendEventsRequest {
        first_sequence_number,
        ..said
    };
    assert!(run.send(late).await.is_err());
    run.client
        .finish_run(end.clone())
        .await
        .context("repeating the end succeeds")?;
    let mut other_end = end;
    other_end.append.as_mut().unwrap().epoch += 1;
    assert!(run.client.finish_run(other_end).await.is_err());
    assert_eq!(run.get().await?.status(), Status::Cancelled);
    Ok(())
}

#[tokio::test]
async fn another_tenants_response_is_as_unknown_as_none() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut run = Writer::new(&fixture, "a");
    run.admit().await?;
    run.tenant = "b";

    let foreign = run.get().await.unwrap_err();
    run.id = ids::new_id();
    let unknown = run.get().await.unwrap_err();
    assert_eq!(Reason::of(&foreign), Some(Reason::ResponseNotFound));
    assert_eq!(
        (foreign.code(), Reason::of(&foreign)),
        (unknown.code(), Reason::of(&unknown))
    );
    assert!(run.log(None).await.is_err());
    let delete = DeleteResponseRequest {
        tenant: "b".into(),
        response_id: run.name(),
    };
    assert!(run.client.delete_response(delete).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_deleted_response_leaves_no_rows_and_cannot_come_back() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut run = Writer::new(&fixture, "a");
    run.admit().await?;
    let append = run.say("x");
    let delete = DeleteResponseRequest {
        tenant: "a".into(),
        response_id: run.name(),
    };
    run.client.delete_response(delete.clone()).await?;

    let lost = run.send(append).await.unwrap_err();
    assert_eq!(Reason::of(&lost), Some(Reason::RunLost));
    assert!(run.client.delete_response(delete).await.is_err());
    let session = fixture.database.connect().await?;
    for table in [
        "response",
        "run_request",
        "response_final",
        "turn",
        "event_chunk",
    ] {
        let rows = session
            .query_one(&format!("SELECT count(*) FROM {table}"), &[])
            .await?;
        assert_eq!(rows.get::<_, i64>(0), 0, "{table}");
    }
    Ok(())
}

/// REQ-37, REQ-38
#[tokio::test]
async fn one_active_response_per_conversation_and_the_pointers_move_with_the_end()
-> anyhow::Result<()> {
    let fixture = fixture().await?;
    let conversation = format!("conv_{}", ids::new_id().simple());
    let named = |mut admission: AdmitRunRequest, name: Option<&str>, parent: Option<String>| {
        admission.conversation_id = Some(conversation.clone());
        admission.conversation_name = name.map(str::to_owned);
        admission.parent_response_id = parent;
        admission
    };
    let load = |conversation: &str| LoadContextRequest {
        tenant: "a".into(),
        conversation: Some(conversation.into()),
        ..Default::default()
    };
    let mut client = fixture.client.clone();
    assert_eq!(
        client
            .load_context(load("pets"))
            .await?
            .into_inner()
            .conversation_id,
        None
    );

    let mut first = Writer::new(&fixture, "a");
    let admission = named(first.admission(), Some("pets"), None);
    client.admit_run(admission.clone()).await?;
    client
        .admit_run(admission)
        .await
        .context("repeating an admission succeeds")?;
    let mut second = Writer::new(&fixture, "a");
    let refused = client
        .admit_run(named(second.admission(), None, None))
        .await
        .unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::ConversationChanged));
    assert!(
        second.get().await.is_err(),
        "a refusal leaves nothing behind"
    );
    let busy = client.load_context(load("pets")).await.unwrap_err();
    assert_eq!(
        Reason::of(&busy),
        Some(Reason::ConversationResponseNotCompleted)
    );

    let end = first.end(&End::Completed);
    client.finish_run(end).await?;
    let context = client.load_context(load(&conversation)).await?.into_inner();
    assert_eq!(context.parent_response_id, Some(first.name()));
    assert_eq!(context.turns.len(), 1);

    let mut third = Writer::new(&fixture, "a");
    client
        .admit_run(named(third.admission(), None, Some(first.name())))
        .await?;
    let end = third.end(&End::Cancelled);
    client.finish_run(end).await?;
    let context = client.load_context(load("pets")).await?.into_inner();
    assert_eq!(
        context.parent_response_id,
        Some(first.name()),
        "a cancelled run moves nothing"
    );
    Ok(())
}

#[tokio::test]
async fn orphans_are_claimed_once_under_a_new_epoch_and_the_old_owner_is_fenced()
-> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    let mut run = Writer::new(&fixture, "a");
    let lease = |incarnation: Uuid| RenewLeaseRequest {
        incarnation: incarnation.to_string(),
        lease_ms: 60_000,
        ..Default::default()
    };
    client.renew_lease(lease(run.owner)).await?;
    run.admit().await?;
    let claim = |owner: Uuid, executing: Vec<String>| ClaimRunsRequest {
        owner: owner.to_string(),
        limit: 10,
        executing,
        ..Default::default()
    };
    let rival = ids::new_id();
    client.renew_lease(lease(rival)).await?;
    let claimed = client.claim_runs(claim(rival, vec![])).await?.into_inner();
    assert_eq!(claimed.runs, [], "its owner lives");
    let own = client
        .claim_runs(claim(run.owner, vec![run.name()]))
        .await?
        .into_inner();
    assert_eq!(own.runs, [], "its owner executes it");

    let dead = EndLeaseRequest {
        incarnation: String::new(),
        all_except: Some(rival.to_string()),
        ..Default::default()
    };
    client.end_lease(dead).await?;
    let claimed = client.claim_runs(claim(rival, vec![])).await?.into_inner();
    assert_eq!(claimed.runs.len(), 1);
    assert_eq!((claimed.runs[0].epoch, claimed.runs[0].attempt), (2, 2));
    assert_eq!(claimed.runs[0].events[0].events()?, run.log(None).await?);
    let again = client
        .claim_runs(claim(rival, vec![run.name()]))
        .await?
        .into_inner();
    assert_eq!(again.runs, []);
    let before_it = ClaimRunsRequest {
        executing_as_of: Uuid::nil().to_string(),
        ..claim(rival, vec![])
    };
    let newer = client.claim_runs(before_it).await?.into_inner();
    assert_eq!(newer.runs, [], "it may have begun after the list was made");
    let released = EndLeaseRequest {
        incarnation: rival.to_string(),
        ..Default::default()
    };
    client.end_lease(released).await?;
    let handed_on = client
        .claim_runs(claim(ids::new_id(), vec![]))
        .await?
        .into_inner();
    assert_eq!(
        (handed_on.runs[0].epoch, handed_on.runs[0].attempt),
        (3, 2),
        "an attempt that was released does not count"
    );
    client.renew_lease(lease(rival)).await?;
    let lost_by_itself = client.claim_runs(claim(rival, vec![])).await?.into_inner();
    assert_eq!(
        lost_by_itself.runs.len(),
        1,
        "what it does not execute, it has lost"
    );

    let append = run.say("late");
    let lost = run.send(append).await.unwrap_err();
    assert_eq!(Reason::of(&lost), Some(Reason::RunLost));
    Ok(())
}

#[tokio::test]
async fn migrating_many_times_at_once_is_migrating_once() -> anyhow::Result<()> {
    let database = TestDatabase::empty().await?;
    let mut processes = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let url = database.url.clone();
        processes.spawn(async move { talaria_store::migrate(&url).await });
    }
    let mut applied = 0;
    while let Some(process) = processes.join_next().await {
        applied += process??;
    }
    assert_eq!(applied, migration_files()?.len());
    Ok(())
}
