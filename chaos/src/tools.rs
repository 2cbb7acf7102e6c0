//! Tools whose effects are written down: an MCP server over HTTP.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::plan::{Place, Tool};

/// One execution of a tool.
#[derive(Clone, Debug, Serialize)]
pub struct Execution {
    pub at_ns: u64,
    pub tool: Tool,
    pub run: String,
    pub place: Place,
    /// Which of the model's answers asked for it.
    pub attempt: u64,
    pub key: Option<String>,
    /// When it had ended; it has not if the caller went away before.
    pub ended_ns: Option<u64>,
}

/// The server, for as long as it lives.
#[derive(Debug)]
pub struct Tools {
    pub url: String,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    executions: Mutex<Vec<Execution>>,
}

impl Tools {
    /// Starts the server; times are counted from `started`.
    pub async fn start(started: Instant) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        let shared = Arc::new(Shared {
            started,
            executions: Mutex::default(),
        });
        let router = Router::new()
            .route("/mcp", post(message))
            .with_state(Arc::clone(&shared));
        let mut task = JoinSet::new();
        task.spawn(async move {
            // It ends with the task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            url,
            shared,
            _task: task,
        })
    }

    /// Begins an episode: forgets what was.
    pub fn begin(&self) {
        self.shared.lock().clear();
    }

    /// What was executed since the episode began.
    pub fn executions(&self) -> Vec<Execution> {
        self.shared.lock().clone()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Execution>> {
        // Nothing panics while it holds the lock.
        self.executions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

async fn message(State(shared): State<Arc<Shared>>, Json(message): Json<Value>) -> Response {
    if message.get("id").is_none() {
        return StatusCode::ACCEPTED.into_response();
    }
    let params = &message["params"];
    let result = match message["method"].as_str() {
        Some("initialize") => Ok(json!({
            "protocolVersion": params["protocolVersion"], "capabilities": { "tools": {} },
            "serverInfo": { "name": "effects", "version": "1" },
        })),
        Some("ping") => Ok(json!({})),
        Some("tools/list") => Ok(json!({ "tools": Tool::ALL.map(described) })),
        Some("tools/call") => call(&shared, params)
            .await
            .ok_or("the arguments are not as planned"),
        _ => Err("no such method"),
    };
    let id = &message["id"];
    Json(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(text) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": text } })
        }
    })
    .into_response()
}

fn described(tool: Tool) -> Value {
    json!({
        "name": tool.name(), "description": "Writes down that it was called.",
        "inputSchema": { "type": "object", "required": ["run", "step", "call"] },
    })
}

async fn call(shared: &Shared, params: &Value) -> Option<Value> {
    let arguments = &params["arguments"];
    let execution = Execution {
        at_ns: shared.now_ns(),
        tool: serde_json::from_value(params["name"].clone()).ok()?,
        run: arguments["run"].as_str()?.to_owned(),
        place: serde_json::from_value(arguments.clone()).ok()?,
        attempt: arguments["attempt"].as_u64()?,
        key: params["_meta"]["talaria/idempotencyKey"]
            .as_str()
            .map(str::to_owned),
        ended_ns: None,
    };
    let number = {
        let mut executions = shared.lock();
        executions.push(execution);
        executions.len() - 1
    };
    let pause = Duration::from_millis(arguments["ms"].as_u64().unwrap_or_default());
    tokio::time::sleep(pause).await;
    let ended = shared.now_ns();
    if let Some(execution) = shared.lock().get_mut(number) {
        execution.ended_ns = Some(ended);
    }
    Some(json!({ "content": [{ "type": "text", "text": "done" }] }))
}
