//! Calls to whichever of several servers is best placed to answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

use super::member::{Health, Member, SLOW, is_unavailable};
use super::{Error, Link};

/// How long a call waits for a server that is well: for any of them, and for the one that is meant. Whoever means one
/// has to look soon whether it still is the one.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_WITH_ONE: Duration = Duration::from_millis(200);
/// What calls that change nothing are named.
const READS: [&str; 6] = ["Check", "Find", "Get", "List", "Load", "Read"];

/// Servers of one service.
#[derive(Debug, Default)]
pub struct Set {
    members: RwLock<Vec<Arc<Member>>>,
    /// Told when one becomes well.
    pub changed: Arc<Notify>,
    patience: Patience,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(PATIENCE)
    }
}

impl Set {
    /// One server alone.
    pub fn of(member: Arc<Member>, changed: Arc<Notify>) -> Self {
        Self {
            members: RwLock::new(vec![member]),
            changed,
            patience: Patience(PATIENCE_WITH_ONE),
            turn: AtomicUsize::default(),
        }
    }

    pub fn replace(&self, members: Vec<Arc<Member>>) {
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        self.changed.notify_waiters();
    }

    pub fn members(&self) -> Vec<Arc<Member>> {
        self.members
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Those that can be given calls, the least busy first; among equals, each is first in turn. Those that say that they
    /// do not serve at the moment come last.
    pub fn by_load(&self) -> Vec<Arc<Member>> {
        let mut members = self.members();
        members.retain(|member| member.health() != Health::Silent);
        if !members.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % members.len();
            members.rotate_left(turn);
        }
        members.sort_by_key(|member| (member.health(), member.calls()));
        members
    }

    /// Returns when one is well, or how each of them is was found out; after the time that calls wait for one at the
    /// latest.
    pub async fn known(&self) {
        let deadline = Instant::now() + self.patience.0;
        loop {
            let changed = self.changed.notified();
            let members = self.members();
            let is_well = |member: &Arc<Member>| member.health() == Health::Serves;
            if members.iter().any(is_well) || members.iter().all(|member| member.is_known()) {
                return;
            }
            if timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    /// The first of [`Self::by_load`] that was not tried: every call asks for it, so nothing is sorted.
    fn first_by_load(&self, tried: &[Arc<Member>]) -> Option<Arc<Member>> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % members.len().max(1);
        let (before, from) = members.split_at(turn);
        from.iter()
            .chain(before)
            .filter(|member| member.health() != Health::Silent)
            .filter(|member| !tried.iter().any(|tried| Arc::ptr_eq(tried, member)))
            .min_by_key(|member| (member.health(), member.calls()))
            .cloned()
    }

    /// A link that gives each call to the least busy of those that are well, and keeps `kept` for as long as it is there.
    pub fn link<K: Clone + Send + Sync + 'static>(self: Arc<Self>, kept: K) -> Link {
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let _ = &kept;
            call(Arc::clone(&self), request)
        }))
    }

    /// The least busy one that is well and was not tried; waits for one until `deadline` if none was tried.
    async fn next(&self, tried: &[Arc<Member>], deadline: Instant) -> Option<Arc<Member>> {
        loop {
            let changed = self.changed.notified();
            if let Some(member) = self.first_by_load(tried) {
                return Some(member);
            }
            if !tried.is_empty() || timeout_at(deadline, changed).await.is_err() {
                return None;
            }
        }
    }
}

/// Makes a call at one server after the other until one of them has it: another is asked only if the call was not sent,
/// or changes nothing.
async fn call(set: Arc<Set>, request: Request<Body>) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(Error::Request)?.to_bytes();
    let request = || {
        Request::from_parts(
            parts.clone(),
            Body::new(Full::new(Bytes::clone(&body)).map_err(|never| match never {})),
        )
    };
    let reads = only_reads(parts.uri.path());
    let deadline = Instant::now() + set.patience.0;
    let mut tried = Vec::new();
    let mut outcome = Err(Error::unreachable());
    while let Some(member) = set.next(&tried, deadline).await {
        let others = || {
            let is_tried = |other: &Arc<Member>| {
                let mut tried = tried.iter().chain([&member]);
                tried.any(|tried| Arc::ptr_eq(tried, other))
            };
            let mut members = set.members().into_iter();
            members.any(|other| other.health() == Health::Serves && !is_tried(&other))
        };
        let answer = member.call(request());
        outcome = if reads && others() {
            let answer = tokio::time::timeout(SLOW, answer).await;
            answer.unwrap_or_else(|_| Err(Error::silent()))
        } else {
            answer.await
        };
        let goes_on = match &outcome {
            Ok(answer) => reads && is_unavailable(answer) && others(),
            Err(error) => reads || error.is_unsent(),
        };
        if !goes_on {
            break;
        }
        tried.push(member);
    }
    outcome
}

/// Whether a call changes nothing, by its name.
fn only_reads(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    READS.iter().any(|read| method.starts_with(read))
}
