//! Starting runs: stored ones, which live by themselves, and ephemeral ones, which live in the call.

mod choice;
mod ephemeral;
mod stored;

use std::sync::Arc;

use futures::stream::BoxStream;
use talaria_domain::model::Object;
use talaria_proto::v1::start_run_response::Message;
use talaria_proto::v1::{Response, RunRequest, StartRunResponse};
use talaria_runtime::error::Reason;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use crate::overload::Beginning;
use crate::service::Shared;

pub use self::ephemeral::start_ephemeral;
pub use self::stored::{Asking, start_stored};

/// What a caller is told about a run it started.
pub type Updates = BoxStream<'static, Result<StartRunResponse, Status>>;

/// What a run is given.
#[derive(Debug)]
pub struct Room {
    /// For as long as it is executed. Some are, although there is none.
    pub place: Option<OwnedSemaphorePermit>,
    pub beginning: Beginning,
}

impl Room {
    /// Of a run that does not begin here.
    pub fn of_place(place: Option<OwnedSemaphorePermit>) -> Self {
        let beginning = Beginning::over();
        Self { place, beginning }
    }
}

/// Room for a new run, unless there is none or too many begin.
async fn room(shared: &Shared) -> Result<Room, Status> {
    // What is sure to be refused need not wait.
    if shared.places.available_permits() == 0 {
        return Err(no_place(shared));
    }
    let beginning = shared.beginnings.enter().await.ok_or_else(overloaded)?;
    let place = Arc::clone(&shared.places)
        .try_acquire_owned()
        .map_err(|_| no_place(shared))?;
    let place = Some(place);
    Ok(Room { place, beginning })
}

fn no_place(shared: &Shared) -> Status {
    let max = shared.config.max_concurrent;
    Reason::RateLimitExceeded.status(format!("Too many concurrent runs (max {max})"))
}

/// What a run is told that may not begin.
pub fn overloaded() -> Status {
    Reason::RateLimitExceeded.status("The server is overloaded, try again in a moment.")
}

/// What a request gives besides its input, as one object.
pub fn parameters(request: &RunRequest) -> Result<Object, Status> {
    if request.parameters.is_empty() {
        return Ok(Object::new());
    }
    serde_json::from_slice(&request.parameters)
        .map_err(|_| Reason::InvalidValue.status_at("parameters", "The parameters are no JSON."))
}

fn admitted(response: Response) -> StartRunResponse {
    message(Message::Admitted(talaria_proto::v1::Admitted {
        response: Some(response),
    }))
}

fn message(message: Message) -> StartRunResponse {
    StartRunResponse {
        message: Some(message),
    }
}
