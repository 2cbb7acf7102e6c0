//! A scripted model server: it says what the test wants, when the test wants it, and breaks where it should.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use talaria_testkit::upstream::{ResponsesStream, Upstream};
//!
//! let upstream = Upstream::start().await?;
//! upstream.push(ResponsesStream::new().text(&["Hel", "lo"]).gate("rest").text(&["again"]).completed());
//! // … point the product at upstream.base_url() and post a response …
//! let request = upstream.request(0).await?;
//! assert_eq!(request.body["model"], "gpt-test");
//! upstream.open("rest");
//! request.closed().await?;
//! # Ok(())
//! # }
//! ```

mod chat;
mod record;
mod responses;
mod script;
mod serve;

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use chat::ChatStream;
pub use record::{Ending, Request};
pub use responses::{ResponsesStream, response_object};
pub use script::{Script, Step};

use crate::deadline::within;

type Chooser = Box<dyn Fn(&Request) -> Option<Script> + Send + Sync>;

/// A model server on a free port of 127.0.0.1; ends, with all its connections, at drop.
///
/// A request is answered by the first of these that has a script for it: the function given to
/// [`choose`](Self::choose), then, for `POST …/responses` and `POST …/chat/completions`, the queue of
/// [`push`](Self::push). Others get 404, and a request too many gets 500.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

/// What the test and the connections share.
struct Shared {
    scripts: Mutex<VecDeque<Script>>,
    chooser: Mutex<Option<Chooser>>,
    requests: watch::Sender<Vec<Request>>,
    open_gates: watch::Sender<HashSet<String>>,
}

impl Upstream {
    /// Starts a server that has nothing to say yet.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("binding the scripted upstream")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            chooser: Mutex::default(),
            requests: watch::Sender::default(),
            open_gates: watch::Sender::default(),
        });
        let mut connections = JoinSet::new();
        connections.spawn(serve::accept(listener, shared.clone()));
        Ok(Self {
            address,
            shared,
            _connections: connections,
        })
    }

    /// The base URL for an upstream's configuration: `http://127.0.0.1:…/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Queues the script for the next request that has none.
    pub fn push(&self, script: Script) {
        lock(&self.shared.scripts).push_back(script);
    }

    /// Lets `chooser` answer requests of any method and path; where it says `None`, the queue answers.
    pub fn choose(&self, chooser: impl Fn(&Request) -> Option<Script> + Send + Sync + 'static) {
        *lock(&self.shared.chooser) = Some(Box::new(chooser));
    }

    /// Lets every script that waits for `gate`, or will wait for it, go on.
    pub fn open(&self, gate: &str) {
        self.shared.open_gates.send_modify(|gates| {
            gates.insert(gate.to_owned());
        });
    }

    /// The request number `n`, counted from 0; waits until it has arrived.
    pub async fn request(&self, n: usize) -> anyhow::Result<Request> {
        let mut requests = self.shared.requests.subscribe();
        let arrived = requests.wait_for(|requests| requests.len() > n);
        let requests = within(&format!("request {n} to the upstream"), arrived).await??;
        Ok(requests[n].clone())
    }

    /// The requests that have arrived.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("scripts", &self.scripts)
            .field("requests", &self.requests)
            .field("open_gates", &self.open_gates)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A test that panicked while it held the lock fails anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
