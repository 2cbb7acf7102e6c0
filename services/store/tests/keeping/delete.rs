//! What goes with a response when it is deleted, and what stays.

use talaria_domain::ids::ConversationId;
use talaria_domain::run::End;
use talaria_proto::v1::{CreateConversationRequest, FindIdempotencyKeyRequest, LoadContextRequest};
use talaria_runtime::error::Reason;
use talaria_runtime::ids;

use crate::fixture::{Fixture, Setup, TENANT};

/// REQ-31
#[tokio::test]
async fn a_deleted_response_frees_its_idempotency_key() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let setup = Setup {
        key: Some("key"),
        ..Setup::default()
    };
    let mut run = fixture.completed(setup).await?;
    let find = || FindIdempotencyKeyRequest {
        tenant: TENANT.into(),
        key: "key".into(),
    };
    let mut client = fixture.client.clone();
    let found = client.find_idempotency_key(find()).await?.into_inner();
    assert_eq!(found.response_id, run.name());

    run.delete().await?;

    let found = client.find_idempotency_key(find()).await?.into_inner();
    assert_eq!(found.response_id, "");
    let again = fixture.completed(setup).await?;
    assert_ne!(again.id, run.id);
    Ok(())
}

/// REQ-42
#[tokio::test]
async fn a_name_begins_afresh_when_the_response_that_it_continues_from_is_deleted()
-> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let conversation = ids::new_id();
    let first = fixture
        .completed(Setup {
            conversation: Some(conversation),
            new_name: Some("pets"),
            ..Setup::default()
        })
        .await?;
    let mut second = fixture
        .completed(Setup {
            conversation: Some(conversation),
            parent: Some(&first),
            ..Setup::default()
        })
        .await?;

    second.delete().await?;

    assert_eq!(fixture.pointers(conversation).await?, (None, None, None));
    let context = fixture
        .load(LoadContextRequest {
            conversation: Some("pets".into()),
            ..Default::default()
        })
        .await?;
    assert_eq!(context.turns, []);
    fixture
        .completed(Setup {
            conversation: Some(conversation),
            ..Setup::default()
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_conversation_made_by_id_keeps_its_items_when_a_response_is_deleted() -> anyhow::Result<()>
{
    let fixture = Fixture::new().await?;
    let conversation = ids::new_id();
    let create = CreateConversationRequest {
        tenant: TENANT.into(),
        id: ConversationId(conversation).to_string(),
        ..Default::default()
    };
    let mut client = fixture.client.clone();
    client.create_conversation(create).await?;
    let mut run = fixture
        .completed(Setup {
            conversation: Some(conversation),
            ..Setup::default()
        })
        .await?;

    run.delete().await?;

    assert_eq!(
        fixture.pointers(conversation).await?,
        (None, None, Some(run.id))
    );
    let load = || LoadContextRequest {
        conversation: Some(ConversationId(conversation).to_string()),
        ..Default::default()
    };
    assert_eq!(fixture.load(load()).await?.turns.len(), 1);
    let next = fixture
        .completed(Setup {
            conversation: Some(conversation),
            parent: Some(&run),
            ..Setup::default()
        })
        .await?;
    assert_eq!(
        fixture.pointers(conversation).await?,
        (Some(next.id), None, Some(next.id))
    );
    assert_eq!(fixture.load(load()).await?.turns.len(), 2);
    Ok(())
}

/// REQ-42
#[tokio::test]
async fn deleting_the_active_response_frees_its_conversation() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let conversation = ids::new_id();
    let first = fixture
        .completed(Setup {
            conversation: Some(conversation),
            new_name: Some("pets"),
            ..Setup::default()
        })
        .await?;
    let mut active = fixture
        .active(Setup {
            conversation: Some(conversation),
            parent: Some(&first),
            ..Setup::default()
        })
        .await?;

    active.delete().await?;

    let expected = (Some(first.id), None, Some(first.id));
    assert_eq!(fixture.pointers(conversation).await?, expected);
    active.say("late");
    let append = active.append();
    let lost = active.client.append_events(append).await.unwrap_err();
    assert_eq!(Reason::of(&lost), Some(Reason::RunLost));
    assert_eq!(fixture.pointers(conversation).await?, expected);
    Ok(())
}

#[tokio::test]
async fn a_waiting_run_is_deleted_like_any_other() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let conversation = ids::new_id();
    let mut active = fixture
        .active(Setup {
            conversation: Some(conversation),
            new_name: Some("pets"),
            ..Setup::default()
        })
        .await?;
    let mut waiting = fixture
        .active(Setup {
            conversation: Some(conversation),
            waits: true,
            key: Some("key"),
            ..Setup::default()
        })
        .await?;
    let before = fixture.pointers(conversation).await?;

    waiting.delete().await?;

    assert_eq!(fixture.pointers(conversation).await?, before);
    assert_eq!(fixture.count("idempotency_key").await?, 0);
    assert_eq!(fixture.count("run_request").await?, 1);
    active.finish("done", &End::Completed).await?;
    assert!(!fixture.exists(&waiting).await?);
    Ok(())
}

#[tokio::test]
async fn a_turn_that_a_conversation_continues_from_outlives_its_response() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let mut first = fixture.completed(Setup::default()).await?;
    let mut second = fixture
        .completed(Setup {
            parent: Some(&first),
            ..Setup::default()
        })
        .await?;

    first.delete().await?;
    let context = fixture
        .load(LoadContextRequest {
            previous_response_id: Some(second.name()),
            ..Default::default()
        })
        .await?;
    assert_eq!(context.turns.len(), 2);
    second.delete().await?;

    assert_eq!(fixture.count("turn").await?, 0);
    Ok(())
}
