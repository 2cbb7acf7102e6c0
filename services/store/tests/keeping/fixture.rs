//! A store on a database of its own, and runs as an orchestrator would write them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::TryStreamExt;
use talaria_domain::ids::{ConversationId, ItemPlace, ResponseId, Side};
use talaria_domain::model::{Field, ItemKey, ModelEvent};
use talaria_domain::run::{End, Run};
use talaria_domain::snapshot::Snapshot;
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_proto::v1::{
    AdmitRunRequest, AppendEventsRequest, ClaimedRun, ContextItem, DeleteResponseRequest, Event,
    EventChunk, FinishRunRequest, GetResponseRequest, Idempotency, LoadContextRequest,
    LoadContextResponse, ReadEventsRequest, Response, RunRequest, Status, Turn, Wait,
};
use talaria_runtime::{ids, link};
use talaria_store::{Config, Store};
use talaria_testkit::postgres::{Session, TestDatabase};
use tonic::Status as GrpcStatus;
use uuid::Uuid;

pub type Client = StoreServiceClient<link::Link>;

pub const TENANT: &str = "a";

pub struct Fixture {
    pub client: Client,
    pub database: TestDatabase,
    pub store: Store,
}

impl Fixture {
    pub async fn new() -> anyhow::Result<Self> {
        Self::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let database = TestDatabase::from_template(&migrations_hash()?, async |url: &str| {
            talaria_store::migrate(url).await?;
            Ok(())
        })
        .await?;
        Self::on(database, configure)
    }

    /// A store on a database that is migrated already.
    pub fn on(database: TestDatabase, configure: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let mut config = Config::new(database.url.clone());
        configure(&mut config);
        let store = Store::start(&config)?;
        let client = StoreServiceClient::new(link::local(store.server()));
        Ok(Self {
            client,
            database,
            store,
        })
    }

    pub async fn session(&self) -> anyhow::Result<Session> {
        self.database.connect().await
    }

    /// How many rows a table has.
    pub async fn count(&self, table: &str) -> anyhow::Result<i64> {
        let row = self
            .session()
            .await?
            .query_one(&format!("SELECT count(*) FROM {table}"), &[])
            .await?;
        Ok(row.get(0))
    }

    /// Lets the response have ended, and been read last, so long ago.
    pub async fn age(&self, run: &Writer, age: Duration) -> anyhow::Result<()> {
        let changed = self
            .session()
            .await?
            .execute(
                "UPDATE response
                 SET updated_at = clock_timestamp() - $2 * interval '1 second', used_at = NULL
                 WHERE id = $1",
                &[&run.id, &age.as_secs_f64()],
            )
            .await?;
        anyhow::ensure!(changed == 1, "there is no such response");
        Ok(())
    }

    /// A run that is admitted and goes on.
    pub async fn active(&self, setup: Setup<'_>) -> Result<Writer, GrpcStatus> {
        let mut run = Writer::new(self, ids::new_id(), &setup);
        let admission = run.admission(&setup);
        run.client.admit_run(admission).await?;
        Ok(run)
    }

    /// A run that said `text` and ended.
    pub async fn ended(
        &self,
        setup: Setup<'_>,
        text: &str,
        end: &End,
    ) -> Result<Writer, GrpcStatus> {
        let mut run = self.active(setup).await?;
        run.finish(text, end).await?;
        Ok(run)
    }

    pub async fn completed(&self, setup: Setup<'_>) -> Result<Writer, GrpcStatus> {
        self.ended(setup, "said", &End::Completed).await
    }

    pub async fn exists(&self, run: &Writer) -> anyhow::Result<bool> {
        let row = self
            .session()
            .await?
            .query_one(
                "SELECT EXISTS (SELECT 1 FROM response WHERE id = $1)",
                &[&run.id],
            )
            .await?;
        Ok(row.get(0))
    }

    /// Where a conversation stands: latest completed response and the turn to continue from, as ids of responses.
    pub async fn pointers(
        &self,
        conversation: Uuid,
    ) -> anyhow::Result<(Option<Uuid>, Option<Uuid>, Option<Uuid>)> {
        let row = self
            .session()
            .await?
            .query_one(
                "SELECT latest_completed_response_id, active_response_id, head_turn_id
                 FROM conversation
                 WHERE id = $1",
                &[&conversation],
            )
            .await?;
        Ok((row.get(0), row.get(1), row.get(2)))
    }

    pub async fn load(
        &self,
        request: LoadContextRequest,
    ) -> Result<LoadContextResponse, GrpcStatus> {
        let request = LoadContextRequest {
            tenant: TENANT.into(),
            ..request
        };
        let mut client = self.client.clone();
        Ok(client.load_context(request).await?.into_inner())
    }
}

/// What a run is made with.
#[derive(Clone, Copy, Default)]
pub struct Setup<'a> {
    pub parent: Option<&'a Writer>,
    /// The same by its id.
    pub parent_id: Option<Uuid>,
    pub conversation: Option<Uuid>,
    /// Makes the conversation under this name.
    pub new_name: Option<&'a str>,
    pub waits: bool,
    pub session: Option<&'a str>,
    pub key: Option<&'a str>,
    pub background: bool,
}

pub struct Writer {
    pub client: Client,
    pub id: Uuid,
    pub owner: Uuid,
    pub epoch: i32,
    pub run: Run,
}

impl Writer {
    fn new(fixture: &Fixture, id: Uuid, setup: &Setup<'_>) -> Self {
        let mut response = Response {
            id: ResponseId(id).to_string(),
            created_at: 1_700_000_000,
            model: "m".into(),
            settings: Bytes::from_static(b"{}"),
            store: true,
            background: setup.background,
            ..Default::default()
        };
        response.set_status(if setup.background || setup.waits {
            Status::Queued
        } else {
            Status::InProgress
        });
        Self {
            client: fixture.client.clone(),
            id,
            owner: ids::new_id(),
            epoch: 1,
            run: Run::create(id, response),
        }
    }

    /// Takes a run over.
    pub fn resume(fixture: &Fixture, claimed: &ClaimedRun) -> anyhow::Result<Self> {
        let mut events = Vec::new();
        for chunk in &claimed.events {
            events.extend(chunk.events()?);
        }
        let id = ResponseId::parse(&claimed.response_id).context("no id")?.0;
        Ok(Self {
            client: fixture.client.clone(),
            id,
            owner: ids::new_id(),
            epoch: claimed.epoch,
            run: Run::resume(id, Snapshot::of(&events)?),
        })
    }

    pub fn name(&self) -> String {
        ResponseId(self.id).to_string()
    }

    /// The input that the run was asked.
    pub fn input(&self) -> ContextItem {
        message(self.id, 0, &format!("question of {}", self.id))
    }

    fn admission(&mut self, setup: &Setup<'_>) -> AdmitRunRequest {
        self.run.start();
        let events = self.run.take_events();
        let mut admission = AdmitRunRequest {
            tenant: TENANT.into(),
            response_id: self.name(),
            owner: self.owner.to_string(),
            request: Some(RunRequest {
                input: vec![self.input().item],
                ..Default::default()
            }),
            event_count: u32::try_from(events.len()).unwrap_or_default(),
            events: Some(EventChunk::of(&events)),
            parent_response_id: setup
                .parent
                .map(|parent| parent.id)
                .or(setup.parent_id)
                .map(|id| ResponseId(id).to_string()),
            conversation_id: setup.conversation.map(|id| ConversationId(id).to_string()),
            conversation_name: setup.new_name.map(str::to_owned),
            session_id: setup.session.map(str::to_owned),
            model: "m".into(),
            idempotency: setup.key.map(|key| Idempotency {
                key: key.into(),
                request_hash: Bytes::from_static(b"hash"),
            }),
            ..Default::default()
        };
        admission.set_status(Status::InProgress);
        if setup.waits {
            admission.set_wait(Wait::InLine);
        }
        admission
    }

    pub fn say(&mut self, text: &str) {
        self.run.on_model(ModelEvent::Delta {
            key: ItemKey(0),
            field: Field::Text,
            part: 0,
            delta: text.into(),
            logprobs: Vec::new(),
        });
    }

    pub fn append(&mut self) -> AppendEventsRequest {
        let events = self.run.take_events();
        AppendEventsRequest {
            response_id: self.name(),
            epoch: self.epoch,
            first_sequence_number: events
                .first()
                .map(|event| event.sequence_number)
                .unwrap_or_default(),
            event_count: u32::try_from(events.len()).unwrap_or_default(),
            events: Some(EventChunk::of(&events)),
            after_silence: true,
        }
    }

    pub async fn finish(&mut self, text: &str, end: &End) -> Result<(), GrpcStatus> {
        self.say(text);
        if *end == End::Completed {
            self.run.on_model_end();
        }
        self.run.finish(end, 1_700_000_005);
        let finish = FinishRunRequest {
            append: Some(self.append()),
            response: Some(self.run.snapshot().response()),
            turn: Some(Turn {
                input: vec![self.input()],
                output: self.run.output(),
            }),
            admission: None,
        };
        self.client.finish_run(finish).await.map(drop)
    }

    pub async fn get(&mut self) -> Result<Response, GrpcStatus> {
        let request = GetResponseRequest {
            tenant: TENANT.into(),
            response_id: self.name(),
        };
        let found = self.client.get_response(request).await?.into_inner();
        found
            .response
            .ok_or_else(|| GrpcStatus::internal("no response"))
    }

    pub async fn delete(&mut self) -> Result<(), GrpcStatus> {
        let request = DeleteResponseRequest {
            tenant: TENANT.into(),
            response_id: self.name(),
        };
        self.client.delete_response(request).await.map(drop)
    }

    pub async fn log(&mut self, starting_after: Option<u64>) -> anyhow::Result<Vec<Event>> {
        let name = self.name();
        log(&mut self.client, TENANT, &name, starting_after).await
    }
}

/// All events that the store has for a reader.
pub async fn log(
    client: &mut Client,
    tenant: &str,
    response_id: &str,
    starting_after: Option<u64>,
) -> anyhow::Result<Vec<Event>> {
    let request = ReadEventsRequest {
        tenant: tenant.into(),
        response_id: response_id.into(),
        starting_after,
    };
    let chunks: Vec<_> = client
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

/// An input message of a turn.
pub fn message(turn: Uuid, index: u32, text: &str) -> ContextItem {
    let side = Side::Input;
    let id = ItemPlace {
        response: turn,
        side,
        index,
    }
    .id("message");
    ContextItem {
        item: Bytes::from(format!(
            r#"{{"id":"{id}","type":"message","role":"user","content":[{{"type":"input_text","text":"{text}"}}]}}"#
        )),
        upstream_id: String::new(),
    }
}

/// The ids of items.
pub fn item_ids(items: &[ContextItem]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Head {
        id: String,
    }
    items
        .iter()
        .filter_map(|item| serde_json::from_slice::<Head>(&item.item).ok())
        .map(|head| head.id)
        .collect()
}

fn migrations_hash() -> anyhow::Result<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
    let mut files: Vec<_> = std::fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(file.path())?.hash(&mut hasher);
    }
    Ok(format!("{:x}", hasher.finish()))
}
