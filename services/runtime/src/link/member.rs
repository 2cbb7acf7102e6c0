//! One server of a service: its connection, what it has to do, and whether it is well.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt as _;

use super::{Error, authorize};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// A silent connection is asked whether it lives after the first of these, and given up after the second.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(4));
/// How long a server may take to say that it is well.
const PROBE: Duration = Duration::from_secs(2);
/// Pauses between questions to a server that is not well: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A call that its caller gives up after this long without an answer makes its server suspect.
pub const SLOW: Duration = Duration::from_millis(1500);
/// `UNAVAILABLE`, as it is on the wire.
const UNAVAILABLE: &[u8] = b"14";

/// One server.
#[derive(Debug)]
pub struct Member {
    /// `http://host:port`
    pub url: String,
    endpoint: Endpoint,
    channel: Channel,
    bearer: Option<http::HeaderValue>,
    state: Arc<State>,
    probe: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Debug)]
struct State {
    /// A [`Health`].
    health: AtomicU8,
    /// Whether it was found out how it is.
    is_known: AtomicBool,
    calls: AtomicUsize,
    /// Told when that is first found out, and when the server answers again.
    changed: Arc<Notify>,
}

/// How a server is, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Health {
    Serves,
    /// It says that it stops, or lacks what it needs. It may have something to say all the same.
    Refuses,
    Silent,
}

impl State {
    fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Serves,
            1 => Health::Refuses,
            _ => Health::Silent,
        }
    }

    /// Sets it, and tells whether it served before.
    fn set(&self, health: Health) -> bool {
        let before = self.health.swap(health as u8, Ordering::AcqRel);
        let was_known = self.is_known.swap(true, Ordering::AcqRel);
        if !was_known || health < Health::Silent {
            self.changed.notify_waiters();
        }
        before == Health::Serves as u8
    }
}

impl Member {
    /// A server that is asked at once whether it is well; `changed` is told when it is.
    pub fn new(
        url: String,
        bearer: Option<http::HeaderValue>,
        changed: Arc<Notify>,
    ) -> Result<Arc<Self>, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(url.clone())?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        let state = State {
            health: AtomicU8::new(Health::Silent as u8),
            is_known: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            changed,
        };
        let member = Self {
            url,
            channel: endpoint.connect_lazy(),
            endpoint,
            bearer,
            state: Arc::new(state),
            probe: Mutex::new(None),
        };
        member.watch();
        Ok(Arc::new(member))
    }

    /// Whether it can be given calls.
    pub fn health(&self) -> Health {
        self.state.health()
    }

    /// Whether it was found out how it is, since it was first heard of.
    pub fn is_known(&self) -> bool {
        self.state.is_known.load(Ordering::Acquire)
    }

    /// Calls that it has not finished, streams included.
    pub fn calls(&self) -> usize {
        self.state.calls.load(Ordering::Relaxed)
    }

    /// Calls it.
    pub async fn call(
        self: &Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Error> {
        authorize(&mut request, self.bearer.as_ref());
        let mut call = Call::begin(self);
        let answer = self.channel.clone().oneshot(request).await;
        call.is_answered = true;
        match answer {
            Ok(answer) => {
                if is_unavailable(&answer) && self.state.set(Health::Refuses) {
                    self.watch();
                }
                Ok(answer.map(|body| Body::new(Answer { body, call })))
            }
            Err(error) => {
                self.suspect();
                Err(error.into())
            }
        }
    }

    /// Gives it no more calls until it says that it is well.
    pub fn suspect(&self) {
        let before = self.state.health();
        self.state.set(Health::Silent);
        // Otherwise it is being asked already.
        if before == Health::Serves {
            self.watch();
        }
    }

    fn watch(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let probing = probe_until_it_serves(self.endpoint.clone(), Arc::clone(&self.state));
        let probing = AbortOnDropHandle::new(runtime.spawn(probing));
        *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(probing);
    }
}

async fn probe_until_it_serves(endpoint: Endpoint, state: Arc<State>) {
    let mut pause = PAUSES.0;
    loop {
        let health = probe(&endpoint).await;
        state.set(health);
        if health == Health::Serves {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// What a server says on a new connection: one that is frozen takes connections, too.
async fn probe(endpoint: &Endpoint) -> Health {
    let asking = async {
        let channel = endpoint.connect().await.ok()?;
        let mut health = HealthClient::new(channel);
        let answer = health.check(HealthCheckRequest::default()).await.ok()?;
        Some(answer.into_inner().status())
    };
    match tokio::time::timeout(PROBE, asking).await {
        Ok(Some(ServingStatus::Serving)) => Health::Serves,
        Ok(Some(_)) => Health::Refuses,
        Ok(None) | Err(_) => Health::Silent,
    }
}

/// Whether a server answers that it cannot do what it is for.
pub fn is_unavailable(answer: &Response<Body>) -> bool {
    let status = answer.headers().get("grpc-status");
    status.is_some_and(|status| status.as_bytes() == UNAVAILABLE)
}

/// A call that is counted.
struct Call {
    member: Arc<Member>,
    began: Instant,
    is_answered: bool,
}

impl Call {
    fn begin(member: &Arc<Member>) -> Self {
        member.state.calls.fetch_add(1, Ordering::Relaxed);
        Self {
            member: Arc::clone(member),
            began: Instant::now(),
            is_answered: false,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.member.state.calls.fetch_sub(1, Ordering::Relaxed);
        if !self.is_answered && self.began.elapsed() >= SLOW {
            self.member.suspect();
        }
    }
}

/// The body of an answer, which counts as a call until it ends.
struct Answer {
    body: Body,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Err(_))) = polled {
            self.call.member.suspect();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
