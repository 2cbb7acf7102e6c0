//! Responses that were never run: rows as the server writes them, made in the database.

use anyhow::{Context, ensure};
use tokio::time::Instant;

use crate::database::Session;

/// How many are made by one statement.
const AT_ONCE: u32 = 20_000;

/// Copies of one response.
pub struct Copies {
    /// The hex digits of the response that is copied.
    of: String,
    /// How many there are so far.
    pub made: u32,
    /// How many tenants they belong to, in turn; the first is the one that is served.
    tenants: u32,
}

impl Copies {
    /// None yet of the response at this path.
    pub fn of(path: &str, tenants: u32) -> anyhow::Result<Self> {
        let (_, digits) = path.rsplit_once("resp_").context("no response's path")?;
        Ok(Self {
            of: digits.to_owned(),
            made: 0,
            tenants,
        })
    }

    /// Makes as many as are missing to `count`; answers how many seconds that took. Their ids are those of the last
    /// twelve hours, in the order in which they are made.
    pub async fn make(&mut self, session: &Session, count: u32) -> anyhow::Result<f64> {
        // Whatever columns there are, a copy differs from what it is a copy of in its id and tenant.
        const INSERT: &str = "
            WITH copy AS MATERIALIZED (
                SELECT (lpad(to_hex(((extract(epoch FROM now()) - 43200) * 1000)::bigint + n * 2), 12, '0')
                        || '7' || substr(md5(n::text), 1, 3)
                        || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
                       CASE n % $4::bigint WHEN 0 THEN 'default' ELSE 'tenant-' || n % $4::bigint END AS tenant
                FROM generate_series($2::bigint, $3::bigint - 1) AS numbers (n)
            ), turns AS (
                INSERT INTO turn
                SELECT made.*
                FROM copy
                CROSS JOIN turn t
                CROSS JOIN LATERAL jsonb_populate_record(t, jsonb_build_object('id', copy.id, 'tenant', copy.tenant)) made
                WHERE t.id = $1::text::uuid
            ), finals AS (
                INSERT INTO response_final
                SELECT made.*
                FROM copy
                CROSS JOIN response_final f
                CROSS JOIN LATERAL jsonb_populate_record(f, jsonb_build_object('response_id', copy.id)) made
                WHERE f.response_id = $1::text::uuid
            ), chunks AS (
                INSERT INTO event_chunk
                SELECT made.*
                FROM copy
                CROSS JOIN event_chunk e
                CROSS JOIN LATERAL jsonb_populate_record(e, jsonb_build_object('response_id', copy.id)) made
                WHERE e.response_id = $1::text::uuid
            )
            INSERT INTO response
            SELECT made.*
            FROM copy
            CROSS JOIN response r
            CROSS JOIN LATERAL jsonb_populate_record(r, jsonb_build_object('id', copy.id, 'tenant', copy.tenant)) made
            WHERE r.id = $1::text::uuid";
        let statement = session.client.prepare(INSERT).await;
        let statement = statement.context("preparing to make responses")?;
        let start = Instant::now();
        while self.made < count {
            let end = count.min(self.made + AT_ONCE);
            let numbers = [self.made, end, self.tenants].map(i64::from);
            let made = session
                .client
                .execute(
                    &statement,
                    &[&self.of, &numbers[0], &numbers[1], &numbers[2]],
                )
                .await
                .context("making responses")?;
            ensure!(
                made == u64::from(end - self.made),
                "{made} responses were made"
            );
            self.made = end;
        }
        let seconds = start.elapsed().as_secs_f64();
        // As autovacuum would sooner or later, or in the middle of what is measured next.
        let vacuum = "VACUUM (ANALYZE) response, turn, response_final";
        let vacuumed = session.client.batch_execute(vacuum).await;
        vacuumed.context("vacuuming")?;
        session.checkpoint().await?;
        Ok(seconds)
    }

    /// The paths of some responses of the tenant that is served, anywhere among them.
    pub async fn paths(&self, session: &Session, count: i64) -> anyhow::Result<Vec<String>> {
        const SQL: &str = "
            -- bench_paths
            SELECT '/v1/responses/resp_' || replace(id::text, '-', '')
            FROM response
            WHERE tenant = 'default'
              AND status = 3
            ORDER BY random()
            LIMIT $1";
        let rows = session.client.query(SQL, &[&count]).await;
        let rows = rows.context("choosing responses")?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
