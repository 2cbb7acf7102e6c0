//! What a run does only while its process may take itself for its owner.

use std::sync::Arc;

use crate::fence::{Fence, Permit};

/// The fence of a run that others may take over; none of one that nobody can.
#[derive(Clone, Debug)]
pub(super) struct Fenced(pub Option<Arc<Fence>>);

impl Fenced {
    /// Returns when effects are allowed. Cancel-safe.
    pub async fn opened(&self) {
        if let Some(fence) = &self.0 {
            fence.opened().await;
        }
    }

    /// Does `work` once effects are allowed. As cancel-safe as that.
    pub async fn then<T>(self, work: impl Future<Output = T>) -> T {
        self.opened().await;
        work.await
    }

    /// That effects are allowed; waits for it. Cancel-safe.
    pub async fn permit(self) -> Permit {
        let Some(fence) = self.0 else {
            return Permit::always();
        };
        loop {
            fence.opened().await;
            if let Some(pass) = fence.pass() {
                return Permit::with(fence, pass);
            }
        }
    }
}
