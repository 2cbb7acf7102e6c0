//! Who listens where, and who speaks to whom through which proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::{Kind, Options, PartId};
use crate::proxy::{Proxy, Target};
use crate::random::Random;

/// Ports that the system gives to nobody by itself.
const PORTS: (u64, u64) = (20_000, 32_000);

/// The processes of a cluster, and the addresses that they keep over restarts.
#[derive(Debug)]
pub struct Wiring {
    pub ids: Vec<PartId>,
    listens: Vec<SocketAddr>,
    ports: Ports,
}

/// A proxy, and the processes that speak through it.
#[derive(Debug)]
pub struct Edge {
    /// None: everybody.
    pub from: Option<PartId>,
    /// None: Postgres.
    pub to: Option<PartId>,
    pub proxy: Arc<Proxy>,
}

impl Wiring {
    pub fn of(options: &Options, seed: u64) -> anyhow::Result<Self> {
        let mut ports = Ports(Random::of(seed, "ports"));
        let mut ids = Vec::new();
        for (kind, count) in [
            (Kind::Store, options.stores),
            (Kind::Orchestrator, options.orchestrators),
            (Kind::Gateway, options.gateways),
        ] {
            ids.extend((0..count).map(|index| PartId { kind, index }));
        }
        let listens = ids.iter().map(|_| ports.free());
        let listens = listens.collect::<anyhow::Result<_>>()?;
        Ok(Self {
            ids,
            listens,
            ports,
        })
    }

    /// Starts a proxy on every edge.
    pub async fn proxies(&mut self, postgres: &Path) -> anyhow::Result<Vec<Edge>> {
        let mut edges = Vec::new();
        for store in self.all(Kind::Store) {
            edges.push((Some(store), None));
            let callers = self.all(Kind::Orchestrator).chain(self.all(Kind::Gateway));
            edges.extend(callers.map(|caller| (Some(caller), Some(store))));
        }
        let fronts = self.all(Kind::Orchestrator).chain(self.all(Kind::Gateway));
        edges.extend(fronts.map(|part| (None, Some(part))));
        let mut proxies = Vec::new();
        for (from, to) in edges {
            let target = match to {
                Some(part) => Target::Tcp(self.address(part)),
                None => Target::Unix(postgres.to_owned()),
            };
            let address = self.ports.free()?;
            let proxy = Arc::new(Proxy::start(address, target).await?);
            proxies.push(Edge { from, to, proxy });
        }
        Ok(proxies)
    }

    /// The command line of a part.
    pub fn arguments(&self, id: PartId, edges: &[Edge], config: &str) -> Vec<String> {
        let mut arguments = vec![
            id.kind.command().to_owned(),
            "--config".to_owned(),
            config.to_owned(),
            "--listen".to_owned(),
            self.address(id).to_string(),
        ];
        let mut say = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        let from = Some(id);
        let stores = || Self::urls(edges, id, Kind::Store, from);
        match id.kind {
            Kind::Store => {
                let postgres = edges
                    .iter()
                    .find(|edge| (edge.from, edge.to) == (from, None));
                let postgres = postgres.map(|edge| edge.proxy.address.to_string());
                let address = postgres.unwrap_or_default();
                say(
                    "--database-url",
                    format!("postgres://postgres@{address}/postgres"),
                );
            }
            Kind::Orchestrator => {
                say("--store", stores());
                say("--advertise", front(edges, id));
            }
            Kind::Gateway => {
                say("--store", stores());
                say(
                    "--orchestrator",
                    Self::urls(edges, id, Kind::Orchestrator, None),
                );
            }
        }
        arguments
    }

    /// All of a kind, as `from` reaches them; each caller has an order of its own.
    fn urls(edges: &[Edge], id: PartId, kind: Kind, from: Option<PartId>) -> String {
        let mut urls: Vec<String> = edges
            .iter()
            .filter(|edge| edge.from == from && edge.to.is_some_and(|to| to.kind == kind))
            .map(|edge| format!("http://{}", edge.proxy.address))
            .collect();
        if !urls.is_empty() {
            let first = id.index % urls.len();
            urls.rotate_left(first);
        }
        urls.join(",")
    }

    fn all(&self, kind: Kind) -> impl Iterator<Item = PartId> {
        let all: Vec<PartId> = self.ids.clone();
        all.into_iter().filter(move |id| id.kind == kind)
    }

    fn address(&self, part: PartId) -> SocketAddr {
        let place = self.ids.iter().position(|known| *known == part);
        self.listens[place.unwrap_or_default()]
    }
}

/// Where everybody reaches a part.
pub fn front(edges: &[Edge], id: PartId) -> String {
    let edge = edges
        .iter()
        .find(|edge| edge.from.is_none() && edge.to == Some(id));
    edge.map(|edge| format!("http://{}", edge.proxy.address))
        .unwrap_or_default()
}

/// Free addresses on this machine.
#[derive(Debug)]
struct Ports(Random);

impl Ports {
    fn free(&mut self) -> anyhow::Result<SocketAddr> {
        for _ in 0..1000 {
            let port = u16::try_from(self.0.between(PORTS.0, PORTS.1))?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if std::net::TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        anyhow::bail!("no port is free")
    }
}
