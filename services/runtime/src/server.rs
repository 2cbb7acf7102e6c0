//! A gRPC server of ours: health, reflection, the shared token, an orderly end.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use subtle::ConstantTimeEq as _;
use talaria_proto::v1::FILE_DESCRIPTOR_SET;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};

/// The services of one gRPC server.
#[derive(Debug)]
pub struct GrpcServer {
    listener: TcpListener,
    routes: RoutesBuilder,
    token: Option<String>,
}

impl GrpcServer {
    /// Opens the address. With a token, calls without it are refused as `UNAUTHENTICATED`; health checks are not.
    pub async fn bind(address: SocketAddr, token: Option<String>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self {
            listener,
            routes: Routes::builder(),
            token,
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The check of the shared token, to wrap a service in.
    pub fn guard(&self) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone + use<> {
        let expected = self.token.as_ref().map(|token| format!("Bearer {token}"));
        move |request: Request<()>| {
            let given = request.metadata().get("authorization");
            let matches = |expected: &String| {
                given.is_some_and(|given| given.as_bytes().ct_eq(expected.as_bytes()).into())
            };
            if expected.as_ref().is_none_or(matches) {
                Ok(request)
            } else {
                Err(Status::unauthenticated(
                    "the shared token is missing or wrong",
                ))
            }
        }
    }

    /// Adds a generated server.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: tower::Service<http::Request<tonic::body::Body>, Error = std::convert::Infallible>
            + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self
    }

    /// Serves until `stop`, then lets calls end for at most `grace`. Tells whoever checks its health what `is_healthy`
    /// says; once that has no sender any more, what it said last.
    pub async fn serve(
        self,
        mut is_healthy: watch::Receiver<bool>,
        stop: CancellationToken,
        grace: Duration,
    ) -> anyhow::Result<()> {
        let Self {
            listener,
            mut routes,
            token: _,
        } = self;
        let (health, health_service) = tonic_health::server::health_reporter();
        let tell = async |is_healthy| {
            let status = if is_healthy {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            health.set_service_status("", status).await;
        };
        let now = *is_healthy.borrow_and_update();
        tell(now).await;
        routes.add_service(health_service);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .context("building the reflection service")?;
        routes.add_service(reflection);
        let serving = Server::builder()
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                stop.clone().cancelled_owned(),
            );
        let telling = async {
            while is_healthy.changed().await.is_ok() {
                let now = *is_healthy.borrow_and_update();
                tell(now).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            served = with_grace(serving, stop, grace) => served.context("serving gRPC"),
            never = telling => never,
        }
    }
}

/// Runs `serving`, which ends by itself after `stop`, and gives it up `grace` after that.
async fn with_grace<E>(
    serving: impl Future<Output = Result<(), E>>,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), E> {
    tokio::select! {
        ended = serving => ended,
        () = async { stop.cancelled().await; tokio::time::sleep(grace).await } => Ok(()),
    }
}
