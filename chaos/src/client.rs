//! A client that makes runs, loses its connection, comes back elsewhere, repeats itself, and writes down what it sees.

mod stream;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::history::{Action, History, Order};
use crate::plan::{Plan, Tool};
use crate::random::Random;

use self::stream::Reading;
pub use self::stream::is_last;
use self::wire::Request;

/// Pauses between tries, in milliseconds.
const PAUSE_MS: (u64, u64) = (100, 600);

/// One client, for one episode.
#[derive(Debug)]
pub struct Client {
    pub index: usize,
    pub cluster: Arc<Cluster>,
    pub history: Arc<History>,
    pub random: Random,
    /// Names what clients share in this episode.
    pub episode: String,
    /// Set when no more runs are to be made.
    pub stop: CancellationToken,
}

/// A response that this client made, or knows that it may have.
#[derive(Clone, Debug)]
struct Made {
    id: String,
    run: String,
}

/// A request that makes a run.
#[derive(Clone, Debug)]
struct Creation {
    plan: Plan,
    body: Value,
    key: Option<String>,
}

impl Creation {
    fn order(&self) -> Order {
        let text = |name: &str| self.body[name].as_str().map(str::to_owned);
        Order {
            plan: self.plan.clone(),
            previous: text("previous_response_id"),
            conversation: text("conversation"),
        }
    }
}

/// How a creation ended.
#[derive(Debug)]
enum Created {
    /// With this response; whether its end was seen.
    Response(Made, bool, Option<u64>),
    /// It was refused, as may be.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Client {
    /// Makes runs until it is to stop, and follows each to its end.
    pub async fn run(mut self) {
        let mut number = 0;
        let mut latest: Option<Made> = None;
        while !self.stop.is_cancelled() {
            number += 1;
            let run = format!("e{}c{}n{number}", self.episode, self.index);
            let mut creation = self.creation(&run);
            match self.random.below(100) {
                0..12 => {
                    let conversation = self.random.below(4);
                    creation.body["conversation"] =
                        format!("chaos-{}-{conversation}", self.episode).into();
                }
                12..24 => {
                    if let Some(latest) = &latest {
                        creation.body["previous_response_id"] = latest.id.clone().into();
                    }
                }
                _ => {}
            }
            let completed = match self.random.below(100) {
                0..45 => self.streamed(creation).await,
                45..60 => self.waited(creation).await,
                60..75 => self.in_background(creation).await,
                75..85 => self.doubled(creation).await,
                85..93 => self.cancelled(creation).await,
                93..97 => self.deleted(creation).await,
                _ => self.chat(creation).await,
            };
            if completed.is_some() {
                latest = completed;
            }
            let pause = self.random.millis(10, 300);
            tokio::time::sleep(pause).await;
        }
    }

    fn creation(&mut self, run: &str) -> Creation {
        let random = &mut self.random;
        let steps = match random.below(100) {
            0..50 => 0,
            50..85 => 1,
            _ => 2,
        };
        let mut tools = |_| {
            (0..random.between(1, 3))
                .map(|_| *random.pick(&Tool::ALL))
                .collect()
        };
        let steps = (0..steps).map(&mut tools).collect();
        let plan = Plan {
            run: run.to_owned(),
            steps,
            tokens: usize::try_from(random.between(5, 60)).unwrap_or_default(),
            pace_ms: random.between(20, 70),
            tool_ms: if random.chance(60) {
                random.between(10, 300)
            } else {
                random.between(300, 2500)
            },
        };
        let model = if random.chance(25) { "kept" } else { "plain" };
        Creation {
            body: json!({ "model": model, "input": plan.prompt() }),
            plan,
            key: random.chance(70).then(|| format!("key-{run}")),
        }
    }

    /// Streams a run, may leave in the middle, and comes back until its end.
    async fn streamed(&mut self, mut creation: Creation) -> Option<Made> {
        creation.body["stream"] = true.into();
        if self.random.chance(20) {
            creation.body["background"] = true.into();
        }
        let leaves = self.leaves();
        self.made_and_followed(creation, leaves).await
    }

    async fn made_and_followed(
        &mut self,
        creation: Creation,
        leaves: Option<usize>,
    ) -> Option<Made> {
        match self.create(&creation, leaves).await {
            Created::Response(made, true, _) => Some(made),
            Created::Response(made, false, last) => self.follow(&made, last).await.then_some(made),
            Created::Refused | Created::Unknown => None,
        }
    }

    /// After how many bytes to leave.
    fn leaves(&mut self) -> Option<usize> {
        self.random.chance(50).then(|| self.random.index(20_000))
    }

    /// Waits for the end of a run in one request, which is repeated with its key.
    async fn waited(&mut self, creation: Creation) -> Option<Made> {
        match self.create(&creation, None).await {
            Created::Response(made, ..) => Some(made),
            Created::Refused | Created::Unknown => None,
        }
    }

    /// Makes a run in the background, looks at it now and then, and reads all of it at the end.
    async fn in_background(&mut self, mut creation: Creation) -> Option<Made> {
        creation.body["background"] = true.into();
        let Created::Response(made, ..) = self.create(&creation, None).await else {
            return None;
        };
        loop {
            let pause = self.random.millis(200, 1500);
            tokio::time::sleep(pause).await;
            match self.get(&made).await {
                Some((200, body)) if is_over(&body) => break,
                Some((404, _)) => return None,
                _ => {}
            }
        }
        self.follow(&made, None).await.then_some(made)
    }

    /// Sends the same request to two gateways at once.
    async fn doubled(&mut self, mut creation: Creation) -> Option<Made> {
        creation.key = Some(format!("key-{}", creation.plan.run));
        if self.random.chance(70) {
            creation.body["stream"] = true.into();
        }
        let mut twin = Self {
            random: Random::new(self.random.next()),
            cluster: Arc::clone(&self.cluster),
            history: Arc::clone(&self.history),
            episode: self.episode.clone(),
            stop: self.stop.clone(),
            index: self.index,
        };
        let leaves = self.leaves();
        let twins_leaves = self.leaves();
        let (one, _) = tokio::join!(
            self.made_and_followed(creation.clone(), leaves),
            Box::pin(twin.made_and_followed(creation, twins_leaves)),
        );
        one
    }

    /// Cancels a run at some moment.
    async fn cancelled(&mut self, mut creation: Creation) -> Option<Made> {
        creation.body["stream"] = true.into();
        let leaves = self.random.index(15_000);
        let created = self.create(&creation, Some(leaves)).await;
        let Created::Response(made, over, last) = created else {
            return None;
        };
        let path = format!("/v1/responses/{}/cancel", made.id);
        self.once_answered(Action::Cancel, reqwest::Method::POST, &path, &made)
            .await;
        if !over {
            self.follow(&made, last).await;
        }
        None
    }

    /// Deletes a run at some moment.
    async fn deleted(&mut self, mut creation: Creation) -> Option<Made> {
        creation.body["stream"] = true.into();
        // A conversation whose last response is deleted begins anew, and nobody could say what it should be.
        if let Some(body) = creation.body.as_object_mut() {
            body.remove("conversation");
        }
        let leaves = self.random.chance(60).then(|| self.random.index(15_000));
        let Created::Response(made, ..) = self.create(&creation, leaves).await else {
            return None;
        };
        let path = format!("/v1/responses/{}", made.id);
        self.once_answered(Action::Delete, reqwest::Method::DELETE, &path, &made)
            .await;
        for _ in 0..2 {
            self.get(&made).await;
        }
        None
    }

    /// A chat completion with a session.
    async fn chat(&mut self, creation: Creation) -> Option<Made> {
        let gateway = self.gateway();
        let streams = self.random.chance(50);
        let body = json!({
            "model": creation.body["model"], "stream": streams,
            "messages": [{ "role": "user", "content": creation.body["input"] }],
        });
        let session = format!("session-{}", creation.plan.run);
        let request = Request {
            method: reqwest::Method::POST,
            path: "/v1/chat/completions".to_owned(),
            body: Some(body),
            headers: vec![("x-hermes-session-id", session)],
            action: Action::Chat,
            response: None,
            order: Some(Order {
                previous: None,
                conversation: None,
                ..creation.order()
            }),
            run: Some(creation.plan.run),
            key: None,
        };
        let (op, answer) = self.send(gateway, request).await;
        if let Some(answer) = answer {
            self.read_whole(op, answer).await;
        }
        None
    }

    /// Repeats a request until it is answered with something other than trouble.
    async fn once_answered(
        &mut self,
        action: Action,
        method: reqwest::Method,
        path: &str,
        made: &Made,
    ) {
        loop {
            let gateway = self.gateway();
            let request = Request {
                action,
                response: Some(made.id.clone()),
                run: Some(made.run.clone()),
                ..Request::bare(method.clone(), path)
            };
            let (op, answer) = self.send(gateway, request).await;
            if let Some(answer) = answer {
                let status = answer.status().as_u16();
                if self.read_whole(op, answer).await.is_some() && status < 500 {
                    return;
                }
            }
            self.pause().await;
        }
    }

    async fn get(&mut self, made: &Made) -> Option<(u16, Value)> {
        let gateway = self.gateway();
        let request = Request {
            action: Action::Get,
            response: Some(made.id.clone()),
            run: Some(made.run.clone()),
            ..Request::bare(reqwest::Method::GET, &format!("/v1/responses/{}", made.id))
        };
        let (op, answer) = self.send(gateway, request).await;
        let answer = answer?;
        let status = answer.status().as_u16();
        Some((status, self.read_whole(op, answer).await?))
    }

    /// Makes a run. With a key, until it is known what became of that; without, once.
    async fn create(&mut self, creation: &Creation, leaves: Option<usize>) -> Created {
        let streams = creation.body["stream"] == true;
        let action = match (streams, creation.body["background"] == true) {
            (true, _) => Action::Stream,
            (false, true) => Action::Background,
            (false, false) => Action::Wait,
        };
        loop {
            let gateway = self.gateway();
            // Those who say that they are one of OpenAI's SDKs get everything from the beginning, also of a repetition.
            let mut headers = vec![("x-stainless-lang", "chaos".to_owned())];
            headers.extend(
                creation
                    .key
                    .iter()
                    .map(|key| ("idempotency-key", key.clone())),
            );
            let request = Request {
                body: Some(creation.body.clone()),
                headers,
                action,
                run: Some(creation.plan.run.clone()),
                key: creation.key.clone(),
                order: Some(creation.order()),
                ..Request::bare(reqwest::Method::POST, "/v1/responses")
            };
            let (op, answer) = self.send(gateway, request).await;
            if let Some(answer) = answer {
                let status = answer.status().as_u16();
                if status == 200 && streams {
                    let reading = Reading {
                        op,
                        leaves,
                        slow: self.random.chance(10),
                    };
                    let read = self.read_stream(answer, reading).await;
                    if let Some(id) = read.id {
                        let run = creation.plan.run.clone();
                        return Created::Response(Made { id, run }, read.over, read.last);
                    }
                } else if let Some(body) = self.read_whole(op, answer).await {
                    match (status, body["id"].as_str()) {
                        (200, Some(id)) => {
                            let made = Made {
                                id: id.to_owned(),
                                run: creation.plan.run.clone(),
                            };
                            return Created::Response(made, is_over(&body), None);
                        }
                        (400..500, _) if status != 429 => return Created::Refused,
                        _ => {}
                    }
                }
            }
            if creation.key.is_none() {
                return Created::Unknown;
            }
            self.pause().await;
        }
    }

    /// Reads a response's events until the last, wherever and however often; false if it is gone.
    async fn follow(&mut self, made: &Made, last: Option<u64>) -> bool {
        let mut last = last;
        loop {
            let after = match self.random.below(100) {
                // An older cursor, or none at all: what was seen before is seen again.
                0..10 => None,
                10..20 => last.map(|last| self.random.below(last + 1)),
                _ => last,
            };
            let gateway = self.gateway();
            let query = after.map(|after| format!("&starting_after={after}"));
            let path = format!(
                "/v1/responses/{}?stream=true{}",
                made.id,
                query.unwrap_or_default()
            );
            let request = Request {
                action: Action::Attach { after },
                response: Some(made.id.clone()),
                run: Some(made.run.clone()),
                ..Request::bare(reqwest::Method::GET, &path)
            };
            let (op, answer) = self.send(gateway, request).await;
            if let Some(answer) = answer {
                if answer.status().as_u16() == 200 {
                    let reading = Reading {
                        op,
                        leaves: self.leaves(),
                        slow: self.random.chance(10),
                    };
                    let read = self.read_stream(answer, reading).await;
                    last = last.max(read.last);
                    if read.over {
                        return true;
                    }
                } else {
                    let gone = matches!(answer.status().as_u16(), 400 | 404);
                    self.read_whole(op, answer).await;
                    if gone {
                        return false;
                    }
                }
            }
            let pause = self.random.millis(10, 200);
            tokio::time::sleep(pause).await;
        }
    }

    fn gateway(&mut self) -> usize {
        self.random.index(self.cluster.gateways.len())
    }

    async fn pause(&mut self) {
        let pause = self.random.millis(PAUSE_MS.0, PAUSE_MS.1);
        tokio::time::sleep(pause).await;
    }
}

/// How long a client waits for anything before it gives a request up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whether a response object is one that has ended.
pub fn is_over(response: &Value) -> bool {
    let status = response["status"].as_str().unwrap_or_default();
    ["completed", "failed", "incomplete", "cancelled"].contains(&status)
}
