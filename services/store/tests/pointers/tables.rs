//! Whether the tables say what the model says.

use std::collections::BTreeMap;

use anyhow::ensure;
use talaria_store::Sweep;
use uuid::Uuid;

use super::World;
use crate::model::{End, Head, Run, State};

impl World {
    /// Whether the tables say what the model says.
    pub async fn compare(&self) -> anyhow::Result<()> {
        const CONVERSATION: &str = "
            SELECT coalesce(name, 'conv_' || replace(id::text, '-', '')), latest_completed_response_id,
                   active_response_id, head_turn_id
            FROM conversation";
        const RESPONSE: &str = "
            SELECT r.id, r.status, r.cancel_requested, coalesce(c.name, 'conv_' || replace(c.id::text, '-', ''))
            FROM response r
            LEFT JOIN conversation c ON c.id = r.conversation_id
            ORDER BY r.status, r.conversation_id, r.place_in_line, r.id";
        let session = &self.session;
        let pointers = |latest: Option<Uuid>, active: Option<Uuid>, head: Option<Uuid>| {
            format!("latest {latest:?}, active {active:?}, head {head:?}")
        };
        let mut expected: BTreeMap<&str, String> = BTreeMap::new();
        for (name, conversation) in self.names.iter().zip(&self.model.conversations) {
            let id = |number: Option<usize>| number.map(|number| self.model.runs[number].id);
            let head = conversation.head.as_ref().map(|head: &Head| head.turn);
            let latest = id(conversation.latest_completed);
            expected.insert(name, pointers(latest, id(conversation.active), head));
        }
        let mut found: BTreeMap<&str, String> = BTreeMap::new();
        // A name that was never used has no row.
        for name in &self.names {
            found.insert(name, pointers(None, None, None));
        }
        let rows = session.query(CONVERSATION, &[]).await?;
        for row in &rows {
            found.insert(row.get(0), pointers(row.get(1), row.get(2), row.get(3)));
        }
        ensure!(
            found == expected,
            "conversations: {found:#?}, not {expected:#?}"
        );

        let mut line: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
        let mut others: BTreeMap<Uuid, String> = BTreeMap::new();
        for row in session.query(RESPONSE, &[]).await? {
            let (id, status, cancelled): (Uuid, i16, bool) = (row.get(0), row.get(1), row.get(2));
            match status {
                0 => line.entry(row.get(3)).or_default().push(id),
                1 | 2 => drop(others.insert(id, format!("active, to stop: {cancelled}"))),
                3 => drop(others.insert(id, format!("{:?}", End::Completed))),
                4 => drop(others.insert(id, format!("{:?}", End::Failed))),
                6 => drop(others.insert(id, format!("{:?}", End::Cancelled))),
                other => drop(others.insert(id, format!("status {other}"))),
            }
        }
        let mut expected_line: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
        for (name, conversation) in self.names.iter().zip(&self.model.conversations) {
            for number in conversation.line() {
                let of_conversation = expected_line.entry(name.clone()).or_default();
                of_conversation.push(self.model.runs[number].id);
            }
        }
        let state = |run: &Run| match run.state {
            State::Waiting => None,
            State::Active => Some((run.id, format!("active, to stop: {}", run.cancel_requested))),
            State::Ended(end) => Some((run.id, format!("{end:?}"))),
        };
        let kept = self.model.runs.iter().filter(|run| !run.is_deleted);
        let expected_others: BTreeMap<Uuid, String> = kept.filter_map(state).collect();
        ensure!(
            line == expected_line,
            "lines: {line:#?}, not {expected_line:#?}"
        );
        ensure!(
            others == expected_others,
            "responses: {others:#?}, not {expected_others:#?}"
        );
        Ok(())
    }

    /// Without responses only those turns are left that a conversation still shows.
    pub(super) async fn expect_only_needed_turns(&mut self) -> anyhow::Result<()> {
        self.evict(0).await?;
        self.compare().await?;
        let mut sweep = Sweep::default();
        while self.store.sweep_turns(&mut sweep).await? > 0 || !sweep.is_at_start() {}
        let row = self
            .session
            .query_one("SELECT count(*) FROM turn", &[])
            .await?;
        let turns: i64 = row.get(0);
        let conversations = self.model.conversations.iter();
        let shown: usize = conversations
            .map(|conversation| conversation.shows().len())
            .sum();
        ensure!(
            usize::try_from(turns)? == shown,
            "{turns} turns are left, {shown} are shown"
        );
        Ok(())
    }
}
