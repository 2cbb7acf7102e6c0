//! Whether the façade lives, and whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use talaria_proto::v1::{
    CheckReadyRequest, GetStatusRequest, GetStatusResponse, ListAgentsRequest,
};

use crate::Gateway;
use crate::error::ApiError;

/// How long the parts may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /health` and `GET /v1/health`: the process answers.
pub async fn health() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"status": "ok", "platform": "talaria", "version": version}))
}

/// `GET /health/detailed`: how the parts are and what they do, in the shape of a Hermes server. 200 whatever it says.
pub async fn detailed(State(gateway): State<Gateway>) -> Json<Value> {
    let (mut store, mut agents) = (gateway.store.clone(), gateway.orchestrators.any());
    let (stored, orchestrator, agents) = tokio::join!(
        tokio::time::timeout(PATIENCE, store.check_ready(CheckReadyRequest {})),
        status_of_all(&gateway),
        tokio::time::timeout(PATIENCE, agents.list_agents(ListAgentsRequest {})),
    );
    let seen = Seen {
        store_answers: matches!(stored, Ok(Ok(_))),
        agents: match agents {
            Ok(Ok(agents)) => agents.into_inner().agents.len(),
            Ok(Err(_)) | Err(_) => 0,
        },
        orchestrator,
        stops: gateway.draining.is_cancelled(),
    };
    Json(details(&seen, std::process::id()))
}

/// What all orchestrators that answer do together; none if none does. They drain if all of them do.
async fn status_of_all(gateway: &Gateway) -> Option<GetStatusResponse> {
    let asking = gateway
        .orchestrators
        .each()
        .into_iter()
        .map(|mut runs| async move {
            let asked = tokio::time::timeout(PATIENCE, runs.get_status(GetStatusRequest {})).await;
            Some(asked.ok()?.ok()?.into_inner())
        });
    let told = futures::future::join_all(asking)
        .await
        .into_iter()
        .flatten();
    told.reduce(|one, other| GetStatusResponse {
        active_runs: one.active_runs.saturating_add(other.active_runs),
        max_concurrent: one.max_concurrent.saturating_add(other.max_concurrent),
        draining: one.draining && other.draining,
        starting_runs: one.starting_runs.saturating_add(other.starting_runs),
        refused_runs: one.refused_runs.saturating_add(other.refused_runs),
    })
}

/// What a look at the parts shows.
struct Seen {
    store_answers: bool,
    /// How many agents the orchestrators serve.
    agents: usize,
    orchestrator: Option<GetStatusResponse>,
    /// Whether the façade is stopping.
    stops: bool,
}

fn details(seen: &Seen, pid: u32) -> Value {
    let check = |is_well| if is_well { "ok" } else { "degraded" };
    let active = seen.orchestrator.map_or(0, |status| status.active_runs);
    let drains = seen.stops || seen.orchestrator.is_some_and(|status| status.draining);
    let state = match seen.orchestrator {
        None => None,
        Some(_) if drains => Some("draining"),
        Some(_) => Some("running"),
    };
    let runs = state == Some("running");
    let status = check(seen.store_answers && seen.agents > 0 && runs);
    json!({
        "status": status,
        "readiness": {
            "status": status,
            "checks": {
                "state_db": {"status": check(seen.store_answers)},
                // Checked before the process came up.
                "config": {"status": "ok"},
                "model": {"status": check(seen.agents > 0), "agents": seen.agents},
                "gateway": {
                    "status": check(runs),
                    "state": state,
                    "connected_platforms": 1,
                    "platforms": {"api_server": check(!seen.stops)},
                },
                "background_queues": {
                    "status": check(seen.orchestrator.is_some()),
                    "active_api_runs": active,
                    "max_concurrent_runs": seen.orchestrator.map(|status| status.max_concurrent),
                    "starting_runs": seen.orchestrator.map(|status| status.starting_runs),
                    "refused_runs": seen.orchestrator.map(|status| status.refused_runs),
                    "process_completions": 0,
                    "active_delegations": 0,
                },
            },
        },
        "platform": "talaria",
        "version": env!("CARGO_PKG_VERSION"),
        "gateway_state": state,
        "platforms": {},
        "active_agents": active,
        "gateway_busy": active > 0,
        "gateway_drainable": runs,
        "exit_reason": null,
        "updated_at": null,
        "pid": pid,
    })
}

/// `GET /health/ready`: the store's database and the orchestrator answer, and the façade is not stopping.
pub async fn ready(State(gateway): State<Gateway>) -> Result<Json<Value>, ApiError> {
    if gateway.draining.is_cancelled() {
        return Err(ApiError::unavailable(
            "gateway_draining",
            "The server is stopping.",
        ));
    }
    let (mut store, mut runs) = (gateway.store.clone(), gateway.orchestrators.any());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(active_runs: u32, draining: bool) -> GetStatusResponse {
        GetStatusResponse {
            active_runs,
            max_concurrent: 4,
            draining,
            ..GetStatusResponse::default()
        }
    }

    fn told(store_answers: bool, orchestrator: Option<GetStatusResponse>, stops: bool) -> String {
        let seen = Seen {
            store_answers,
            agents: usize::from(orchestrator.is_some()),
            orchestrator,
            stops,
        };
        let details = details(&seen, 7);
        let checks = &details["readiness"]["checks"];
        let of_check = |name: &str| checks[name]["status"].clone();
        let members = [
            "status",
            "gateway_state",
            "active_agents",
            "gateway_busy",
            "gateway_drainable",
        ];
        let mut told: Vec<Value> = members.map(|name| details[name].clone()).into();
        told.extend(["state_db", "model", "gateway", "background_queues"].map(of_check));
        Value::from(told).to_string()
    }

    /// REQ-86
    #[test]
    fn each_part_that_fails_shows_and_the_shape_stays() {
        let all = [
            told(true, Some(status(0, false)), false),
            told(true, Some(status(3, false)), false),
            told(true, Some(status(3, true)), false),
            told(true, Some(status(0, false)), true),
            told(false, Some(status(0, false)), false),
            told(true, None, false),
        ];

        insta::assert_snapshot!(all.join("\n"), @r#"
        ["ok","running",0,false,true,"ok","ok","ok","ok"]
        ["ok","running",3,true,true,"ok","ok","ok","ok"]
        ["degraded","draining",3,true,false,"ok","ok","degraded","ok"]
        ["degraded","draining",0,false,false,"ok","ok","degraded","ok"]
        ["degraded","running",0,false,true,"degraded","ok","ok","ok"]
        ["degraded",null,0,false,false,"ok","degraded","degraded","degraded"]
        "#);
    }
}
