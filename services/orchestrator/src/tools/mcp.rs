//! An MCP server: started when it is needed, started again when it died.

mod connection;
mod content;
mod handler;
mod http;
mod lines;
mod oversized;
mod process;
mod state;

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::Tool;
use talaria_domain::model::Object;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::{CallContext, Effect, McpServerConfig, Output, SourceTool, SourceTools, ToolResult};
use connection::{CallError, ConnectError, Connection};
use state::{LONGEST_PAUSE, State};

/// Long enough for `npx` and `uvx` to download a usual server; all runs of the agent wait for it.
const START_DEADLINE: Duration = Duration::from_secs(30);
const LIST_DEADLINE: Duration = Duration::from_secs(30);
/// How much of such a pause a call waits for, rather than fail.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that is configured, whether it runs or not.
#[derive(Debug)]
pub(super) struct Server {
    config: McpServerConfig,
    state: Mutex<State>,
    /// Calls go on for the moment in which a server is told that nobody waits for them.
    calls: TaskTracker,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("it did not start within {} s", START_DEADLINE.as_secs())]
    Slow,
    #[error("it failed, and is started again in {} s at the earliest", .0.as_secs() + 1)]
    Pausing(Duration),
}

impl Server {
    pub(super) fn new(config: McpServerConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
            calls: TaskTracker::new(),
        }
    }

    /// The server's tools, or those that it had if it cannot be asked.
    pub(super) async fn tools(&self) -> Arc<SourceTools> {
        if self.state().lists_badly() {
            return self.last_known();
        }
        match self.listed().await {
            Ok(tools) => self.remember(tools),
            Err(ListError::Start(StartError::Pausing(_))) => self.last_known(),
            Err(error) => {
                let cause = error.source().map(ToString::to_string);
                warn!(server = self.config.name, %error, cause, "an MCP server cannot list its tools");
                self.last_known()
            }
        }
    }

    /// Calls a tool by the server's own name for it.
    pub(super) async fn call(
        self: &Arc<Self>,
        tool: String,
        arguments: Object,
        context: CallContext,
    ) -> Output {
        let cancel = context.cancel.child_token();
        let own_deadline = Instant::now().checked_add(self.config.call_timeout);
        let deadline = own_deadline.map_or(context.deadline, |own| own.min(context.deadline));
        // If this future is dropped, the task sees it as a cancellation, and tells the server.
        let _guard = cancel.clone().drop_guard();
        let server = Arc::clone(self);
        let call = self.calls.spawn(async move {
            let request = connection::call_request(tool, arguments, context.idempotency_key);
            server.call_until(request, deadline, &cancel).await
        });
        match call.await {
            Ok(output) => output,
            Err(error) => {
                warn!(server = self.config.name, %error, "a call of an MCP tool broke down");
                ToolResult::error("The tool failed.").into()
            }
        }
    }

    async fn call_until(
        &self,
        request: rmcp::model::ClientRequest,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Output {
        let name = &self.config.name;
        let connected = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(CallError::Cancelled),
            () = sleep_until(deadline) => Err(CallError::Unused),
            connected = self.connection_soon() => Ok(connected),
        };
        let answer = match connected {
            Ok(Ok(connection)) => connection.call(request, deadline, cancel).await,
            Ok(Err(error)) => {
                debug!(server = name, %error, "a tool was not called, since its server does not run");
                return ToolResult::error(format!(
                    "The tool's server \"{name}\" cannot be used: {error}."
                ))
                .into();
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(output) => output,
            Err(error) => {
                debug!(server = name, %error, "a call of an MCP tool failed");
                ToolResult::error(error.for_the_model(name)).into()
            }
        }
    }

    async fn listed(&self) -> Result<Arc<Vec<Tool>>, ListError> {
        let connection = self.connection().await?;
        let listed = timeout(LIST_DEADLINE, connection.tools()).await;
        let listed = listed
            .map_err(|_| ListError::Slow)
            .and_then(|listed| listed.map_err(ListError::Refused));
        // One that died is started anew, which has pauses of its own.
        if listed.is_err() && !connection.is_closed() {
            self.state().listed_badly();
        }
        listed
    }

    /// Like [`Self::connection`], but waits for the end of a pause if it is near.
    async fn connection_soon(&self) -> Result<Arc<Connection>, StartError> {
        match self.connection().await {
            Err(StartError::Pausing(pause)) if pause <= PATIENCE => {
                sleep(pause).await;
                self.connection().await
            }
            connected => connected,
        }
    }

    /// The connection that there is, or a new one; those who come meanwhile wait for the same.
    async fn connection(&self) -> Result<Arc<Connection>, StartError> {
        let cell = {
            let mut state = self.state();
            state.forget_closed();
            Arc::clone(&state.connection)
        };
        cell.get_or_try_init(|| self.start()).await.cloned()
    }

    async fn start(&self) -> Result<Arc<Connection>, StartError> {
        if let Some(pause) = self.pause() {
            return Err(StartError::Pausing(pause));
        }
        let name = &self.config.name;
        let connecting = Connection::new(name, &self.config.transport);
        let (error, least_pause) = match timeout(START_DEADLINE, connecting).await {
            Ok(Ok(connection)) => {
                info!(server = name, "an MCP server is connected");
                return Ok(Arc::new(connection));
            }
            Ok(Err(error)) => (StartError::Connect(error), Duration::ZERO),
            // Who comes next shall not wait as long again.
            Err(_) => (StartError::Slow, LONGEST_PAUSE),
        };
        self.state().failed(least_pause);
        Err(error)
    }

    fn pause(&self) -> Option<Duration> {
        let pause = self
            .state()
            .not_before?
            .saturating_duration_since(Instant::now());
        (!pause.is_zero()).then_some(pause)
    }

    /// The same list is shown as long as the server says the same.
    fn remember(&self, tools: Arc<Vec<Tool>>) -> Arc<SourceTools> {
        let mut state = self.state();
        if let Some((known, shown)) = &state.known
            && (Arc::ptr_eq(known, &tools) || known == &tools)
        {
            return Arc::clone(shown);
        }
        let shown = Arc::new(SourceTools {
            label: self.config.name.clone(),
            tools: tools.iter().map(|tool| self.shown(tool)).collect(),
        });
        state.known = Some((tools, Arc::clone(&shown)));
        shown
    }

    fn last_known(&self) -> Arc<SourceTools> {
        let state = self.state();
        state
            .known
            .as_ref()
            .map(|(_, shown)| Arc::clone(shown))
            .unwrap_or_default()
    }

    fn shown(&self, tool: &Tool) -> SourceTool {
        let configured = self.config.effects.get(&*tool.name).copied();
        SourceTool {
            name: tool.name.to_string(),
            description: tool.description.as_ref().map(ToString::to_string),
            parameters: schema(&tool.input_schema),
            effect: configured.unwrap_or_else(|| effect_by_hints(tool)),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Upstreams insist on what many servers leave out.
fn schema(given: &Arc<Object>) -> Arc<Object> {
    if given.contains_key("type") && given.contains_key("properties") {
        return Arc::clone(given);
    }
    let mut schema = Object::clone(given);
    schema.entry("type").or_insert_with(|| "object".into());
    schema
        .entry("properties")
        .or_insert_with(|| Object::new().into());
    Arc::new(schema)
}

/// What the server says about its tool. Without a word, it must not be repeated.
fn effect_by_hints(tool: &Tool) -> Effect {
    let Some(hints) = &tool.annotations else {
        return Effect::Once;
    };
    if hints.read_only_hint == Some(true) {
        Effect::Pure
    } else if hints.idempotent_hint == Some(true) {
        Effect::Idempotent
    } else {
        Effect::Once
    }
}

#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("it did not answer within {} s", LIST_DEADLINE.as_secs())]
    Slow,
    #[error("it refused")]
    Refused(#[source] connection::ListError),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_always_says_that_it_is_an_object_with_properties() {
        let schema_of = |given: serde_json::Value| {
            let given = given.as_object().cloned().unwrap_or_default();
            serde_json::Value::from(Object::clone(&schema(&Arc::new(given))))
        };
        let empty = json!({"type": "object", "properties": {}});
        assert_eq!(schema_of(json!({})), empty);
        assert_eq!(schema_of(json!({"type": "object"})), empty);
        let whole = json!({"type": "object", "properties": {"a": {}}, "required": ["a"]});
        assert_eq!(schema_of(whole.clone()), whole);
    }
}
