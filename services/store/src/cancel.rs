//! Asking a run to stop, wherever it is.

use uuid::Uuid;

use crate::database::{Database, Error, write};
use crate::response::response_exists;

/// What became of the wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelRequest {
    /// It is written down; whoever has the run learns it with its next claim.
    Written {
        owner: Option<Uuid>,
    },
    AlreadyEnded,
    NotFound,
}

/// Writes down that a run that has not ended is to stop. Repeating it changes nothing.
pub async fn cancel_request(
    database: &Database,
    tenant: &str,
    id: Uuid,
) -> Result<CancelRequest, Error> {
    const SQL: &str = "
        -- cancel_request
        UPDATE response
        SET cancel_requested = true
        WHERE id = $1 AND tenant = $2 AND status <= 2
        RETURNING owner";
    let rows = write(database, SQL, &[&id, &tenant]).await?;
    if let Some(row) = rows.first() {
        return Ok(CancelRequest::Written { owner: row.get(0) });
    }
    if response_exists(database, tenant, id).await? {
        Ok(CancelRequest::AlreadyEnded)
    } else {
        Ok(CancelRequest::NotFound)
    }
}
