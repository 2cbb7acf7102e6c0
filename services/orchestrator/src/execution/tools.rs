//! The tools that a run's agent runs itself: offered to the model, and called, each call written down before and after.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use talaria_domain::ids::ResponseId;
use talaria_domain::run::{Effect, ServerTool, ServerTools, ToolCall, ToolResult, ToolShape};
use talaria_runtime::failpoint::{self, Bug};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::writer::Writer;
use super::{Execution, Left, Sink, StepEnd};
use crate::fence::Permit;
use crate::tools::{CallContext, ToolList, Toolbox};

/// The longest that a call may take, whatever its server is allowed.
const LONGEST_CALL: Duration = Duration::from_hours(1);

/// How long a run that is released may take to write the results that it has.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// What the tasks of calls hand back; without a result where the call was not made, because the run may be another's.
type Ended = (ToolCall, Option<ToolResult>);

impl Execution {
    /// Asks the servers for their tools and tells the run of them; `None` if it is cancelled meanwhile.
    pub(super) async fn learn_tools(
        &mut self,
        writer: &mut Writer,
    ) -> Result<Option<Arc<ToolList>>, Left> {
        let toolbox = Arc::clone(&self.toolbox);
        if toolbox.is_empty() {
            self.run.use_tools(Arc::default(), self.limits());
            return Ok(Some(Arc::default()));
        }
        let listings = self.begin_listings();
        let Some(list) = self.meanwhile(writer, toolbox.list()).await? else {
            return Ok(None);
        };
        self.end_listings(listings, &list);
        self.learn_grants(&list, writer).await?;
        let tool = |tool: &crate::tools::Tool| {
            let known = ServerTool {
                server_label: tool.server_label.clone(),
                shape: if tool.is_requested {
                    ToolShape::McpCall
                } else {
                    self.tool_shape
                },
                effect: if failpoint::has(Bug::LedgerIgnored) {
                    Effect::Pure
                } else {
                    tool.effect
                },
                needs_approval: self.asking.needs_person(tool),
            };
            (tool.name.clone(), known)
        };
        let tools = ServerTools {
            shape: self.tool_shape,
            streamed: self.streamed,
            has_servers: true,
            approvals: self.asking.mode,
            approval_until: self.asking.until((self.now)()),
            tools: list.tools.iter().map(tool).collect(),
        };
        self.run.use_tools(Arc::new(tools), self.limits());
        Ok(Some(list))
    }

    /// Looks up, once, what people agreed to for longer, if it matters.
    async fn learn_grants(&mut self, list: &ToolList, writer: &mut Writer) -> Result<(), Left> {
        let matters = list.tools.iter().any(|tool| tool.needs_approval);
        if let Sink::Stored(stored) = &self.sink
            && matters
            && self.asking.granted.is_none()
        {
            // Nothing is written meanwhile, and whoever asked for the run waits for its admission.
            writer.admit().await?;
            let response = self.run.snapshot().base();
            let session_id = match response.session_id.as_str() {
                "" => ResponseId::parse(&response.id).map(|id| id.0.to_string()),
                session => Some(session.to_owned()),
            };
            let journal = stored.journal.clone();
            let agent = Arc::clone(&self.agent);
            self.asking
                .learn_grants(&journal, &agent, &session_id.unwrap_or_default())
                .await;
        }
        Ok(())
    }

    /// Says that the agent has tools, before its servers are asked for them: a run that ends until then answers its calls.
    pub(super) fn expect_tools(&mut self) {
        if self.toolbox.is_empty() {
            return;
        }
        let tools = ServerTools {
            shape: self.tool_shape,
            streamed: self.streamed,
            has_servers: true,
            ..ServerTools::default()
        };
        self.run.use_tools(Arc::new(tools), self.limits());
    }

    /// Answers the calls whose arguments do not fit; the rest may run. One that began before did fit then.
    ///
    /// `None` if the run is cancelled meanwhile.
    async fn refuse_unfit(
        &mut self,
        calls: Vec<ToolCall>,
        tools: &ToolList,
        writer: &mut Writer,
    ) -> Result<Option<VecDeque<ToolCall>>, Left> {
        let mut fit = VecDeque::with_capacity(calls.len());
        for call in calls {
            let mut checked = Ok(());
            if let Some(tool) = tools.get(&call.name).filter(|_| !call.repetition) {
                let check = tool.check(&call.arguments);
                match self.meanwhile(writer, check).await? {
                    Some(result) => checked = result,
                    None => return Ok(None),
                }
                // Many calls that are checked at once each keep others waiting no longer than one does.
                tokio::task::yield_now().await;
            }
            match checked {
                Ok(()) => fit.push_back(call),
                Err(why) => self.run.tool_refused(&call, why),
            }
        }
        Ok(Some(fit))
    }

    /// Runs calls, as many at a time as the agent may; returns when all results are durable.
    ///
    /// What is still running when the run leaves is given up: whether it is repeated is decided by its effect.
    pub(super) async fn run_tools(
        &mut self,
        calls: Vec<ToolCall>,
        tools: &ToolList,
        writer: &mut Writer,
    ) -> Result<StepEnd, Left> {
        let mut waiting = match self.refuse_unfit(calls, tools, writer).await {
            Ok(Some(fit)) => fit,
            Ok(None) => return Ok(StepEnd::Cancelled),
            Err(Left::Released) => return Err(write_last_results(writer).await),
            Err(left) => return Err(left),
        };
        let mut running: JoinSet<Ended> = JoinSet::new();
        let given_up = CancellationToken::new();
        let _guard = given_up.clone().drop_guard();
        loop {
            if self.release.is_cancelled() {
                return Err(write_last_results(writer).await);
            }
            let free = self.agent.max_parallel_tools.max(1) - running.len();
            let starting: Vec<ToolCall> = waiting.drain(..free.min(waiting.len())).collect();
            if !starting.is_empty() {
                let permit = self.fenced().permit();
                let Some(permit) = self.meanwhile(writer, permit).await? else {
                    return Ok(StepEnd::Cancelled);
                };
                for call in &starting {
                    self.run.tool_started(call);
                }
                if let StepEnd::Cancelled = self.write_intents(writer).await? {
                    return Ok(StepEnd::Cancelled);
                }
                failpoint::hit("tool.after_intent").await;
                for call in starting {
                    let context = self.call_context(&call, &given_up, permit.again());
                    let toolbox = Arc::clone(&self.toolbox);
                    running.spawn(called(toolbox, call, context));
                }
            }
            if running.is_empty() {
                return self.write_results(writer).await;
            }
            tokio::select! {
                biased;
                // First, because what has taken effect should be known to whoever goes on. Panics are results by then,
                // and nobody aborts a call while this runs.
                Some(Ok((call, result))) = running.join_next() => {
                    let Some(result) = result else {
                        // Another process may have the run, and take the intent for what may have happened.
                        return Err(write_last_results(writer).await);
                    };
                    self.run.tool_ended(&call, result);
                    writer.add(self.take_events());
                }
                () = self.cancel.cancelled() => return Ok(StepEnd::Cancelled),
                () = self.release.cancelled() => return Err(write_last_results(writer).await),
                progress = writer.progress() => progress?,
            }
        }
    }

    /// Makes durable that calls begin. A run that leaves before has not begun them.
    async fn write_intents(&mut self, writer: &mut Writer) -> Result<StepEnd, Left> {
        writer.add(self.take_events());
        if failpoint::has(Bug::NoIntent) {
            return Ok(StepEnd::Over);
        }
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Ok(StepEnd::Cancelled),
            () = self.release.cancelled() => Err(Left::Released),
            written = writer.flush() => written.map(|()| StepEnd::Over),
        }
    }

    /// Makes durable what came of calls, before the model sees it.
    async fn write_results(&mut self, writer: &mut Writer) -> Result<StepEnd, Left> {
        writer.add(self.take_events());
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ok(StepEnd::Cancelled),
            () = self.release.cancelled() => {}
            written = writer.flush() => return written.map(|()| StepEnd::Over),
        }
        Err(write_last_results(writer).await)
    }

    fn call_context(
        &self,
        call: &ToolCall,
        given_up: &CancellationToken,
        permit: Permit,
    ) -> CallContext {
        let response = &self.run.snapshot().base().id;
        CallContext {
            idempotency_key: format!("{response}:{}", call.output_index),
            deadline: Instant::now() + LONGEST_CALL,
            cancel: given_up.child_token(),
            permit: Arc::new(permit),
        }
    }
}

/// Writes the results that are known when the run is released: a call without one may not be repeated.
async fn write_last_results(writer: &mut Writer) -> Left {
    match tokio::time::timeout(LAST_WRITE, writer.flush()).await {
        Ok(Err(left)) => left,
        Ok(Ok(())) | Err(_) => Left::Released,
    }
}

/// Calls a tool; a panic is an error for the model to read.
async fn called(toolbox: Arc<Toolbox>, call: ToolCall, context: CallContext) -> Ended {
    // Any amount of time may have passed since the intent was written.
    if !context.permit.may_begin() {
        return (call, None);
    }
    let permit = Arc::clone(&context.permit);
    let arguments = call.arguments.clone();
    let calling = toolbox.call(&call.name, arguments, context);
    let result = AssertUnwindSafe(calling).catch_unwind().await;
    failpoint::hit("tool.after_reply_before_result").await;
    let result = result.unwrap_or_else(|_| {
        tracing::error!(tool = call.name, "running a tool panicked");
        ToolResult::error("The tool failed.")
    });
    (call, (!permit.was_kept()).then_some(result))
}
