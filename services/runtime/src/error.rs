//! How errors cross gRPC: a status with `google.rpc.ErrorInfo`, whose reason is the upper-case form of the HTTP code.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "talaria";

/// Why a call was refused: the reasons of the contract, with the gRPC code each travels under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    ResponseNotFound,
    PreviousResponseNotFound,
    PreviousResponseNotCompleted,
    ConversationNotFound,
    ConversationResponseNotCompleted,
    /// The conversation moved on between reading and writing: read again.
    ConversationChanged,
    ItemNotFound,
    ModelNotFound,
    /// The idempotency key was used for another request.
    IdempotencyKeyConflict,
    InvalidValue,
    NoToolCall,
    NoToolOutput,
    /// Not active in this process, or not active any more.
    RunNotHere,
    /// Somebody else owns the run, or it has ended, or was deleted.
    RunLost,
    /// The run does not wait for a person.
    ApprovalNotActive,
    /// What was to be decided is decided already, or was never asked.
    ApprovalNotPending,
    RateLimitExceeded,
    /// The store did not say what became of the call.
    StoreUnavailable,
    /// The store cannot serve the call now, and nothing of it was stored.
    StoreRefused,
    OrchestratorUnavailable,
    GatewayDraining,
}

/// Every reason, its name on the wire, and its gRPC code.
const REASONS: [(Reason, &str, Code); 21] = [
    (
        Reason::ResponseNotFound,
        "RESPONSE_NOT_FOUND",
        Code::NotFound,
    ),
    (
        Reason::PreviousResponseNotFound,
        "PREVIOUS_RESPONSE_NOT_FOUND",
        Code::NotFound,
    ),
    (
        Reason::PreviousResponseNotCompleted,
        "PREVIOUS_RESPONSE_NOT_COMPLETED",
        Code::FailedPrecondition,
    ),
    (
        Reason::ConversationNotFound,
        "CONVERSATION_NOT_FOUND",
        Code::NotFound,
    ),
    (
        Reason::ConversationResponseNotCompleted,
        "CONVERSATION_RESPONSE_NOT_COMPLETED",
        Code::FailedPrecondition,
    ),
    (
        Reason::ConversationChanged,
        "CONVERSATION_CHANGED",
        Code::Aborted,
    ),
    (Reason::ItemNotFound, "ITEM_NOT_FOUND", Code::NotFound),
    (Reason::ModelNotFound, "MODEL_NOT_FOUND", Code::NotFound),
    (
        Reason::IdempotencyKeyConflict,
        "IDEMPOTENCY_KEY_CONFLICT",
        Code::FailedPrecondition,
    ),
    (Reason::InvalidValue, "INVALID_VALUE", Code::InvalidArgument),
    (Reason::NoToolCall, "NO_TOOL_CALL", Code::InvalidArgument),
    (
        Reason::NoToolOutput,
        "NO_TOOL_OUTPUT",
        Code::InvalidArgument,
    ),
    (Reason::RunNotHere, "RUN_NOT_HERE", Code::NotFound),
    (Reason::RunLost, "RUN_LOST", Code::Aborted),
    (
        Reason::ApprovalNotActive,
        "APPROVAL_NOT_ACTIVE",
        Code::FailedPrecondition,
    ),
    (
        Reason::ApprovalNotPending,
        "APPROVAL_NOT_PENDING",
        Code::FailedPrecondition,
    ),
    (
        Reason::RateLimitExceeded,
        "RATE_LIMIT_EXCEEDED",
        Code::ResourceExhausted,
    ),
    (
        Reason::StoreUnavailable,
        "STORE_UNAVAILABLE",
        Code::Unavailable,
    ),
    (Reason::StoreRefused, "STORE_REFUSED", Code::Unavailable),
    (
        Reason::OrchestratorUnavailable,
        "ORCHESTRATOR_UNAVAILABLE",
        Code::Unavailable,
    ),
    (
        Reason::GatewayDraining,
        "GATEWAY_DRAINING",
        Code::Unavailable,
    ),
];

/// Whether a call failed without an answer of the service that was called, so that nothing is known about what became of
/// it: nobody was there, it took too long, or the connection broke.
pub fn is_unheard(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            Reason::of(status).is_none()
        }
        // Of a connection that broke in the middle of a call: what a server says has no cause here.
        Code::Internal => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

impl Reason {
    /// A status of this reason. `message` is for clients: no keys, SQL, paths or addresses.
    pub fn status(self, message: impl Into<String>) -> Status {
        self.with_metadata(message, HashMap::new())
    }

    /// A status of this reason that names the request parameter at fault.
    pub fn status_at(self, param: &str, message: impl Into<String>) -> Status {
        let metadata = HashMap::from([("param".to_owned(), param.to_owned())]);
        self.with_metadata(message, metadata)
    }

    fn with_metadata(
        self,
        message: impl Into<String>,
        metadata: HashMap<String, String>,
    ) -> Status {
        let (_, name, code) = self.entry();
        let details = ErrorDetails::with_error_info(*name, DOMAIN, metadata);
        Status::with_error_details(*code, message, details)
    }

    /// Reads the reason of a status, if it is one of ours.
    pub fn of(status: &Status) -> Option<Self> {
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == DOMAIN)?;
        REASONS
            .iter()
            .find(|(_, name, _)| *name == info.reason)
            .map(|(reason, ..)| *reason)
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    fn entry(self) -> &'static (Self, &'static str, Code) {
        let entry = REASONS.iter().find(|(reason, ..)| *reason == self);
        // The test below shows that the table holds every reason.
        entry.unwrap_or(&REASONS[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for (reason, name, code) in REASONS {
            let status = reason.status_at("input", "no");
            assert_eq!(Reason::of(&status), Some(reason));
            assert_eq!((reason.name(), status.code()), (name, code));
        }
        assert_eq!(REASONS.len(), Reason::GatewayDraining as usize + 1);
        assert_eq!(Reason::of(&Status::unavailable("down")), None);
    }
}
