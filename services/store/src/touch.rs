//! Who was read lately: remembered here, and written down once for many, for the cap that drops what nobody reads.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use uuid::Uuid;

use crate::database::{Database, Error, query};

/// Responses that are remembered between two writes; more go unnoticed.
const REMEMBERED: usize = 65_536;

/// When which response was read, since the last write.
#[derive(Debug, Default)]
pub struct Touches {
    read_at: Mutex<HashMap<Uuid, Instant>>,
}

impl Touches {
    /// Remembers that the response was read at this moment.
    pub fn touch(&self, response: Uuid) {
        let mut read_at = self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        if read_at.len() < REMEMBERED || read_at.contains_key(&response) {
            read_at.insert(response, Instant::now());
        }
    }

    /// Writes down what was remembered. What cannot be written is forgotten: it costs a response its place, no more.
    pub async fn flush(&self, database: &Database) -> Result<(), Error> {
        let read_at =
            std::mem::take(&mut *self.read_at.lock().unwrap_or_else(PoisonError::into_inner));
        if read_at.is_empty() {
            return Ok(());
        }
        let (ids, ages): (Vec<Uuid>, Vec<f64>) = read_at
            .into_iter()
            .map(|(id, at)| (id, at.elapsed().as_secs_f64()))
            .unzip();
        responses_touch(database, &ids, &ages).await
    }
}

/// Sets when each response was read: so many seconds ago. One that goes on is not touched: each of its writes says more.
async fn responses_touch(database: &Database, ids: &[Uuid], ages_s: &[f64]) -> Result<(), Error> {
    const SQL: &str = "
        -- responses_touch
        UPDATE response r
        SET used_at = clock_timestamp() - touch.age_s * interval '1 second'
        FROM unnest($1::uuid[], $2::float8[]) AS touch (id, age_s)
        WHERE r.id = touch.id AND r.status >= 3";
    database
        .trip(async {
            let connection = database.connection().await?;
            query(&connection, SQL, &[&ids, &ages_s]).await?;
            Ok(())
        })
        .await
}
