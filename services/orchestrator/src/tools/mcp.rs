//! An MCP server: started when it is needed, started again when it died.

mod connection;
mod content;
mod handler;
mod http;
mod lines;
mod list;
mod oversized;
mod process;
mod session;
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

use crate::fence::Permit;

use super::{
    CallContext, Effect, McpServerConfig, McpTransport, Output, SourceTool, SourceTools, ToolResult,
};
use connection::{CallError, ConnectError, Connection};
use state::{LONGEST_PAUSE, State};

#[cfg(test)]
pub(super) use http::refusal_in;

/// How long a server whose tool did not answer in time may take to say that it lives.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer a list may be than what of it the model may see.
const RAW_LIST: usize = 8;
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
    #[error("it did not start within {} s", .0.as_secs())]
    Slow(Duration),
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

    pub(super) fn name(&self) -> &str {
        &self.config.name
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
                // What a server at a URL says may repeat the credentials that it was told.
                let is_process = matches!(self.config.transport, McpTransport::Stdio { .. });
                let cause = error
                    .source()
                    .filter(|_| is_process)
                    .map(ToString::to_string);
                warn!(server = self.config.name, %error, cause, "an MCP server cannot list its tools");
                self.state().unknown = Arc::new(SourceTools::unknown(&self.config.name, &error));
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
            let permit = &context.permit;
            server.call_until(request, deadline, &cancel, permit).await
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
        permit: &Permit,
    ) -> Output {
        let name = &self.config.name;
        let connected = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(CallError::Cancelled),
            () = sleep_until(deadline) => Err(CallError::Unused),
            connected = self.connection_soon() => Ok(connected),
        };
        let answer = match connected {
            Ok(Ok(_)) if !permit.may_begin() => Err(CallError::Cancelled),
            Ok(Ok(connection)) => {
                let answer = connection.call(request, deadline, cancel).await;
                if matches!(answer, Err(CallError::Late)) && connection.is_process() {
                    self.end_if_it_hangs(connection);
                }
                answer
            }
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

    /// Ends the server's process if it says nothing at all any more, so that it is started again.
    fn end_if_it_hangs(&self, connection: Arc<Connection>) {
        let name = self.config.name.clone();
        let limit = PING_TIMEOUT.min(self.config.call_timeout);
        self.calls.spawn(async move {
            if !connection.answers_within(limit).await && !connection.is_closed() {
                warn!(server = name, "an MCP server hangs, and is ended");
                connection.end_process();
            }
        });
    }

    async fn listed(&self) -> Result<Arc<Vec<Tool>>, ListError> {
        let connection = self.connection().await?;
        let limit = self.config.list_timeout;
        let bytes = self
            .config
            .policy
            .limits
            .map(|limits| RAW_LIST * limits.bytes);
        let listed = timeout(limit, connection.tools(bytes)).await;
        if listed.is_err() {
            self.state().listed_badly();
            if self.calls.is_empty() {
                // It lives and says nothing; the next that is started may.
                connection.end_process();
            }
        }
        let listed = listed
            .map_err(|_| ListError::Slow(limit))
            .and_then(|listed| {
                listed.map_err(|error| match error {
                    connection::ListError::Http(trouble) => ListError::Http(trouble),
                    error => ListError::Refused(error),
                })
            });
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
        let limit = self.config.start_timeout;
        let (error, least_pause) = match timeout(limit, connecting).await {
            Ok(Ok(connection)) => {
                info!(server = name, "an MCP server is connected");
                return Ok(Arc::new(connection));
            }
            Ok(Err(error)) => (StartError::Connect(error), Duration::ZERO),
            // Who comes next shall not wait as long again.
            Err(_) => (StartError::Slow(limit), LONGEST_PAUSE),
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
        let shown = Arc::new(self.shown(&tools));
        state.known = Some((tools, Arc::clone(&shown)));
        shown
    }

    /// What is known of the server's tools, be it only why that is nothing.
    fn last_known(&self) -> Arc<SourceTools> {
        let state = self.state();
        let known = state.known.as_ref().map(|(_, shown)| Arc::clone(shown));
        known.unwrap_or_else(|| Arc::clone(&state.unknown))
    }

    /// The tools that the model may see.
    fn shown(&self, tools: &[Tool]) -> SourceTools {
        let policy = &self.config.policy;
        let allowed = |tool: &&Tool| policy.allows(&tool.name, is_read_only(tool));
        let shown: Vec<SourceTool> = tools
            .iter()
            .filter(allowed)
            .map(|tool| self.shown_tool(tool))
            .collect();
        let name = &self.config.name;
        let problem = policy.limits.and_then(|limits| {
            let bytes: usize = shown.iter().map(size_bytes).fold(0, usize::saturating_add);
            if shown.len() > limits.tools {
                Some(ListError::TooMany(limits.tools))
            } else {
                (bytes > limits.bytes).then_some(ListError::TooLong(limits.bytes / 1024))
            }
        });
        match problem {
            Some(problem) => SourceTools::unknown(name, &problem),
            None => SourceTools {
                label: name.clone(),
                tools: shown,
                problem: None,
            },
        }
    }

    fn shown_tool(&self, tool: &Tool) -> SourceTool {
        let configured = self.config.effects.get(&*tool.name).copied();
        let annotations = tool.annotations.as_ref().map(serde_json::to_value);
        SourceTool {
            name: tool.name.to_string(),
            description: tool.description.as_ref().map(ToString::to_string),
            parameters: schema(&tool.input_schema),
            annotations: annotations.and_then(Result::ok),
            effect: configured.unwrap_or_else(|| effect_by_hints(tool)),
            needs_approval: self
                .config
                .policy
                .needs_approval(&tool.name, is_read_only(tool)),
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

/// How much of a list the tool is.
fn size_bytes(tool: &SourceTool) -> usize {
    let schema = serde_json::to_vec(&*tool.parameters).map_or(usize::MAX / 2, |json| json.len());
    let description = tool.description.as_ref().map_or(0, String::len);
    let annotations = tool.annotations.as_ref();
    let annotations = annotations.map_or(0, |annotations| annotations.to_string().len());
    schema
        .saturating_add(description)
        .saturating_add(tool.name.len())
        .saturating_add(annotations)
}

/// Whether the server says that its tool changes nothing.
fn is_read_only(tool: &Tool) -> bool {
    let hints = tool.annotations.as_ref();
    hints.is_some_and(|hints| hints.read_only_hint == Some(true))
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
    #[error("it did not list its tools within {} s", .0.as_secs())]
    Slow(Duration),
    #[error(transparent)]
    Http(http::Trouble),
    #[error("it did not list its tools")]
    Refused(#[source] connection::ListError),
    #[error("it has more than {0} tools; name those that are needed in 'allowed_tools'")]
    TooMany(usize),
    #[error(
        "its list of tools is longer than {0} KiB; name those that are needed in 'allowed_tools'"
    )]
    TooLong(usize),
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
