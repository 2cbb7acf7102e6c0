//! Runs that ended before they were admitted: one write, and all is as after two.

use super::*;

/// A run that has said something and ended, none of which is written.
struct Ended {
    run: Writer,
    whole: FinishRunRequest,
}

fn ended(fixture: &Fixture, tenant: &'static str) -> Ended {
    let mut run = Writer::new(fixture, tenant);
    let mut admission = run.admission();
    let first = admission.events.take().unwrap().events().unwrap();
    run.run.on_model(ModelEvent::Delta {
        key: ItemKey(0),
        field: Field::Text,
        part: 0,
        delta: "Hello".into(),
        logprobs: Vec::new(),
    });
    run.run.on_model_end();
    let end = run.end(&End::Completed);
    let last = end.append.unwrap();
    let mut all = first;
    all.extend(last.events.unwrap().events().unwrap());
    let append = AppendEventsRequest {
        first_sequence_number: 0,
        event_count: u32::try_from(all.len()).unwrap(),
        events: Some(EventChunk::of(&all)),
        ..last
    };
    admission.event_count = 0;
    let whole = FinishRunRequest {
        append: Some(append),
        admission: Some(admission),
        ..end
    };
    Ended { run, whole }
}

impl Ended {
    async fn store(&mut self) -> Result<(), GrpcStatus> {
        let whole = self.whole.clone();
        self.run.client.finish_run(whole).await.map(drop)
    }

    /// The same in two writes.
    async fn store_in_two(&mut self) -> Result<(), GrpcStatus> {
        let mut finish = self.whole.clone();
        let append = finish.append.as_mut().unwrap();
        let events = append.events.take().unwrap().events().unwrap();
        let admission = AdmitRunRequest {
            events: Some(EventChunk::of(&events[..2])),
            event_count: 2,
            ..finish.admission.take().unwrap()
        };
        append.first_sequence_number = 2;
        append.event_count -= 2;
        append.events = Some(EventChunk::of(&events[2..]));
        self.run.client.admit_run(admission).await?;
        self.run.client.finish_run(finish).await.map(drop)
    }
}

/// The rows of a response in these tables, but for what tells it apart from others.
async fn rows(fixture: &Fixture, id: Uuid) -> anyhow::Result<Vec<String>> {
    const SQL: &str = "
        SELECT 'response ' || (to_jsonb(r) - 'id' - 'updated_at')::text FROM response r WHERE id = $1
        UNION ALL
        SELECT 'turn ' || (to_jsonb(t) - 'id' - 'body')::text FROM turn t WHERE id = $1
        UNION ALL
        SELECT 'final ' || count(*) FROM response_final WHERE response_id = $1
        UNION ALL
        SELECT 'request ' || count(*) FROM run_request WHERE response_id = $1
        UNION ALL
        SELECT 'events to ' || max(last_seq) FROM event_chunk WHERE response_id = $1";
    let session = fixture.database.connect().await?;
    let rows = session.query(SQL, &[&id]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn a_run_that_is_written_once_is_as_one_that_was_admitted_before() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let (mut once, mut twice) = (ended(&fixture, "a"), ended(&fixture, "a"));
    once.store().await?;
    twice.store_in_two().await?;

    let (of_once, of_twice) = (
        rows(&fixture, once.run.id).await?,
        rows(&fixture, twice.run.id).await?,
    );
    assert_eq!(of_once, of_twice);
    assert_eq!(of_once.len(), 5, "{of_once:?}");
    assert_eq!(once.run.get().await?, once.run.run.snapshot().response());
    let sent = once.whole.append.as_ref().unwrap().events.clone();
    assert_eq!(once.run.log(None).await?, sent.unwrap().events()?);

    let load = LoadContextRequest {
        tenant: "a".into(),
        previous_response_id: Some(once.run.name()),
        ..Default::default()
    };
    let context = once.run.client.load_context(load).await?.into_inner();
    assert_eq!(context.turns, [once.whole.turn.clone().unwrap()]);
    Ok(())
}

#[tokio::test]
async fn a_repeated_write_changes_nothing_and_another_under_the_same_id_is_refused()
-> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut ended = ended(&fixture, "a");
    let (first, second) = (ended.whole.clone(), ended.whole.clone());
    let mut other = ended.run.client.clone();
    let both = tokio::join!(ended.run.client.finish_run(first), other.finish_run(second));
    both.0?;
    both.1?;
    ended.store().await?;
    assert_eq!(fixture.count("event_chunk").await?, 1);
    assert_eq!(fixture.count("turn").await?, 1);

    let before = rows(&fixture, ended.run.id).await?;
    let append = ended.whole.append.as_mut().unwrap();
    let mut events = append.events.take().unwrap().events()?;
    events[0].at_ms += 1;
    append.events = Some(EventChunk::of(&events));
    let refused = ended.store().await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::RunLost));
    assert_eq!(rows(&fixture, ended.run.id).await?, before);
    Ok(())
}

#[tokio::test]
async fn what_has_to_be_admitted_first_is_refused_whole() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let changes: [fn(&mut FinishRunRequest); 5] = [
        |whole| admission(whole).conversation_id = Some(format!("conv_{:032x}", 1)),
        |whole| admission(whole).idempotency = Some(talaria_proto::v1::Idempotency::default()),
        |whole| admission(whole).response_id = ResponseId(ids::new_id()).to_string(),
        |whole| whole.append.as_mut().unwrap().first_sequence_number = 1,
        |whole| whole.append.as_mut().unwrap().epoch = 2,
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut ended = ended(&fixture, "a");
        change(&mut ended.whole);
        let refused = ended.store().await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Reason::InvalidValue), "{at}");
    }
    assert_eq!(fixture.count("response").await?, 0);
    assert_eq!(fixture.count("event_chunk").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_run_whose_past_is_gone_takes_none_of_the_others_with_it() -> anyhow::Result<()> {
    let fixture = fixture().await?;
    let mut runs: Vec<Ended> = (0..5).map(|_| ended(&fixture, "a")).collect();
    let gone = ResponseId(ids::new_id()).to_string();
    admission(&mut runs[2].whole).parent_response_id = Some(gone);

    let written = join_all(runs.iter_mut().map(Ended::store)).await;
    for (at, written) in written.into_iter().enumerate() {
        match written {
            Ok(()) => assert_ne!(at, 2),
            Err(status) => {
                assert_eq!(at, 2, "{status}");
                assert_eq!(Reason::of(&status), Some(Reason::PreviousResponseNotFound));
            }
        }
    }
    assert_eq!(fixture.count("response").await?, 4);
    assert_eq!(fixture.count("turn").await?, 4);
    Ok(())
}

fn admission(whole: &mut FinishRunRequest) -> &mut AdmitRunRequest {
    whole.admission.as_mut().unwrap()
}
