//! Who gets a run that nobody executes: when, in which order, and what it counts as.

use std::time::Duration;

use talaria_domain::run::End;
use talaria_domain::snapshot::is_terminal_event;
use talaria_proto::v1::{
    ClaimRunsRequest, ClaimedRun, EndLeaseRequest, ReleaseRunsRequest, ReleasedRun,
    RenewLeaseRequest, Status,
};
use talaria_runtime::error::Reason;
use talaria_runtime::ids;
use uuid::Uuid;

use crate::fixture::{Fixture, Setup, Writer};

const HOUR: Duration = Duration::from_hours(1);
const LEASE_MS: u32 = 60_000;

impl Fixture {
    async fn register(&self, incarnation: Uuid) -> anyhow::Result<()> {
        let renewal = RenewLeaseRequest {
            incarnation: incarnation.to_string(),
            lease_ms: LEASE_MS,
            ..Default::default()
        };
        self.client.clone().renew_lease(renewal).await?;
        Ok(())
    }

    async fn registered(&self) -> anyhow::Result<Uuid> {
        let incarnation = ids::new_id();
        self.register(incarnation).await?;
        Ok(incarnation)
    }

    /// Sets columns of a process's row.
    async fn set_owner(&self, incarnation: Uuid, columns: &str) -> anyhow::Result<()> {
        self.set("orchestrator", "incarnation", incarnation, columns)
            .await
    }

    async fn set(&self, table: &str, key: &str, id: Uuid, columns: &str) -> anyhow::Result<()> {
        let sql = format!("UPDATE {table} SET {columns} WHERE {key} = $1");
        let changed = self.session().await?.execute(&sql, &[&id]).await?;
        anyhow::ensure!(changed == 1, "there is no such row");
        Ok(())
    }

    async fn claim(&self, owner: Uuid, limit: u32) -> anyhow::Result<Vec<ClaimedRun>> {
        let claim = ClaimRunsRequest {
            owner: owner.to_string(),
            limit,
            ..Default::default()
        };
        let claimed = self.client.clone().claim_runs(claim).await?;
        Ok(claimed.into_inner().runs)
    }

    async fn end_lease(&self, incarnation: Uuid, died: bool) -> anyhow::Result<()> {
        let end = EndLeaseRequest {
            incarnation: incarnation.to_string(),
            died,
            ..Default::default()
        };
        self.client.clone().end_lease(end).await?;
        Ok(())
    }

    /// A run of a process that is registered.
    async fn owned(&self) -> anyhow::Result<Writer> {
        let run = self.active(Setup::default()).await?;
        self.register(run.owner).await?;
        Ok(run)
    }
}

fn names(claimed: &[ClaimedRun]) -> Vec<&str> {
    claimed.iter().map(|run| run.response_id.as_str()).collect()
}

#[tokio::test]
async fn tenants_take_turns_and_of_each_the_oldest_run_comes_first() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let mut runs = Vec::new();
    for tenant in ["a", "a", "a", "b"] {
        let run = fixture.active(Setup::default()).await?;
        let columns = format!("tenant = '{tenant}'");
        fixture.set("response", "id", run.id, &columns).await?;
        runs.push(run.name());
    }

    let first = fixture.claim(fixture.registered().await?, 2).await?;
    let second = fixture.claim(fixture.registered().await?, 2).await?;

    assert_eq!(names(&first), [&*runs[0], &*runs[3]]);
    assert_eq!(names(&second), [&*runs[1], &*runs[2]]);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_ran_out_counts_for_who_could_renew_all_the_while() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let run = fixture.owned().await?;
    let heir = fixture.registered().await?;
    let ran_out = "lease_until = clock_timestamp() - interval '5 s'";
    fixture.set_owner(run.owner, ran_out).await?;

    // It has just come, as after an outage that ended everybody's lease.
    assert_eq!(fixture.claim(heir, 1).await?, []);
    assert_eq!(fixture.claim(ids::new_id(), 1).await?, []);
    // It was there before, but has not renewed its own for a while.
    for (unbroken, renewed) in [(10, 40), (4, 0)] {
        let columns = format!(
            "unbroken_since = clock_timestamp() - interval '{unbroken} s',
             renewed_at = clock_timestamp() - interval '{renewed} s',
             lease_until = clock_timestamp() + interval '{} s'",
            60 - renewed
        );
        fixture.set_owner(heir, &columns).await?;
        assert_eq!(fixture.claim(heir, 1).await?, []);
    }

    let unbroken = "unbroken_since = clock_timestamp() - interval '10 s'";
    fixture.set_owner(heir, unbroken).await?;
    let claimed = fixture.claim(heir, 1).await?;

    assert_eq!(names(&claimed), [run.name()]);
    assert_eq!(claimed[0].attempt, 2);
    Ok(())
}

#[tokio::test]
async fn a_renewal_that_was_missed_breaks_what_was_unbroken() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let process = fixture.registered().await?;
    let session = fixture.session().await?;
    for (renewed, expected) in [(20, true), (40, false)] {
        let columns = format!(
            "unbroken_since = clock_timestamp() - interval '1 hour',
             renewed_at = clock_timestamp() - interval '{renewed} s'"
        );
        fixture.set_owner(process, &columns).await?;
        fixture.register(process).await?;
        let sql =
            "SELECT unbroken_since < clock_timestamp() - interval '1 minute' FROM orchestrator";
        let is_unbroken: bool = session.query_one(sql, &[]).await?.get(0);
        assert_eq!(is_unbroken, expected, "renewed {renewed} s before");
    }
    Ok(())
}

#[tokio::test]
async fn only_who_died_of_a_run_has_spent_an_attempt() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    for (died, attempt) in [(true, 2), (false, 1)] {
        let run = fixture.owned().await?;
        fixture.end_lease(run.owner, died).await?;
        // Whoever comes later knows nothing better.
        fixture.end_lease(run.owner, !died).await?;

        let claimed = fixture.claim(fixture.registered().await?, 1).await?;

        assert_eq!(names(&claimed), [run.name()]);
        assert_eq!(claimed[0].attempt, attempt);
    }
    Ok(())
}

#[tokio::test]
async fn claims_that_their_owner_never_heard_of_are_no_attempts() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let run = fixture.owned().await?;

    // What it wrote before it lost sight of the run counts, once.
    for epoch in 2..6 {
        let claimed = fixture.claim(run.owner, 1).await?;
        assert_eq!((claimed[0].epoch, claimed[0].attempt), (epoch, 2));
    }
    Ok(())
}

#[tokio::test]
async fn a_renewal_that_comes_late_revives_the_living_and_nobody_who_left() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    for (died, expected) in [(true, 0), (false, 1)] {
        let run = fixture.owned().await?;
        fixture.end_lease(run.owner, died).await?;

        fixture.register(run.owner).await?;

        let heir = fixture.registered().await?;
        assert_eq!(fixture.claim(heir, 1).await?.len(), expected, "{died}");
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_is_released_is_anybodys_and_one_that_was_lost_cannot_be() -> anyhow::Result<()>
{
    let fixture = Fixture::new().await?;
    let (kept, released) = (fixture.owned().await?, fixture.owned().await?);
    let release = |run: &Writer, epoch| ReleasedRun {
        response_id: run.name(),
        epoch,
    };
    let request = ReleaseRunsRequest {
        runs: vec![release(&kept, 7), release(&released, 1)],
    };
    fixture.client.clone().release_runs(request).await?;

    let claimed = fixture.claim(ids::new_id(), 9).await?;

    assert_eq!(names(&claimed), [released.name()]);
    assert_eq!((claimed[0].epoch, claimed[0].attempt), (2, 1));
    Ok(())
}

#[tokio::test]
async fn a_decided_run_is_for_its_old_owner_first_and_soon_for_all() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (run, other) = (fixture.owned().await?, fixture.registered().await?);
    let reserved = "waits_until = clock_timestamp() + interval '2 s'";
    let over = "waits_until = clock_timestamp() - interval '1 s'";

    fixture.set("response", "id", run.id, reserved).await?;
    assert_eq!(fixture.claim(other, 1).await?, []);
    assert_eq!(fixture.claim(run.owner, 1).await?.len(), 1);
    fixture.set("response", "id", run.id, over).await?;
    assert_eq!(names(&fixture.claim(other, 1).await?), [run.name()]);
    Ok(())
}

#[tokio::test]
async fn who_lives_at_an_address_ends_who_did_before() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let run = fixture.active(Setup::default()).await?;
    let mut client = fixture.client.clone();
    let renewal = |incarnation: Uuid, address: &str, machine: &str| RenewLeaseRequest {
        incarnation: incarnation.to_string(),
        address: address.into(),
        lease_ms: LEASE_MS,
        has_address_alone: true,
        machine: machine.into(),
    };
    let heir = ids::new_id();
    // Networks of machines have the same addresses, and some machines cannot be told apart.
    let (here, elsewhere) = ("http://172.17.0.2:1", "http://172.17.0.3:1");
    client.renew_lease(renewal(run.owner, here, "a")).await?;
    let mut others = Vec::new();
    for (address, machine) in [(elsewhere, "a"), (here, "b"), (here, ""), (here, "")] {
        let other = ids::new_id();
        client.renew_lease(renewal(other, address, machine)).await?;
        others.push(other.to_string());
    }

    let peers = client.renew_lease(renewal(heir, here, "a")).await?;

    let peers = peers.into_inner().peers;
    let mut peers: Vec<String> = peers.into_iter().map(|peer| peer.incarnation).collect();
    peers.sort();
    others.sort();
    assert_eq!(peers, others);
    assert_eq!(names(&fixture.claim(heir, 1).await?), [run.name()]);
    Ok(())
}

#[tokio::test]
async fn a_process_learns_which_of_its_runs_it_lost() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let (kept, lost) = (fixture.owned().await?, fixture.owned().await?);
    fixture.end_lease(lost.owner, true).await?;
    fixture.claim(ids::new_id(), 1).await?;
    for (run, expected) in [(&kept, vec![]), (&lost, vec![lost.name()])] {
        let check = ClaimRunsRequest {
            owner: run.owner.to_string(),
            executing: vec![run.name()],
            check_executing: true,
            ..Default::default()
        };
        let answer = fixture.client.clone().claim_runs(check).await?.into_inner();
        assert_eq!(answer.lost, expected);
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_nobody_takes_for_an_hour_ends_as_it_stands() -> anyhow::Result<()> {
    let fixture = Fixture::new().await?;
    let conversation = ids::new_id();
    let setup = Setup {
        conversation: Some(conversation),
        new_name: Some("pets"),
        ..Setup::default()
    };
    let mut run = fixture.active(setup).await?;
    fixture.register(run.owner).await?;
    run.say("half");
    let append = run.append();
    run.client.append_events(append).await?;
    fixture.age(&run, HOUR * 2).await?;
    assert_eq!(fixture.store.end_abandoned_runs(HOUR).await?, 0, "it lives");
    fixture.end_lease(run.owner, true).await?;
    assert_eq!(fixture.store.end_abandoned_runs(HOUR).await?, 0, "too soon");
    let long_ago = "ended_at = clock_timestamp() - interval '61 minutes'";
    fixture.set_owner(run.owner, long_ago).await?;

    assert_eq!(fixture.store.end_abandoned_runs(HOUR).await?, 1);

    let response = run.get().await?;
    assert_eq!(response.status(), Status::Incomplete);
    assert_eq!(response.incomplete_reason.as_deref(), Some("abandoned"));
    let text = String::from_utf8_lossy(&response.output[0]).into_owned();
    assert!(
        text.contains("half") && text.contains("incomplete"),
        "{text}"
    );
    let log = run.log(None).await?;
    let ends = log.iter().filter(|event| is_terminal_event(event)).count();
    assert_eq!(ends, 1);
    assert_eq!(fixture.pointers(conversation).await?, (None, None, None));
    assert_eq!(fixture.store.end_abandoned_runs(HOUR).await?, 0);
    let late = run.finish(" more", &End::Completed).await.unwrap_err();
    assert_eq!(Reason::of(&late), Some(Reason::RunLost));
    Ok(())
}
