//! Turns that nothing needs any more: a slow walk over all of them.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::database::{Database, Error, query};
use crate::delete::turns_delete;

/// Turns that one step looks at.
const PAGE: i64 = 1000;

/// How far the walk has come; from the beginning again after the last turn.
#[derive(Debug, Default)]
pub struct Sweep {
    after: Option<Uuid>,
}

impl Sweep {
    /// Whether the walk begins anew with the next step.
    pub fn is_at_start(&self) -> bool {
        self.after.is_none()
    }
}

/// Looks at the next page of turns and removes those that nothing needs; answers how many it removed.
///
/// Deleting a response takes its turn along. This is for what that leaves behind: a turn that was kept because a
/// conversation or another turn needed it, until that went its own way.
pub async fn turns_sweep(database: &Database, sweep: &mut Sweep) -> Result<usize, Error> {
    const SQL: &str = "
        -- turns_sweep
        SELECT id, tenant
        FROM turn
        WHERE id > $1
        ORDER BY id
        LIMIT $2";
    let after = sweep.after.unwrap_or_default();
    database
        .trip(async {
            let connection = database.connection().await?;
            let rows = query(&connection, SQL, &[&after, &PAGE]).await?;
            let mut page: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
            for row in &rows {
                page.entry(row.get(1)).or_default().push(row.get(0));
            }
            let mut count = 0;
            for (tenant, turns) in page {
                count += turns_delete(&connection, tenant, turns).await?;
            }
            sweep.after = rows.last().map(|row| row.get(0));
            Ok(count)
        })
        .await
}
