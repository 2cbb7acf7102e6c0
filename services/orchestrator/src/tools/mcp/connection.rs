//! A connection to an MCP server: what it has is listed once, and calls share it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, PaginatedRequestParams,
    RequestMetaObject, Tool,
};
use rmcp::service::{
    ClientInitializeError, PeerRequestOptions, RoleClient, RunningService, ServiceError, ServiceExt,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use talaria_domain::model::Object;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{McpTransport, Output};
use super::handler::Handler;
use super::lines::BoundedLines;
use super::{content, http, process};

/// Of one message; pictures come in one piece.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
const MAX_TOOLS: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that runs and has said hello.
#[derive(Debug)]
pub(super) struct Connection {
    pub started: Instant,
    service: RunningService<RoleClient, Handler>,
    /// With the number of changes that the server had announced before it was asked.
    tools: Mutex<Option<(u64, Arc<Vec<Tool>>)>>,
    gone: CancellationToken,
    process: Option<process::Process>,
    _leaves: DropGuard,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("its program cannot be started")]
    Spawn(#[source] std::io::Error),
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
    #[error("it ended before it said hello")]
    Gone,
    #[error("it did not say hello")]
    Hello(#[source] Box<ClientInitializeError>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("asking for the tools")]
    Request(#[source] ServiceError),
    #[error("it has more than {MAX_TOOLS} tools")]
    TooMany,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("it was cancelled")]
    Cancelled,
    #[error("it took too long")]
    Late,
    #[error("the server was not ready in time")]
    Unused,
    #[error("the server stopped")]
    Gone,
    #[error("the server refused")]
    Refused(String),
    #[error("speaking with the server")]
    Transport(#[source] ServiceError),
}

impl Connection {
    /// Starts or reaches the server and says hello. Dropping the future ends what was started.
    pub(super) async fn new(name: &str, transport: &McpTransport) -> Result<Self, ConnectError> {
        let gone = CancellationToken::new();
        let leaves = gone.clone().drop_guard();
        let handler = Handler::default();
        let (process, served) = match transport {
            McpTransport::Stdio { command, args, env } => {
                let (process, pipes) = process::start(name, command, args, env, gone.clone())
                    .map_err(ConnectError::Spawn)?;
                let stdout = BoundedLines::new(pipes.stdout, MAX_MESSAGE_BYTES);
                let transport = AsyncRwTransport::new_client(stdout, pipes.stdin);
                (
                    Some(process),
                    handler.serve_with_ct(transport, gone.clone()).await,
                )
            }
            McpTransport::Http { url } => {
                let client = reqwest::Client::builder()
                    .redirect(reqwest::redirect::Policy::none())
                    .connect_timeout(CONNECT_TIMEOUT)
                    .build()
                    .map_err(ConnectError::Client)?;
                let config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
                    .max_sse_event_size(MAX_MESSAGE_BYTES);
                let transport =
                    StreamableHttpClientTransport::with_client(http::Client(client), config);
                (None, handler.serve_with_ct(transport, gone.clone()).await)
            }
        };
        let service = served.map_err(|error| match error {
            ClientInitializeError::Cancelled => ConnectError::Gone,
            error => ConnectError::Hello(Box::new(error)),
        })?;
        Ok(Self {
            started: Instant::now(),
            service,
            tools: Mutex::default(),
            gone,
            process,
            _leaves: leaves,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.gone.is_cancelled() || self.service.peer().is_transport_closed()
    }

    /// The server's tools; it is asked once, and again after it said that they changed.
    pub(super) async fn tools(&self) -> Result<Arc<Vec<Tool>>, ListError> {
        let changes = self.service.service().changes.load(Ordering::SeqCst);
        if let Some(tools) = self.listed_after(changes) {
            return Ok(tools);
        }
        let tools = Arc::new(self.list().await?);
        let mut listed = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.as_ref().is_none_or(|(before, _)| *before <= changes) {
            *listed = Some((changes, Arc::clone(&tools)));
        }
        Ok(tools)
    }

    fn listed_after(&self, changes: u64) -> Option<Arc<Vec<Tool>>> {
        let listed = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked_at, tools) = listed.as_ref()?;
        (*asked_at == changes).then(|| Arc::clone(tools))
    }

    async fn list(&self) -> Result<Vec<Tool>, ListError> {
        let mut tools = Vec::new();
        let mut cursor = None;
        // A server may turn pages for ever without a tool on them.
        for _ in 0..MAX_TOOLS {
            let params = PaginatedRequestParams::default().with_cursor(cursor);
            let page = self
                .service
                .list_tools(Some(params))
                .await
                .map_err(ListError::Request)?;
            tools.extend(page.tools);
            cursor = page.next_cursor;
            if tools.len() > MAX_TOOLS {
                break;
            }
            if cursor.is_none() {
                return Ok(tools);
            }
        }
        Err(ListError::TooMany)
    }

    /// Makes the call, and tells the server if nobody waits for its answer any more.
    pub(super) async fn call(
        &self,
        request: ClientRequest,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Output, CallError> {
        let options = PeerRequestOptions::no_options();
        let mut handle = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(CallError::Cancelled),
            () = sleep_until(deadline) => return Err(CallError::Unused),
            sent = self.service.send_cancellable_request(request, options) => {
                sent.map_err(CallError::from)?
            }
        };
        let (gave_up, reason) = tokio::select! {
            biased;
            answer = &mut handle.rx => {
                let Ok(answer) = answer else {
                    // The next call shall not be made here. Over HTTP, one answer that is lost says nothing about others.
                    if self.process.is_some() {
                        self.gone.cancel();
                    }
                    return Err(CallError::Gone);
                };
                return answer.map(content::output).map_err(CallError::from);
            }
            () = self.gone.cancelled() => return Err(CallError::Gone),
            () = cancel.cancelled() => (CallError::Cancelled, "the run was stopped"),
            () = sleep_until(deadline) => (CallError::Late, "the deadline has passed"),
        };
        // The server may be as stuck as its tool, and the pipe to it full.
        let _ = timeout(CANCEL_TIMEOUT, handle.cancel(Some(reason.to_owned()))).await;
        Err(gave_up)
    }
}

/// The request that calls a tool.
pub(super) fn call_request(
    tool: String,
    arguments: Object,
    idempotency_key: String,
) -> ClientRequest {
    let mut meta = RequestMetaObject::default();
    meta.insert("talaria/idempotencyKey".to_owned(), idempotency_key.into());
    let mut params = CallToolRequestParams::new(tool).with_arguments(arguments);
    params.meta = Some(meta);
    ClientRequest::CallToolRequest(CallToolRequest::new(params))
}

impl From<ServiceError> for CallError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::McpError(error) => Self::Refused(error.message.into_owned()),
            ServiceError::TransportClosed => Self::Gone,
            error => Self::Transport(error),
        }
    }
}

impl CallError {
    /// What the model is told.
    pub(super) fn for_the_model(&self, server: &str) -> String {
        match self {
            Self::Cancelled => String::from("The call was cancelled."),
            Self::Late => String::from(
                "The tool did not answer in time; it may or may not have taken effect.",
            ),
            Self::Unused => {
                format!("The tool's server \"{server}\" was not ready in time; nothing was called.")
            }
            Self::Gone => format!(
                "The tool's server \"{server}\" stopped before it answered; the call may or may not have taken effect."
            ),
            Self::Refused(message) => format!("The tool's server refused the call: {message}"),
            Self::Transport(_) => format!(
                "The tool's server \"{server}\" could not be spoken with; the call may or may not have taken effect."
            ),
        }
    }
}
