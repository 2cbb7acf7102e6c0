//! What becomes of a stored chat completion whose client leaves.

use talaria_domain::run::has_ended;
use talaria_proto::v1::Response;

use crate::calls::cancel_run;
use crate::{Gateway, Tenant};

/// Cancels a run when it is dropped before [`Leaving::stays`] was called.
pub struct Leaving {
    gateway: Gateway,
    tenant: Tenant,
    response_id: Option<String>,
}

impl Leaving {
    /// Guards `response`. One that is not stored ends by itself with the call that started it.
    pub fn cancels(gateway: &Gateway, tenant: &Tenant, response: &Response) -> Self {
        let is_guarded = response.store && !has_ended(response);
        Self {
            gateway: gateway.clone(),
            tenant: tenant.clone(),
            response_id: is_guarded.then(|| response.id.clone()),
        }
    }

    /// Guards nothing.
    pub fn changes_nothing(gateway: &Gateway, tenant: &Tenant) -> Self {
        Self {
            gateway: gateway.clone(),
            tenant: tenant.clone(),
            response_id: None,
        }
    }

    /// The run has ended, or it is not the client that leaves.
    pub fn stays(&mut self) {
        self.response_id = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(id) = self.response_id.take() else {
            return;
        };
        // When the server stops, its clients did not leave; and without a runtime nothing can be asked any more.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.gateway.stop.is_cancelled() {
            return;
        }
        let (gateway, tenant) = (self.gateway.clone(), self.tenant.clone());
        let cancelling = async move {
            if let Err(status) = cancel_run(&gateway, &tenant, &id).await {
                tracing::warn!(response.id = id, code = ?status.code(), "could not cancel a completion whose client left");
            }
        };
        self.gateway.tasks.spawn_on(cancelling, &runtime);
    }
}
