//! The whole product on a database and a scripted upstream of the test's own: as one process, or every part apart.

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use crate::postgres::TestDatabase;
use crate::process::{Process, address_from_lines};
use crate::sse;
use crate::upstream::Upstream;

/// Which API the scripted upstream is asked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKind {
    Responses,
    ChatCompletions,
}

/// How a stack differs from the usual one.
#[derive(Clone, Debug)]
pub struct Options {
    pub kind: ApiKind,
    /// Lines of talaria.toml below `[server]`.
    pub server: String,
    /// Lines of talaria.toml below `[store]`.
    pub store: String,
    /// Lines of talaria.toml below `[runs]`.
    pub runs: String,
    /// Lines below the `[[agents]]` named `agent`; its upstream is `main` if they say no other.
    pub agent: String,
    /// Lines below `[upstreams.main]`. Further tables may follow them: other upstreams, `[mcp_servers.…]`.
    pub upstream: String,
    /// Postgres to use; a test database of its own when there is none.
    pub database_url: Option<String>,
    pub environment: Vec<(String, String)>,
    /// How many stores and orchestrators there are in [`Stack::apart`].
    pub stores: usize,
    pub orchestrators: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: ApiKind::Responses,
            server: String::new(),
            store: String::new(),
            runs: String::new(),
            agent: String::new(),
            upstream: String::new(),
            database_url: None,
            environment: Vec::new(),
            stores: 1,
            orchestrators: 1,
        }
    }
}

/// A running product. Everything it started ends when it is dropped.
#[derive(Debug)]
pub struct Stack {
    /// `http://127.0.0.1:port` of each façade.
    pub gateways: Vec<String>,
    pub upstream: Upstream,
    pub http: reqwest::Client,
    pub database_url: String,
    /// One for [`Stack::serve`]; store, orchestrator and gateways for [`Stack::apart`].
    pub processes: Vec<Process>,
    /// What each of these was started with, and where it listens.
    commands: Vec<Vec<String>>,
    binary: String,
    options: Options,
    directory: TempDir,
    database: Option<TestDatabase>,
}

impl Stack {
    /// `talaria serve` with the usual options.
    pub async fn serve(binary: &str) -> anyhow::Result<Self> {
        Self::serve_with(binary, Options::default()).await
    }

    /// `talaria serve`.
    pub async fn serve_with(binary: &str, options: Options) -> anyhow::Result<Self> {
        let mut stack = Self::prepare(binary, options).await?;
        stack.start_serve().await?;
        Ok(stack)
    }

    /// Stores, orchestrators (one of each, unless the options say more) and two gateways, each a process; in this order.
    pub async fn apart(binary: &str, options: Options) -> anyhow::Result<Self> {
        let mut stack = Self::prepare(binary, options).await?;
        let (mut stores, mut orchestrators) = (Vec::new(), Vec::new());
        for _ in 0..stack.options.stores {
            stores.push(stack.start_store("127.0.0.1:0").await?);
        }
        let stores = stores.join(",");
        for _ in 0..stack.options.orchestrators {
            orchestrators.push(stack.start_orchestrator(&stores, "127.0.0.1:0").await?);
        }
        let orchestrators = orchestrators.join(",");
        for _ in 0..2 {
            let gateway = stack
                .start_gateway(&stores, &orchestrators, "127.0.0.1:0")
                .await?;
            stack.gateways.push(gateway);
        }
        Ok(stack)
    }

    /// Starts another store; its URL.
    pub async fn start_store(&mut self, listen: &str) -> anyhow::Result<String> {
        let url = self.database_url.clone();
        self.add(&["store", "--database-url", &url], listen).await
    }

    /// Starts another orchestrator on these stores (URLs with commas); its URL.
    pub async fn start_orchestrator(
        &mut self,
        stores: &str,
        listen: &str,
    ) -> anyhow::Result<String> {
        self.add(&["orchestrator", "--store", stores], listen).await
    }

    /// Starts another gateway in front of these (URLs with commas); its URL, which is not put among `gateways`.
    pub async fn start_gateway(
        &mut self,
        stores: &str,
        orchestrators: &str,
        listen: &str,
    ) -> anyhow::Result<String> {
        let services = [
            "gateway",
            "--store",
            stores,
            "--orchestrator",
            orchestrators,
        ];
        self.add(&services, listen).await
    }

    /// Where a process of the stack listens, by its place in `processes`.
    pub fn url_of(&self, process: usize) -> anyhow::Result<String> {
        let lines = self.processes[process].lines();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let address = address_from_lines(&lines, "listens on");
        let address = address.context("it does not say where it listens")?;
        Ok(format!("http://{address}"))
    }

    /// Starts `talaria serve` again after it was killed; its address is another.
    pub async fn restart_serve(&mut self) -> anyhow::Result<()> {
        self.processes.clear();
        self.commands.clear();
        self.gateways.clear();
        self.start_serve().await
    }

    async fn start_serve(&mut self) -> anyhow::Result<()> {
        let url = self.database_url.clone();
        let serve = ["serve", "--database-url", &url];
        let serve = self.add(&serve, "127.0.0.1:0").await?;
        self.gateways.push(serve);
        Ok(())
    }

    /// Starts a process that has ended again, with the same arguments and at the same address.
    pub async fn restart(&mut self, process: usize) -> anyhow::Result<()> {
        let command = &self.commands[process];
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let started = self.start(&command)?;
        started.wait_for_address("listens on").await?;
        self.processes[process] = started;
        Ok(())
    }

    async fn add(&mut self, arguments: &[&str], listen: &str) -> anyhow::Result<String> {
        let process = self.start(&[arguments, &["--listen", listen]].concat())?;
        let address = process.wait_for_address("listens on").await?.to_string();
        self.processes.push(process);
        let command = [arguments, &["--listen", &address]].concat();
        self.commands
            .push(command.into_iter().map(str::to_owned).collect());
        Ok(format!("http://{address}"))
    }

    async fn prepare(binary: &str, options: Options) -> anyhow::Result<Self> {
        let upstream = Upstream::start().await?;
        let (database, database_url) = if let Some(url) = &options.database_url {
            (None, url.clone())
        } else {
            let database = TestDatabase::empty().await?;
            let url = database.url.clone();
            (Some(database), url)
        };
        let directory = TempDir::new()?;
        let kind = match options.kind {
            ApiKind::Responses => "responses",
            ApiKind::ChatCompletions => "chat_completions",
        };
        let says_upstream = options.agent.lines().any(|line| {
            line.split('=')
                .next()
                .is_some_and(|key| key.trim() == "upstream")
        });
        let main = if says_upstream {
            ""
        } else {
            "upstream = \"main\"\n"
        };
        // A debug build on a busy machine is slow, which is not what most tests are about.
        let starting = if options.runs.contains("max_starting") {
            ""
        } else {
            "max_starting = 1000\n"
        };
        let config = format!(
            "[server]\n{}\n[store]\n{}\n[runs]\n{starting}{}\n\
             [[agents]]\nname = \"agent\"\nmodel = \"scripted\"\n{main}{}\n\
             [upstreams.main]\nkind = \"{kind}\"\nbase_url = \"{}\"\n{}\n",
            options.server,
            options.store,
            options.runs,
            options.agent,
            upstream.base_url(),
            options.upstream,
        );
        std::fs::write(directory.path().join("talaria.toml"), config)?;
        Ok(Self {
            gateways: Vec::new(),
            upstream,
            http: reqwest::Client::new(),
            database_url,
            processes: Vec::new(),
            commands: Vec::new(),
            binary: binary.to_owned(),
            options,
            directory,
            database,
        })
    }

    fn start(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        let config = self.directory.path().join("talaria.toml");
        let config = config
            .to_str()
            .context("the temporary directory has an odd name")?;
        let arguments = [arguments, &["--config", config]].concat();
        let environment: Vec<(&str, &str)> = self
            .options
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Process::start(&self.binary, &arguments, &environment)
    }

    /// The database, where the stack has one of its own.
    pub fn database(&self) -> Option<&TestDatabase> {
        self.database.as_ref()
    }

    /// What the stack's own database holds: `3 in turn` for each table with rows, but for those about processes and
    /// migrations.
    pub async fn rows(&self) -> anyhow::Result<Vec<String>> {
        const TABLES: &str = "
            SELECT relname::text
            FROM pg_class
            WHERE relnamespace = 'public'::regnamespace
              AND relkind = 'r'
              AND relname NOT IN ('orchestrator', 'refinery_schema_history')
            ORDER BY relname";
        let database = self
            .database
            .as_ref()
            .context("the database is not the stack's own")?;
        let session = database.connect().await?;
        let tables = session.query(TABLES, &[]).await?;
        anyhow::ensure!(tables.len() > 5, "the tables are elsewhere");
        let mut found = Vec::new();
        for table in &tables {
            let table: String = table.get(0);
            let row = session
                .query_one(&format!("SELECT count(*) FROM {table}"), &[])
                .await?;
            let count: i64 = row.get(0);
            if count > 0 {
                found.push(format!("{count} in {table}"));
            }
        }
        Ok(found)
    }

    /// The address of a path on the first façade.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.gateways[0])
    }

    /// `POST /v1/responses`; the answer as it comes.
    pub async fn create(&self, body: &Value) -> anyhow::Result<reqwest::Response> {
        Ok(self
            .http
            .post(self.url("/v1/responses"))
            .json(body)
            .send()
            .await?)
    }

    /// `POST /v1/responses`, not streamed: the response object.
    pub async fn create_json(&self, body: &Value) -> anyhow::Result<Value> {
        let answer = self.create(body).await?;
        let status = answer.status();
        let text = answer.text().await?;
        anyhow::ensure!(status.is_success(), "{status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// `POST /v1/responses`, streamed, at one of the façades.
    pub async fn stream_at(&self, gateway: usize, body: &Value) -> anyhow::Result<sse::Reader> {
        let url = format!("{}/v1/responses", self.gateways[gateway]);
        let mut body = body.clone();
        body["stream"] = true.into();
        sse::Reader::new(self.http.post(url).json(&body).send().await?).await
    }

    /// `POST /v1/responses`, streamed.
    pub async fn stream(&self, body: &Value) -> anyhow::Result<sse::Reader> {
        let mut body = body.clone();
        body["stream"] = true.into();
        sse::Reader::new(self.create(&body).await?).await
    }

    /// `GET /v1/responses/{id}`: status and body.
    pub async fn get(&self, id: &str) -> anyhow::Result<(u16, Value)> {
        let answer = self
            .http
            .get(self.url(&format!("/v1/responses/{id}")))
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// `GET /v1/responses/{id}?stream=true`, after `starting_after`.
    pub async fn replay(
        &self,
        id: &str,
        starting_after: Option<i64>,
    ) -> anyhow::Result<sse::Reader> {
        let after = starting_after
            .map(|seq| format!("&starting_after={seq}"))
            .unwrap_or_default();
        let url = self.url(&format!("/v1/responses/{id}?stream=true{after}"));
        sse::Reader::new(self.http.get(url).send().await?).await
    }
}
