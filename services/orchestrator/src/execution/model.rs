//! One step of the model: asked until it answers, or until there is nobody left to ask.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use talaria_domain::context::{call_items, tell_approvals};
use talaria_domain::model::{ModelCall, ModelEvent, Outcome};
use talaria_domain::run::{End, Step};
use tokio::time::Instant;

use super::ask::{Attempt, Contact};
use super::writer::Writer;
use super::{Execution, Left, Sink, StepEnd, choice, limits};
use crate::retry::{Attempts, Decision, Failure};
use crate::tools::ToolList;
use crate::upstreams::{CallError, CallErrorKind, Form};

/// The first pause between two attempts, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

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
        let mut contact = Contact::new();
        loop {
            let agent = Arc::clone(&self.agent);
            let link = self.run.link();
            if let Some(link) = &link {
                let Some(position) = agent.resumable(&link.upstream) else {
                    self.run.model_broke();
                    return Ok(StepEnd::Over);
                };
                attempts.upstream = position;
            }
            let upstream = agent.upstreams.get(attempts.upstream);
            let form = attempts.form;
            if link.is_none() {
                contact = Contact::new();
            }
            let attempt = match (upstream, &link) {
                (Some(upstream), Some(link)) => {
                    Box::pin(self.resume(upstream, link, &mut contact, writer)).await?
                }
                (Some(upstream), None) => {
                    let call = self.model_call(tools, attempts.upstream > 0);
                    self.ask(upstream, &call, attempts, &mut contact, writer)
                        .await?
                }
                (None, _) => Attempt::Failed(CallError::unhealthy(Duration::ZERO)),
            };
            let error = match attempt {
                Attempt::Over => {
                    *attempts = Attempts::default();
                    return Ok(StepEnd::Over);
                }
                Attempt::Cancelled => {
                    self.run.add_usage(contact.take_usage());
                    return Ok(StepEnd::Cancelled);
                }
                Attempt::Failed(error) => error,
            };
            let decision = attempts.decide(Failure {
                error: &error,
                shown: self.run.step_has_shown(),
                is_linked: self.run.link().is_some(),
                has_progressed: contact.take_said(),
                quiet: contact.quiet(),
                max_retries: upstream.map_or(0, |upstream| upstream.max_retries()),
                upstreams: agent.upstreams.len(),
                on_broken_stream: self.on_broken_stream,
            });
            let name = upstream.map(|upstream| upstream.name());
            tracing::warn!(kind = ?error.kind, upstream = name, ?decision, "a model call failed");
            if !matches!(decision, Decision::Resume { .. }) {
                self.run.add_usage(contact.take_usage());
                if !self.run.step_has_shown() {
                    self.run.forget_unshown();
                }
                let is_over = matches!(error.kind, CallErrorKind::Reported { .. });
                self.let_go(is_over, writer);
            }
            match decision {
                Decision::Otherwise => {
                    if attempts.form == Form::Whole {
                        not_streamed = Some(error);
                    }
                }
                Decision::Again { at_least } | Decision::Resume { at_least } => {
                    let paused = self.pause(attempts, at_least, writer).await?;
                    if let StepEnd::Cancelled = paused {
                        self.run.add_usage(contact.take_usage());
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
