//! The LLM APIs that a run calls, each behind the same vocabulary.

pub mod chat_completions;
pub mod demo;
mod error;
mod http;
mod lenient;
pub mod reader;
pub mod responses;
mod retry_after;
pub mod sse;
mod turn;

use std::time::Duration;

use secrecy::SecretString;
use talaria_domain::link::Link;
use talaria_domain::model::{ModelCall, ModelEvent, Outcome};
use talaria_proto::v1::Usage;
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::error::{CallError, CallErrorKind, Error, Wait};
use self::reader::Reader;
use self::responses::tracking::Tracking;
pub use self::turn::Turn;
use crate::breaker::Breaker;

/// How long to wait for the end of a stream when the model is already done.
const ENDING: Duration = Duration::from_secs(5);

/// How long cancelling an upstream's response may take.
const CANCEL: Duration = Duration::from_secs(5);

/// How much is read at once before what it says is handed on.
const READ_BYTES: usize = 64 * 1024;

/// Where an upstream is and how patient we are with it.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// The name by which agents and logs call it.
    pub name: String,
    pub kind: Kind,
    /// Up to and including the version: `https://api.openai.com/v1`. Not read for [`Kind::Demo`].
    pub base_url: String,
    pub api_key: Option<SecretString>,
    pub connect_timeout: Duration,
    /// From the connection to the first byte of the answer's body.
    pub first_byte_timeout: Duration,
    /// Between two reads of the answer's body.
    pub idle_timeout: Duration,
    pub total_timeout: Duration,
    /// How often one model call is tried again here before the next upstream is asked.
    pub max_retries: u32,
    /// It makes responses in the background, and its streams can be gone on with. Only read for [`Kind::Responses`].
    pub resumable: bool,
}

/// Which API an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Responses,
    ChatCompletions,
    /// Answers by itself, without a network.
    Demo,
}

/// In which form an answer is asked for. Whatever is asked for, both are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As a stream of events.
    Stream,
    /// As the stream of a response that the upstream keeps, so that it can be gone on with.
    Kept,
    /// As one JSON document, for upstreams whose streams fail.
    Whole,
}

/// An LLM API that can be called.
#[derive(Debug)]
pub struct Upstream {
    name: String,
    api: Api,
    max_retries: u32,
    resumable: bool,
    /// How long an answer may take to begin, the connection included.
    first_byte_timeout: Duration,
    total_timeout: Duration,
    /// What is known of its health; told to those who wait for it.
    health: watch::Sender<Breaker>,
}

#[derive(Debug)]
enum Api {
    Responses(http::Client),
    ChatCompletions(http::Client),
    Demo { pace: Duration },
}

/// What an upstream says during one call. Dropping it ends the upstream's request at once.
#[derive(Debug)]
pub struct ModelStream(Source);

#[derive(Debug)]
enum Source {
    Http(Box<HttpStream>),
    Demo(demo::Stream),
}

#[derive(Debug)]
struct HttpStream {
    body: http::Body,
    reader: Reader,
    ended: bool,
}

impl Upstream {
    /// Prepares to call the upstream; fails when the settings cannot work. Nothing is sent.
    pub fn new(config: UpstreamConfig) -> Result<Self, Error> {
        let api = match config.kind {
            Kind::Responses => Api::Responses(http::Client::new(&config, "responses")?),
            Kind::ChatCompletions => {
                Api::ChatCompletions(http::Client::new(&config, "chat/completions")?)
            }
            Kind::Demo => Api::Demo {
                pace: demo::DEFAULT_PACE,
            },
        };
        Ok(Self {
            name: config.name,
            api,
            max_retries: config.max_retries,
            resumable: config.resumable && config.kind == Kind::Responses,
            first_byte_timeout: config.connect_timeout + config.first_byte_timeout,
            total_timeout: config.total_timeout,
            health: watch::Sender::default(),
        })
    }

    /// The demo upstream with another time per word.
    pub fn demo(name: impl Into<String>, pace: Duration) -> Self {
        Self {
            name: name.into(),
            api: Api::Demo { pace },
            max_retries: 0,
            resumable: false,
            first_byte_timeout: Duration::ZERO,
            total_timeout: Duration::ZERO,
            health: watch::Sender::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How often one model call is tried again here.
    pub fn max_retries(&self) -> u32 {
        self.max_retries
    }

    /// Whether it keeps what it makes, and its streams can be gone on with.
    pub fn is_resumable(&self) -> bool {
        self.resumable
    }

    /// How long an answer may take to begin.
    pub fn first_byte_timeout(&self) -> Duration {
        self.first_byte_timeout
    }

    /// How long an answer may take, over however many connections.
    pub fn total_timeout(&self) -> Duration {
        self.total_timeout
    }

    /// Asks the upstream and returns as soon as it has begun to answer.
    pub async fn call(&self, call: &ModelCall, form: Form) -> Result<ModelStream, CallError> {
        let (client, body, reader) = match &self.api {
            Api::Responses(client) => {
                let body = responses::request::body(call, form);
                let tracking = (form == Form::Kept).then(|| Tracking::of_new(&self.name));
                (client, body, Reader::responses(tracking))
            }
            Api::ChatCompletions(client) => {
                let reader = Reader::chat_completions(call.context.len());
                (client, chat_completions::request::body(call, form), reader)
            }
            Api::Demo { pace } => {
                return Ok(ModelStream(Source::Demo(demo::Stream::new(call, *pace))));
            }
        };
        let body = client.post(body, form).await?;
        self.began();
        Ok(ModelStream::read(body, reader))
    }

    /// Goes on with the stream of a response that the upstream keeps, after the last event that was taken in.
    ///
    /// What comes are the events after that, as if the stream had never broken; until `until` at most.
    pub async fn resume(&self, link: &Link, until: Instant) -> Result<ModelStream, CallError> {
        let Api::Responses(client) = &self.api else {
            return Err(CallError::lost());
        };
        let after = link.cursor.to_string();
        let query = [("stream", "true"), ("starting_after", &after)];
        let body = client.get(&[&link.response_id], &query, until).await?;
        self.began();
        let reader = Reader::responses(Some(Tracking::after(link.cursor)));
        Ok(ModelStream::read(body, reader))
    }

    /// Stops a response that the upstream keeps, if it can be reached within a few seconds.
    pub async fn cancel(&self, response_id: &str) {
        let Api::Responses(client) = &self.api else {
            return;
        };
        let path = [response_id, "cancel"];
        let outcome = tokio::time::timeout(CANCEL, client.post_to(&path)).await;
        let is_cancelled = matches!(outcome, Ok(Ok(_)));
        tracing::debug!(
            upstream = self.name,
            is_cancelled,
            "cancelled a response of an upstream's"
        );
    }
}

impl ModelStream {
    fn read(body: http::Body, reader: Reader) -> Self {
        Self(Source::Http(Box::new(HttpStream {
            body,
            reader,
            ended: false,
        })))
    }

    /// What the upstream said that it used so far, if its answer has broken off: then no [`ModelEvent::Finished`] says it.
    pub fn take_usage(&mut self) -> Option<Usage> {
        match &mut self.0 {
            Source::Http(stream) => stream.reader.take_usage(),
            Source::Demo(_) => None,
        }
    }

    /// Appends what comes next to `events`; false, with nothing appended, at the end.
    ///
    /// Waits for one read and takes all that it brought, which may say nothing. Whatever was said before an error is
    /// appended before it is returned. A stream may end without [`ModelEvent::Finished`]; after it nothing comes.
    /// Cancel-safe.
    pub async fn next(&mut self, events: &mut Vec<ModelEvent>) -> Result<bool, CallError> {
        match &mut self.0 {
            Source::Http(stream) => stream.next(events).await,
            Source::Demo(stream) => Ok(stream.next(events).await),
        }
    }

    /// Reads a finished stream to its end, so that its connection can serve another call; a second at most.
    ///
    /// The run need not wait for it.
    pub async fn drain(self) {
        let Source::Http(mut stream) = self.0 else {
            return;
        };
        if stream.reader.is_finished() && !stream.ended {
            stream.body.drain(Duration::from_secs(1)).await;
        }
    }
}

impl HttpStream {
    async fn next(&mut self, events: &mut Vec<ModelEvent>) -> Result<bool, CallError> {
        if self.ended || self.reader.is_finished() {
            return Ok(false);
        }
        let before = events.len();
        let read = self.read(events).await;
        self.ended |= read.is_err();
        self.redact(&mut events[before..]);
        read?;
        Ok(!self.ended || events.len() > before)
    }

    async fn read(&mut self, events: &mut Vec<ModelEvent>) -> Result<(), CallError> {
        let at_most = self.reader.is_ending().then_some(ENDING);
        match self.body.next(at_most).await {
            Ok(Some(bytes)) => {
                self.reader.push(&bytes, events)?;
                self.read_on(bytes.len(), events)
            }
            Err(error) if !self.reader.is_ending() => Err(error),
            // When the model was done, only the end of the stream was lost.
            Ok(None) | Err(_) => {
                self.ended = true;
                self.reader.finish(events)
            }
        }
    }

    /// Takes what has arrived meanwhile.
    fn read_on(&mut self, mut read: usize, events: &mut Vec<ModelEvent>) -> Result<(), CallError> {
        while read < READ_BYTES {
            let Some(bytes) = self.body.next_ready() else {
                break;
            };
            read += bytes.len();
            self.reader.push(&bytes, events)?;
        }
        Ok(())
    }

    /// Takes what clients must not read out of an error.
    fn redact(&self, events: &mut [ModelEvent]) {
        if let Some(ModelEvent::Finished {
            outcome: Outcome::Failed(error),
            ..
        }) = events.last_mut()
        {
            self.body.redact(error);
        }
    }
}

#[cfg(test)]
mod tests;
