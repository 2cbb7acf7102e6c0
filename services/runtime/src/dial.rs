//! A connection to one process at one address, and nothing that replaces it when it breaks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

use crate::link::{Error, Link, authorize, bearer};

/// Connects to `address`. With a token, each call carries it as `authorization: Bearer …`.
///
/// The error is that of connecting, so that it tells whether there was somebody who refused.
pub async fn dial(address: SocketAddr, token: Option<String>) -> io::Result<Link> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(io::Error::other)?
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    let mut stream = Some(stream);
    let once = service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint
        .connect_with_connector(once)
        .await
        .map_err(io::Error::other)?;
    let bearer = token.map(|token| bearer(&token)).transpose();
    let bearer = bearer.map_err(io::Error::other)?;
    let link = channel
        .map_err(Error::from)
        .map_request(move |mut request: Request<Body>| {
            authorize(&mut request, bearer.as_ref());
            request
        });
    Ok(BoxCloneSyncService::new(link))
}

/// `host:port` of a URL; none if it is not one.
pub fn authority(url: &str) -> Option<String> {
    let url: http::Uri = url.parse().ok()?;
    Some(format!("{}:{}", url.host()?, url.port_u16().unwrap_or(80)))
}

/// Whether a URL names a machine by its address and a port of it, so that only one process can listen there.
pub fn is_of_one_process(url: &str) -> bool {
    let address = authority(url).and_then(|authority| authority.parse::<SocketAddr>().ok());
    address.is_some_and(|address| {
        let is_any = match address.ip() {
            IpAddr::V4(ip) => ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_unspecified(),
        };
        address.port() != 0 && !is_any
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_is_of_one_process() {
        for (url, expected) in [
            ("http://127.0.0.1:8643", true),
            ("http://[fd00::1]:8643", true),
            ("http://10.0.0.1", true),
            ("http://127.0.0.1:0", false),
            ("http://0.0.0.0:8643", false),
            ("http://orchestrator:8643", false),
            ("", false),
        ] {
            assert_eq!(is_of_one_process(url), expected, "{url}");
        }
    }
}
