//! Answers in a request to what earlier responses asked a person.

use talaria_domain::context::{self, ApprovalAnswer};
use talaria_domain::run::ApprovedCall;
use talaria_proto::v1::{self as pb, ContextItem, RunRequest};
use talaria_runtime::error::Reason;
use tonic::Status;

/// What a request decides.
#[derive(Debug, Default)]
pub struct Answered {
    /// As the store writes them down.
    pub answers: Vec<pb::ApprovalAnswer>,
    /// The calls that it agrees to.
    pub approved: Vec<ApprovedCall>,
}

/// The answers of a request to questions of ours, each question once.
pub fn read(request: &RunRequest) -> Result<Vec<ApprovalAnswer>, Status> {
    let answers = context::approval_answers(&request.input);
    if !answers.is_empty() && !request.store {
        let message = "An approval is recorded once and for all, which needs 'store' to be true.";
        return Err(Reason::InvalidValue.status_at("store", message));
    }
    for (at, answer) in answers.iter().enumerate() {
        let mut before = answers[..at].iter();
        if before.any(|other| other.request_id == answer.request_id) {
            let message = format!("{} is answered twice.", answer.request_id);
            let param = format!("input[{}].approval_request_id", answer.index);
            return Err(Reason::InvalidValue.status_at(&param, message));
        }
    }
    Ok(answers)
}

/// Takes the questions, which are the last of `items`, in the order of their answers.
///
/// One that an upstream asked is the upstream's to be answered.
pub fn take(answers: &[ApprovalAnswer], items: &mut Vec<ContextItem>) -> Result<Answered, Status> {
    let questions = items.split_off(items.len().saturating_sub(answers.len()));
    let mut answered = Answered::default();
    for (answer, question) in answers.iter().zip(&questions) {
        let Some((call, until)) = ApprovedCall::of_request(&question.item, &question.upstream_id)
        else {
            if question.upstream_id.is_empty() {
                let message = format!("{} is no approval request.", answer.request_id);
                let param = format!("input[{}].approval_request_id", answer.index);
                return Err(Reason::InvalidValue.status_at(&param, message));
            }
            continue;
        };
        answered.answers.push(pb::ApprovalAnswer {
            request_id: answer.request_id.clone(),
            approve: answer.approve,
            reason: answer.reason.clone(),
            expires_at: until,
        });
        if answer.approve {
            answered.approved.push(call);
        }
    }
    Ok(answered)
}
