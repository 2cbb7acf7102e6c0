//! What a run starts from: sessions, and conversations out of which items were taken.

use talaria_domain::ids::ResponseId;
use talaria_domain::run::End;
use talaria_proto::v1::{
    AdmitRunRequest, ClaimRunsRequest, DeleteResponseRequest, EndLeaseRequest, LoadContextRequest,
    LoadContextResponse, RenewLeaseRequest, Turn,
};
use talaria_runtime::ids;
use uuid::Uuid;

use super::{Client, Fixture, Writer, fixture};

impl Writer {
    /// Says something and ends.
    async fn finish(&mut self, text: &str, end: &End) -> anyhow::Result<()> {
        let append = self.say(text);
        self.send(append).await?;
        self.run.on_model_end();
        let end = self.end(end);
        self.client.finish_run(end).await?;
        Ok(())
    }

    /// The session that it has where none was given.
    fn own_session(&self) -> String {
        self.id.to_string()
    }
}

/// A finished run of this session.
async fn finished(
    fixture: &Fixture,
    session: Option<&str>,
    parent: Option<&Writer>,
    end: &End,
) -> anyhow::Result<Writer> {
    let mut run = Writer::new(fixture, "a");
    let admission = AdmitRunRequest {
        session_id: session.map(str::to_owned),
        parent_response_id: parent.map(Writer::name),
        ..run.admission()
    };
    run.client.admit_run(admission).await?;
    run.finish("said", end).await?;
    Ok(run)
}

async fn load(
    client: &mut Client,
    request: LoadContextRequest,
) -> anyhow::Result<LoadContextResponse> {
    let request = LoadContextRequest {
        tenant: "a".into(),
        ..request
    };
    Ok(client.load_context(request).await?.into_inner())
}

fn of_session(session: &str) -> LoadContextRequest {
    LoadContextRequest {
        session_id: Some(session.into()),
        ..Default::default()
    }
}

fn after(previous: &Writer) -> LoadContextRequest {
    LoadContextRequest {
        previous_response_id: Some(previous.name()),
        ..Default::default()
    }
}

/// REQ-45
#[tokio::test]
async fn what_continues_from_a_response_is_told_its_session() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    let named = finished(&fixture, Some("s"), None, &End::Completed).await?;
    let unnamed = finished(&fixture, None, None, &End::Completed).await?;

    let context = load(&mut client, after(&named)).await?;
    assert_eq!(context.session_id.as_deref(), Some("s"));
    assert_eq!(context.turns.len(), 1);
    let context = load(&mut client, after(&unnamed)).await?;
    assert_eq!(context.session_id, Some(unnamed.own_session()));

    let session_alone = LoadContextRequest {
        without_turns: true,
        ..after(&named)
    };
    let expected = LoadContextResponse {
        session_id: Some("s".into()),
        ..Default::default()
    };
    assert_eq!(load(&mut client, session_alone).await?, expected);
    Ok(())
}

#[tokio::test]
async fn a_session_continues_from_its_newest_completed_turn() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    assert_eq!(
        load(&mut client, of_session("s")).await?,
        LoadContextResponse::default(),
        "a session may begin"
    );
    let first = finished(&fixture, Some("s"), None, &End::Completed).await?;
    let second = finished(&fixture, Some("s"), Some(&first), &End::Completed).await?;
    finished(&fixture, Some("s"), Some(&second), &End::Cancelled).await?;
    finished(&fixture, Some("other"), None, &End::Completed).await?;

    let context = load(&mut client, of_session("s")).await?;

    assert_eq!(context.parent_response_id, Some(second.name()));
    assert_eq!(context.turns.len(), 2);
    assert_eq!(context.session_id.as_deref(), Some("s"));
    let foreign = LoadContextRequest {
        tenant: "b".into(),
        ..of_session("s")
    };
    let foreign = client.load_context(foreign).await?.into_inner();
    assert_eq!(foreign, LoadContextResponse::default());
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_named_by_a_response_continues_from_it_and_then_from_what_followed()
-> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    let first = finished(&fixture, None, None, &End::Completed).await?;
    let session = first.own_session();
    let context = load(&mut client, of_session(&session)).await?;
    assert_eq!(context.parent_response_id, Some(first.name()));

    let second = finished(&fixture, Some(&session), Some(&first), &End::Completed).await?;
    let context = load(&mut client, of_session(&session)).await?;
    assert_eq!(context.parent_response_id, Some(second.name()));

    let failed = finished(&fixture, None, None, &End::Cancelled).await?;
    let context = load(&mut client, of_session(&failed.own_session())).await?;
    assert_eq!(context, LoadContextResponse::default());
    Ok(())
}

#[tokio::test]
async fn an_imported_session_that_is_named_by_its_first_response_continues_from_the_last()
-> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    // As a Hermes server makes them: the later one may well be the smaller.
    let (first, second) = (Uuid::from_u128(9 << 100), Uuid::from_u128(3 << 100));
    // A turn without items.
    let body = vec![0_u8];
    let session = fixture.database.connect().await?;
    for (id, parent, of) in [
        (first, None, None),
        (second, Some(first), Some(first.to_string())),
    ] {
        session
            .execute(
                "WITH turn_made AS (
                     INSERT INTO turn (id, tenant, parent_id, body, session_id) VALUES ($1, 'a', $2, $3, $4)
                 )
                 INSERT INTO response (id, tenant, status, epoch, next_seq, session_id)
                 VALUES ($1, 'a', 3, 1, 0, $4)",
                &[&id, &parent, &body, &of],
            )
            .await?;
    }

    let context = load(&mut client, of_session(&first.to_string())).await?;

    assert_eq!(
        context.parent_response_id,
        Some(ResponseId(second).to_string())
    );
    assert_eq!(context.turns.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_session_does_not_continue_from_what_was_deleted() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    let first = finished(&fixture, Some("s"), None, &End::Completed).await?;
    let second = finished(&fixture, Some("s"), Some(&first), &End::Completed).await?;
    // Keeps the turn that it continues from.
    finished(&fixture, Some("s"), Some(&second), &End::Cancelled).await?;
    let delete = DeleteResponseRequest {
        tenant: "a".into(),
        response_id: second.name(),
    };
    client.delete_response(delete).await?;

    let context = load(&mut client, of_session("s")).await?;

    assert_eq!(context.parent_response_id, Some(first.name()));
    Ok(())
}

/// The ids of all items, in their order.
fn ids_of(turns: &[Turn]) -> anyhow::Result<Vec<String>> {
    let items = turns
        .iter()
        .flat_map(|turn| turn.input.iter().chain(&turn.output));
    items
        .map(|item| {
            let item: serde_json::Value = serde_json::from_slice(&item.item)?;
            Ok(item["id"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

#[tokio::test]
async fn an_item_that_was_taken_out_of_a_conversation_is_not_in_its_context() -> anyhow::Result<()>
{
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    let conversation = Uuid::now_v7();
    let conversation_id = format!("conv_{}", conversation.simple());
    let mut parent: Option<String> = None;
    let mut runs = Vec::new();
    for number in 0..3 {
        let mut run = Writer::new(&fixture, "a");
        let admission = AdmitRunRequest {
            conversation_id: Some(conversation_id.clone()),
            conversation_name: (number == 0).then(|| "pets".into()),
            parent_response_id: parent,
            ..run.admission()
        };
        client.admit_run(admission).await?;
        if number < 2 {
            run.finish("said", &End::Completed).await?;
        }
        parent = Some(run.name());
        runs.push(run);
    }
    let [first, second, active] = &runs[..] else {
        unreachable!("three were made");
    };
    let item = |run: &Writer| format!("msg_{}o0", run.id.simple());
    fixture
        .database
        .connect()
        .await?
        .execute(
            "INSERT INTO conversation_item_deleted (conversation_id, item_id) VALUES ($1, $2)",
            &[&conversation, &item(first)],
        )
        .await?;

    // Whoever takes the active run over sees the conversation as its first owner did.
    let heir = ids::new_id();
    let lease = RenewLeaseRequest {
        incarnation: heir.to_string(),
        lease_ms: 60_000,
        ..Default::default()
    };
    client.renew_lease(lease).await?;
    let claim = ClaimRunsRequest {
        owner: heir.to_string(),
        limit: 1,
        ..Default::default()
    };
    let claimed = client.claim_runs(claim).await?.into_inner().runs.remove(0);
    assert_eq!(ids_of(&claimed.turns)?, [item(second)]);
    let delete = DeleteResponseRequest {
        tenant: "a".into(),
        response_id: active.name(),
    };
    client.delete_response(delete).await?;
    client
        .end_lease(EndLeaseRequest {
            incarnation: heir.to_string(),
            ..Default::default()
        })
        .await?;

    let in_it = LoadContextRequest {
        conversation: Some("pets".into()),
        ..Default::default()
    };
    let context = load(&mut client, in_it).await?;
    assert_eq!(ids_of(&context.turns)?, [item(second)]);
    assert_eq!(context.session_id, Some(second.own_session()));
    let beside_it = load(&mut client, after(second)).await?;
    assert_eq!(ids_of(&beside_it.turns)?, [item(first), item(second)]);
    Ok(())
}
