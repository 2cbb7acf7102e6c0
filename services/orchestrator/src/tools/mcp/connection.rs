//! A connection to an MCP server: what it has is listed once, and calls share it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, PingRequest, RequestMetaObject, Tool,
};
use rmcp::service::{
    ClientInitializeError, PeerRequestOptions, RoleClient, RunningService, ServiceError, ServiceExt,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use talaria_domain::model::Object;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{McpTransport, Output};
use super::handler::Handler;
use super::http::{Client, Trouble};
use super::lines::BoundedLines;
use super::{content, list, process};

/// Of one message; pictures come in one piece.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
const MAX_TOOLS: usize = 1024;
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// A list from a server that may have been replaced without a word is asked for again when it is older.
const LIST_AGE: Duration = Duration::from_mins(1);

/// A server that runs and has said hello.
#[derive(Debug)]
pub(super) struct Connection {
    pub started: Instant,
    service: RunningService<RoleClient, Handler>,
    tools: Mutex<Option<Listed>>,
    gone: CancellationToken,
    process: Option<process::Process>,
    client: Option<Client>,
    _leaves: DropGuard,
}

/// What the server said when it was asked for its tools.
#[derive(Debug)]
struct Listed {
    tools: Arc<Vec<Tool>>,
    /// The number of changes that were known of before it was asked.
    changes: u64,
    at: Instant,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("its program cannot be started")]
    Spawn(#[source] std::io::Error),
    #[error(transparent)]
    Http(#[from] Trouble),
    #[error("it ended before it said hello")]
    Gone,
    #[error("it did not say hello")]
    Hello(#[source] Box<ClientInitializeError>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("asking for the tools")]
    Request(#[source] ServiceError),
    #[error(transparent)]
    Http(Trouble),
    #[error("its list of tools is none")]
    NoList,
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
        let (process, client, served) = match transport {
            McpTransport::Stdio { command, args, env } => {
                let (process, pipes) = process::start(name, command, args, env, gone.clone())
                    .map_err(ConnectError::Spawn)?;
                let stdout = BoundedLines::new(pipes.stdout, MAX_MESSAGE_BYTES);
                let transport = AsyncRwTransport::new_client(stdout, pipes.stdin);
                let served = handler.serve_with_ct(transport, gone.clone()).await;
                (Some(process), None, served)
            }
            McpTransport::Http {
                url,
                headers,
                egress,
            } => {
                let changes = Arc::clone(&handler.changes);
                let (client, config) = Client::new(url, headers, egress.as_ref(), changes)?;
                let transport = StreamableHttpClientTransport::with_client(client.clone(), config);
                let served = handler.serve_with_ct(transport, gone.clone()).await;
                (None, Some(client), served)
            }
        };
        let trouble = client.as_ref().and_then(Client::trouble);
        let service = served.map_err(|error| match (error, trouble) {
            (_, Some(trouble)) => ConnectError::Http(trouble),
            (ClientInitializeError::Cancelled, None) => ConnectError::Gone,
            (error, None) => ConnectError::Hello(Box::new(error)),
        })?;
        Ok(Self {
            started: Instant::now(),
            service,
            tools: Mutex::default(),
            gone,
            process,
            client,
            _leaves: leaves,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.gone.is_cancelled() || self.service.peer().is_transport_closed()
    }

    /// Ends a process that does not answer; calls that wait for it end with it. One at a URL is let be.
    pub(super) fn end_process(&self) {
        if self.process.is_some() {
            self.gone.cancel();
        }
    }

    pub(super) fn is_process(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the server answers a ping in this time.
    pub(super) async fn answers_within(&self, limit: Duration) -> bool {
        let ping = ClientRequest::PingRequest(PingRequest::default());
        let answered = timeout(limit, self.service.send_request(ping)).await;
        // One that does not know pings lives as well.
        matches!(answered, Ok(Ok(_) | Err(ServiceError::McpError(_))))
    }

    /// The server's tools; it is asked once, and again after it said that they changed, or may have been replaced.
    pub(super) async fn tools(
        &self,
        max_bytes: Option<usize>,
    ) -> Result<Arc<Vec<Tool>>, ListError> {
        let changes = self.service.service().changes.load(Ordering::SeqCst);
        if let Some(tools) = self.listed_after(changes) {
            return Ok(tools);
        }
        let at = Instant::now();
        let tools = Arc::new(self.list(max_bytes).await?);
        let mut listed = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.as_ref().is_none_or(|before| before.at <= at) {
            *listed = Some(Listed {
                tools: Arc::clone(&tools),
                changes,
                at,
            });
        }
        Ok(tools)
    }

    fn listed_after(&self, changes: u64) -> Option<Arc<Vec<Tool>>> {
        let listed = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = listed.as_ref()?;
        let is_fresh = self.is_process() || listed.at.elapsed() < LIST_AGE;
        (listed.changes == changes && is_fresh).then(|| Arc::clone(&listed.tools))
    }

    async fn list(&self, max_bytes: Option<usize>) -> Result<Vec<Tool>, ListError> {
        let mut bytes = 0_usize;
        let mut tools = Vec::new();
        let mut cursor = None;
        // A server may turn pages for ever without a tool on them.
        for _ in 0..MAX_TOOLS {
            let answer = self.service.send_request(list::request(cursor)).await;
            let trouble = || self.client.as_ref().and_then(Client::trouble);
            let answer = answer.map_err(|error| match error {
                error @ ServiceError::McpError(_) => ListError::Request(error),
                error => trouble().map_or(ListError::Request(error), ListError::Http),
            })?;
            let page = list::page(answer).ok_or(ListError::NoList)?;
            if let Some(max) = max_bytes {
                let size = |tool: &Tool| serde_json::to_vec(tool).map_or(max, |json| json.len());
                bytes = page
                    .tools
                    .iter()
                    .map(size)
                    .fold(bytes, usize::saturating_add);
                if bytes > max {
                    break;
                }
            }
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
                    self.end_process();
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
