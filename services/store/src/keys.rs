//! Idempotency keys: requests that are one run however often they come.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{FindIdempotencyKeyRequest, FindIdempotencyKeyResponse};
use tonic::Status;
use uuid::Uuid;

use crate::admit::Admit;
use crate::database::{Database, Error, Object, query, query_in_tx, read};

/// A request's key, and what it was used for.
#[derive(Debug)]
pub struct Key {
    pub key: String,
    pub request_hash: Vec<u8>,
}

/// What a key stands for.
#[derive(Debug)]
pub struct KeyHolder {
    pub response: Uuid,
    pub request_hash: Vec<u8>,
}

/// Answers `FindIdempotencyKey`.
pub async fn idempotency_key_find(
    database: &Database,
    request: &FindIdempotencyKeyRequest,
) -> Result<FindIdempotencyKeyResponse, Status> {
    const SQL: &str = "
        -- idempotency_key_find
        SELECT response_id, request_hash
        FROM idempotency_key
        WHERE tenant = $1 AND key = $2";
    let rows = read(database, SQL, &[&request.tenant, &request.key]).await?;
    let found = rows.first().map(|row| FindIdempotencyKeyResponse {
        response_id: ResponseId(row.get(0)).to_string(),
        request_hash: row.get::<_, Vec<u8>>(1).into(),
    });
    Ok(found.unwrap_or_default())
}

/// Writes down the keys of these runs, and answers which runs have theirs.
///
/// A key that another transaction is writing is waited for. All take theirs in one order, so none waits for a key of
/// somebody who waits for one of its own.
pub async fn idempotency_keys_insert_in_tx(
    transaction: &Transaction<'_>,
    runs: &[Admit],
) -> Result<HashSet<Uuid>, Error> {
    const SQL: &str = "
        -- idempotency_keys_insert
        INSERT INTO idempotency_key (tenant, key, request_hash, response_id)
        SELECT tenant, key, request_hash, response_id
        FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[])
            WITH ORDINALITY AS t (tenant, key, request_hash, response_id, place)
        ORDER BY tenant, key, place
        ON CONFLICT DO NOTHING
        RETURNING response_id";
    let keyed = || runs.iter().filter_map(|run| Some((run, run.key.as_ref()?)));
    let tenants: Vec<&str> = keyed().map(|(run, _)| run.tenant.as_str()).collect();
    let keys: Vec<&str> = keyed().map(|(_, key)| key.key.as_str()).collect();
    let hashes: Vec<&[u8]> = keyed().map(|(_, key)| &*key.request_hash).collect();
    let ids: Vec<Uuid> = keyed().map(|(run, _)| run.events.response).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = SQL;
    #[cfg(feature = "failpoints")]
    let sql = &known_bug(sql);
    let rows = query_in_tx(transaction, sql, &[&tenants, &keys, &hashes, &ids]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The statement as it must not be, where that bug is put in.
#[cfg(feature = "failpoints")]
fn known_bug(sql: &str) -> String {
    use talaria_runtime::failpoint::{Bug, has};

    if has(Bug::KeyTakenOver) {
        let update = "(tenant, key) DO UPDATE SET response_id = excluded.response_id";
        sql.replace("DO NOTHING", update)
    } else {
        sql.to_owned()
    }
}

/// Takes the keys of these responses away.
pub async fn idempotency_keys_delete_in_tx(
    transaction: &Transaction<'_>,
    responses: &[Uuid],
) -> Result<(), Error> {
    const SQL: &str = "
        -- idempotency_keys_delete
        DELETE FROM idempotency_key
        WHERE response_id = ANY ($1)";
    if !responses.is_empty() {
        query_in_tx(transaction, SQL, &[&responses]).await?;
    }
    Ok(())
}

/// Who holds the key of each of these runs, by the run's id.
pub async fn idempotency_key_holders(
    connection: &Object,
    runs: &[&Admit],
) -> Result<HashMap<Uuid, KeyHolder>, Error> {
    const SQL: &str = "
        -- idempotency_key_holders
        SELECT t.run_id, k.response_id, k.request_hash
        FROM unnest($1::uuid[], $2::text[], $3::text[]) AS t (run_id, tenant, key)
        JOIN idempotency_key k USING (tenant, key)";
    let keyed = || runs.iter().filter_map(|run| Some((run, run.key.as_ref()?)));
    let ids: Vec<Uuid> = keyed().map(|(run, _)| run.events.response).collect();
    let tenants: Vec<&str> = keyed().map(|(run, _)| run.tenant.as_str()).collect();
    let keys: Vec<&str> = keyed().map(|(_, key)| key.key.as_str()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = query(connection, SQL, &[&ids, &tenants, &keys]).await?;
    let holder = |row: &tokio_postgres::Row| KeyHolder {
        response: row.get(1),
        request_hash: row.get(2),
    };
    Ok(rows.iter().map(|row| (row.get(0), holder(row))).collect())
}
