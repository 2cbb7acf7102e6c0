use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service, ServiceExt as _};

use super::{Error, Link, Replicas, is_unsent};
use crate::server::GrpcServer;

/// A service whose every method answers with the name of its server, when it may.
#[derive(Clone)]
struct Named {
    name: &'static str,
    may_answer: Arc<Semaphore>,
    is_unavailable: Arc<AtomicBool>,
}

impl NamedService for Named {
    const NAME: &'static str = "test.Named";
}

impl Service<Request<Body>> for Named {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = futures::future::BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let named = self.clone();
        Box::pin(async move {
            let may = named.may_answer.acquire().await;
            drop(may);
            let is_unavailable = named.is_unavailable.load(Ordering::SeqCst);
            let status = if is_unavailable {
                Status::unavailable("")
            } else {
                Status::ok("")
            };
            let mut answer = status.into_http::<Body>();
            answer
                .headers_mut()
                .insert("name", http::HeaderValue::from_static(named.name));
            Ok(answer)
        })
    }
}

struct Running {
    address: SocketAddr,
    may_answer: Arc<Semaphore>,
    is_unavailable: Arc<AtomicBool>,
    healthy: watch::Sender<bool>,
    stop: CancellationToken,
    _stops: DropGuard,
    serving: JoinSet<anyhow::Result<()>>,
}

impl Running {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn end(mut self) -> anyhow::Result<SocketAddr> {
        self.stop.cancel();
        while let Some(ended) = self.serving.join_next().await {
            ended??;
        }
        Ok(self.address)
    }
}

async fn start(name: &'static str, address: Option<SocketAddr>) -> anyhow::Result<Running> {
    let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = GrpcServer::bind(address, None).await?;
    let address = server.address()?;
    let may_answer = Arc::new(Semaphore::new(1));
    let is_unavailable = Arc::new(AtomicBool::new(false));
    let named = Named {
        name,
        may_answer: Arc::clone(&may_answer),
        is_unavailable: Arc::clone(&is_unavailable),
    };
    let stop = CancellationToken::new();
    let (healthy, is_healthy) = watch::channel(true);
    let serving = server
        .with(named)
        .serve(is_healthy, stop.clone(), Duration::ZERO);
    Ok(Running {
        address,
        may_answer,
        is_unavailable,
        healthy,
        _stops: stop.clone().drop_guard(),
        stop,
        serving: JoinSet::from_iter([serving]),
    })
}

fn request(method: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = format!("http://test/test.Named/{method}")
        .parse()
        .unwrap_or_default();
    *request.method_mut() = http::Method::POST;
    request
}

async fn ask(link: &Link, method: &str) -> Result<String, Error> {
    let answer = link.clone().oneshot(request(method)).await?;
    let name = answer
        .headers()
        .get("name")
        .and_then(|name| name.to_str().ok());
    Ok(name.unwrap_or_default().to_owned())
}

#[tokio::test]
async fn calls_are_spread_over_servers_that_are_well() -> anyhow::Result<()> {
    let (first, second) = (start("first", None).await?, start("second", None).await?);
    let replicas = Replicas::remote(&[first.url(), second.url()], None)?;
    while replicas.each().len() < 2 {
        tokio::task::yield_now().await;
    }

    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(ask(&replicas.link(), "Change").await?);
    }
    names.sort();
    assert_eq!(names, ["first", "first", "second", "second"]);

    first.end().await?;
    for method in ["Change", "Change", "GetIt", "GetIt"] {
        // Whether the connection's end was noticed before the call or by it.
        let answer = ask(&replicas.link(), method).await;
        match answer {
            Ok(name) => assert_eq!(name, "second"),
            Err(error) => assert!(method == "Change" && !error.is_unsent(), "{error}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_call_waits_for_a_server_that_comes_back() -> anyhow::Result<()> {
    let server = start("before", None).await?;
    let replicas = Replicas::remote(&[server.url()], None)?;
    assert_eq!(ask(&replicas.link(), "Change").await?, "before");
    let address = server.end().await?;

    let link = replicas.link();
    let mut asking = JoinSet::new();
    asking.spawn(async move {
        // The first may find out that the connection is gone.
        while let Err(error) = ask(&link, "GetIt").await {
            assert!(error.is_unsent(), "{error}");
        }
        ask(&link, "Change").await
    });
    let _back = start("after", Some(address)).await?;
    let answers: Result<Vec<String>, Error> = asking.join_all().await.into_iter().collect();
    assert_eq!(answers?, ["after"]);
    Ok(())
}

#[tokio::test]
async fn what_was_not_sent_is_known() -> anyhow::Result<()> {
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let replicas = Replicas::remote(&[format!("http://{nobody}")], None)?;
    assert!(replicas.each().is_empty());

    let error = ask(&replicas.link(), "Change").await.err();
    let status = error.map(|error| Status::from_error(error.into()));
    let told = status.map(|status| (status.code(), is_unsent(&status)));
    assert_eq!(told, Some((Code::Unavailable, true)));
    assert!(!is_unsent(&Status::unavailable("of the server itself")));
    Ok(())
}

#[tokio::test]
async fn servers_are_chosen_from_once_it_is_known_how_they_are() -> anyhow::Result<()> {
    let (refusing, well) = (start("refusing", None).await?, start("well", None).await?);
    refusing.healthy.send_replace(false);
    // It takes connections, and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").await?;
    let silent = format!("http://{}", mute.local_addr()?);

    let replicas = Replicas::remote(&[refusing.url(), silent], None)?;
    while replicas.each().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut choosing = Box::pin(replicas.each_known());
    assert!(choosing.as_mut().now_or_never().is_none());
    drop(mute);
    assert_eq!(choosing.await.len(), 1);

    let replicas = Replicas::remote(&[refusing.url(), well.url()], None)?;
    assert!(replicas.each().is_empty());
    let links = replicas.each_known().await;
    assert_eq!(ask(&links[0], "Change").await?, "well");
    Ok(())
}

#[tokio::test]
async fn what_only_reads_goes_elsewhere_when_a_server_is_silent() -> anyhow::Result<()> {
    let (first, second) = (start("first", None).await?, start("second", None).await?);
    let replicas = Replicas::remote(&[first.url(), second.url()], None)?;
    while replicas.each().len() < 2 {
        tokio::task::yield_now().await;
    }
    first.may_answer.forget_permits(1);

    for _ in 0..2 {
        assert_eq!(ask(&replicas.link(), "GetIt").await?, "second");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_can_be_asked_by_its_address() -> anyhow::Result<()> {
    let (listed, other) = (start("listed", None).await?, start("other", None).await?);
    let replicas = Replicas::remote(&[listed.url()], None)?;
    for (server, name) in [(&listed, "listed"), (&other, "other")] {
        let link = replicas
            .at(&format!("{}/", server.url()))
            .ok_or_else(|| anyhow::anyhow!("no URL"))?;
        assert_eq!(ask(&link, "Change").await?, name);
    }
    assert!(replicas.at("no address").is_none());
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_serve_is_asked_when_no_other_is_there() -> anyhow::Result<()> {
    let (first, second) = (start("first", None).await?, start("second", None).await?);
    first.healthy.send_replace(false);
    let replicas = Replicas::remote(&[first.url(), second.url()], None)?;
    while replicas.each().len() < 2 {
        tokio::task::yield_now().await;
    }

    for _ in 0..3 {
        assert_eq!(ask(&replicas.link(), "Change").await?, "second");
    }
    second.end().await?;
    while ask(&replicas.link(), "GetIt").await? != "first" {}
    Ok(())
}

#[tokio::test]
async fn what_only_reads_goes_on_from_a_server_that_cannot_answer() -> anyhow::Result<()> {
    let (first, second) = (start("first", None).await?, start("second", None).await?);
    let replicas = Replicas::remote(&[first.url(), second.url()], None)?;
    while replicas.each().len() < 2 {
        tokio::task::yield_now().await;
    }
    first.is_unavailable.store(true, Ordering::SeqCst);
    first.healthy.send_replace(false);
    let channel = tonic::transport::Endpoint::from_shared(first.url())?
        .connect()
        .await?;
    let mut health = HealthClient::new(channel);
    let mut status = ServingStatus::Serving;
    while status == ServingStatus::Serving {
        let answer = health.check(HealthCheckRequest::default()).await?;
        status = answer.into_inner().status();
    }

    for _ in 0..4 {
        assert_eq!(ask(&replicas.link(), "GetIt").await?, "second");
    }
    // By now that is known, and changes are not tried there.
    for _ in 0..4 {
        assert_eq!(ask(&replicas.link(), "Change").await?, "second");
    }
    Ok(())
}
