//! The connection to one other process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use talaria_proto::v1::peer_service_client::PeerServiceClient;
use talaria_proto::v1::{EndLeaseRequest, Peer, WatchProcessRequest};
use talaria_runtime::dial::{self, authority};
use tokio::time::Instant;
use tonic::Status;

use crate::journal::{deadline, within};
use crate::service::Shared;

/// How long a connection, and the first word through it, may take.
const ANSWER: Duration = Duration::from_secs(2);
/// Pauses between tries to reach a process: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How a contact ended.
enum Contact {
    /// The process was there, and then the connection was not.
    Broke,
    /// Where the process was, it is no more.
    Gone,
    /// It cannot be told.
    Unclear,
}

/// Keeps in contact with a process until it is gone, and then ends its lease.
pub async fn watch(shared: Arc<Shared>, peer: Peer) {
    let mut seen_at = None;
    let mut pause = PAUSES.0;
    loop {
        let began = Instant::now();
        match contact(&shared, &peer, &mut seen_at).await {
            Contact::Gone => break,
            Contact::Broke => {
                // It may be broken again and again.
                tokio::time::sleep_until(began + PAUSES.0).await;
                pause = PAUSES.0;
                // If it left in order, there is something to take over.
                shared.nudge.notify_one();
            }
            Contact::Unclear => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
    tracing::info!(
        peer.incarnation,
        peer.address,
        "another orchestrator is gone"
    );
    while let Err(status) = end_lease(&shared, &peer).await {
        tracing::warn!(code = ?status.code(), "could not end the lease of another orchestrator");
        tokio::time::sleep(PAUSES.0).await;
    }
    shared.nudge.notify_one();
}

/// Connects to a process and listens to it. `seen_at` is where it was met before: that address alone can tell that it is
/// gone, whatever its name stands for by then.
async fn contact(shared: &Shared, peer: &Peer, seen_at: &mut Option<SocketAddr>) -> Contact {
    let address = match *seen_at {
        Some(address) => address,
        None => match resolve(&peer.address).await {
            Some(address) => address,
            None => return Contact::Unclear,
        },
    };
    let token = shared.config.token.as_ref();
    let token = token.map(|token| token.expose_secret().to_owned());
    let link = match within_answer(dial::dial(address, token)).await {
        Some(Ok(link)) => link,
        Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return if seen_at.is_some() {
                Contact::Gone
            } else {
                Contact::Unclear
            };
        }
        Some(Err(_)) | None => return Contact::Unclear,
    };
    let mut client = PeerServiceClient::new(link);
    let request = WatchProcessRequest {
        incarnation: shared.incarnation.to_string(),
        address: shared.config.address.clone(),
    };
    let first = within(ANSWER, async {
        let mut messages = client.watch_process(request).await?.into_inner();
        Ok(messages.message().await?.map(|first| (first, messages)))
    });
    let Ok(Some((first, mut messages))) = first.await else {
        return Contact::Unclear;
    };
    if first.incarnation != peer.incarnation {
        return if seen_at.is_some() {
            Contact::Gone
        } else {
            Contact::Unclear
        };
    }
    *seen_at = Some(address);
    tracing::info!(
        peer.incarnation,
        peer.address,
        "watching another orchestrator"
    );
    let own = shared.incarnation.to_string();
    while let Ok(Some(call)) = messages.message().await {
        if call.meant.is_empty() || call.meant == own {
            shared.nudge.notify_one();
        }
    }
    Contact::Broke
}

async fn resolve(url: &str) -> Option<SocketAddr> {
    let authority = authority(url)?;
    let found = within_answer(tokio::net::lookup_host(authority)).await?;
    found.ok()?.next()
}

async fn within_answer<T>(what: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(ANSWER, what).await.ok()
}

async fn end_lease(shared: &Shared, peer: &Peer) -> Result<(), Status> {
    let request = EndLeaseRequest {
        incarnation: peer.incarnation.clone(),
        died: true,
        ..Default::default()
    };
    let mut client = shared.journal.client();
    deadline(client.end_lease(request)).await.map(drop)
}
