//! Chains of turns, of which the store keeps in memory what was continued from lately.

use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{ContextItem, LoadContextRequest, Turn};
use talaria_runtime::error::Reason;
use talaria_runtime::ids;

use super::conversations::reason;
use super::fixture::{Fixture, Setup, TENANT, Writer};

/// Three responses, each of which continues from the one before.
async fn chain(fixture: &Fixture, setup: Setup<'_>) -> anyhow::Result<[Writer; 3]> {
    let first = fixture.completed(setup).await?;
    let next = |parent| Setup {
        parent: Some(parent),
        new_name: None,
        ..setup
    };
    let second = fixture.completed(next(&first)).await?;
    let third = fixture.completed(next(&second)).await?;
    Ok([first, second, third])
}

fn turn(run: &Writer) -> Turn {
    let output = run.run.output().into_iter();
    Turn {
        input: vec![run.input()],
        output: output.collect::<Vec<ContextItem>>(),
    }
}

fn after(run: &Writer) -> LoadContextRequest {
    LoadContextRequest {
        tenant: TENANT.into(),
        previous_response_id: Some(ResponseId(run.id).to_string()),
        ..Default::default()
    }
}

/// Makes a turn unreadable, behind the store's back.
async fn damage(fixture: &Fixture, run: &Writer) -> anyhow::Result<()> {
    let sql = r"UPDATE turn SET body = '\xff' WHERE id = $1";
    let changed = fixture.session().await?.execute(sql, &[&run.id]).await?;
    anyhow::ensure!(changed == 1, "there is no such turn");
    Ok(())
}

#[tokio::test]
async fn turns_that_were_continued_from_are_not_read_again() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let [first, second, third] = chain(&fixture, Setup::default()).await?;
    let turns = [turn(&first), turn(&second), turn(&third)];

    assert_eq!(fixture.load(after(&second)).await?.turns, turns[..2]);
    damage(&fixture, &first).await?;

    assert_eq!(fixture.load(after(&third)).await?.turns, turns);
    for run in [&second, &third] {
        damage(&fixture, run).await?;
    }
    // Several may continue from the same.
    for _ in 0..2 {
        assert_eq!(fixture.load(after(&third)).await?.turns, turns);
        assert_eq!(fixture.load(after(&second)).await?.turns, turns[..2]);
    }
    Ok(())
}

#[tokio::test]
async fn conversations_and_sessions_go_on_from_known_turns() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let setup = Setup {
        conversation: Some(ids::new_id()),
        new_name: Some("pets"),
        session: Some("s"),
        ..Setup::default()
    };
    let runs = chain(&fixture, setup).await?;
    let in_conversation = LoadContextRequest {
        conversation: Some("pets".into()),
        ..Default::default()
    };
    let in_session = LoadContextRequest {
        session_id: Some("s".into()),
        ..Default::default()
    };
    let turns = runs.each_ref().map(turn);

    for request in [in_conversation, in_session] {
        let context = fixture.load(request.clone()).await?;
        assert_eq!(context.turns, turns);
        let head = Some(ResponseId(runs[2].id).to_string());
        assert_eq!(context.parent_response_id, head);
        assert_eq!(context.session_id.as_deref(), Some("s"));
        for run in &runs {
            damage(&fixture, run).await?;
        }
        assert_eq!(fixture.load(request).await?, context);
    }
    Ok(())
}

#[tokio::test]
async fn turns_for_which_there_is_no_room_are_read_each_time() -> anyhow::Result<()> {
    for room in [0, 1000] {
        let fixture = Fixture::with(|config| config.turn_cache_bytes = room).await?;
        let [first, second, third] = chain(&fixture, Setup::default()).await?;
        let turns = [turn(&first), turn(&second), turn(&third)];

        assert_eq!(fixture.load(after(&third)).await?.turns, turns);
        damage(&fixture, &first).await?;

        let result = fixture.load(after(&third)).await;
        assert!(result.is_err(), "{room}: {result:?}");
    }
    Ok(())
}

/// A turn is kept for those that continue from it. Nobody begins from it once its response is deleted.
#[tokio::test]
async fn a_known_turn_is_shown_only_behind_one_that_is_there() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let [first, mut second, third] = chain(&fixture, Setup::default()).await?;
    let turns = [turn(&first), turn(&second), turn(&third)];
    fixture.load(after(&third)).await?;

    second.delete().await?;

    let result = fixture.load(after(&second)).await;
    assert_eq!(reason(result), Some(Reason::PreviousResponseNotFound));
    assert_eq!(fixture.load(after(&third)).await?.turns, turns);
    let of_others = LoadContextRequest {
        tenant: "b".into(),
        ..after(&third)
    };
    let mut client = fixture.client.clone();
    let result = client.load_context(of_others).await;
    assert_eq!(reason(result), Some(Reason::PreviousResponseNotFound));
    Ok(())
}
