//! Looks at the database ten times a second: what must hold at every moment, and when each run made progress.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use talaria_testkit::postgres::Session;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::check::Violation;
use crate::cluster::Cluster;

const EVERY: Duration = Duration::from_millis(100);

/// Statuses below this are active.
const FIRST_TERMINAL: i16 = 3;

/// A run as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at: Instant,
    pub status: i16,
    pub epoch: i32,
    pub next_seq: i64,
    pub owner: Option<Uuid>,
}

impl Moment {
    pub fn is_active(&self) -> bool {
        self.status < FIRST_TERMINAL
    }
}

/// What was seen, over one episode.
#[derive(Debug, Default)]
pub struct Samples {
    /// The moments at which each run had changed.
    pub runs: HashMap<Uuid, Vec<Moment>>,
    /// Where each orchestrator process was reached.
    pub addresses: HashMap<Uuid, String>,
    pub violations: Vec<Violation>,
    pub count: usize,
}

/// Samples responses from `floor` on until `stop`. A database that is not there is asked again.
pub async fn sample(
    cluster: Arc<Cluster>,
    floor: Uuid,
    samples: Arc<Mutex<Samples>>,
    stop: CancellationToken,
) {
    let mut session = None;
    while !stop.is_cancelled() {
        let started = Instant::now();
        if session.is_none() {
            session = cluster.connect().await.ok();
        }
        if let Some(open) = &session {
            let looked = tokio::time::timeout(Duration::from_secs(5), look(open, floor, &samples));
            if !matches!(looked.await, Ok(Ok(()))) {
                session = None;
            }
        }
        tokio::time::sleep(EVERY.saturating_sub(started.elapsed())).await;
    }
}

async fn look(session: &Session, floor: Uuid, samples: &Mutex<Samples>) -> anyhow::Result<()> {
    const RUNS: &str = "
        SELECT id, status, epoch, next_seq, owner
        FROM response
        WHERE id >= $1";
    const POINTERS: &str = "
        SELECT 'I-20', c.id::text, 'more than one active response'
        FROM conversation c
        JOIN response r ON r.conversation_id = c.id AND r.status IN (1, 2)
        GROUP BY c.id
        HAVING count(*) > 1
        UNION ALL
        SELECT 'I-22', c.id::text, 'its active response is ' || coalesce(r.status::text, 'gone')
        FROM conversation c
        LEFT JOIN response r ON r.id = c.active_response_id
        WHERE c.active_response_id IS NOT NULL AND (r.status IS NULL OR r.status NOT IN (1, 2))
        UNION ALL
        SELECT 'I-21', c.id::text, 'its latest completed response has the status ' || r.status
        FROM conversation c
        JOIN response r ON r.id = c.latest_completed_response_id
        WHERE r.status <> 3";
    const OWNERS: &str = "SELECT incarnation, address FROM orchestrator";
    let runs = session.query(RUNS, &[&floor]).await?;
    let at = Instant::now();
    let pointers = session.query(POINTERS, &[]).await?;
    let owners = session.query(OWNERS, &[]).await?;
    let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
    samples.count += 1;
    for row in owners {
        samples.addresses.insert(row.get(0), row.get(1));
    }
    for row in pointers {
        let invariant = match row.get::<_, &str>(0) {
            "I-20" => "I-20",
            "I-21" => "I-21",
            _ => "I-22",
        };
        let id: String = row.get(1);
        let what: String = row.get(2);
        samples.violations.push(Violation::new(
            invariant,
            format!("conversation {id}: {what}"),
        ));
    }
    for row in runs {
        let moment = Moment {
            at,
            status: row.get(1),
            epoch: row.get(2),
            next_seq: row.get(3),
            owner: row.get(4),
        };
        samples.add(row.get(0), moment);
    }
    Ok(())
}

impl Samples {
    fn add(&mut self, id: Uuid, moment: Moment) {
        let moments = self.runs.entry(id).or_default();
        let Some(before) = moments.last().copied() else {
            moments.push(moment);
            return;
        };
        let same = Moment {
            at: before.at,
            ..moment
        };
        if same == before {
            return;
        }
        moments.push(moment);
        let mut broken = |invariant, what: String| {
            let response = format!("resp_{}", id.simple());
            self.violations
                .push(Violation::new(invariant, what).of(&response));
        };
        if !before.is_active() && before.status != moment.status {
            let (was, is) = (before.status, moment.status);
            broken("I-8", format!("its status went from {was} to {is}"));
        }
        if moment.next_seq < before.next_seq {
            let (was, is) = (before.next_seq, moment.next_seq);
            broken("I-7", format!("its log shrank from {was} to {is}"));
        }
        if moment.epoch < before.epoch {
            let (was, is) = (before.epoch, moment.epoch);
            broken("I-17", format!("its epoch went from {was} to {is}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_backwards_is_seen() {
        let moment = |status, epoch, next_seq| Moment {
            at: Instant::now(),
            status,
            epoch,
            next_seq,
            owner: None,
        };
        let broken = |moments: &[Moment]| -> Vec<&str> {
            let mut samples = Samples::default();
            for moment in moments {
                samples.add(Uuid::nil(), *moment);
            }
            samples.violations.iter().map(|v| v.invariant).collect()
        };

        let none: [&str; 0] = [];
        assert_eq!(broken(&[moment(2, 1, 3), moment(3, 2, 9)]), none);
        assert_eq!(broken(&[moment(3, 1, 3), moment(2, 1, 4)]), ["I-8"]);
        assert_eq!(broken(&[moment(2, 2, 3), moment(2, 1, 2)]), ["I-7", "I-17"]);
    }
}
