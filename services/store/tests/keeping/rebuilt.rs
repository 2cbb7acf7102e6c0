//! Responses whose logs are gone are still replayed.

use talaria_domain::ids::ResponseId;
use talaria_domain::rebuild;
use talaria_domain::run::End;
use talaria_domain::snapshot::{Snapshot, is_terminal_event};
use uuid::Uuid;

use crate::fixture::{Fixture, Setup, TENANT, log};

#[tokio::test]
async fn a_finished_response_is_replayed_without_its_log() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    for end in [
        End::Completed,
        End::Cancelled,
        End::Incomplete {
            reason: "max_output_tokens".into(),
        },
    ] {
        let mut run = fixture.ended(Setup::default(), "Hello", &end).await?;
        let exact = run.log(None).await?;
        let response = run.get().await?;
        let session = fixture.session().await?;
        session
            .execute("DELETE FROM event_chunk WHERE response_id = $1", &[&run.id])
            .await?;

        assert_eq!(run.get().await?, response);
        let rebuilt = run.log(None).await?;
        assert_eq!(Snapshot::of(&rebuilt)?.response(), response);
        assert_eq!(
            rebuilt,
            rebuild::events(&response, exact.len() as u64, None)
        );
        let last = exact.len() as u64 - 1;
        for after in 0..last {
            let rest = run.log(Some(after)).await?;
            assert_eq!(rest.len(), 1);
            assert!(is_terminal_event(&rest[0]));
            assert_eq!(rest[0].sequence_number, last);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_that_has_the_whole_log_is_not_shown_the_end_twice() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let mut run = fixture.completed(Setup::default()).await?;
    let last = run.log(None).await?.len() as u64 - 1;

    assert_eq!(run.log(Some(last)).await?, []);
    assert_eq!(run.log(Some(last + 100)).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_large_response_is_rebuilt_in_chunks_that_fit() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let text = "word ".repeat(400_000);
    let mut run = fixture
        .ended(Setup::default(), &text, &End::Completed)
        .await?;
    let session = fixture.session().await?;
    session.execute("DELETE FROM event_chunk", &[]).await?;

    let rebuilt = run.log(None).await?;

    assert_eq!(Snapshot::of(&rebuilt)?.response(), run.get().await?);
    Ok(())
}

#[tokio::test]
async fn an_active_response_without_events_is_not_made_up() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let mut run = fixture.active(Setup::default()).await?;
    let session = fixture.session().await?;
    session.execute("DELETE FROM event_chunk", &[]).await?;

    assert_eq!(run.log(None).await?, []);
    Ok(())
}

#[tokio::test]
async fn an_imported_response_is_replayed_though_it_never_had_a_log() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let run = fixture.completed(Setup::default()).await?;
    let imported = Uuid::from_u128(run.id.as_u128() & (u128::MAX >> 16));
    let session = fixture.session().await?;
    session
        .batch_execute(&format!(
            "INSERT INTO response (id, tenant, status, epoch, next_seq) VALUES ('{imported}', '{TENANT}', 3, 1, 0);
             INSERT INTO response_final SELECT '{imported}', body FROM response_final WHERE response_id = '{id}';
             INSERT INTO turn (id, tenant, body) SELECT '{imported}', tenant, body FROM turn WHERE id = '{id}'",
            id = run.id
        ))
        .await?;

    let mut client = fixture.client.clone();
    let name = ResponseId(imported).to_string();
    let rebuilt = log(&mut client, TENANT, &name, None).await?;

    assert!(rebuilt.last().is_some_and(is_terminal_event));
    let cut = log(&mut client, TENANT, &name, Some(3)).await?;
    assert_eq!(cut.first(), rebuilt.last());
    Ok(())
}
