//! The product as it runs in earnest: stores, orchestrators and gateways, each a process, on a Postgres of its own, with
//! a fault proxy on every edge.

mod part;
mod wiring;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use talaria_testkit::deadline::within_duration;
use talaria_testkit::postgres::{PrivatePostgres, Session};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::model::Model;
use crate::tools::Tools;

pub use self::part::{Kind, Part, PartId, UNENDED};
use self::wiring::Wiring;
pub use self::wiring::{Edge, front};

/// How long the whole product may take to be ready.
const READY: Duration = Duration::from_mins(1);
/// How often it is looked whether a process ended by itself.
const WATCH: Duration = Duration::from_millis(50);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    pub binary: String,
    pub stores: usize,
    pub orchestrators: usize,
    pub gateways: usize,
    /// Variables for every process, besides its own.
    pub environment: Vec<(String, String)>,
    /// Failpoints, as `TALARIA_FAILPOINTS` takes them; empty for none.
    pub failpoints: String,
}

/// A running cluster. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    pub options: Options,
    /// Where clients reach each gateway.
    pub gateways: Vec<String>,
    pub parts: Vec<Arc<Mutex<Part>>>,
    pub ids: Vec<PartId>,
    pub proxies: Vec<Edge>,
    pub postgres: Mutex<PrivatePostgres>,
    pub database_url: String,
    pub model: Model,
    pub tools: Tools,
    pub http: reqwest::Client,
    /// Processes that ended by themselves, which is what failpoints do.
    pub crashes: AtomicUsize,
    watcher: Mutex<JoinSet<()>>,
    /// Where the settings are.
    _directory: TempDir,
}

impl Cluster {
    /// Starts everything and waits until it is ready; times are counted from `started`.
    pub async fn start(options: Options, started: Instant, seed: u64) -> anyhow::Result<Arc<Self>> {
        let postgres = PrivatePostgres::start().await?;
        let model = Model::start(started).await?;
        let tools = Tools::start(started).await?;
        let directory = TempDir::new()?;
        let config = directory.path().join("talaria.toml");
        std::fs::write(&config, settings(&model.base_url, &tools.url))?;
        let config = config.to_string_lossy().into_owned();

        let mut wiring = Wiring::of(&options, seed)?;
        let proxies = wiring.proxies(&postgres.socket()).await?;
        let parts = wiring.ids.iter().map(|id| {
            let arguments = wiring.arguments(*id, &proxies, &config);
            let fronts = proxies.iter().filter(|edge| edge.to == Some(*id));
            let fronts = fronts.map(|edge| Arc::clone(&edge.proxy)).collect();
            Arc::new(Mutex::new(Part::new(*id, arguments, fronts, seed)))
        });
        let parts = parts.collect();
        let gateways = wiring.ids.iter().filter(|id| id.kind == Kind::Gateway);
        let gateways = gateways.map(|id| front(&proxies, *id)).collect();
        let database_url = postgres.url();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .pool_max_idle_per_host(0)
            .build()?;
        let cluster = Arc::new(Self {
            options,
            gateways,
            parts,
            ids: wiring.ids,
            proxies,
            postgres: Mutex::new(postgres),
            database_url,
            model,
            tools,
            http,
            crashes: AtomicUsize::new(0),
            watcher: Mutex::default(),
            _directory: directory,
        });
        for part in &cluster.parts {
            part.lock().await.start(&cluster.options)?;
        }
        cluster.ready().await?;
        cluster.watch().await;
        Ok(cluster)
    }

    /// The part of this id.
    pub fn part(&self, id: PartId) -> Arc<Mutex<Part>> {
        let place = self.ids.iter().position(|known| *known == id);
        Arc::clone(&self.parts[place.unwrap_or_default()])
    }

    /// All parts of a kind.
    pub fn all(&self, kind: Kind) -> Vec<PartId> {
        let all = self.ids.iter().copied();
        all.filter(|id| id.kind == kind).collect()
    }

    /// A session with the database that no proxy stands before.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        Session::open(&self.database_url).await
    }

    /// Waits until every gateway says that it is ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        for gateway in &self.gateways {
            let url = format!("{gateway}/health/ready");
            within_duration("a gateway to be ready", READY, async {
                loop {
                    let answer = self.http.get(&url).timeout(Duration::from_secs(2)).send();
                    if answer
                        .await
                        .is_ok_and(|answer| answer.status().is_success())
                    {
                        return;
                    }
                    tokio::time::sleep(WATCH).await;
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Starts what ended by itself again, for as long as the cluster lives.
    async fn watch(self: &Arc<Self>) {
        let cluster = Arc::downgrade(self);
        self.watcher.lock().await.spawn(async move {
            loop {
                tokio::time::sleep(WATCH).await;
                let Some(cluster) = cluster.upgrade() else {
                    return;
                };
                for part in &cluster.parts {
                    let Ok(mut part) = part.try_lock() else {
                        continue;
                    };
                    if part.has_crashed() {
                        cluster.crashes.fetch_add(1, Ordering::Relaxed);
                        // One that cannot be started is tried again.
                        let _ = part.start(&cluster.options);
                    }
                }
            }
        });
    }
}

/// The settings of all processes.
fn settings(model: &str, tools: &str) -> String {
    let upstream = |name: &str, resumable: bool| {
        format!(
            "[upstreams.{name}]\nkind = \"responses\"\nbase_url = \"{model}\"\nfirst_byte_timeout_seconds = 5\n\
             idle_timeout_seconds = 5\nmax_retries = 3\nresumable = {resumable}\n"
        )
    };
    let agent = |name: &str, upstream: &str| {
        format!(
            "[[agents]]\nname = \"{name}\"\nmodel = \"scripted\"\nupstream = \"{upstream}\"\nmcp_servers = [\"effects\"]\n"
        )
    };
    [
        "[server]\nkeepalive_seconds = 2\n[runs]\ndrain_seconds = 2\nmax_attempts = 20\n"
            .to_owned(),
        agent("plain", "main"),
        agent("kept", "kept"),
        upstream("main", false),
        upstream("kept", true),
        format!(
            "[mcp_servers.effects]\nurl = \"{tools}\"\ncall_timeout_seconds = 20\n\
             effects = {{ charge = \"once\", keep = \"idempotent\", look = \"pure\" }}\n"
        ),
    ]
    .concat()
}
