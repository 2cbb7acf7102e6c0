//! Every spelling of an address inside that anybody thought of, and the ways around a check.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::Redirect;
use axum::routing::any;
use tokio::net::TcpListener;

use super::*;
use crate::tools::{McpServerConfig, McpTransport, RequestedServer, Toolbox, ToolboxConfig};

fn egress(allowed: &[&str]) -> Egress {
    let allowed = allowed.iter().map(|text| text.parse().unwrap());
    Egress::new(allowed.collect())
}

#[test]
fn nothing_inside_can_be_named_in_any_spelling() {
    let hosts = "
        127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0177.0.0.1 017700000001 127.0.0.1. 127.255.255.254
        %31%32%37.0.0.1 １２７.0.0.1 127。0。0。1 ①②⑦.⓪.⓪.①
        0.0.0.0 0 0x0 0.1.2.3 10.0.0.1 10.255.255.255 0xa.1 172.16.0.1 172.31.255.255 192.168.0.1 0xc0a80001
        100.64.0.1 100.127.255.255 100.100.100.200 169.254.169.254 169.254.1.1 2852039166 0xa9fea9fe 0251.0376.0251.0376
        168.63.129.16 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
        224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
        [::] [::1] [0:0:0:0:0:0:0:1] [::127.0.0.1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:a9fe:a9fe]
        [::ffff:8.8.8.8] [::ffff:0:127.0.0.1] [64:ff9b::a9fe:a9fe] [64:ff9b::7f00:1] [64:ff9b:1::1] [2002:a9fe:a9fe::]
        [2002:7f00:1::] [2001::1] [2001:0:4136:e378:8000:63bf:3fff:fdd2] [2001:db8::1] [3fff::1] [100::1]
        [fc00::1] [fd00:ec2::254] [fd20:ce::254] [fe80::1] [fec0::1] [ff02::1] [ff0e::1] [5f00::1]
    ";
    for host in hosts.split_whitespace() {
        let url = format!("https://{host}/mcp");
        let refused = egress(&[]).check(&url).map(|checked| checked.url);
        assert_eq!(refused, Err(Refusal::Address), "{host}");
    }
}

#[test]
fn public_addresses_and_names_can_be_named_over_https() {
    let hosts = "8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.1 172.32.0.1 169.253.0.1 223.255.255.255 [2606:4700::1111]
        [2a00:1450::1] mcp.example.com localhost 127.0.0.1.nip.io";
    for host in hosts.split_whitespace() {
        let checked = egress(&[]).check(&format!("https://{host}/mcp"));
        assert_eq!(
            checked.map(|checked| checked.rule),
            Ok(Rule::Public),
            "{host}"
        );
    }
}

#[test]
fn urls_that_are_not_plain_are_refused() {
    for (url, expected) in [
        ("", Refusal::NoUrl),
        ("mcp.example.com/mcp", Refusal::NoUrl),
        ("https://", Refusal::NoUrl),
        ("https://mcp.example.com:65536/", Refusal::NoUrl),
        ("https://1.2.3.4.5/", Refusal::NoUrl),
        ("https://256.1.1.1/", Refusal::NoUrl),
        ("file:///etc/passwd", Refusal::Scheme),
        ("gopher://example.com/", Refusal::Scheme),
        ("ftp://example.com/", Refusal::Scheme),
        ("data:,x", Refusal::Scheme),
        ("javascript:alert(1)", Refusal::Scheme),
        ("unix:/run/docker.sock", Refusal::Scheme),
        ("https://user@example.com/", Refusal::UserInfo),
        ("https://user:password@example.com/", Refusal::UserInfo),
        ("https://:password@example.com/", Refusal::UserInfo),
        ("https://example.com@127.0.0.1/", Refusal::UserInfo),
        ("https://127.0.0.1\\@example.com/", Refusal::Address),
        ("https://127.0.0.1#@example.com/", Refusal::Address),
        ("https://127.0.0.1?@example.com/", Refusal::Address),
        ("ht\ntps://12\t7.0.0.1/", Refusal::Address),
        ("http://8.8.8.8/", Refusal::Plain),
        ("http://10.0.0.1/", Refusal::Address),
    ] {
        let refused = egress(&[]).check(url).map(|checked| checked.url);
        assert_eq!(refused, Err(expected), "{url}");
    }
}

#[test]
fn the_operator_can_name_addresses_networks_and_hosts() {
    let egress = egress(&[
        "127.0.0.1",
        "10.0.0.0/8",
        "fd00::/8",
        "MCP.internal.example.",
    ]);
    for (url, expected) in [
        ("http://127.0.0.1:9000/mcp", Ok(Rule::Named)),
        ("https://127.0.0.1/", Ok(Rule::Public)),
        ("http://0x7f.1/", Ok(Rule::Named)),
        ("https://[::ffff:127.0.0.1]/", Ok(Rule::Public)),
        ("https://127.0.0.2/", Err(Refusal::Address)),
        ("http://10.20.30.40/", Ok(Rule::Named)),
        ("https://[fd00::1]/", Ok(Rule::Public)),
        ("https://[fc00::1]/", Err(Refusal::Address)),
        ("http://mcp.INTERNAL.example/", Ok(Rule::Any)),
        ("http://mcp.internal.example./", Ok(Rule::Any)),
        // Its addresses decide.
        ("http://other.internal.example/", Ok(Rule::Named)),
        ("https://xmcp.internal.example/", Ok(Rule::Public)),
    ] {
        let rule = egress.check(url).map(|checked| checked.rule);
        assert_eq!(rule, expected, "{url}");
    }
    for wrong in [
        "",
        "*",
        "10.0.0.0/33",
        "127.1",
        "0x7f.1",
        "a b",
        "http://a",
        "a:80",
        "a/b",
        "é",
    ] {
        assert!(wrong.parse::<Allowed>().is_err(), "{wrong}");
    }
}

/// Answers with the next of these lists of addresses each time it is asked.
struct Scripted {
    answers: Vec<Vec<&'static str>>,
    asked: AtomicUsize,
}

impl Resolve for Scripted {
    fn resolve(&self, _: Name) -> Resolving {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = &self.answers[asked.min(self.answers.len() - 1)];
        let found: Vec<SocketAddr> = answer
            .iter()
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), 0))
            .collect();
        Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
    }
}

fn guarded(egress: Egress, url: &str, answers: &[&[&'static str]]) -> Guarded<Scripted> {
    let checked = egress.check(url).unwrap();
    let inner = Scripted {
        answers: answers.iter().map(|answer| answer.to_vec()).collect(),
        asked: AtomicUsize::new(0),
    };
    Guarded::new(Arc::new(egress), &checked, inner)
}

async fn looked_up(resolver: &impl Resolve) -> Result<usize, String> {
    let found = resolver.resolve("name.example".parse().unwrap()).await;
    found
        .map(Iterator::count)
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn each_address_of_a_name_is_looked_at_each_time() {
    let url = "https://name.example/";
    let refused = Err(Refusal::Address.to_string());

    let both = guarded(egress(&[]), url, &[&["8.8.8.8", "127.0.0.1"]]);
    assert_eq!(looked_up(&both).await, refused);
    let flips = guarded(egress(&[]), url, &[&["8.8.8.8"], &["169.254.169.254"]]);
    assert_eq!(looked_up(&flips).await, Ok(1));
    assert_eq!(looked_up(&flips).await, refused);
    let mapped = guarded(egress(&[]), url, &[&["::ffff:127.0.0.1"]]);
    assert_eq!(looked_up(&mapped).await, refused);
    let named = guarded(egress(&["10.0.0.0/8"]), url, &[&["10.1.1.1", "8.8.8.8"]]);
    assert_eq!(looked_up(&named).await, Ok(2));
    let plain = guarded(
        egress(&["10.0.0.0/8"]),
        "http://name.example/",
        &[&["10.1.1.1", "8.8.8.8"]],
    );
    assert_eq!(looked_up(&plain).await, Err(Refusal::Plain.to_string()));
}

#[tokio::test]
async fn no_connection_is_made_to_an_address_inside_that_a_name_leads_to() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let url = format!("https://name.example:{port}/");
    let resolver = guarded(egress(&[]), &url, &[&["127.0.0.1"]]);
    let client = reqwest::Client::builder()
        .no_proxy()
        .dns_resolver(Arc::new(resolver))
        .build()?;

    let refused = client.get(&url).send().await;

    assert!(
        refused.is_err_and(|error| super::super::mcp::refusal_in(&error) == Some(Refusal::Address))
    );
    let came = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(came.is_err(), "somebody connected");
    Ok(())
}

/// Where a redirect would lead, somebody counts who comes.
#[tokio::test]
async fn redirects_lead_nowhere() -> anyhow::Result<()> {
    let came = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&came);
    let inside = Router::new().fallback(any(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async { StatusCode::OK }
    }));
    let inside_listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = format!("http://{}/mcp", inside_listener.local_addr()?);
    let redirects = Router::new().fallback(any(move |uri: Uri| async move {
        match uri.path() {
            "/303" => Redirect::to(&target),
            "/307" => Redirect::temporary(&target),
            _ => Redirect::permanent(&target),
        }
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(async move { axum::serve(inside_listener, inside).await });
    servers.spawn(async move { axum::serve(listener, redirects).await });

    for (path, answer) in [
        ("303", "HTTP 303 See Other"),
        ("307", "HTTP 307 Temporary Redirect"),
        ("308", "HTTP 308 Permanent Redirect"),
    ] {
        let transport = McpTransport::Http {
            url: format!("http://{address}/{path}"),
            headers: Vec::new(),
            egress: Some(Arc::new(egress(&["127.0.0.1"]))),
        };
        let server = RequestedServer::Live(Box::new(McpServerConfig::new("mine", transport)));
        let toolbox = Toolbox::new(&ToolboxConfig::default()).with(vec![server]);
        let problem = toolbox.list().await.requested[0].problem.clone();
        let expected =
            format!("The MCP server \"mine\" cannot be used: it answered with {answer}.");
        assert_eq!(problem, Some(expected));
    }

    assert_eq!(came.load(Ordering::SeqCst), 0);
    Ok(())
}
