//! What is: a store on a database of its own, driven by its gRPC service as an orchestrator drives it.

mod calls;
mod tables;

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use talaria_domain::ids::{ConversationId, ItemPlace, ResponseId, Side};
use talaria_domain::run as domain;
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_proto::v1::{
    AddConversationItemsRequest, ClaimRunsRequest, ContextItem, CreateConversationRequest,
    DeleteResponseRequest, LoadContextResponse, RenewLeaseRequest, Turn, Wait,
};
use talaria_runtime::error::Reason;
use talaria_runtime::{ids, link};
use talaria_store::{Config, Store};
use talaria_testkit::postgres::{Session, TestDatabase};
use uuid::Uuid;

use crate::model::{CONVERSATIONS, Conversation, End, MADE_BY_ID, Model, Run, State};

type Client = StoreServiceClient<link::Link>;

const TENANT: &str = "somebody";

pub struct World {
    model: Model,
    /// By the numbers of the model's runs.
    writers: Vec<Writer>,
    client: Client,
    owner: Uuid,
    /// Under which the conversations are asked for.
    names: [String; CONVERSATIONS],
    items_added: usize,
    store: Store,
    session: Session,
    _database: TestDatabase,
}

/// A run as its orchestrator has it.
struct Writer {
    run: domain::Run,
    epoch: i32,
}

impl World {
    pub async fn begin() -> anyhow::Result<Self> {
        let database = TestDatabase::from_template(&migrations_hash()?, async |url: &str| {
            talaria_store::migrate(url).await?;
            Ok(())
        })
        .await?;
        let store = Store::start(&Config::new(database.url.clone()))?;
        let mut client = StoreServiceClient::new(link::local(store.server()));
        let owner = ids::new_id();
        let lease = RenewLeaseRequest {
            incarnation: owner.to_string(),
            address: String::new(),
            lease_ms: 600_000,
            ..Default::default()
        };
        client.renew_lease(lease).await?;
        let by_id = ConversationId(ids::new_id()).to_string();
        let conversation = CreateConversationRequest {
            tenant: TENANT.into(),
            id: by_id.clone(),
            ..Default::default()
        };
        client.create_conversation(conversation).await?;
        Ok(Self {
            model: Model::default(),
            writers: Vec::new(),
            client,
            owner,
            names: ["pets".to_owned(), "plants".to_owned(), by_id],
            items_added: 0,
            store,
            session: database.connect().await?,
            _database: database,
        })
    }

    pub async fn create(&mut self, conversation: usize) -> anyhow::Result<()> {
        if self.model.conversations[conversation].is_busy() {
            return self.expect_refusal(conversation).await;
        }
        let context = self.load(conversation, false).await?;
        self.expect_shown(conversation, &context)?;
        self.admit(conversation, &context, Wait::Not).await
    }

    /// A request that waits where it has to.
    pub async fn wait(&mut self, conversation: usize, interrupts: bool) -> anyhow::Result<()> {
        let context = self.load(conversation, true).await?;
        let busy = self.model.conversations[conversation].is_busy();
        ensure!(context.busy == busy, "busy is {}", context.busy);
        let wait = match (busy, interrupts) {
            (false, _) => {
                self.expect_shown(conversation, &context)?;
                Wait::Not
            }
            (true, false) => Wait::InLine,
            (true, true) => Wait::Interrupting,
        };
        self.admit(conversation, &context, wait).await
    }

    /// Reads what a run would be shown, and writes nothing.
    pub async fn ephemeral(&mut self, conversation: usize) -> anyhow::Result<()> {
        if self.model.conversations[conversation].is_busy() {
            return self.expect_refusal(conversation).await;
        }
        let context = self.load(conversation, false).await?;
        self.expect_shown(conversation, &context)
    }

    /// Begins what may begin, ends what was given up while it waited, and hears which runs are to stop.
    pub async fn claim(&mut self) -> anyhow::Result<()> {
        let active = |run: &&Run| run.state == State::Active && !run.is_deleted;
        let executing = self.model.runs.iter().filter(active).map(name_of).collect();
        let request = ClaimRunsRequest {
            owner: self.owner.to_string(),
            limit: 100,
            executing,
            ..Default::default()
        };
        let claimed = self.client.claim_runs(request).await?.into_inner();

        let (given_up, begun): (Vec<_>, Vec<_>) =
            claimed.runs.into_iter().partition(|run| run.cancelled);
        let waits = |run: &Run| run.state == State::Waiting && !run.is_deleted;
        let to_give_up = self.numbers(|run| waits(run) && run.cancel_requested);
        let to_stop = self.numbers(|run| active(&run) && run.cancel_requested);
        let mut stopped = self.numbers_of(claimed.cancelled.iter().map(String::as_str))?;
        stopped.retain(|number| !to_give_up.contains(number));
        ensure!(
            stopped == to_stop,
            "{stopped:?} are to stop, not {to_stop:?}"
        );
        let ended = self.numbers_of(given_up.iter().map(|run| run.response_id.as_str()))?;
        ensure!(
            ended == to_give_up,
            "{ended:?} were given up, not {to_give_up:?}"
        );
        let mut expected = self.model.promote();
        expected.sort_unstable();
        let found = self.numbers_of(begun.iter().map(|run| run.response_id.as_str()))?;
        ensure!(found == expected, "{found:?} begin, not {expected:?}");

        for run in begun {
            let number = self.number(&run.response_id)?;
            ensure!(run.begins && run.attempt == 1, "{number} was taken over");
            self.writers[number].epoch = run.epoch;
            let shown = names_in(&run.turns);
            let expected = &self.model.runs[number].shown;
            ensure!(
                shown == *expected,
                "{number} is shown {shown:?}, not {expected:?}"
            );
        }
        for run in given_up {
            let number = self.number(&run.response_id)?;
            self.writers[number].epoch = run.epoch;
            self.finish(number, End::Cancelled).await?;
            self.model.end(number, End::Cancelled);
        }
        Ok(())
    }

    pub async fn end_active(&mut self, conversation: usize, end: End) -> anyhow::Result<()> {
        let Some(active) = self.model.conversations[conversation].active else {
            return Ok(());
        };
        self.finish(active, end).await?;
        self.model.end(active, end);
        Ok(())
    }

    pub async fn cancel_active(&mut self, conversation: usize) -> anyhow::Result<()> {
        let Some(active) = self.model.conversations[conversation].active else {
            return Ok(());
        };
        self.request_cancel(active).await?;
        self.claim().await?;
        self.end_active(conversation, End::Cancelled).await
    }

    pub async fn give_up(&mut self, conversation: usize, at: usize) -> anyhow::Result<()> {
        let line: Vec<usize> = self.model.conversations[conversation].line().collect();
        let Some(number) = chosen(&line, at) else {
            return Ok(());
        };
        self.request_cancel(number).await?;
        self.claim().await?;
        ensure!(self.model.runs[number].state == State::Ended(End::Cancelled));
        Ok(())
    }

    /// Deletes any run, whatever it does, and lets its orchestrator end it too late.
    pub async fn delete(&mut self, at: usize) -> anyhow::Result<()> {
        let Some(number) = chosen(&self.numbers(|run| !run.is_deleted), at) else {
            return Ok(());
        };
        let request = DeleteResponseRequest {
            tenant: TENANT.into(),
            response_id: name_of(&self.model.runs[number]),
        };
        self.client.delete_response(request).await?;
        let was_active = self.model.runs[number].state == State::Active;
        self.model.delete(number);
        if was_active {
            let late = self.finish(number, End::Completed).await;
            let refused = late.err().context("a deleted run has ended once more")?;
            ensure!(Reason::of(&refused) == Some(Reason::RunLost), "{refused:?}");
        }
        Ok(())
    }

    pub async fn evict(&mut self, kept: usize) -> anyhow::Result<()> {
        let surplus = self.model.ended.len().saturating_sub(kept);
        let gone = self.store.evict_responses(kept as u64).await?;
        ensure!(gone == surplus, "{gone} were evicted, not {surplus}");
        self.model.evict(kept);
        Ok(())
    }

    /// Adds an item to a conversation, which is refused while a response is active or waits. A name that is not in use
    /// names no conversation yet.
    pub async fn add_item(&mut self, conversation: usize) -> anyhow::Result<()> {
        self.items_added += 1;
        let name = format!("item {}", self.items_added);
        let turn = ids::new_id();
        let place = ItemPlace {
            response: turn,
            side: Side::Input,
            index: 0,
        };
        let content = [json!({"type": "input_text", "text": name})];
        let item = json!({"type": "message", "id": place.id("message"), "role": "user", "content": content});
        let request = AddConversationItemsRequest {
            tenant: TENANT.into(),
            conversation: self.names[conversation].clone(),
            items: vec![ContextItem {
                item: item.to_string().into(),
                upstream_id: String::new(),
            }],
            turn_id: turn.to_string(),
        };
        let outcome = self.client.add_conversation_items(request).await;
        let reason = outcome.as_ref().err().and_then(Reason::of);
        if self.model.conversations[conversation].is_busy() {
            ensure!(
                reason == Some(Reason::ConversationResponseNotCompleted),
                "{outcome:?}"
            );
        } else if reason == Some(Reason::ConversationNotFound) {
            let expected = Conversation::default();
            let found = &self.model.conversations[conversation];
            ensure!(
                conversation != MADE_BY_ID && *found == expected,
                "not found"
            );
        } else {
            outcome?;
            self.model.add_item(conversation, turn, name);
        }
        Ok(())
    }

    /// Lets everything that is left run to its end, in its order.
    pub async fn drain(&mut self) -> anyhow::Result<()> {
        while self.model.conversations.iter().any(Conversation::is_busy) {
            self.claim().await?;
            for conversation in 0..CONVERSATIONS {
                self.end_active(conversation, End::Completed).await?;
            }
            self.compare().await?;
        }
        self.expect_only_needed_turns().await
    }

    async fn expect_refusal(&mut self, conversation: usize) -> anyhow::Result<()> {
        let refused = self.load(conversation, false).await;
        let refused = refused
            .err()
            .context("a busy conversation lets another in")?;
        let reason = Reason::of(&refused);
        ensure!(
            reason == Some(Reason::ConversationResponseNotCompleted),
            "{refused:?}"
        );
        Ok(())
    }

    fn expect_shown(
        &self,
        conversation: usize,
        context: &LoadContextResponse,
    ) -> anyhow::Result<()> {
        let expected = self.model.conversations[conversation].shows();
        let shown = names_in(&context.turns);
        ensure!(shown == expected, "it is shown {shown:?}, not {expected:?}");
        Ok(())
    }

    fn numbers(&self, wanted: impl Fn(&Run) -> bool) -> Vec<usize> {
        let runs = self.model.runs.iter().enumerate();
        runs.filter(|(_, run)| wanted(run))
            .map(|(number, _)| number)
            .collect()
    }

    fn number(&self, response: &str) -> anyhow::Result<usize> {
        let found = self
            .model
            .runs
            .iter()
            .position(|run| name_of(run) == response);
        found.with_context(|| format!("nobody started {response}"))
    }

    /// Sorted.
    fn numbers_of<'a>(
        &self,
        responses: impl Iterator<Item = &'a str>,
    ) -> anyhow::Result<Vec<usize>> {
        let mut numbers = responses
            .map(|response| self.number(response))
            .collect::<anyhow::Result<Vec<usize>>>()?;
        numbers.sort_unstable();
        Ok(numbers)
    }
}

fn name_of(run: &Run) -> String {
    ResponseId(run.id).to_string()
}

fn chosen(numbers: &[usize], at: usize) -> Option<usize> {
    numbers.get(at.checked_rem(numbers.len())?).copied()
}

/// The texts of all items of some turns, each of which is a name.
fn names_in(turns: &[Turn]) -> Vec<String> {
    let items = turns
        .iter()
        .flat_map(|turn| turn.input.iter().chain(&turn.output));
    let text = |item: &ContextItem| {
        let item: Value = serde_json::from_slice(&item.item).unwrap_or_default();
        item["content"][0]["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    items.map(text).collect()
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
