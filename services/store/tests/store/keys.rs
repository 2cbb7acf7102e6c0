//! Idempotency keys: however often a request comes, and through however many stores, it is one run.

use anyhow::Context;
use talaria_proto::v1::{AdmitRunRequest, FindIdempotencyKeyRequest, Idempotency};
use talaria_runtime::error::Reason;
use talaria_runtime::ids;
use tokio::task::JoinSet;

use super::{Client, Writer, fixture};

/// A request's admission as a new run.
fn keyed(run: &mut Writer, key: &str, request_hash: &'static [u8]) -> AdmitRunRequest {
    AdmitRunRequest {
        idempotency: Some(Idempotency {
            key: key.into(),
            request_hash: request_hash.into(),
        }),
        ..run.admission()
    }
}

async fn holder(client: &mut Client, tenant: &str, key: &str) -> anyhow::Result<String> {
    let request = FindIdempotencyKeyRequest {
        tenant: tenant.into(),
        key: key.into(),
    };
    let found = client.find_idempotency_key(request).await?.into_inner();
    Ok(found.response_id)
}

/// REQ-33
#[tokio::test]
async fn fifty_duplicates_at_once_through_two_stores_are_one_run() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let (second, _store) = fixture.second_store()?;
    let mut duplicates = JoinSet::new();
    for number in 0..50 {
        let mut run = Writer::new(&fixture, "a");
        if number % 2 == 0 {
            run.client = second.clone();
        }
        duplicates.spawn(async move {
            let admission = keyed(&mut run, "key", b"request");
            let admitted = run.client.admit_run(admission).await?.into_inner();
            let is_new = admitted.existing_response_id.is_none();
            let id = admitted.existing_response_id.unwrap_or(run.name());
            anyhow::Ok((id, is_new))
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = duplicates.join_next().await {
        answers.push(answer??);
    }

    let winners: Vec<&String> = answers
        .iter()
        .filter(|(_, is_new)| *is_new)
        .map(|(id, _)| id)
        .collect();
    let [winner] = winners[..] else {
        anyhow::bail!("one of them is the run, not {}", winners.len());
    };
    assert!(answers.iter().all(|(id, _)| id == winner));
    assert_eq!(
        &holder(&mut fixture.client.clone(), "a", "key").await?,
        winner
    );
    assert_eq!(fixture.count("response").await?, 1);
    assert_eq!(fixture.count("event_chunk").await?, 1);
    Ok(())
}

/// REQ-29
#[tokio::test]
async fn another_request_under_a_used_key_is_refused_and_starts_nothing() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut first = Writer::new(&fixture, "a");
    let admission = keyed(&mut first, "key", b"request");
    first.client.admit_run(admission).await?;
    let mut other = Writer::new(&fixture, "a");
    let admission = keyed(&mut other, "key", b"other request");

    let refused = other.client.admit_run(admission).await.unwrap_err();

    assert_eq!(Reason::of(&refused), Some(Reason::IdempotencyKeyConflict));
    assert!(other.get().await.is_err());
    assert_eq!(holder(&mut first.client, "a", "key").await?, first.name());
    Ok(())
}

#[tokio::test]
async fn an_admission_with_a_key_can_be_repeated_when_its_answer_was_lost() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut run = Writer::new(&fixture, "a");
    let admission = keyed(&mut run, "key", b"request");
    run.client.admit_run(admission.clone()).await?;

    let repeated = run.client.admit_run(admission).await?.into_inner();

    assert_eq!(repeated.existing_response_id, None);
    assert_eq!(fixture.count("response").await?, 1);
    Ok(())
}

/// REQ-105
#[tokio::test]
async fn a_refused_run_leaves_no_key_behind() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    let conversation = format!("conv_{}", ids::new_id().simple());
    let mut active = Writer::new(&fixture, "a");
    let admission = AdmitRunRequest {
        conversation_id: Some(conversation.clone()),
        conversation_name: Some("pets".into()),
        ..active.admission()
    };
    client.admit_run(admission).await?;
    let mut late = Writer::new(&fixture, "a");
    let admission = AdmitRunRequest {
        conversation_id: Some(conversation),
        ..keyed(&mut late, "key", b"request")
    };

    let refused = client.admit_run(admission).await.unwrap_err();

    assert_eq!(Reason::of(&refused), Some(Reason::ConversationChanged));
    assert_eq!(holder(&mut client, "a", "key").await?, "");
    let mut elsewhere = Writer::new(&fixture, "a");
    let admission = keyed(&mut elsewhere, "key", b"other request");
    client
        .admit_run(admission)
        .await
        .context("the key is free")?;
    Ok(())
}

#[tokio::test]
async fn the_same_key_of_another_tenant_is_another_key() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut client = fixture.client.clone();
    let mut names = Vec::new();
    for tenant in ["a", "b"] {
        let mut run = Writer::new(&fixture, tenant);
        let admission = keyed(&mut run, "key", b"request");
        let admitted = client.admit_run(admission).await?.into_inner();
        assert_eq!(admitted.existing_response_id, None, "{tenant}");
        names.push(run.name());
    }

    assert_eq!(holder(&mut client, "a", "key").await?, names[0]);
    assert_eq!(holder(&mut client, "b", "key").await?, names[1]);
    assert_eq!(holder(&mut client, "c", "key").await?, "");
    Ok(())
}
