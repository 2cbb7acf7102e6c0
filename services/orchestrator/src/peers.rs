//! Other orchestrator processes: being told by them to look for runs, and seeing at once that one is gone.
//!
//! Each process keeps a connection to each other: to those that the store tells of, and to those that connect to it, which
//! may be too new for the store to have told of them. When a connection breaks, and its address then refuses a new one or is
//! answered by another process, the process is gone: nobody has to wait for its lease. Everything else says nothing: it
//! may be the network, so the lease decides.

mod contact;

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use talaria_proto::v1::peer_service_server::PeerService;
use talaria_proto::v1::{Peer, WatchProcessRequest, WatchProcessResponse};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{AbortHandle, JoinSet};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::service::{Orchestrator, Shared};

/// Calls to look for runs that wait for their readers; who falls behind looks all the same.
const CALLS: usize = 64;

/// How this process calls others to look for runs.
#[derive(Debug)]
pub struct Calls(broadcast::Sender<Option<Uuid>>);

impl Default for Calls {
    fn default() -> Self {
        Self(broadcast::Sender::new(CALLS))
    }
}

impl Calls {
    /// Calls all who watch this process: there may be runs to claim.
    pub fn call_all(&self) {
        // Nobody may be watching.
        let _ = self.0.send(None);
    }

    /// Calls this one: runs of its may have to stop.
    pub fn call(&self, incarnation: Uuid) {
        let _ = self.0.send(Some(incarnation));
    }
}

/// Watches the other processes that the store knows, for as long as it is polled.
pub async fn watch_all(shared: &Arc<Shared>) {
    let mut listed = shared.peers.subscribe();
    let mut tasks = JoinSet::new();
    let mut watched: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        tokio::select! {
            changed = listed.changed() => if changed.is_err() {
                return;
            },
            Some(_) = tasks.join_next() => {
                // Who is listed again, or still, was not gone.
                watched.retain(|_, task| !task.is_finished());
                continue;
            }
        }
        let peers: Vec<Peer> = listed.borrow_and_update().clone();
        watched.retain(|incarnation, task| {
            let stays = peers.iter().any(|peer| peer.incarnation == *incarnation);
            if !stays {
                task.abort();
            }
            stays
        });
        for peer in peers {
            let incarnation = peer.incarnation.clone();
            if !watched.contains_key(&incarnation) && peer.address != shared.config.address {
                let watch = contact::watch(Arc::clone(shared), peer);
                watched.insert(incarnation, tasks.spawn(watch));
            }
        }
    }
}

/// Watches who asks as well, until the store says who is there.
fn introduce(shared: &Shared, asks: WatchProcessRequest) {
    let WatchProcessRequest {
        incarnation,
        address,
    } = asks;
    if incarnation.is_empty() || address.is_empty() {
        return;
    }
    shared.peers.send_if_modified(|peers| {
        let is_new = peers.iter().all(|peer| peer.incarnation != incarnation);
        if is_new {
            peers.push(Peer {
                incarnation,
                address,
            });
        }
        is_new
    });
}

#[tonic::async_trait]
impl PeerService for Orchestrator {
    type WatchProcessStream = BoxStream<'static, Result<WatchProcessResponse, Status>>;

    async fn watch_process(
        &self,
        request: Request<WatchProcessRequest>,
    ) -> Result<Response<Self::WatchProcessStream>, Status> {
        let shared = Arc::clone(self.shared());
        introduce(&shared, request.into_inner());
        let calls = shared.calls.0.subscribe();
        let message = {
            let incarnation = shared.incarnation.to_string();
            move |meant: Option<Uuid>| WatchProcessResponse {
                incarnation: incarnation.clone(),
                meant: meant.map(|meant| meant.to_string()).unwrap_or_default(),
            }
        };
        let first = message(None);
        let calls = stream::unfold((shared, calls), |(shared, mut calls)| async {
            let call = tokio::select! {
                biased;
                call = calls.recv() => call,
                () = shared.gone.cancelled() => Err(RecvError::Closed),
            };
            match call {
                Ok(meant) => Some((meant, (shared, calls))),
                Err(RecvError::Lagged(_)) => Some((None, (shared, calls))),
                Err(RecvError::Closed) => None,
            }
        });
        let messages = stream::iter([first]).chain(calls.map(message)).map(Ok);
        Ok(Response::new(messages.boxed()))
    }
}
