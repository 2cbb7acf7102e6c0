//! Links between services: over the network, or straight into a service of the same process.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

/// What a generated client speaks through. Clones share the connection.
pub type Link = BoxCloneSyncService<Request<Body>, Response<Body>, Error>;

/// A call that did not reach its server.
#[derive(Debug, thiserror::Error)]
#[error("calling another service")]
pub struct Error(#[from] tonic::transport::Error);

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

/// A link to a server at `url` (`http://host:port`). It connects when it is first used, and again when it breaks.
///
/// With a token, each call carries it as `authorization: Bearer …`.
pub fn remote(url: &str, token: Option<String>) -> Result<Link, tonic::transport::Error> {
    let channel: Channel = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(Duration::from_secs(3))
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_lazy();
    let bearer =
        token.and_then(|token| http::HeaderValue::try_from(format!("Bearer {token}")).ok());
    let link = channel
        .map_err(Error::from)
        .map_request(move |mut request: Request<Body>| {
            if let Some(bearer) = &bearer {
                request
                    .headers_mut()
                    .insert(http::header::AUTHORIZATION, bearer.clone());
            }
            request
        });
    Ok(BoxCloneSyncService::new(link))
}
