//! Asking people about calls: who need not be asked, and waiting for an answer.

use std::collections::HashSet;
use std::time::Duration;

use talaria_domain::run::{Approvals, ApprovedCall, Choice, Decision, Effect, PendingCall};
use talaria_proto::v1::{
    self as pb, ApprovalChoice, ApprovalDecision, AwaitApprovalsRequest, AwaitedApproval,
    ListApprovalGrantsRequest, RunRequest,
};
use uuid::Uuid;

use super::writer::Writer;
use super::{Execution, Left, Sink, StepEnd};
use crate::agents::Agent;
use crate::journal::{Journal, deadline};
use crate::tools::Tool;

/// Ten years: the database knows no time that is much later.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(24 * 365 * 10);

/// How the calls of a run that a person has to agree to are decided.
#[derive(Debug)]
pub struct Asking {
    pub mode: Approvals,
    pub tenant: String,
    /// Incarnation of this process.
    pub owner: Uuid,
    pub timing: Timing,
    /// Calls that the run's request agreed to.
    pub approved: Vec<ApprovedCall>,
    /// Tools that somebody agreed to for longer, once they were looked up.
    pub granted: Option<HashSet<String>>,
}

/// How long people are waited for, and what it means if none comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub timeout: Duration,
    pub on_timeout: Choice,
}

impl Asking {
    /// As a stored run asks.
    pub fn of(request: &RunRequest, tenant: &str, owner: Uuid, timing: Timing) -> Self {
        let mode = match request.approvals() {
            pb::Approvals::InNextRequest => Approvals::InNextRequest,
            pb::Approvals::Wait => Approvals::Waits,
        };
        Self {
            mode,
            tenant: tenant.to_owned(),
            owner,
            timing,
            approved: request.approved_calls.iter().map(approved_call).collect(),
            granted: None,
        }
    }

    /// As a run asks of which nothing is kept: nobody.
    pub fn nobody(owner: Uuid, timing: Timing) -> Self {
        Self {
            mode: Approvals::Impossible,
            tenant: String::new(),
            owner,
            timing,
            approved: Vec::new(),
            granted: None,
        }
    }

    /// Until when a call that is made at `now_ms` (Unix milliseconds) waits: Unix seconds.
    pub fn until(&self, now_ms: i64) -> i64 {
        let timeout = self.timing.timeout.min(LONGEST_TIMEOUT).as_secs();
        let timeout = i64::try_from(timeout).unwrap_or(i64::MAX);
        now_ms.div_euclid(1000).saturating_add(timeout)
    }

    /// Whether a person has to agree to this call of the tool.
    pub fn needs_person(&self, tool: &Tool) -> bool {
        let is_granted = || {
            let name = format!("{}/{}", tool.server_label, tool.name);
            self.granted
                .as_ref()
                .is_some_and(|granted| granted.contains(&name))
        };
        // What was granted is known by names only, and a request gives its servers any name that it likes.
        tool.needs_approval && (tool.is_requested || !is_granted())
    }

    /// Looks up which of the agent's tools somebody agreed to for longer. If the store does not say, people are asked.
    pub async fn learn_grants(&mut self, journal: &Journal, agent: &Agent, session_id: &str) {
        let request = ListApprovalGrantsRequest {
            tenant: self.tenant.clone(),
            agent: agent.name.clone(),
            session_id: session_id.to_owned(),
        };
        let mut client = journal.client();
        match deadline(client.list_approval_grants(request)).await {
            Ok(found) => self.granted = Some(found.into_inner().tools.into_iter().collect()),
            Err(status) => {
                tracing::warn!(code = ?status.code(), "could not look up what people agreed to");
            }
        }
    }
}

impl Execution {
    /// Writes everything down and waits for a decision, here while there is one, else as a row.
    pub(super) async fn await_decision(
        &mut self,
        calls: Vec<PendingCall>,
        writer: &mut Writer,
    ) -> Result<StepEnd, Left> {
        writer.add(self.take_events());
        let Sink::Stored(stored) = self.sink.clone() else {
            // Ephemeral runs ask nobody.
            return Err(Left::Abandoned);
        };
        let awaited = |call: PendingCall| AwaitedApproval {
            request_id: call.request_id,
            expires_at: call.until,
        };
        let request = AwaitApprovalsRequest {
            response_id: stored.response_id.clone(),
            epoch: stored.epoch,
            next_sequence_number: self.run.snapshot().next_sequence_number(),
            owner: self.asking.owner.to_string(),
            awaited: calls.into_iter().map(awaited).collect(),
            on_expiry: choice_sent(self.asking.timing.on_timeout).into(),
        };
        let decisions = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Ok(StepEnd::Cancelled),
            () = self.release.cancelled() => return Err(Left::Released),
            decisions = async {
                writer.flush().await?;
                stored.journal.await_approvals(request).await.map_err(Left::Lost)
            } => decisions?,
        };
        if decisions.is_empty() {
            return Err(Left::Waits);
        }
        let decisions: Vec<Decision> = decisions.into_iter().map(decision).collect();
        for Decision {
            choice, decided_by, ..
        } in &decisions
        {
            tracing::info!(
                response.id = stored.response_id,
                ?choice,
                decided_by,
                "a call was decided"
            );
        }
        self.run.decided(&decisions);
        Ok(StepEnd::Over)
    }
}

/// A call as requests carry it.
pub fn approved_call_sent(call: &ApprovedCall) -> pb::ApprovedCall {
    let effect = match call.effect {
        Effect::Pure => "pure",
        Effect::Idempotent => "idempotent",
        Effect::Once => "once",
    };
    pb::ApprovedCall {
        request_id: call.request_id.clone(),
        server_label: call.server_label.clone(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
        effect: effect.to_owned(),
        upstream_id: call.upstream_id.clone(),
    }
}

fn approved_call(call: &pb::ApprovedCall) -> ApprovedCall {
    let effect = match call.effect.as_str() {
        "pure" => Effect::Pure,
        "idempotent" => Effect::Idempotent,
        // What a later version means by another word is not known to be harmless.
        _ => Effect::Once,
    };
    ApprovedCall {
        request_id: call.request_id.clone(),
        server_label: call.server_label.clone(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
        effect,
        upstream_id: call.upstream_id.clone(),
    }
}

fn decision(decision: ApprovalDecision) -> Decision {
    let choice = match decision.choice() {
        ApprovalChoice::Once => Choice::Once,
        ApprovalChoice::Session => Choice::Session,
        ApprovalChoice::Always => Choice::Always,
        ApprovalChoice::Deny | ApprovalChoice::Unspecified => Choice::Deny,
    };
    Decision {
        choice,
        request_id: decision.request_id,
        reason: decision.reason,
        decided_by: decision.decided_by,
    }
}

fn choice_sent(choice: Choice) -> ApprovalChoice {
    match choice {
        Choice::Once => ApprovalChoice::Once,
        Choice::Session => ApprovalChoice::Session,
        Choice::Always => ApprovalChoice::Always,
        Choice::Deny => ApprovalChoice::Deny,
    }
}
