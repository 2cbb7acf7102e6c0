//! The one place that makes ids.

use uuid::Uuid;

/// A new id: a UUIDv7, so that ids made later sort later.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}
