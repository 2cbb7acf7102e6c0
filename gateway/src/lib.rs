//! What a client sees: OpenAI's HTTP and SSE, in front of the run orchestrator and the store.
//!
//! Stateless: any façade answers for any response.

mod approvals;
mod calls;
mod capabilities;
mod chat;
pub mod check;
mod conversations;
pub mod error;
mod events;
mod follow;
mod front;
mod health;
mod idempotency;
mod models;
mod orchestrators;
mod paging;
pub mod render;
pub mod responses;
mod runs;
mod sdk;
mod server;
mod session;
mod tool_items;
mod unread;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use talaria_proto::v1::store_service_client::StoreServiceClient;
use talaria_runtime::link::{Link, MAX_MESSAGE_BYTES, Replicas};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use orchestrators::Orchestrators;
pub use server::serve;

/// What a façade needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The key of the tenant `default`; none only on a loopback address.
    pub api_key: Option<SecretString>,
    pub cors: Cors,
    /// The largest request body; larger ones are 413.
    pub max_body_bytes: usize,
    /// How long a stream stays silent before a comment shows that it lives.
    pub keepalive: Duration,
    /// What a client that leaves does to its chat completion.
    pub chat_disconnect: ChatDisconnect,
    /// Show the tools that the server runs in streams of chat completions.
    pub tool_progress_events: bool,
}

/// What becomes of a chat completion whose client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatDisconnect {
    /// It goes on with a session, and is cancelled without.
    BySession,
    /// It goes on.
    Detach,
    Cancel,
}

/// Which web pages may use the façade.
#[derive(Clone, Debug)]
pub enum Cors {
    Any,
    /// Origins as browsers send them; none is allowed by an empty list.
    List(Vec<String>),
}

/// A façade. Clones share everything, and cost nothing: every layer of every route holds some.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

/// What the clones of a façade share.
pub struct Shared {
    config: Config,
    orchestrators: Orchestrators,
    store: StoreServiceClient<Link>,
    /// Set when it is about to stop: it is not to be sent requests any more.
    draining: CancellationToken,
    /// Set when it stops: open streams end.
    stop: CancellationToken,
    /// What is still to be done for requests whose clients have left.
    tasks: TaskTracker,
}

impl Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Gateway {
    /// A façade in front of orchestrators and stores. It is not ready any more from `draining` on, and stops at `stop`.
    pub fn new(
        config: Config,
        orchestrators: Replicas,
        store: Link,
        draining: CancellationToken,
        stop: CancellationToken,
    ) -> Self {
        let store = StoreServiceClient::new(store)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self(Arc::new(Shared {
            config,
            orchestrators: Orchestrators::new(orchestrators),
            store,
            draining,
            stop,
            tasks: TaskTracker::new(),
        }))
    }

    /// Whether requests that name this address are for us, as far as a browser can be trusted with it.
    fn is_open_to_anyone(&self, address: SocketAddr) -> bool {
        self.config.api_key.is_some() || !address.ip().is_loopback()
    }
}

/// Who a request is from.
#[derive(Clone, Debug)]
pub struct Tenant(pub String);

impl Default for Tenant {
    fn default() -> Self {
        Self("default".to_owned())
    }
}
