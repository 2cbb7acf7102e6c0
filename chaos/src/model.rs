//! The scripted upstream: a server of the Responses API that answers as the plan in each prompt says.
//!
//! It keeps what it makes in the background, and lets clients go on with it. Now and then it fails, as its seed says.

mod answer;
mod kept;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::plan::{TurnSeen, asked};
use crate::random::Random;

use self::answer::{Answer, Pieces};
use self::kept::{Kept, Reader};

/// The longest that an answer that hangs is held.
const HANG: Duration = Duration::from_mins(1);

/// What the model was asked, once.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    pub at_ns: u64,
    pub run: String,
    pub step: usize,
    /// How often this step was asked for before.
    pub attempt: u32,
    /// It can be gone on with.
    pub kept: bool,
    pub before: Vec<TurnSeen>,
    pub trouble: Option<Trouble>,
}

/// What goes wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Trouble {
    /// 500 instead of an answer.
    Error,
    /// 429 instead of an answer.
    Busy,
    /// The connection breaks in the middle.
    Cut,
    /// Nothing more comes from the middle on.
    Hang,
}

/// The server, for as long as it lives.
#[derive(Debug)]
pub struct Model {
    /// `http://127.0.0.1:port/v1`
    pub base_url: String,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    seed: u64,
    /// Answers in 100 that something goes wrong with.
    trouble_percent: u64,
    attempts: HashMap<(String, usize), u32>,
    calls: Vec<Call>,
    kept: HashMap<String, Arc<Kept>>,
    /// Who writes the answers that are kept.
    writers: JoinSet<()>,
}

impl Model {
    /// Starts the server; times are counted from `started`.
    pub async fn start(started: Instant) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base_url = format!("http://{}/v1", listener.local_addr()?);
        let shared = Arc::new(Shared {
            started,
            inner: Mutex::default(),
        });
        let router = Router::new()
            .route("/v1/responses", post(create))
            .route("/v1/responses/{id}", get(resume))
            .route("/v1/responses/{id}/cancel", post(cancel))
            .with_state(Arc::clone(&shared));
        let mut task = JoinSet::new();
        task.spawn(async move {
            // It ends with the task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            base_url,
            shared,
            _task: task,
        })
    }

    /// Begins an episode: forgets what was, and decides by another seed what goes wrong.
    pub fn begin(&self, seed: u64, trouble_percent: u64) {
        let mut inner = self.shared.lock();
        *inner = Inner {
            seed,
            trouble_percent,
            ..Inner::default()
        };
    }

    /// What was asked since the episode began.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What goes wrong with this answer.
    fn trouble(&self, run: &str, step: usize, attempt: u32) -> Option<Trouble> {
        let mut random = Random::of(self.seed, &format!("{run}.{step}.{attempt}"));
        random.chance(self.trouble_percent).then(|| {
            *random.pick(&[
                Trouble::Error,
                Trouble::Busy,
                Trouble::Cut,
                Trouble::Cut,
                Trouble::Hang,
            ])
        })
    }
}

async fn create(State(shared): State<Arc<Shared>>, Json(request): Json<Value>) -> Response {
    let Some(asked) = asked(&request) else {
        return failure(StatusCode::BAD_REQUEST, "there is no plan in this request");
    };
    let (step, missing) = asked.plan.next_step(&asked.answered);
    let keeps = request["background"] == true;
    let run = asked.plan.run.clone();
    let mut inner = shared.lock();
    let count = inner.attempts.entry((run.clone(), step)).or_default();
    let attempt = *count;
    *count += 1;
    let trouble = inner.trouble(&run, step, attempt);
    inner.calls.push(Call {
        at_ns: u64::try_from(shared.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        run,
        step,
        attempt,
        kept: keeps,
        before: asked.before,
        trouble,
    });
    match trouble {
        Some(Trouble::Error) => {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "as the seed says");
        }
        Some(Trouble::Busy) => return failure(StatusCode::TOO_MANY_REQUESTS, "as the seed says"),
        Some(Trouble::Cut | Trouble::Hang) | None => {}
    }
    let pieces = Answer {
        plan: &asked.plan,
        step,
        attempt,
        missing: &missing,
        background: keeps,
    }
    .pieces();
    let pace = Duration::from_millis(asked.plan.pace_ms);
    let breaks_at = trouble.map(|trouble| (pieces.frames.len() / 2, trouble));
    let kept = Kept::new(breaks_at);
    if keeps {
        inner.kept.insert(pieces.id.clone(), Arc::clone(&kept));
    }
    // Before the writer begins, which would find nobody listening.
    let reader = kept.read(0);
    inner.writers.spawn(write(kept, pieces, pace, keeps));
    while inner.writers.try_join_next().is_some() {}
    drop(inner);
    stream(reader)
}

/// Says piece by piece what the answer is; ends early when nobody listens to one that is not kept.
async fn write(kept: Arc<Kept>, pieces: Pieces, pace: Duration, keeps: bool) {
    for frame in pieces.frames {
        if frame.paced {
            tokio::time::sleep(pace).await;
        }
        if kept.is_cancelled() || !keeps && kept.is_left() {
            break;
        }
        kept.push(frame.bytes);
    }
    kept.end();
}

async fn resume(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let Some(kept) = shared.lock().kept.get(&id).cloned() else {
        return failure(StatusCode::NOT_FOUND, "no such response");
    };
    let after = query
        .get("starting_after")
        .and_then(|after| after.parse().ok())
        .map_or(0, |after: usize| after + 1);
    stream(kept.read(after))
}

async fn cancel(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    match shared.lock().kept.get(&id) {
        Some(kept) => {
            kept.cancel();
            Json(json!({ "id": id, "object": "response", "status": "cancelled" })).into_response()
        }
        None => failure(StatusCode::NOT_FOUND, "no such response"),
    }
}

/// The rest of an answer.
fn stream(reader: Reader) -> Response {
    let body = futures::stream::unfold(reader, async |mut reader| {
        let next = tokio::time::timeout(HANG, reader.next()).await;
        match next {
            Ok(Some(piece)) => Some((piece, reader)),
            Ok(None) | Err(_) => None,
        }
    });
    (
        [("content-type", "text/event-stream")],
        Body::from_stream(body),
    )
        .into_response()
}

fn failure(status: StatusCode, message: &str) -> Response {
    let error = json!({ "error": { "message": message, "type": "server_error", "code": null, "param": null } });
    (status, Json(error)).into_response()
}
