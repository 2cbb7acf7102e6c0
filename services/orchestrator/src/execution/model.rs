//! One step of the model: asked until it answers, or until there is nobody left to ask.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use talaria_domain::context::{call_items, tell_approvals};
use talaria_domain::model::{ModelCall, ModelEvent, Outcome};
use talaria_domain::run::{End, Step};
use tokio::time::Instant;

use super::writer::Writer;
use super::{Execution, Left, Sink, StepEnd, choice, limits};
use crate::retry::{Attempts, Decision, Failure};
use crate::tools::ToolList;
use crate::upstreams::{CallError, CallErrorKind, Form, ModelStream, Upstream};

/// The first pause between two attempts, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How one attempt ended.
enum Attempt {
    Over,
    Cancelled,
    Failed(CallError),
}

impl Execution {
    /// Asks the model until it has answered, or something was shown that must not be shown again, or nothing helps.
    pub(super) async fn call_model(
        &mut self,
        tools: &ToolList,
        attempts: &mut Attempts,
        writer: &mut Writer,
    ) -> Result<StepEnd, Left> {
        // Why an upstream was asked for a whole answer: what it says to that tells clients less.
        let mut not_streamed = None;
        loop {
            let agent = Arc::clone(&self.agent);
            let upstream = agent.upstreams.get(attempts.upstream);
            let form = attempts.form;
            let attempt = match upstream {
                Some(upstream) => {
                    let call = self.model_call(tools, attempts.upstream > 0);
                    self.ask(upstream, &call, form, writer).await?
                }
                None => Attempt::Failed(CallError::unhealthy(Duration::ZERO)),
            };
            let error = match attempt {
                Attempt::Over => {
                    *attempts = Attempts::default();
                    return Ok(StepEnd::Over);
                }
                Attempt::Cancelled => return Ok(StepEnd::Cancelled),
                Attempt::Failed(error) => error,
            };
            if !self.run.step_has_shown() {
                self.run.forget_unshown();
            }
            let decision = attempts.decide(Failure {
                error: &error,
                shown: self.run.step_has_shown(),
                max_retries: upstream.map_or(0, |upstream| upstream.max_retries()),
                upstreams: agent.upstreams.len(),
                on_broken_stream: self.on_broken_stream,
            });
            let name = upstream.map(|upstream| upstream.name());
            tracing::warn!(kind = ?error.kind, upstream = name, ?decision, "a model call failed");
            match decision {
                Decision::Otherwise => {
                    if attempts.form == Form::Whole {
                        not_streamed = Some(error);
                    }
                }
                Decision::Again { at_least } => {
                    if let StepEnd::Cancelled = self.pause(attempts, at_least, writer).await? {
                        return Ok(StepEnd::Cancelled);
                    }
                }
                Decision::GoOn { at_least } => {
                    self.run.model_broke();
                    if self.run.next_step() == Step::Finish(End::Completed) {
                        // What was shown would do, unless the upstream says itself that it does not.
                        if matches!(error.kind, CallErrorKind::Reported { .. }) {
                            self.fail(error);
                        }
                        return Ok(StepEnd::Over);
                    }
                    // What to do next is the run's to say: there may be calls to run first.
                    return self.pause(attempts, at_least, writer).await;
                }
                Decision::Fail => {
                    let told = not_streamed.filter(|_| form == Form::Whole);
                    self.fail(told.unwrap_or(error));
                    return Ok(StepEnd::Over);
                }
            }
        }
    }

    fn fail(&mut self, error: CallError) {
        self.run.on_model(ModelEvent::Finished {
            outcome: Outcome::Failed(*error.error),
            usage: None,
            output: Vec::new(),
        });
    }

    /// One attempt, of which the upstream's breaker learns.
    async fn ask(
        &mut self,
        upstream: &Upstream,
        call: &ModelCall,
        form: Form,
        writer: &mut Writer,
    ) -> Result<Attempt, Left> {
        let admitted = upstream.breaker().admit(Instant::now());
        if let Err(wait) = admitted {
            return Ok(Attempt::Failed(CallError::unhealthy(wait)));
        }
        let attempt = match self.meanwhile(writer, upstream.call(call, form)).await? {
            None => return Ok(Attempt::Cancelled),
            Some(Err(error)) => Attempt::Failed(error),
            Some(Ok(stream)) => self.read_model(upstream, stream, writer).await?,
        };
        match &attempt {
            Attempt::Failed(error) if error.kind.is_trouble() => {
                if upstream.breaker().failed(Instant::now()) {
                    tracing::error!(
                        upstream = upstream.name(),
                        "an upstream fails and is left alone"
                    );
                }
            }
            Attempt::Over | Attempt::Failed(_) => upstream.breaker().answered(),
            Attempt::Cancelled => {}
        }
        Ok(attempt)
    }

    async fn read_model(
        &mut self,
        upstream: &Upstream,
        mut stream: ModelStream,
        writer: &mut Writer,
    ) -> Result<Attempt, Left> {
        let mut said: Vec<ModelEvent> = Vec::new();
        let mut has_begun = false;
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ok(Attempt::Cancelled),
                () = self.release.cancelled() => return Err(Left::Released),
                progress = writer.progress() => progress?,
                more = stream.next(&mut said), if writer.has_room() => {
                    if !has_begun && !said.is_empty() {
                        has_begun = true;
                        upstream.breaker().began();
                    }
                    let mut end = said.drain(..).find_map(|event| self.take_in(event));
                    if end.is_none() {
                        end = match more {
                            Ok(true) => None,
                            Ok(false) => Some(self.model_ended()),
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
    fn take_in(&mut self, event: ModelEvent) -> Option<Attempt> {
        match event {
            ModelEvent::Finished {
                outcome: Outcome::Failed(error),
                ..
            } => Some(Attempt::Failed(CallError::reported(error))),
            ModelEvent::Finished { .. } => {
                self.run.on_model(event);
                Some(Attempt::Over)
            }
            ModelEvent::ItemAdded { .. }
            | ModelEvent::Delta { .. }
            | ModelEvent::Text { .. }
            | ModelEvent::Annotation { .. }
            | ModelEvent::Progress { .. }
            | ModelEvent::ItemDone { .. } => {
                self.run.on_model(event);
                None
            }
        }
    }

    /// A stream that ended without saying so: many never do.
    fn model_ended(&mut self) -> Attempt {
        if !self.run.step_has_said() {
            return Attempt::Failed(CallError::empty());
        }
        // Nobody knows what would have followed, so the tool must not run.
        if self.run.is_within_call() {
            return Attempt::Failed(CallError::cut_off());
        }
        self.run.on_model_end();
        Attempt::Over
    }

    /// Waits before the next attempt.
    async fn pause(
        &mut self,
        attempts: &Attempts,
        at_least: Duration,
        writer: &mut Writer,
    ) -> Result<StepEnd, Left> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_jitter()
            .without_max_times()
            .build();
        let pause = pauses.nth(attempts.pauses().saturating_sub(1));
        let until = Instant::now() + pause.unwrap_or(LONGEST_PAUSE).max(at_least);
        let draining = self.draining.clone();
        let waited = draining.run_until_cancelled_owned(tokio::time::sleep_until(until));
        match (self.meanwhile(writer, waited).await?, &self.sink) {
            (None, _) => Ok(StepEnd::Cancelled),
            // Another process need not wait for this one's end.
            (Some(None), Sink::Stored(_)) => Err(Left::Released),
            (Some(_), _) => Ok(StepEnd::Over),
        }
    }

    fn model_call(&self, server_tools: &ToolList, elsewhere: bool) -> ModelCall {
        let mut context = call_items(&self.turns, &self.input);
        let output = call_items(&[], &self.run.whole_output());
        context.extend(output);
        let mut context = tell_approvals(context);
        if elsewhere {
            // Ids mean something to the upstream that gave them, which is most likely the first.
            for item in &mut context {
                item.upstream_id = None;
            }
        }
        let mut parameters = self.parameters.clone();
        choice::offer(server_tools, &mut parameters);
        if self.run.has_run_tools() {
            choice::force_no_longer(&mut parameters);
        }
        choice::name_tools_of_servers(server_tools, &mut parameters);
        choice::leave_out_missing(&mut parameters);
        limits::pass_on_rest(&self.run, &mut parameters);
        ModelCall {
            model: self.agent.model.clone(),
            instructions: self
                .agent
                .layered_instructions(self.instructions.as_deref()),
            context,
            parameters,
        }
    }
}
