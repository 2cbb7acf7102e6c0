//! Runs that wait for their conversation: in order, before all others if they interrupt, and never overtaken.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context;
use talaria_domain::model::server_error;
use talaria_domain::run::End;
use talaria_proto::v1::{
    AdmitRunRequest, ClaimRunsRequest, ClaimRunsResponse, ClaimedRun, LoadContextRequest,
    LoadContextResponse, RenewLeaseRequest, RequestCancelRequest, Status, Wait,
};
use talaria_runtime::error::Reason;
use talaria_runtime::ids;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonic::Status as GrpcStatus;
use uuid::Uuid;

use super::{Client, Fixture, Writer, fixture};

/// A conversation with an active response.
struct Busy {
    fixture: Fixture,
    client: Client,
    conversation: String,
    /// Who claims.
    owner: Uuid,
    active: Writer,
}

impl Busy {
    async fn new() -> anyhow::Result<Self> {
        let fixture = fixture().await?;
        let mut client = fixture.client.clone();
        let conversation = format!("conv_{}", ids::new_id().simple());
        let mut active = Writer::new(&fixture, "a");
        let owner = ids::new_id();
        active.owner = owner;
        renew_lease(&mut client, owner).await?;
        let admission = AdmitRunRequest {
            conversation_id: Some(conversation.clone()),
            conversation_name: Some("pets".into()),
            ..active.admission()
        };
        client.admit_run(admission).await?;
        Ok(Self {
            fixture,
            client,
            conversation,
            owner,
            active,
        })
    }

    /// A run of this conversation, and its admission.
    fn run(&self, wait: Wait) -> (Writer, AdmitRunRequest) {
        let mut run = Writer::new(&self.fixture, "a");
        run.owner = self.owner;
        let mut admission = AdmitRunRequest {
            conversation_id: Some(self.conversation.clone()),
            status: Status::Queued.into(),
            ..run.admission()
        };
        admission.set_wait(wait);
        (run, admission)
    }

    async fn stand_in_line(&mut self, wait: Wait) -> anyhow::Result<Writer> {
        let (run, admission) = self.run(wait);
        self.client.admit_run(admission).await?;
        Ok(run)
    }

    /// Claims for the process that executes these.
    async fn claim(&mut self, executing: &[&str]) -> anyhow::Result<ClaimRunsResponse> {
        claim(&mut self.client, self.owner, executing).await
    }

    /// The one run that a claim gives.
    async fn claim_one(&mut self) -> anyhow::Result<ClaimedRun> {
        let mut runs = self.claim(&[]).await?.runs;
        let run = runs.pop().context("no run was claimed")?;
        anyhow::ensure!(runs.is_empty(), "one at a time");
        Ok(run)
    }

    async fn load(&mut self, may_wait: bool) -> Result<LoadContextResponse, GrpcStatus> {
        let request = LoadContextRequest {
            tenant: "a".into(),
            conversation: Some("pets".into()),
            may_wait,
            ..Default::default()
        };
        Ok(self.client.load_context(request).await?.into_inner())
    }

    async fn end_active(&mut self, end: &End) -> anyhow::Result<()> {
        end_run(&mut self.active, end).await
    }
}

async fn end_run(run: &mut Writer, end: &End) -> anyhow::Result<()> {
    let end = run.end(end);
    run.client.finish_run(end).await?;
    Ok(())
}

async fn renew_lease(client: &mut Client, owner: Uuid) -> anyhow::Result<()> {
    let lease = RenewLeaseRequest {
        incarnation: owner.to_string(),
        lease_ms: 60_000,
        ..Default::default()
    };
    client.renew_lease(lease).await?;
    Ok(())
}

async fn claim(
    client: &mut Client,
    owner: Uuid,
    executing: &[&str],
) -> anyhow::Result<ClaimRunsResponse> {
    let request = ClaimRunsRequest {
        owner: owner.to_string(),
        limit: 100,
        executing: executing.iter().map(|&id| id.to_owned()).collect(),
        ..Default::default()
    };
    Ok(client.claim_runs(request).await?.into_inner())
}

/// Who a claimed run is, and how it was handed out.
fn told(run: &ClaimedRun) -> (&str, i32, u32, bool, bool, usize) {
    let ClaimedRun {
        response_id,
        epoch,
        attempt,
        begins,
        cancelled,
        turns,
        ..
    } = run;
    (
        response_id,
        *epoch,
        *attempt,
        *begins,
        *cancelled,
        turns.len(),
    )
}

#[tokio::test]
async fn runs_in_line_begin_one_after_the_other_each_from_where_the_last_ended()
-> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let mut first = busy.stand_in_line(Wait::InLine).await?;
    let (second, admission) = busy.run(Wait::InLine);
    busy.client.admit_run(admission.clone()).await?;
    let repeated = busy.client.admit_run(admission).await?;
    assert_eq!(repeated.into_inner().existing_response_id, None);

    assert_eq!(first.get().await?, first.run.snapshot().response());
    let expected = LoadContextResponse {
        conversation_id: Some(busy.conversation.clone()),
        session_id: Some(busy.active.id.to_string()),
        busy: true,
        active_response_id: Some(busy.active.name()),
        waiting: 2,
        ..Default::default()
    };
    assert_eq!(busy.load(true).await?, expected);
    let active = busy.active.name();
    let claimed = busy.claim(&[&active]).await?;
    assert_eq!(claimed, ClaimRunsResponse::default(), "one is active");

    busy.end_active(&End::Completed).await?;
    let claimed = busy.claim_one().await?;
    assert_eq!(told(&claimed), (&*first.name(), 2, 1, true, false, 1));
    assert_eq!(claimed.events[0].events()?, first.log(None).await?);
    let claimed = busy.claim(&[&first.name()]).await?;
    assert_eq!(claimed, ClaimRunsResponse::default(), "one is active again");

    first.epoch = 2;
    end_run(&mut first, &End::Completed).await?;
    let claimed = busy.claim_one().await?;
    assert_eq!(told(&claimed), (&*second.name(), 2, 1, true, false, 2));
    Ok(())
}

#[tokio::test]
async fn nobody_overtakes_a_line() -> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let waiting = busy.stand_in_line(Wait::InLine).await?;
    busy.end_active(&End::Completed).await?;

    let refused = busy.load(false).await.unwrap_err();
    assert_eq!(
        Reason::of(&refused),
        Some(Reason::ConversationResponseNotCompleted)
    );
    let (mut hasty, mut admission) = busy.run(Wait::Not);
    admission.parent_response_id = Some(busy.active.name());
    let refused = busy.client.admit_run(admission).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::ConversationChanged));
    assert!(hasty.get().await.is_err());
    assert_eq!(busy.claim_one().await?.response_id, waiting.name());
    Ok(())
}

#[tokio::test]
async fn who_interrupts_stands_before_all_others_and_stops_what_is_active() -> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let waiting = busy.stand_in_line(Wait::InLine).await?;
    let mut first = busy.stand_in_line(Wait::Interrupting).await?;
    let mut second = busy.stand_in_line(Wait::Interrupting).await?;

    let active = busy.active.name();
    let claimed = busy.claim(&[&active]).await?;
    assert_eq!((claimed.runs, claimed.cancelled), (vec![], vec![active]));

    busy.end_active(&End::Cancelled).await?;
    for next in [&mut first, &mut second] {
        let claimed = busy.claim_one().await?;
        assert_eq!(told(&claimed), (&*next.name(), 2, 1, true, false, 0));
        next.epoch = claimed.epoch;
        end_run(next, &End::Cancelled).await?;
    }
    assert_eq!(busy.claim_one().await?.response_id, waiting.name());
    Ok(())
}

#[tokio::test]
async fn an_interruption_whose_answer_was_lost_does_not_interrupt_itself() -> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let (run, admission) = busy.run(Wait::Interrupting);
    busy.client.admit_run(admission.clone()).await?;
    busy.end_active(&End::Cancelled).await?;
    busy.claim_one().await?;

    busy.client.admit_run(admission).await?;

    let claimed = busy.claim(&[&run.name()]).await?;
    assert_eq!(claimed, ClaimRunsResponse::default());
    Ok(())
}

#[tokio::test]
async fn an_admission_that_arrives_again_after_its_run_failed_does_not_block_the_conversation()
-> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    busy.end_active(&End::Completed).await?;
    let parent_response_id = Some(busy.active.name());
    let (mut failed, mut admission) = busy.run(Wait::Not);
    admission.parent_response_id.clone_from(&parent_response_id);
    busy.client.admit_run(admission.clone()).await?;
    end_run(&mut failed, &End::Failed(server_error("no upstream"))).await?;

    // As it was handed to a store that was slow, before another one took it.
    busy.client.admit_run(admission).await?;

    assert!(!busy.load(false).await?.busy);
    let (_, next) = busy.run(Wait::Not);
    let next = AdmitRunRequest {
        parent_response_id,
        ..next
    };
    busy.client.admit_run(next).await?;
    Ok(())
}

#[tokio::test]
async fn a_run_that_is_cancelled_in_line_ends_at_once_and_moves_nothing() -> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let mut cancelled = busy.stand_in_line(Wait::InLine).await?;
    let next = busy.stand_in_line(Wait::InLine).await?;
    let cancel = RequestCancelRequest {
        tenant: "a".into(),
        response_id: cancelled.name(),
    };
    busy.client.request_cancel(cancel.clone()).await?;
    busy.client.request_cancel(cancel.clone()).await?;

    let active = busy.active.name();
    let claimed = busy.claim(&[&active]).await?;
    assert_eq!(claimed.runs.len(), 1);
    assert_eq!(
        told(&claimed.runs[0]),
        (&*cancelled.name(), 2, 1, true, true, 0)
    );
    let again = busy.claim(&[&active, &cancelled.name()]).await?;
    assert_eq!(
        (again.runs, again.cancelled),
        (vec![], vec![cancelled.name()])
    );
    cancelled.epoch = 2;
    end_run(&mut cancelled, &End::Cancelled).await?;

    assert_eq!(cancelled.get().await?.status(), Status::Cancelled);
    let ended = busy.client.request_cancel(cancel).await.unwrap_err();
    assert_eq!(Reason::of(&ended), Some(Reason::RunNotHere));
    assert_eq!(busy.load(true).await?.active_response_id, Some(active));
    busy.end_active(&End::Completed).await?;
    let claimed = busy.claim_one().await?;
    assert_eq!(told(&claimed), (&*next.name(), 2, 1, true, false, 1));
    Ok(())
}

#[tokio::test]
async fn a_line_survives_the_store_and_every_owner() -> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let mut first = busy.stand_in_line(Wait::InLine).await?;
    let second = busy.stand_in_line(Wait::InLine).await?;
    busy.end_active(&End::Completed).await?;
    busy.fixture.store.stop().await;
    let (client, _store) = busy.fixture.second_store()?;
    (busy.client, first.client) = (client.clone(), client);

    let claimed = busy.claim_one().await?;
    assert_eq!(told(&claimed), (&*first.name(), 2, 1, true, false, 1));
    // Its owner is gone without a word: the next one goes on with it.
    busy.owner = ids::new_id();
    let session = busy.fixture.database.connect().await?;
    session.execute("DELETE FROM orchestrator", &[]).await?;
    let claimed = busy.claim_one().await?;
    assert_eq!(told(&claimed), (&*first.name(), 3, 2, false, false, 1));
    first.epoch = 3;
    end_run(&mut first, &End::Completed).await?;
    assert_eq!(busy.claim_one().await?.response_id, second.name());
    Ok(())
}

#[tokio::test]
async fn a_run_that_waits_for_a_conversation_that_is_gone_begins_without_it() -> anyhow::Result<()>
{
    let mut busy = Busy::new().await?;
    let first = busy.stand_in_line(Wait::InLine).await?;
    let second = busy.stand_in_line(Wait::InLine).await?;
    busy.end_active(&End::Completed).await?;
    let session = busy.fixture.database.connect().await?;
    session.execute("DELETE FROM conversation", &[]).await?;

    let claimed = busy.claim_one().await?;
    assert_eq!(told(&claimed), (&*first.name(), 2, 1, true, false, 0));
    let claimed = busy.claim(&[&first.name()]).await?.runs;
    assert_eq!(claimed.len(), 1);
    assert_eq!(told(&claimed[0]), (&*second.name(), 2, 1, true, false, 0));

    let (_, admission) = busy.run(Wait::InLine);
    let refused = busy.client.admit_run(admission).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::ConversationChanged));
    Ok(())
}

#[tokio::test]
async fn a_run_that_is_to_stop_is_taken_over_as_one_that_is_to_stop() -> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let active = busy.active.name();
    let cancel = |tenant: &str, response_id: String| RequestCancelRequest {
        tenant: tenant.into(),
        response_id,
    };
    busy.client
        .request_cancel(cancel("a", active.clone()))
        .await?;
    busy.owner = ids::new_id();
    let session = busy.fixture.database.connect().await?;
    session.execute("DELETE FROM orchestrator", &[]).await?;

    let claimed = busy.claim(&[]).await?;
    assert_eq!(claimed.cancelled, Vec::<String>::new());
    assert_eq!(told(&claimed.runs[0]), (&*active, 2, 2, false, true, 0));

    for unknown in [
        cancel("b", active),
        cancel("a", Writer::new(&busy.fixture, "a").name()),
    ] {
        let refused = busy.client.request_cancel(unknown).await.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Reason::ResponseNotFound));
    }
    Ok(())
}

#[tokio::test]
async fn fifty_at_once_through_two_stores_are_fifty_turns_in_a_line() -> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let (second, _store) = busy.fixture.second_store()?;
    let mut arrivals = JoinSet::new();
    for number in 0..50 {
        let (mut run, admission) = busy.run(Wait::InLine);
        if number % 2 == 0 {
            run.client = second.clone();
        }
        arrivals.spawn(async move {
            run.client.admit_run(admission).await?;
            anyhow::Ok(run)
        });
    }
    let mut waiting = Vec::new();
    while let Some(run) = arrivals.join_next().await {
        waiting.push(run??);
    }
    busy.end_active(&End::Completed).await?;

    // Two processes claim all the time, as if each were told of every end.
    let all: HashSet<String> = waiting.iter().map(Writer::name).collect();
    let waiting = Arc::new(Mutex::new(waiting));
    let mut claimers = JoinSet::new();
    for client in [busy.client.clone(), second] {
        claimers.spawn(execute_all(client, waiting.clone()));
    }
    let mut begun = Vec::new();
    while let Some(claimer) = claimers.join_next().await {
        begun.extend(claimer??);
    }

    assert_eq!(begun.len(), 50, "each began once");
    assert_eq!(begun.into_iter().collect::<HashSet<_>>(), all);
    assert_eq!(busy.load(false).await?.turns.len(), 51);
    Ok(())
}

#[tokio::test]
async fn interruptions_from_everywhere_meet_ends_and_beginnings_without_a_loss()
-> anyhow::Result<()> {
    let mut busy = Busy::new().await?;
    let (second, _store) = busy.fixture.second_store()?;
    let mut arrivals = JoinSet::new();
    let waiting = Arc::new(Mutex::new(Vec::new()));
    for number in 0..60 {
        let wait = if number % 3 == 0 {
            Wait::InLine
        } else {
            Wait::Interrupting
        };
        let (mut run, admission) = busy.run(wait);
        if number % 2 == 0 {
            run.client = second.clone();
        }
        let mut client = run.client.clone();
        waiting.lock().await.push(run);
        arrivals.spawn(async move {
            // As an orchestrator does it: what came too late looks again.
            loop {
                match client.admit_run(admission.clone()).await {
                    Ok(_) => return anyhow::Ok(()),
                    Err(status) if Reason::of(&status) == Some(Reason::ConversationChanged) => {}
                    Err(status) => return Err(status.into()),
                }
            }
        });
    }
    let mut claimers = JoinSet::new();
    for client in [busy.client.clone(), second] {
        claimers.spawn(execute_all(client, waiting.clone()));
    }
    busy.end_active(&End::Cancelled).await?;
    while let Some(arrival) = arrivals.join_next().await {
        arrival??;
    }
    let mut begun = 0;
    while let Some(claimer) = claimers.join_next().await {
        begun += claimer??.len();
    }

    assert_eq!(begun, 60);
    assert!(!busy.load(true).await?.busy);
    Ok(())
}

/// Claims and ends runs until none of them is left, and answers which ones it had.
async fn execute_all(
    mut client: Client,
    waiting: Arc<Mutex<Vec<Writer>>>,
) -> anyhow::Result<Vec<String>> {
    let owner = ids::new_id();
    renew_lease(&mut client, owner).await?;
    let mut begun = Vec::new();
    while !waiting.lock().await.is_empty() {
        let claimed = claim(&mut client, owner, &[]).await?.runs;
        anyhow::ensure!(claimed.len() <= 1, "one is active");
        for claimed in claimed {
            let mut runs = waiting.lock().await;
            let place = runs
                .iter()
                .position(|run| run.name() == claimed.response_id);
            let mut run = runs.swap_remove(place.context("it ended before")?);
            drop(runs);
            run.epoch = claimed.epoch;
            end_run(&mut run, &End::Completed).await?;
            begun.push(claimed.response_id);
        }
    }
    Ok(begun)
}
