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
        let insert = insert_statement(session).await?;
        let statement = session.client.prepare(&insert).await;
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

/// Copies the rows of the response `$1`, for the numbers from `$2` to before `$3`, to `$4` tenants.
async fn insert_statement(session: &Session) -> anyhow::Result<String> {
    let turns = copy_into(session, "turn", "id").await?;
    let finals = copy_into(session, "response_final", "response_id").await?;
    let chunks = copy_into(session, "event_chunk", "response_id").await?;
    let responses = copy_into(session, "response", "id").await?;
    Ok(format!(
        "
        -- bench_responses_make
        WITH copy AS MATERIALIZED (
            SELECT (lpad(to_hex(((extract(epoch FROM now()) - 43200) * 1000)::bigint + n * 2), 12, '0')
                    || '7' || substr(md5(n::text), 1, 3)
                    || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
                   CASE n % $4::bigint WHEN 0 THEN 'default' ELSE 'tenant-' || n % $4::bigint END AS tenant
            FROM generate_series($2::bigint, $3::bigint - 1) AS numbers (n)
        ), turns AS (
            {turns}
        ), finals AS (
            {finals}
        ), chunks AS (
            {chunks}
        )
        {responses}"
    ))
}

/// The part of it for one table, with whatever columns that has: a copy differs from what it is a copy of in its id and
/// tenant.
async fn copy_into(session: &Session, table: &str, id: &str) -> anyhow::Result<String> {
    const COLUMNS: &str = "
        -- bench_columns
        SELECT quote_ident(attname)
        FROM pg_attribute
        WHERE attrelid = $1::text::regclass
          AND attnum > 0
          AND NOT attisdropped
        ORDER BY attnum";
    let rows = session.client.query(COLUMNS, &[&table]).await;
    let rows = rows.with_context(|| format!("reading the columns of {table}"))?;
    let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let values: Vec<String> = columns
        .iter()
        .map(|column| match column.as_str() {
            name if name == id => "copy.id".to_owned(),
            "tenant" => "copy.tenant".to_owned(),
            other => format!("it.{other}"),
        })
        .collect();
    Ok(format!(
        "INSERT INTO {table} ({})
            SELECT {}
            FROM copy
            CROSS JOIN {table} it
            WHERE it.{id} = $1::text::uuid",
        columns.join(", "),
        values.join(", ")
    ))
}
