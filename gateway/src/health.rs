//! Whether the façade lives, and whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use talaria_proto::v1::{CheckReadyRequest, ListAgentsRequest};

use crate::Gateway;
use crate::error::ApiError;

/// How long the parts may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /health` and `GET /v1/health`: the process answers.
pub async fn health() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"status": "ok", "platform": "talaria", "version": version}))
}

/// `GET /health/ready`: the store's database and the orchestrator answer, and the façade is not stopping.
pub async fn ready(State(gateway): State<Gateway>) -> Result<Json<Value>, ApiError> {
    if gateway.stop.is_cancelled() {
        return Err(ApiError::unavailable(
            "gateway_draining",
            "The server is stopping.",
        ));
    }
    let (mut store, mut runs) = (gateway.store.clone(), gateway.runs.clone());
    let (stored, run) = tokio::join!(
        tokio::time::timeout(PATIENCE, store.check_ready(CheckReadyRequest {})),
        tokio::time::timeout(PATIENCE, runs.list_agents(ListAgentsRequest {})),
    );
    if !matches!(stored, Ok(Ok(_))) {
        return Err(ApiError::unavailable(
            "store_unavailable",
            "The store does not answer.",
        ));
    }
    if !matches!(run, Ok(Ok(_))) {
        let message = "The run orchestrator does not answer.";
        return Err(ApiError::unavailable("orchestrator_unavailable", message));
    }
    Ok(Json(json!({"status": "ready"})))
}
