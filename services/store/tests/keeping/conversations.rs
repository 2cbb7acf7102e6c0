//! The Conversations API on the store.

use bytes::Bytes;
use talaria_domain::ids::{ConversationId, ResponseId};
use talaria_domain::run::End;
use talaria_proto::v1::{
    AddConversationItemsRequest, ContextItem, Conversation, CreateConversationRequest,
    DeleteConversationItemRequest, DeleteConversationRequest, GetConversationRequest,
    ListConversationItemsRequest, ListInputItemsRequest, LoadContextRequest,
    UpdateConversationRequest,
};
use talaria_runtime::error::Reason;
use talaria_runtime::ids;
use tonic::Status;
use uuid::Uuid;

use crate::fixture::{Fixture, Setup, TENANT, item_ids, message};

/// A conversation that is called by its id or name.
struct Called<'a> {
    fixture: &'a Fixture,
    name: String,
}

impl Called<'_> {
    async fn get(&self) -> Result<Conversation, Status> {
        let request = GetConversationRequest {
            tenant: TENANT.into(),
            conversation: self.name.clone(),
        };
        let mut client = self.fixture.client.clone();
        Ok(client.get_conversation(request).await?.into_inner())
    }

    async fn items(&self) -> Result<Vec<ContextItem>, Status> {
        let request = ListConversationItemsRequest {
            tenant: TENANT.into(),
            conversation: self.name.clone(),
        };
        let mut client = self.fixture.client.clone();
        Ok(client
            .list_conversation_items(request)
            .await?
            .into_inner()
            .items)
    }

    async fn add(&self, turn: Uuid, items: &[ContextItem]) -> Result<Vec<ContextItem>, Status> {
        let request = AddConversationItemsRequest {
            tenant: TENANT.into(),
            conversation: self.name.clone(),
            items: items.to_vec(),
            turn_id: turn.to_string(),
        };
        let mut client = self.fixture.client.clone();
        Ok(client
            .add_conversation_items(request)
            .await?
            .into_inner()
            .items)
    }

    async fn delete_item(&self, id: &str) -> Result<Conversation, Status> {
        let request = DeleteConversationItemRequest {
            tenant: TENANT.into(),
            conversation: self.name.clone(),
            item_id: id.into(),
        };
        let mut client = self.fixture.client.clone();
        Ok(client.delete_conversation_item(request).await?.into_inner())
    }

    async fn delete(&self) -> Result<String, Status> {
        let request = DeleteConversationRequest {
            tenant: TENANT.into(),
            conversation: self.name.clone(),
        };
        let mut client = self.fixture.client.clone();
        Ok(client.delete_conversation(request).await?.into_inner().id)
    }
}

fn called(fixture: &Fixture, name: impl Into<String>) -> Called<'_> {
    Called {
        fixture,
        name: name.into(),
    }
}

fn creation(id: Uuid, items: Vec<ContextItem>, turn: Uuid) -> CreateConversationRequest {
    CreateConversationRequest {
        tenant: TENANT.into(),
        id: ConversationId(id).to_string(),
        metadata: Bytes::from_static(br#"{"topic":"pets \u0000"}"#),
        items,
        turn_id: turn.to_string(),
    }
}

async fn create(
    fixture: &Fixture,
    request: CreateConversationRequest,
) -> anyhow::Result<Conversation> {
    let mut client = fixture.client.clone();
    Ok(client.create_conversation(request).await?.into_inner())
}

pub fn reason<T: std::fmt::Debug>(refused: Result<T, Status>) -> Option<Reason> {
    refused.err().as_ref().and_then(Reason::of)
}

#[tokio::test]
async fn a_conversation_is_made_read_changed_and_forgotten() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (id, turn) = (ids::new_id(), ids::new_id());
    let items = vec![message(turn, 0, "one"), message(turn, 1, "two")];

    let made = create(&fixture, creation(id, items.clone(), turn)).await?;

    let expected = Conversation {
        id: ConversationId(id).to_string(),
        created_at: made.created_at,
        metadata: Bytes::from_static(br#"{"topic":"pets \u0000"}"#),
        ..Default::default()
    };
    assert_eq!(made, expected);
    assert!(made.created_at > 1_700_000_000);
    let by_id = called(&fixture, made.id.clone());
    assert_eq!(by_id.get().await?, made);
    assert_eq!(by_id.items().await?, items);

    let update = UpdateConversationRequest {
        tenant: TENANT.into(),
        conversation: made.id.clone(),
        metadata: Bytes::from_static(b"{}"),
    };
    let mut client = fixture.client.clone();
    let updated = client.update_conversation(update).await?.into_inner();
    assert_eq!(updated.metadata, "{}");
    assert_eq!(by_id.get().await?, updated);

    assert_eq!(by_id.delete().await?, made.id);
    let gone = by_id.get().await.unwrap_err();
    assert_eq!(Reason::of(&gone), Some(Reason::ConversationNotFound));
    assert_eq!(
        gone.message(),
        format!("Conversation not found: {}", made.id)
    );
    assert_eq!(fixture.count("turn").await?, 0);
    Ok(())
}

#[tokio::test]
async fn another_tenants_conversation_is_as_unknown_as_none() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (id, turn) = (ids::new_id(), ids::new_id());
    create(&fixture, creation(id, vec![message(turn, 0, "one")], turn)).await?;
    let mut client = fixture.client.clone();
    let get = GetConversationRequest {
        tenant: "b".into(),
        conversation: ConversationId(id).to_string(),
    };
    let delete = DeleteConversationRequest {
        tenant: "b".into(),
        conversation: ConversationId(id).to_string(),
    };

    let not_found = Some(Reason::ConversationNotFound);
    assert_eq!(reason(client.get_conversation(get).await), not_found);
    assert_eq!(reason(client.delete_conversation(delete).await), not_found);
    for name in ["pets", "conv_1", "conv_", ""] {
        let unknown = called(&fixture, name);
        assert_eq!(reason(unknown.get().await), not_found, "{name}");
        assert_eq!(reason(unknown.items().await), not_found, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn repeating_a_call_whose_answer_was_lost_doubles_nothing() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (id, first, second) = (ids::new_id(), ids::new_id(), ids::new_id());
    let creation = creation(id, vec![message(first, 0, "one")], first);
    let made = create(&fixture, creation.clone()).await?;
    let conversation = called(&fixture, made.id.clone());
    let items = [message(second, 0, "two")];
    conversation.add(second, &items).await?;

    assert_eq!(create(&fixture, creation).await?, made);
    assert_eq!(conversation.add(second, &items).await?, items);

    let shown = conversation.items().await?;
    assert_eq!(shown, [message(first, 0, "one"), message(second, 0, "two")]);
    assert_eq!(fixture.count("turn").await?, 2);
    Ok(())
}

#[tokio::test]
async fn items_added_at_the_same_time_all_stay() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let made = create(&fixture, creation(ids::new_id(), Vec::new(), ids::new_id())).await?;
    let turns: [Uuid; 4] = std::array::from_fn(|_| ids::new_id());
    let conversation = called(&fixture, made.id);

    let add = async |turn: Uuid| conversation.add(turn, &[message(turn, 0, "x")]).await;
    let (a, b, c, d) = tokio::join!(add(turns[0]), add(turns[1]), add(turns[2]), add(turns[3]));

    for added in [a, b, c, d] {
        added?;
    }
    assert_eq!(conversation.items().await?.len(), 4);
    Ok(())
}

#[tokio::test]
async fn responses_and_added_items_follow_each_other() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (id, turn) = (ids::new_id(), ids::new_id());
    let first = fixture
        .completed(Setup {
            conversation: Some(id),
            new_name: Some("pets"),
            ..Setup::default()
        })
        .await?;
    let conversation = called(&fixture, "pets");
    let added = message(turn, 0, "by the way");
    conversation.add(turn, std::slice::from_ref(&added)).await?;

    let context = fixture
        .load(LoadContextRequest {
            conversation: Some("pets".into()),
            ..Default::default()
        })
        .await?;
    assert_eq!(
        context.parent_response_id,
        Some(ResponseId(turn).to_string())
    );
    assert_eq!(context.turns.len(), 2);
    let shown = conversation.get().await?;
    assert_eq!(shown.latest_completed_response_id, Some(first.name()));
    let items = conversation.items().await?;
    let mut expected = vec![first.input()];
    expected.extend(first.run.output());
    expected.push(added);
    assert_eq!(items, expected);
    Ok(())
}

#[tokio::test]
async fn a_deleted_item_is_not_listed_nor_shown_to_the_model() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (id, turn) = (ids::new_id(), ids::new_id());
    let items = vec![message(turn, 0, "one"), message(turn, 1, "two")];
    let made = create(&fixture, creation(id, items.clone(), turn)).await?;
    let conversation = called(&fixture, made.id.clone());
    let first = item_ids(&items).remove(0);

    assert_eq!(conversation.delete_item(&first).await?, made);

    assert_eq!(conversation.items().await?, items[1..]);
    let context = fixture
        .load(LoadContextRequest {
            conversation: Some(made.id.clone()),
            ..Default::default()
        })
        .await?;
    assert_eq!(context.turns[0].input, items[1..]);
    let not_found = Some(Reason::ItemNotFound);
    assert_eq!(reason(conversation.delete_item(&first).await), not_found);
    assert_eq!(reason(conversation.delete_item("msg_1").await), not_found);

    let next = fixture
        .completed(Setup {
            conversation: Some(id),
            parent: None,
            ..Setup::default()
        })
        .await;
    assert!(next.is_err(), "it continues from the turn that was added");
    Ok(())
}

/// REQ-39
#[tokio::test]
async fn nothing_changes_under_a_response_that_is_active_or_waits() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let id = ids::new_id();
    let conversation = called(&fixture, "pets");
    let mut active = fixture
        .active(Setup {
            conversation: Some(id),
            new_name: Some("pets"),
            ..Setup::default()
        })
        .await?;
    fixture
        .active(Setup {
            conversation: Some(id),
            waits: true,
            ..Setup::default()
        })
        .await?;
    let refuses = async || {
        let turn = ids::new_id();
        let not_completed = Some(Reason::ConversationResponseNotCompleted);
        assert_eq!(
            reason(conversation.add(turn, &[message(turn, 0, "x")]).await),
            not_completed
        );
        assert_eq!(reason(conversation.delete().await), not_completed);
    };

    refuses().await;
    assert_eq!(
        conversation.get().await?.active_response_id,
        Some(active.name())
    );
    active.finish("done", &End::Completed).await?;
    refuses().await;

    let said = item_ids(&conversation.items().await?).remove(0);
    let not_completed = Some(Reason::ConversationResponseNotCompleted);
    assert_eq!(reason(conversation.delete_item(&said).await), not_completed);
    Ok(())
}

#[tokio::test]
async fn responses_stay_when_their_conversation_is_deleted() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let mut run = fixture
        .completed(Setup {
            conversation: Some(ids::new_id()),
            new_name: Some("pets"),
            ..Setup::default()
        })
        .await?;
    let before = run.get().await?;

    called(&fixture, "pets").delete().await?;

    assert_eq!(run.get().await?, before);
    let context = fixture
        .load(LoadContextRequest {
            previous_response_id: Some(run.name()),
            ..Default::default()
        })
        .await?;
    assert_eq!(context.turns.len(), 1);
    run.delete().await?;
    assert_eq!(fixture.count("turn").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_response_tells_what_it_was_made_from_at_any_time() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let id = ids::new_id();
    let first = fixture
        .completed(Setup {
            conversation: Some(id),
            new_name: Some("pets"),
            ..Setup::default()
        })
        .await?;
    let mut second = fixture
        .active(Setup {
            conversation: Some(id),
            parent: Some(&first),
            ..Setup::default()
        })
        .await?;
    let inputs = async |name: String| {
        let request = ListInputItemsRequest {
            tenant: TENANT.into(),
            response_id: name,
        };
        let mut client = fixture.client.clone();
        client.list_input_items(request).await
    };
    let mut expected = vec![first.input()];
    expected.extend(first.run.output());
    expected.push(second.input());

    assert_eq!(inputs(second.name()).await?.into_inner().items, expected);
    second.finish("done", &End::Completed).await?;
    assert_eq!(inputs(second.name()).await?.into_inner().items, expected);

    let gone = item_ids(&expected).remove(0);
    called(&fixture, "pets").delete_item(&gone).await?;
    assert_eq!(
        inputs(second.name()).await?.into_inner().items,
        expected[1..]
    );
    let waiting = fixture
        .active(Setup {
            conversation: Some(id),
            waits: true,
            ..Setup::default()
        })
        .await?;
    assert_eq!(
        inputs(waiting.name()).await?.into_inner().items,
        [waiting.input()]
    );
    assert_eq!(
        reason(inputs(ResponseId(ids::new_id()).to_string()).await),
        Some(Reason::ResponseNotFound)
    );
    Ok(())
}
