//! What the database holds and what gateways show at the end of an episode.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;
use talaria_testkit::sse::{Ended, Reader};
use uuid::Uuid;

use crate::check::{Conversation, Facts, Row, Shown, response_id};
use crate::cluster::Cluster;
use crate::history::{History, What};
use crate::plan::{Plan, text_of};

/// After this many logs that cannot be read, the rest are not: each takes its time, and the verdict is clear.
const UNREADABLE: usize = 12;
/// Responses that are looked at at once.
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// The end of an episode, as database and gateways tell it.
pub async fn facts(cluster: &Cluster, floor: Uuid, history: &History) -> anyhow::Result<Facts> {
    let mut facts = stored(cluster, floor).await?;
    let mut ids: BTreeSet<String> = facts.rows.iter().map(|row| response_id(row.id)).collect();
    for entry in history.entries() {
        if let What::Sent {
            response: Some(response),
            ..
        } = entry.what
        {
            ids.insert(response);
        }
    }
    let unreadable = AtomicUsize::new(0);
    let unreadable = &unreadable;
    let shown = futures::stream::iter(ids)
        .map(|id| async move {
            let mut all = Vec::new();
            for gateway in &cluster.gateways {
                if unreadable.load(Ordering::Relaxed) > UNREADABLE {
                    continue;
                }
                let shown = shown(cluster, gateway, &id).await;
                if shown.log.is_err() && shown.object.0 != 404 {
                    unreadable.fetch_add(1, Ordering::Relaxed);
                }
                all.push(shown);
            }
            (id, all)
        })
        .buffer_unordered(AT_ONCE);
    facts.shown = shown.collect().await;
    facts.inputs = inputs(cluster, &facts.rows, history).await;
    Ok(facts)
}

/// The runs of responses that no client heard of, as the first gateway shows what they were made from.
async fn inputs(cluster: &Cluster, rows: &[Row], history: &History) -> HashMap<String, String> {
    let heard = history.entries();
    let heard: BTreeSet<&str> = heard
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Answered { body, .. } => body["id"].as_str(),
            What::Sent { response, .. } => response.as_deref(),
            _ => None,
        })
        .collect();
    let unheard = rows.iter().map(|row| response_id(row.id));
    let unheard: Vec<String> = unheard.filter(|id| !heard.contains(id.as_str())).collect();
    futures::stream::iter(unheard)
        .map(|id| async move {
            let run = input(cluster, &id).await?;
            Some((id, run))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await
}

/// The run in the latest prompt that a response was made from.
async fn input(cluster: &Cluster, id: &str) -> Option<String> {
    let url = format!(
        "{}/v1/responses/{id}/input_items?order=desc&limit=20",
        cluster.gateways.first()?
    );
    let answer = cluster.http.get(url).timeout(PATIENCE).send().await.ok()?;
    let list: Value = answer.json().await.ok()?;
    let items = list["data"].as_array()?.iter();
    let mut prompts = items.filter_map(|item| Plan::of_prompt(&text_of(&item["content"])));
    prompts.next().map(|plan| plan.run)
}

async fn stored(cluster: &Cluster, floor: Uuid) -> anyhow::Result<Facts> {
    const ROWS: &str = "
        SELECT r.id, r.status, r.epoch, r.next_seq, r.conversation_id, r.parent_turn_id
        FROM response r
        WHERE r.id >= $1";
    const CHUNKS: &str = "
        SELECT response_id, first_seq, last_seq, epoch
        FROM event_chunk
        WHERE response_id >= $1
        ORDER BY response_id, first_seq, last_seq";
    const TURNS: &str = "SELECT id, parent_id FROM turn WHERE id >= $1";
    const CONVERSATIONS: &str = "
        SELECT id, latest_completed_response_id, head_turn_id
        FROM conversation
        WHERE id IN (SELECT conversation_id FROM response WHERE id >= $1)";
    let session = cluster.connect().await?;
    let mut chunks: HashMap<Uuid, Vec<(i64, i64, i32)>> = HashMap::new();
    for row in session.query(CHUNKS, &[&floor]).await? {
        let chunk = (row.get(1), row.get(2), row.get(3));
        chunks.entry(row.get(0)).or_default().push(chunk);
    }
    let rows = session.query(ROWS, &[&floor]).await?;
    let rows = rows.iter().map(|row| {
        let id = row.get(0);
        Row {
            id,
            status: row.get(1),
            epoch: row.get(2),
            next_seq: row.get(3),
            conversation: row.get(4),
            parent_turn: row.get(5),
            chunks: chunks.remove(&id).unwrap_or_default(),
        }
    });
    let rows = rows.collect();
    let turns = session.query(TURNS, &[&floor]).await?;
    let conversations = session.query(CONVERSATIONS, &[&floor]).await?;
    Ok(Facts {
        rows,
        turns: turns.iter().map(|row| (row.get(0), row.get(1))).collect(),
        conversations: conversations
            .iter()
            .map(|row| Conversation {
                id: row.get(0),
                latest_completed: row.get(1),
                head_turn: row.get(2),
            })
            .collect(),
        ..Facts::default()
    })
}

async fn shown(cluster: &Cluster, gateway: &str, id: &str) -> Shown {
    let object = object(cluster, gateway, id).await;
    let log = match object.0 {
        404 => Err("not found".to_owned()),
        _ => log(cluster, gateway, id)
            .await
            .map_err(|error| format!("{error:#}")),
    };
    Shown { object, log }
}

async fn object(cluster: &Cluster, gateway: &str, id: &str) -> (u16, Value) {
    let url = format!("{gateway}/v1/responses/{id}");
    let got = async {
        let answer = cluster.http.get(url).timeout(PATIENCE).send().await?;
        let status = answer.status().as_u16();
        Ok::<_, reqwest::Error>((status, answer.json().await?))
    };
    got.await
        .unwrap_or_else(|error| (0, format!("{error:?}").into()))
}

async fn log(cluster: &Cluster, gateway: &str, id: &str) -> anyhow::Result<Vec<Bytes>> {
    let url = format!("{gateway}/v1/responses/{id}?stream=true");
    let answer = cluster.http.get(url).timeout(PATIENCE).send().await?;
    let (frames, ended) = Reader::new(answer).await?.collect_however_it_ends().await?;
    anyhow::ensure!(ended == Ended::Cleanly, "the replay ended as {ended:?}");
    let frames = frames.into_iter().filter(|frame| !frame.is_done_mark());
    Ok(frames.map(|frame| frame.raw).collect())
}
