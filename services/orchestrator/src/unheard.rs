//! Admissions that the store never answered: taking them back, or finding out whether they became runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{DeleteResponseRequest, FindRunRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::admission::is_unknown;
use crate::feed::Feed;
use crate::journal::deadline;
use crate::service::Shared;

/// How many are kept in mind. At the bound, further ones keep their places, so that no more are admitted.
const MOST: usize = 1024;
/// Calls about them that are made at the same time.
const AT_ONCE: usize = 8;
/// The longest that a write which nobody waits for any more may still reach the database: two batches and a statement.
/// Before that, an answer says nothing: one copy may have been stored and deleted while another is on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(30);
/// Pauses between two calls about one: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often the list is looked through at least.
const LOOK: Duration = Duration::from_secs(1);
/// How long a store that does not answer is asked about one.
const LONGEST: Duration = Duration::from_hours(1);

/// A run that may have been stored.
#[derive(Debug)]
pub struct Unheard {
    pub tenant: String,
    pub id: Uuid,
    pub then: Then,
}

/// What is to be done about it.
#[derive(Debug)]
pub enum Then {
    /// Nobody knows of it: it is deleted. Until then it is known to this process, so that it is never executed.
    Delete(Arc<Feed>),
    /// Its key may name it, so it is executed if it is there. Its credentials are kept until it is known not to be.
    KeepCredentials,
}

/// All of this process.
#[derive(Debug)]
pub struct AllUnheard {
    room: Arc<Semaphore>,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    entries: Vec<Entry>,
    /// A task is at work on them.
    has_worker: bool,
}

#[derive(Debug)]
struct Entry {
    unheard: Unheard,
    since: Instant,
    due: Instant,
    pause: Duration,
    _room: OwnedSemaphorePermit,
}

impl Default for AllUnheard {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(MOST)),
            list: Mutex::default(),
        }
    }
}

/// Sees to an admission that was not heard of. Where there are too many already, its place is kept until there is room.
pub fn see_to(shared: &Arc<Shared>, unheard: Unheard, place: Option<OwnedSemaphorePermit>) {
    let room = Arc::clone(&shared.unheard.room);
    if let Ok(room) = Arc::clone(&room).try_acquire_owned() {
        add(shared, unheard, room);
        return;
    }
    let task = Arc::clone(shared);
    shared.tasks.spawn(async move {
        // The semaphore is never closed.
        if let Ok(room) = room.acquire_owned().await {
            add(&task, unheard, room);
        }
        drop(place);
    });
}

fn add(shared: &Arc<Shared>, unheard: Unheard, room: OwnedSemaphorePermit) {
    let now = Instant::now();
    let mut list = shared.unheard.list();
    list.entries.push(Entry {
        unheard,
        since: now,
        due: now,
        pause: PAUSES.0,
        _room: room,
    });
    if !std::mem::replace(&mut list.has_worker, true) {
        let task = Arc::clone(shared);
        shared.tasks.spawn(async move { work(&task).await });
    }
}

/// Works until nothing is left, or the process leaves the rest of its work.
async fn work(shared: &Shared) {
    shared.release.run_until_cancelled(work_on(shared)).await;
}

async fn work_on(shared: &Shared) {
    loop {
        let is_stopping = shared.draining.is_cancelled();
        // A process that stops does not wait for the next time.
        let ahead = if is_stopping {
            PAUSES.1
        } else {
            Duration::ZERO
        };
        let Some(due) = shared.unheard.take_due(Instant::now() + ahead) else {
            return;
        };
        if due.is_empty() || is_stopping {
            tokio::time::sleep(LOOK).await;
        }
        let calls = due.into_iter().map(|entry| async {
            let answer = ask(shared, &entry.unheard).await;
            (entry, answer)
        });
        for (entry, answer) in join_all(calls).await {
            let is_stopping = shared.draining.is_cancelled();
            match decided(&answer, entry.since.elapsed(), is_stopping) {
                Some(answer) => end(shared, &entry.unheard, answer),
                None => shared
                    .unheard
                    .list()
                    .entries
                    .push(entry.later(Instant::now())),
            }
        }
    }
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    IsThere,
    IsNot,
}

async fn ask(shared: &Shared, unheard: &Unheard) -> Result<Answer, Status> {
    let mut client = shared.journal.client();
    let (tenant, response_id) = (unheard.tenant.clone(), ResponseId(unheard.id).to_string());
    let status = match &unheard.then {
        Then::Delete(_) => {
            let request = DeleteResponseRequest {
                tenant,
                response_id,
            };
            deadline(client.delete_response(request)).await.err()
        }
        Then::KeepCredentials => {
            let request = FindRunRequest {
                tenant,
                response_id,
            };
            let found = deadline(client.find_run(request)).await;
            match found {
                Ok(_) => return Ok(Answer::IsThere),
                Err(status) => Some(status),
            }
        }
    };
    match status {
        Some(status) if status.code() != Code::NotFound && is_unknown(&status) => Err(status),
        _ => Ok(Answer::IsNot),
    }
}

/// What is known of a run that has been unheard of for so long; none if it has to be asked for again.
fn decided(answer: &Result<Answer, Status>, since: Duration, is_stopping: bool) -> Option<Answer> {
    match answer {
        Ok(Answer::IsThere) => Some(Answer::IsThere),
        Ok(Answer::IsNot) if since > ON_ITS_WAY || is_stopping => Some(Answer::IsNot),
        Ok(Answer::IsNot) => None,
        Err(_) => (since > LONGEST).then_some(Answer::IsNot),
    }
}

fn end(shared: &Shared, unheard: &Unheard, answer: Answer) {
    match &unheard.then {
        Then::Delete(feed) => {
            shared.active.remove(unheard.id, feed);
            feed.leave();
        }
        // Its end forgets them.
        Then::KeepCredentials if answer == Answer::IsThere => {}
        Then::KeepCredentials => shared.credentials.forget(unheard.id),
    }
}

impl Entry {
    fn later(self, now: Instant) -> Self {
        Self {
            due: now + self.pause,
            pause: (self.pause * 2).min(PAUSES.1),
            ..self
        }
    }
}

impl AllUnheard {
    /// Some that are due, or none when nothing is left, which is the end of the worker.
    fn take_due(&self, now: Instant) -> Option<Vec<Entry>> {
        let mut list = self.list();
        if list.entries.is_empty() {
            list.has_worker = false;
            return None;
        }
        list.entries.sort_by_key(|entry| entry.due);
        let due = list.entries.iter().take(AT_ONCE);
        let count = due.take_while(|entry| entry.due <= now).count();
        Some(list.entries.drain(..count).collect())
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // Nothing panics while it holds the lock.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_run_is_not_there_counts_when_no_copy_of_it_can_be_on_its_way() {
        let (soon, late) = (Duration::from_secs(29), Duration::from_secs(31));
        let unknown = || Err(Status::unavailable(""));

        assert_eq!(decided(&Ok(Answer::IsNot), soon, false), None);
        assert_eq!(
            decided(&Ok(Answer::IsNot), late, false),
            Some(Answer::IsNot)
        );
        assert_eq!(decided(&Ok(Answer::IsNot), soon, true), Some(Answer::IsNot));
        assert_eq!(
            decided(&Ok(Answer::IsThere), soon, false),
            Some(Answer::IsThere)
        );
        assert_eq!(decided(&unknown(), late, false), None);
        assert_eq!(decided(&unknown(), LONGEST * 2, false), Some(Answer::IsNot));
    }

    #[test]
    fn one_is_asked_for_less_and_less_often() {
        let all = AllUnheard::default();
        let room = Arc::clone(&all.room).try_acquire_owned().unwrap();
        let now = Instant::now();
        let mut entry = Entry {
            unheard: Unheard {
                tenant: "t".into(),
                id: Uuid::nil(),
                then: Then::KeepCredentials,
            },
            since: now,
            due: now,
            pause: PAUSES.0,
            _room: room,
        };
        let mut pauses = Vec::new();
        for _ in 0..7 {
            entry = entry.later(now);
            pauses.push(entry.due.duration_since(now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);

        all.list().entries.push(entry);
        assert_eq!(all.take_due(now).map(|due| due.len()), Some(0));
        let later = now + PAUSES.1;
        assert_eq!(all.take_due(later).map(|due| due.len()), Some(1));
        assert!(all.take_due(later).is_none());
        assert_eq!(all.room.available_permits(), MOST);
    }
}
