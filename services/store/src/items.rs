//! Items as they are listed: what a response was made from, what a conversation holds.

use talaria_domain::ids::ResponseId;
use talaria_proto::v1::{
    ContextItem, ListInputItemsRequest, ListInputItemsResponse, RunRequest, Turn,
};
use talaria_runtime::error::Reason;
use tonic::Status;

use crate::context::{Chain, Head, KnownTurns, turn_chain};
use crate::database::{Database, Error, read};
use crate::response::decode;

/// What the response was made from: the items before it, then its own input.
pub async fn input_items_list(
    database: &Database,
    known: &KnownTurns,
    request: ListInputItemsRequest,
) -> Result<ListInputItemsResponse, Status> {
    const SQL: &str = "
        -- input_items_list
        SELECT r.conversation_id, coalesce(t.parent_id, r.parent_turn_id), t.body, q.body
        FROM response r
        LEFT JOIN turn t ON t.id = r.id
        LEFT JOIN run_request q ON q.response_id = r.id
        WHERE r.id = $1 AND r.tenant = $2";
    let ListInputItemsRequest {
        tenant,
        response_id,
    } = request;
    let not_found =
        || Reason::ResponseNotFound.status(format!("Response not found: {response_id}"));
    let id = ResponseId::parse(&response_id).ok_or_else(not_found)?.0;
    let rows = read(database, SQL, &[&id, &tenant]).await?;
    let row = rows.first().ok_or_else(not_found)?;
    let mut items = match row.get(1) {
        Some(head) => {
            let chain = Chain {
                tenant: &tenant,
                conversation: row.get(0),
                head: Head::Id(head),
            };
            items_of(database, known, chain).await?
        }
        None => Vec::new(),
    };
    if let Some(turn) = row.get::<_, Option<&[u8]>>(2) {
        let turn: Turn = decode("turn", id, turn)?;
        items.extend(turn.input);
    } else if let Some(asked) = row.get::<_, Option<&[u8]>>(3) {
        let asked: RunRequest = decode("run_request", id, asked)?;
        items.extend(asked.input.into_iter().map(|item| ContextItem {
            item,
            upstream_id: String::new(),
        }));
    }
    Ok(ListInputItemsResponse { items })
}

/// The items of all turns of a chain, oldest first.
pub async fn items_of(
    database: &Database,
    known: &KnownTurns,
    chain: Chain<'_>,
) -> Result<Vec<ContextItem>, Error> {
    let turns = turn_chain(database, known, chain).await?;
    let items = |turn: Turn| turn.input.into_iter().chain(turn.output);
    Ok(turns.into_iter().flat_map(items).collect())
}
