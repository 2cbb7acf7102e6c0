//! Writing down what another server had stored: one statement a record, and never over what is there.

use prost::Message as _;
use talaria_proto::v1::{Response, Turn};
use uuid::Uuid;

use crate::codec;
use crate::database::{Database, Error, Server, read};

/// Enough for statements that come one after the other.
const CONNECTIONS: usize = 2;

/// Writes into one tenant of a migrated database.
#[derive(Debug)]
pub struct Importer {
    database: Database,
    tenant: String,
}

/// A response that ended on another server.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedResponse {
    pub id: Uuid,
    /// Without its output, which is the turn's.
    pub response: Response,
    pub turn: Turn,
    /// The turn that it continues from, which must be there.
    pub parent_turn: Option<Uuid>,
    pub conversation: Option<Uuid>,
    /// How many events show it; none is stored.
    pub event_count: i64,
    /// Unix seconds.
    pub used_at: f64,
}

/// A conversation that continues from an imported response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedConversation {
    pub id: Uuid,
    pub name: String,
    /// The completed response that it continues from.
    pub latest: Uuid,
    /// An earlier import may have left it at one of these: then it moves on.
    pub before: Vec<Uuid>,
}

/// What became of an imported record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    Written,
    /// It was there before, and is as it was.
    WasThere,
    /// Its id or name belongs to something else.
    Taken,
}

impl Importer {
    /// Prepares to write; nothing is connected until the first record.
    pub fn new(database_url: &str, tenant: String) -> Result<Self, Error> {
        let database = Server::new(database_url)?.pool(CONNECTIONS)?;
        Ok(Self { database, tenant })
    }

    /// Writes the response, its final object and its turn, if there is no response of this id.
    ///
    /// Its session does not go on from it: see [`Importer::sessions_import`].
    pub async fn response_import(&self, import: &ImportedResponse) -> Result<Imported, Error> {
        const SQL: &str = "
            -- response_import
            WITH response_made AS (
                INSERT INTO response (id, tenant, status, epoch, next_seq, conversation_id, parent_turn_id, session_id,
                                      model, updated_at, used_at)
                VALUES ($1, $2, $3, 1, $4, $5, $6, $7, $8, now(), to_timestamp($9))
                ON CONFLICT (id) DO NOTHING
                RETURNING id
            ), turn_made AS (
                INSERT INTO turn (id, tenant, parent_id, body)
                SELECT id, $2, $6, $10
                FROM response_made
                ON CONFLICT (id) DO NOTHING
            ), final_made AS (
                INSERT INTO response_final (response_id, body)
                SELECT id, $11
                FROM response_made
                ON CONFLICT (response_id) DO NOTHING
            )
            SELECT EXISTS (SELECT 1 FROM response_made),
                   EXISTS (SELECT 1 FROM response WHERE id = $1 AND tenant <> $2)";
        let ImportedResponse { id, response, .. } = import;
        let status = i16::try_from(response.status).unwrap_or_default();
        let own_session = id.hyphenated().to_string();
        let session = Some(&response.session_id).filter(|session| **session != own_session);
        let turn = codec::pack(&import.turn.encode_to_vec());
        let final_response = codec::pack(&response.encode_to_vec());
        let rows = read(
            &self.database,
            SQL,
            &[
                id,
                &self.tenant,
                &status,
                &import.event_count,
                &import.conversation,
                &import.parent_turn,
                &session,
                &response.model,
                &import.used_at,
                &turn,
                &final_response,
            ],
        )
        .await?;
        let is = |column| rows.first().is_some_and(|row| row.get(column));
        Ok(match (is(0), is(1)) {
            (true, _) => Imported::Written,
            (false, true) => Imported::Taken,
            (false, false) => Imported::WasThere,
        })
    }

    /// Makes the conversation if its name is free. One that an earlier import made moves on, unless it has been used
    /// since.
    pub async fn conversation_import(
        &self,
        import: &ImportedConversation,
    ) -> Result<Imported, Error> {
        const SQL: &str = "
            -- conversation_import
            WITH latest AS (
                -- It may be deleted while the import goes on; then the name stays as it is.
                SELECT id
                FROM response
                WHERE id = $4 AND tenant = $2
                FOR KEY SHARE
            ), made AS (
                INSERT INTO conversation (id, tenant, name, latest_completed_response_id, head_turn_id)
                SELECT $1, $2, $3, latest.id, latest.id
                FROM latest
                ON CONFLICT DO NOTHING
                RETURNING id
            ), moved AS (
                UPDATE conversation c
                SET latest_completed_response_id = latest.id,
                    head_turn_id = latest.id
                FROM latest
                WHERE c.id = $1
                  AND c.tenant = $2
                  AND c.active_response_id IS NULL
                  AND (c.latest_completed_response_id = ANY ($5) AND c.head_turn_id = c.latest_completed_response_id
                       OR c.latest_completed_response_id IS NULL AND c.head_turn_id IS NULL)
                  AND NOT EXISTS (SELECT 1 FROM response r WHERE r.conversation_id = c.id AND r.status = 0)
                RETURNING c.id
            )
            SELECT EXISTS (SELECT 1 FROM made) OR EXISTS (SELECT 1 FROM moved),
                   EXISTS (SELECT 1 FROM conversation
                           WHERE tenant = $2 AND name = $3 AND id <> $1
                              OR id = $1 AND tenant <> $2)";
        let ImportedConversation {
            id,
            name,
            latest,
            before,
        } = import;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [id, &self.tenant, name, latest, before];
        let rows = read(&self.database, SQL, &parameters).await?;
        let is = |column| rows.first().is_some_and(|row| row.get(column));
        Ok(match (is(0), is(1)) {
            (true, _) => Imported::Written,
            (false, true) => Imported::Taken,
            (false, false) => Imported::WasThere,
        })
    }

    /// Lets each of these sessions go on from the imported turn beside it, until it has a turn that was made here.
    ///
    /// A session goes on from the turn with the highest id, and ids of imported turns tell nothing about time: so only
    /// one of them is the session's.
    pub async fn sessions_import(&self, sessions: &[String], turns: &[Uuid]) -> Result<(), Error> {
        const SQL: &str = "
            -- sessions_import
            UPDATE turn t
            SET session_id = CASE WHEN t.id = wanted.turn_id THEN wanted.session_id END
            FROM unnest($2::text[], $3::uuid[]) AS wanted (session_id, turn_id)
            WHERE t.tenant = $1
              AND (t.id = wanted.turn_id AND t.session_id IS DISTINCT FROM wanted.session_id
                   OR t.id <> wanted.turn_id AND t.id < $4 AND t.session_id = wanted.session_id)";
        // Imported ids begin with four zeros.
        const FIRST_OF_OURS: Uuid = Uuid::from_u128(1 << 112);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&self.tenant, &sessions, &turns, &FIRST_OF_OURS];
        read(&self.database, SQL, &parameters).await.map(drop)
    }

    /// Which of these conversations cannot be made under their names, because others have them.
    pub async fn names_taken(&self, names: &[String], ids: &[Uuid]) -> Result<Vec<String>, Error> {
        const SQL: &str = "
            -- names_taken
            SELECT c.name
            FROM unnest($2::text[], $3::uuid[]) AS wanted (name, id)
            JOIN conversation c ON c.tenant = $1 AND c.name = wanted.name
            WHERE c.id <> wanted.id";
        let rows = read(&self.database, SQL, &[&self.tenant, &names, &ids]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
