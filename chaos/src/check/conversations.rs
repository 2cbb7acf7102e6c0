//! What continues from what: I-21, I-24.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use uuid::Uuid;

use crate::history::Action;
use crate::plan::{TurnSeen, text_of};

use super::{Facts, Row, View, Violation, response_id};

const COMPLETED: i16 = 3;

pub fn check(facts: &Facts, view: &View<'_>, violations: &mut Vec<Violation>) {
    let rows: HashMap<Uuid, &Row> = facts.rows.iter().map(|row| (row.id, row)).collect();
    let parents: HashMap<Uuid, Option<Uuid>> = facts
        .turns
        .iter()
        .map(|(turn, parent)| (*turn, *parent))
        .chain(facts.rows.iter().map(|row| (row.id, row.parent_turn)))
        .collect();
    origins(facts, view, &rows, violations);
    contexts(facts, view, &rows, &parents, violations);
    heads(facts, view, &rows, &parents, violations);
}

/// I-24: a response continues from what its request names, and from nothing else.
fn origins(
    facts: &Facts,
    view: &View<'_>,
    rows: &HashMap<Uuid, &Row>,
    violations: &mut Vec<Violation>,
) {
    let chats: HashSet<&str> = view
        .ops
        .values()
        .filter(|op| op.action == Action::Chat)
        .filter_map(|op| op.run)
        .collect();
    let mut names: HashMap<&str, Uuid> = HashMap::new();
    let mut conversations: HashMap<Uuid, &str> = HashMap::new();
    for row in &facts.rows {
        let response = response_id(row.id);
        let Some(run) = view.runs.get(&response).map(String::as_str) else {
            continue;
        };
        // The conversation of a completion is its session's.
        let Some(order) = view.orders.get(run).filter(|_| !chats.contains(run)) else {
            continue;
        };
        let parent = row.parent_turn.map(response_id);
        let is_right = match (&order.previous, &order.conversation, row.conversation) {
            (Some(previous), ..) => parent.as_ref() == Some(previous),
            (None, None, conversation) => parent.is_none() && conversation.is_none(),
            (None, Some(_), None) => false,
            (None, Some(name), Some(id)) => {
                let before = row.parent_turn.and_then(|turn| rows.get(&turn));
                *names.entry(name).or_insert(id) == id
                    && *conversations.entry(id).or_insert(name) == name
                    && before.is_none_or(|before| before.conversation == Some(id))
            }
        };
        if !is_right {
            let what = format!(
                "it goes on from {parent:?} in {:?}, and was to go on from {:?} in {:?}",
                row.conversation, order.previous, order.conversation
            );
            violations.push(Violation::new("I-24", what).of(&response));
        }
    }
}

/// I-24: the model was told of exactly the turns that the response continues from, all of them completed.
fn contexts(
    facts: &Facts,
    view: &View<'_>,
    rows: &HashMap<Uuid, &Row>,
    parents: &HashMap<Uuid, Option<Uuid>>,
    violations: &mut Vec<Violation>,
) {
    let mut calls: HashMap<&str, Vec<&crate::model::Call>> = HashMap::new();
    for call in &facts.calls {
        calls.entry(&call.run).or_default().push(call);
    }
    for row in &facts.rows {
        let response = response_id(row.id);
        let Some(run) = view.runs.get(&response) else {
            continue;
        };
        let mut expected = Vec::new();
        let mut is_whole = true;
        for turn in ancestors(row.parent_turn, parents) {
            let ancestor = response_id(turn);
            // One that was deleted meanwhile is still continued from, but nobody can say any more what it was.
            let Some(ancestors_run) = view.runs.get(&ancestor) else {
                is_whole = false;
                break;
            };
            if let Some(row) = rows.get(&turn)
                && row.status != COMPLETED
            {
                let what = format!("continues from {ancestor}, whose status is {}", row.status);
                violations.push(Violation::new("I-24", what).of(&response));
            }
            expected.push(ancestors_run.as_str());
        }
        expected.reverse();
        for call in calls.get(run.as_str()).into_iter().flatten() {
            for turn in &call.before {
                if let Some(what) = misquoted(turn, view) {
                    violations.push(Violation::new("I-24", what).of(&response));
                }
            }
            let told: Vec<&str> = call.before.iter().map(|turn| turn.run.as_str()).collect();
            if is_whole && told != expected {
                let what = format!("the model was told of {told:?}, not of {expected:?}");
                violations.push(Violation::new("I-24", what).of(&response));
            }
        }
    }
}

/// What is wrong with an earlier turn as the model was told of it: it is what the response that was made for it says.
fn misquoted(turn: &TurnSeen, view: &View<'_>) -> Option<String> {
    let mut said = view.runs.iter().filter(|(_, run)| **run == turn.run);
    let (response, _) = said.next()?;
    let items = view.logs.get(response)?.last()?["response"]["output"]
        .as_array()?
        .iter()
        .filter(|item| item["type"] == "message");
    let text_of_all = |items: &mut dyn Iterator<Item = &Value>| -> String {
        items.map(|item| text_of(&item["content"])).collect()
    };
    let whole = text_of_all(&mut items.clone().filter(|item| item["status"] == "completed"));
    let all = text_of_all(&mut items.clone());
    (turn.text != whole && turn.text != all)
        .then(|| format!("the model was told that {response} says {:?}", turn.text))
}

/// I-21: all completed responses of a conversation stand in one chain, at whose end it is.
fn heads(
    facts: &Facts,
    view: &View<'_>,
    rows: &HashMap<Uuid, &Row>,
    parents: &HashMap<Uuid, Option<Uuid>>,
    violations: &mut Vec<Violation>,
) {
    for conversation in &facts.conversations {
        let members: Vec<&&Row> = rows
            .values()
            .filter(|row| row.conversation == Some(conversation.id))
            .collect();
        // A response that is deleted takes the conversation back to its beginning.
        let is_touched = members
            .iter()
            .any(|row| view.deleted.contains(&response_id(row.id)));
        if is_touched {
            continue;
        }
        let chain: HashSet<Uuid> = ancestors(conversation.head_turn, parents)
            .into_iter()
            .collect();
        for row in members {
            if row.status == COMPLETED && !chain.contains(&row.id) {
                let what = format!(
                    "completed, and conversation {} does not go back to it",
                    conversation.id
                );
                violations.push(Violation::new("I-21", what).of(&response_id(row.id)));
            }
        }
        if conversation.latest_completed != conversation.head_turn {
            let what = format!(
                "conversation {} continues from {:?}, and its latest is {:?}",
                conversation.id, conversation.head_turn, conversation.latest_completed
            );
            violations.push(Violation::new("I-21", what));
        }
    }
}

/// A turn and those before it, the latest first.
fn ancestors(turn: Option<Uuid>, parents: &HashMap<Uuid, Option<Uuid>>) -> Vec<Uuid> {
    let mut all = Vec::new();
    let mut next = turn;
    while let Some(turn) = next {
        if all.contains(&turn) {
            break;
        }
        all.push(turn);
        next = parents.get(&turn).copied().flatten();
    }
    all
}
