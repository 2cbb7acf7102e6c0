//! One attempt at a step of the model: an upstream is asked, or its stream gone on with, and read to its end.

use std::sync::Arc;
use std::time::Duration;

use talaria_domain::link::Link;
use talaria_domain::model::{ModelCall, ModelEvent, Outcome};
use talaria_proto::v1::Usage;
use tokio::time::Instant;

use super::writer::Writer;
use super::{Execution, Left, Sink};
use crate::breaker::Refusal;
use crate::retry::Attempts;
use crate::upstreams::{CallError, CallErrorKind, Form, ModelStream, Turn, Upstream};

/// How one attempt ended.
pub(super) enum Attempt {
    Over,
    Cancelled,
    Failed(CallError),
}

/// A model call, over all connections by which its answer comes.
#[derive(Debug)]
pub(super) struct Contact {
    /// When it is given up, as its first connection says.
    until: Option<Instant>,
    /// When the upstream last said something, or was asked.
    said_at: Instant,
    /// It has said something since the last attempt failed.
    has_said: bool,
    /// What it is said to have used so far: a stream that is gone on with says it again.
    usage: Option<Usage>,
}

impl Contact {
    pub(super) fn new() -> Self {
        Self {
            until: None,
            said_at: Instant::now(),
            has_said: false,
            usage: None,
        }
    }

    /// Whether it has said something since this was last asked.
    pub(super) fn take_said(&mut self) -> bool {
        std::mem::take(&mut self.has_said)
    }

    /// What was said to be used by what failed.
    pub(super) fn take_usage(&mut self) -> Option<Usage> {
        self.usage.take()
    }

    /// Takes in what the call is said to have used; what is said later counts.
    fn used(&mut self, usage: Option<Usage>) {
        self.usage = usage.or(self.usage.take());
    }

    /// Takes in that a connection is made; returns when the call is given up.
    fn connect(&mut self, upstream: &Upstream) -> Instant {
        *self
            .until
            .get_or_insert_with(|| Instant::now() + upstream.total_timeout())
    }

    /// For how long the upstream has said nothing.
    pub(super) fn quiet(&self) -> Duration {
        self.said_at.elapsed()
    }

    /// Takes in that the upstream is alive, if `events` are more than numbers.
    fn hear(&mut self, events: &[ModelEvent]) {
        let says = |event: &ModelEvent| {
            !matches!(event, ModelEvent::Began { .. } | ModelEvent::Heard { .. })
        };
        if events.iter().any(says) {
            (self.said_at, self.has_said) = (Instant::now(), true);
        }
    }
}

impl Execution {
    /// One attempt, of which the upstream's breaker learns.
    pub(super) async fn ask(
        &mut self,
        upstream: &Upstream,
        call: &ModelCall,
        attempts: &Attempts,
        contact: &mut Contact,
        writer: &mut Writer,
    ) -> Result<Attempt, Left> {
        let has_next = attempts.upstream + 1 < self.agent.upstreams.len();
        let turn = match self.turn(upstream, has_next, writer).await? {
            None => return Ok(Attempt::Cancelled),
            Some(Err(error)) => return Ok(Attempt::Failed(error)),
            Some(Ok(turn)) => turn,
        };
        // What its client does not want kept is kept nowhere.
        let is_stored = matches!(self.sink, Sink::Stored(_));
        let form = match attempts.form {
            Form::Stream if upstream.is_resumable() && is_stored => Form::Kept,
            form => form,
        };
        contact.connect(upstream);
        let called = self.fenced().then(upstream.call(call, form));
        let called = self.meanwhile(writer, called).await?;
        self.listen(turn, called, contact, writer).await
    }

    /// Goes on with the stream of a response that the upstream keeps.
    pub(super) async fn resume(
        &mut self,
        upstream: &Upstream,
        link: &Link,
        contact: &mut Contact,
        writer: &mut Writer,
    ) -> Result<Attempt, Left> {
        let turn = match self.turn(upstream, false, writer).await? {
            None => return Ok(Attempt::Cancelled),
            Some(Err(error)) => return Ok(Attempt::Failed(error)),
            Some(Ok(turn)) => turn,
        };
        let resumed = upstream.resume(link, contact.connect(upstream));
        let resumed = self.fenced().then(resumed);
        let resumed = self.meanwhile(writer, resumed).await?;
        let attempt = self.listen(turn, resumed, contact, writer).await?;
        let Attempt::Failed(error) = attempt else {
            return Ok(attempt);
        };
        let may_pass = error.kind.is_transient() && !matches!(error.kind, CallErrorKind::Empty);
        let is_over = matches!(
            error.kind,
            CallErrorKind::Reported { .. } | CallErrorKind::Timeout(_)
        );
        if may_pass || is_over || self.run.link().as_ref() != Some(link) {
            return Ok(Attempt::Failed(error));
        }
        tracing::warn!(kind = ?error.kind, upstream = upstream.name(), "a response of an upstream's is lost");
        self.let_go(false, writer);
        Ok(Attempt::Failed(CallError::lost()))
    }

    /// Reads what the upstream says, and lets its breaker know.
    async fn listen(
        &mut self,
        turn: Turn<'_>,
        called: Option<Result<ModelStream, CallError>>,
        contact: &mut Contact,
        writer: &mut Writer,
    ) -> Result<Attempt, Left> {
        let link_before = self.run.link();
        let attempt = match called {
            None => return Ok(Attempt::Cancelled),
            Some(Err(error)) => Attempt::Failed(error),
            Some(Ok(stream)) => self.read_model(stream, contact, writer).await?,
        };
        // One that says a little more each time is not down.
        let has_progressed = self
            .run
            .link()
            .is_some_and(|link| Some(link) != link_before);
        match &attempt {
            Attempt::Failed(error) if error.kind.is_trouble() && !has_progressed => turn.failed(),
            Attempt::Over | Attempt::Failed(_) => turn.answered(),
            Attempt::Cancelled => {}
        }
        Ok(attempt)
    }

    /// Gives up the response that an upstream keeps for this run. Unless it is over by itself, it is cancelled there, as
    /// soon as the log gives it up with the run's next event.
    pub(super) fn let_go(&mut self, is_over: bool, writer: &mut Writer) {
        let Some((upstream, response_id)) = self.run.let_go() else {
            return;
        };
        let Some(position) = self.agent.resumable(&upstream).filter(|_| !is_over) else {
            return;
        };
        let upstream = Arc::clone(&self.agent.upstreams[position]);
        let said_by = self.run.snapshot().next_sequence_number();
        writer.cancel_after(upstream, response_id, said_by);
    }

    /// Leave to ask the upstream; `None` if the run is cancelled meanwhile.
    ///
    /// While another run's call tries whether the upstream is back, this one waits for what comes of it, unless there is
    /// another upstream to ask.
    async fn turn<'u>(
        &mut self,
        upstream: &'u Upstream,
        has_next: bool,
        writer: &mut Writer,
    ) -> Result<Option<Result<Turn<'u>, CallError>>, Left> {
        let until = Instant::now() + upstream.first_byte_timeout();
        loop {
            let wait = match upstream.turn() {
                Ok(turn) => return Ok(Some(Ok(turn))),
                Err(Refusal::Open(wait)) => return Ok(Some(Err(CallError::unhealthy(wait)))),
                Err(Refusal::Probing(wait)) => wait,
            };
            let left = until.saturating_duration_since(Instant::now());
            if has_next || left.is_zero() {
                return Ok(Some(Err(CallError::unhealthy(wait))));
            }
            let is_over = upstream.probe_is_over(wait.min(left));
            if self.meanwhile(writer, is_over).await?.is_none() {
                return Ok(None);
            }
        }
    }

    async fn read_model(
        &mut self,
        mut stream: ModelStream,
        contact: &mut Contact,
        writer: &mut Writer,
    ) -> Result<Attempt, Left> {
        let mut said: Vec<ModelEvent> = Vec::new();
        let link_before = self.run.link();
        let fenced = self.fenced();
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ok(Attempt::Cancelled),
                () = self.release.cancelled() => return Err(Left::Released),
                progress = writer.progress() => progress?,
                more = fenced.clone().then(stream.next(&mut said)), if writer.has_room() => {
                    contact.hear(&said);
                    let mut end = said.drain(..).find_map(|event| self.take_in(event, contact));
                    if end.is_none() {
                        if !matches!(more, Ok(true)) {
                            contact.used(stream.take_usage());
                        }
                        end = match more {
                            Ok(true) => None,
                            Ok(false) => Some(self.model_ended(link_before.as_ref(), contact)),
                            Err(error) => Some(Attempt::Failed(error)),
                        };
                    }
                    writer.add(self.take_events());
                    if let Some(end) = end {
                        // So that its connection can be used again; nobody waits for it.
                        self.sink.tasks().spawn(stream.drain());
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Gives the run what the upstream said; how the attempt ended, if it did. Failures are not the run's to know yet.
    fn take_in(&mut self, event: ModelEvent, contact: &mut Contact) -> Option<Attempt> {
        match event {
            ModelEvent::Finished {
                outcome: Outcome::Failed(error),
                usage,
                ..
            } => {
                contact.used(usage);
                Some(Attempt::Failed(CallError::reported(error)))
            }
            ModelEvent::Finished { .. } => {
                self.run.on_model(event);
                Some(Attempt::Over)
            }
            ModelEvent::ItemAdded { .. }
            | ModelEvent::Delta { .. }
            | ModelEvent::Text { .. }
            | ModelEvent::Annotation { .. }
            | ModelEvent::Progress { .. }
            | ModelEvent::ItemDone { .. }
            | ModelEvent::Began { .. }
            | ModelEvent::Heard { .. } => {
                self.run.on_model(event);
                None
            }
        }
    }

    /// A stream that ended without saying so: many never do.
    ///
    /// `link_before` is where the stream was gone on with, if it was.
    fn model_ended(&mut self, link_before: Option<&Link>, contact: &mut Contact) -> Attempt {
        if !self.run.step_has_said() {
            return Attempt::Failed(CallError::empty());
        }
        let link = self.run.link();
        // Nobody knows what would have followed, so the tool must not run.
        if self.run.is_within_call() {
            return Attempt::Failed(CallError::cut_off());
        }
        // The upstream may have more: it has not, if it ends so once more and says nothing.
        if link.is_some() && link.as_ref() != link_before {
            return Attempt::Failed(CallError::cut_short());
        }
        if link.is_some() {
            self.run.add_usage(contact.take_usage());
        }
        self.run.on_model_end();
        Attempt::Over
    }
}
