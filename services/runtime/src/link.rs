//! Links between services: over the network, or straight into a service of the same process.

mod member;
mod replicas;
mod set;
#[cfg(test)]
mod tests;

use std::convert::Infallible;

use http::{HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

pub use replicas::Replicas;

/// What a generated client speaks through. Clones share the connections.
pub type Link = BoxCloneSyncService<Request<Body>, Response<Body>, Error>;

/// A call without an answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not sent: nobody can be connected to. The status is what callers see.
    #[error("no server can be reached")]
    Unreachable(#[source] Status),
    /// It may have been heard.
    #[error("calling another service")]
    Transport(#[from] tonic::transport::Error),
    /// It only reads, and was given up for another server.
    #[error("a server does not answer")]
    Silent(#[source] Status),
    /// What was to be sent could not be made.
    #[error("making a request")]
    Request(#[source] Status),
}

impl Error {
    fn unreachable() -> Self {
        Self::Unreachable(Status::unavailable("no server can be reached"))
    }

    fn silent() -> Self {
        Self::Silent(Status::unavailable("a server does not answer"))
    }

    /// Whether the server certainly did not hear the call.
    fn is_unsent(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            // hyper cancels requests that its connection has not begun to write.
            let is_cancelled = error.downcast_ref().is_some_and(hyper::Error::is_canceled);
            let is_unreachable = matches!(error.downcast_ref(), Some(Self::Unreachable(_)));
            if is_cancelled || is_unreachable || error.is::<tonic::ConnectError>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Whether a call that failed with this status certainly did not reach its server: it can be made again elsewhere.
pub fn is_unsent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<Error>() {
            return error.is_unsent();
        }
        cause = error.source();
    }
    false
}

/// What calls carry as `authorization` where services share a token; an error if it cannot stand in a header.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    HeaderValue::try_from(format!("Bearer {token}"))
}

/// Puts that into a call.
pub(crate) fn authorize(request: &mut Request<Body>, bearer: Option<&HeaderValue>) {
    if let Some(bearer) = bearer {
        let headers = request.headers_mut();
        headers.insert(http::header::AUTHORIZATION, bearer.clone());
    }
}

/// The largest gRPC message: a context of many turns with images in it.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A link to a generated server in this process: the same calls and messages, without a socket.
pub fn local<S>(server: S) -> Link
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(server.map_err(|never| match never {}))
}
