//! `/v1/models`: the agents.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use talaria_proto::v1::{Agent, ListAgentsRequest};

use crate::Gateway;
use crate::error::{ApiError, printable};
use crate::follow::in_time;

/// `GET /v1/models`
pub async fn list_models(State(gateway): State<Gateway>) -> Result<Json<Value>, ApiError> {
    let models: Vec<Value> = agents(&gateway).await?.iter().map(model).collect();
    Ok(Json(json!({"object": "list", "data": models})))
}

/// `GET /v1/models/{model}`
pub async fn retrieve_model(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let agents = agents(&gateway).await?;
    agents
        .iter()
        .find(|agent| agent.name == name)
        .map(|agent| Json(model(agent)))
        .ok_or_else(|| {
            let message = format!("The model '{}' does not exist.", printable(&name));
            ApiError::not_found(message)
                .with_code("model_not_found")
                .with_param("model")
        })
}

/// The agents; the first is the default.
pub async fn agents(gateway: &Gateway) -> Result<Vec<Agent>, ApiError> {
    let agents = in_time(
        gateway
            .orchestrators
            .any()
            .list_agents(ListAgentsRequest {}),
    )
    .await?;
    Ok(agents.into_inner().agents)
}

fn model(agent: &Agent) -> Value {
    json!({
        "id": agent.name,
        "object": "model",
        "created": agent.created_at,
        "owned_by": "talaria",
        // Clients of Hermes servers read these three.
        "permission": [],
        "root": agent.name,
        "parent": null,
    })
}
