//! One server of a service: its connection, what it has to do, and whether it is well.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt as _;

use super::Error;

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
    is_well: AtomicBool,
    calls: AtomicUsize,
    /// Told when the server becomes well.
    changed: Arc<Notify>,
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
            is_well: AtomicBool::new(false),
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
    pub fn is_well(&self) -> bool {
        self.state.is_well.load(Ordering::Acquire)
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
        if let Some(bearer) = &self.bearer {
            let headers = request.headers_mut();
            headers.insert(http::header::AUTHORIZATION, bearer.clone());
        }
        let mut call = Call::begin(self);
        let answer = self.channel.clone().oneshot(request).await;
        call.is_answered = true;
        match answer {
            Ok(answer) => Ok(answer.map(|body| Body::new(Answer { body, _call: call }))),
            Err(error) => {
                self.suspect();
                Err(error.into())
            }
        }
    }

    /// Gives it no more calls until it says that it is well.
    pub fn suspect(&self) {
        if self.state.is_well.swap(false, Ordering::AcqRel) {
            self.watch();
        }
    }

    fn watch(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let probing = probe_until_well(self.endpoint.clone(), Arc::clone(&self.state));
        let probing = AbortOnDropHandle::new(runtime.spawn(probing));
        *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(probing);
    }
}

async fn probe_until_well(endpoint: Endpoint, state: Arc<State>) {
    let mut pause = PAUSES.0;
    while !probe(&endpoint).await {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    state.is_well.store(true, Ordering::Release);
    state.changed.notify_waiters();
}

/// Whether a server says on a new connection how it is: one that is frozen takes connections, too.
///
/// One that says it stops still has what it has, and refuses what it does not take.
async fn probe(endpoint: &Endpoint) -> bool {
    let asking = async {
        let channel = endpoint.connect().await.ok()?;
        let mut health = HealthClient::new(channel);
        let answer = health.check(HealthCheckRequest::default()).await.ok()?;
        Some(answer.into_inner())
    };
    let answer = tokio::time::timeout(PROBE, asking).await;
    answer.is_ok_and(|answer| answer.is_some())
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
    _call: Call,
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
