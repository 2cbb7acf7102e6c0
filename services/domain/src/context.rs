//! The context of a run: what an upstream is shown, from parent turns and new input.

mod approvals;
mod lists;
mod shown;

use std::collections::HashSet;
use std::sync::LazyLock;

use bytes::Bytes;
use serde::Deserialize;
use talaria_proto::v1::{ContextItem, Turn};

use crate::ids::{ItemPlace, Side};
use crate::json::{Word, with_id};
use crate::model::CallItem;

use shown::push_shown;

pub use approvals::{ApprovalAnswer, approval_answers, tell_approvals};
pub use lists::{ToolListing, tool_listings};

/// An item of the request's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputItem {
    /// A whole item, as the client sent it.
    Item(Bytes),
    /// A reference to an earlier item, by its id.
    Reference(String),
}

/// What is wrong with a context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("No tool call found for function call output with call_id {call_id}.")]
    NoToolCall { call_id: String },
    #[error("No tool output found for function call {call_id}.")]
    NoToolOutput { call_id: String },
    #[error("input[{index}] is not a JSON object.")]
    NotAnObject { index: usize },
}

/// Items that call a tool of the client's, and items that answer them.
const CALLS: [&str; 2] = ["function_call", "custom_tool_call"];
const OUTPUTS: [&str; 2] = ["function_call_output", "custom_tool_call_output"];

#[derive(Deserialize)]
struct Head {
    #[serde(default, rename = "type")]
    item_type: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    call_id: Option<String>,
}

/// Tells references from whole items.
pub fn input_items(input: &[Bytes]) -> Result<Vec<InputItem>, Error> {
    let read = |(index, json): (usize, &Bytes)| {
        let head = head(json).ok_or(Error::NotAnObject { index })?;
        Ok(match (head.item_type.as_deref(), head.id) {
            (Some("item_reference"), Some(id)) => InputItem::Reference(id),
            _ => InputItem::Item(json.clone()),
        })
    };
    input.iter().enumerate().map(read).collect()
}

/// The input of a run with every reference resolved and an id on every item.
///
/// `resolved` holds the items that `input` refers to, in the order of the references.
pub fn resolve_input(
    response: uuid::Uuid,
    input: Vec<InputItem>,
    resolved: Vec<ContextItem>,
) -> Result<Vec<ContextItem>, Error> {
    let mut resolved = resolved.into_iter();
    let mut items = Vec::with_capacity(input.len());
    for (index, item) in input.into_iter().enumerate() {
        items.push(match item {
            InputItem::Reference(_) => resolved.next().unwrap_or_default(),
            InputItem::Item(json) => {
                let head = head(&json).ok_or(Error::NotAnObject { index })?;
                let item = if head.id.is_some() {
                    json
                } else {
                    let place = u32::try_from(index).unwrap_or(u32::MAX);
                    let place = ItemPlace {
                        response,
                        side: Side::Input,
                        index: place,
                    };
                    let id = place.id(head.item_type.as_deref().unwrap_or("message"));
                    let with_id = with_id(&json, &id).map_err(|_| Error::NotAnObject { index })?;
                    Bytes::from(with_id)
                };
                ContextItem {
                    item,
                    upstream_id: String::new(),
                }
            }
        });
    }
    Ok(items)
}

/// The items of all turns and then the input, oldest first, as the model is shown them.
///
/// What a turn's model could not finish saying is left out: half a call has no output, and never will. An `mcp_call`
/// that an upstream's own server did not make becomes a function call and its output, which every upstream knows; the
/// list of such a server's tools is left out.
pub fn call_items(turns: &[Turn], input: &[ContextItem]) -> Vec<CallItem> {
    let count = |turn: &Turn| turn.input.len() + turn.output.len();
    let mut shown = Vec::with_capacity(input.len() + turns.iter().map(count).sum::<usize>());
    for turn in turns {
        let output = turn.output.iter().filter(|item| is_whole(item));
        for item in turn.input.iter().chain(output) {
            push_shown(item, &mut shown);
        }
    }
    for item in input {
        push_shown(item, &mut shown);
    }
    shown
}

/// Checks that calls and their outputs come in pairs. Source: OpenAI's Responses API refuses both halves alone.
pub fn check_pairs(context: &[CallItem]) -> Result<(), Error> {
    let mut calls: Vec<String> = Vec::new();
    let mut answered: HashSet<String> = HashSet::new();
    for item in context {
        let Some(head) = call_head(&item.json) else {
            continue;
        };
        let (Some(item_type), Some(call_id)) = (head.item_type.as_deref(), head.call_id) else {
            continue;
        };
        if CALLS.contains(&item_type) {
            answered.remove(&call_id);
            calls.push(call_id);
        } else if OUTPUTS.contains(&item_type) {
            if !calls.contains(&call_id) {
                return Err(Error::NoToolCall { call_id });
            }
            answered.insert(call_id);
        }
    }
    match calls
        .into_iter()
        .find(|call_id| !answered.contains(call_id))
    {
        Some(call_id) => Err(Error::NoToolOutput { call_id }),
        None => Ok(()),
    }
}

/// Takes the calls out of `turns` that nothing answers, neither a later turn nor `input`: whoever goes on in a session
/// need not know of them, and no model takes them.
pub fn leave_unanswered_calls_out(turns: &mut [Turn], input: &[ContextItem]) {
    let call_id = |item: &ContextItem, types: [&str; 2]| {
        let head = call_head(&item.item)?;
        let is_one = types.contains(&head.item_type?.as_str());
        head.call_id.filter(|_| is_one)
    };
    let items = turns
        .iter()
        .flat_map(|turn| turn.input.iter().chain(&turn.output));
    let answered: HashSet<String> = items
        .chain(input)
        .filter_map(|item| call_id(item, OUTPUTS))
        .collect();
    let is_open = |item: &ContextItem| {
        call_id(item, CALLS).is_some_and(|call_id| !answered.contains(&call_id))
    };
    for turn in turns {
        turn.input.retain(|item| !is_open(item));
        turn.output.retain(|item| !is_open(item));
    }
}

/// Whether an output item was finished.
pub fn is_whole(item: &ContextItem) -> bool {
    #[derive(Deserialize)]
    struct Status<'a> {
        #[serde(default, borrow)]
        status: Option<std::borrow::Cow<'a, str>>,
    }
    static INCOMPLETE: LazyLock<Word> = LazyLock::new(|| Word::new("incomplete"));
    // Most items are finished, and long: look before parsing.
    !INCOMPLETE.may_be_in(&item.item)
        || serde_json::from_slice(&item.item)
            .is_ok_and(|item: Status<'_>| item.status.as_deref() != Some("incomplete"))
}

/// The head of an item that may be a call or its output.
fn call_head(json: &[u8]) -> Option<Head> {
    static CALL_ID: LazyLock<Word> = LazyLock::new(|| Word::new("call_id"));
    // Most items are messages, and long: look before parsing.
    if !CALL_ID.may_be_in(json) {
        return None;
    }
    head(json)
}

fn head(json: &[u8]) -> Option<Head> {
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &'static str) -> CallItem {
        CallItem {
            json: Bytes::from_static(json.as_bytes()),
            upstream_id: None,
        }
    }

    #[test]
    fn calls_and_outputs_come_in_pairs() {
        let message = item(r#"{"type":"message","role":"user","content":"call_id"}"#);
        let call = item(r#"{"type":"function_call","call_id":"a","name":"f","arguments":"{}"}"#);
        let output = item(r#"{"type":"function_call_output","call_id":"a","output":"1"}"#);
        let lone_call = Err(Error::NoToolOutput {
            call_id: "a".into(),
        });
        let lone_output = Err(Error::NoToolCall {
            call_id: "a".into(),
        });
        let table = [
            (vec![&message, &call, &output], Ok(())),
            (vec![&message, &call], lone_call.clone()),
            (vec![&output, &message], lone_output.clone()),
            (vec![&output, &call], lone_output),
            // Some upstreams number their calls anew in every turn.
            (vec![&call, &output, &call, &output], Ok(())),
            (vec![&call, &output, &call], lone_call),
        ];
        for (context, expected) in table {
            let context: Vec<CallItem> = context.into_iter().cloned().collect();
            assert_eq!(check_pairs(&context), expected, "{context:?}");
        }
    }

    #[test]
    fn half_an_answer_is_not_shown_to_the_model_again() {
        let item = |json: &'static str| ContextItem {
            item: Bytes::from_static(json.as_bytes()),
            upstream_id: String::new(),
        };
        let whole = item(r#"{"type":"message","status":"completed"}"#);
        let half = item(r#"{"type":"function_call","call_id":"a","status":"incomplete"}"#);
        let turn = Turn {
            input: Vec::new(),
            output: vec![half, whole.clone()],
        };

        let shown = call_items(&[turn], &[]);

        let mut of_whole = Vec::new();
        push_shown(&whole, &mut of_whole);
        assert_eq!(shown, of_whole);
        assert_eq!(check_pairs(&shown), Ok(()));
    }

    #[test]
    fn calls_that_the_server_ran_are_shown_as_functions_and_those_of_others_as_they_are() {
        let item = |upstream_id: &str, rest: &str| ContextItem {
            item: Bytes::from(format!(
                r#"{{"id":"mcp_1","type":"mcp_call","name":"f","arguments":"{{}}",{rest}}}"#
            )),
            upstream_id: upstream_id.into(),
        };
        let failed = r#""output":null,"error":{"type":"mcp_tool_execution_error","content":[{"type":"text","text":"no"}]}"#;
        let foreign = item("mcp_up", r#""output":"1","error":null"#);
        let input = [
            item(
                "effect:once call:c1 id:fc_1 usage:1,0,0,1,0,2",
                r#""output":"1","error":null"#,
            ),
            item("effect:pure", failed),
            item("", r#""output":"3""#),
            foreign.clone(),
            ContextItem {
                item: Bytes::from(r#"{"type":"mcp_list_tools","server_label":"s","tools":[]}"#),
                upstream_id: String::new(),
            },
            ContextItem {
                item: Bytes::from(r#"{"type":"function_call_output","call_id":"c","output":""}"#),
                upstream_id: "effect:pure".into(),
            },
        ];

        let shown = call_items(&[], &input);

        let text = |item: &CallItem| {
            let json = String::from_utf8(item.json.to_vec()).unwrap();
            format!("{:?} {json}", item.upstream_id)
        };
        let call = |id, call_id| {
            format!(
                r#"{id} {{"type":"function_call","call_id":"{call_id}","name":"f","arguments":"{{}}","status":"completed"}}"#
            )
        };
        let output = |call_id, output| {
            format!(
                r#"None {{"type":"function_call_output","call_id":"{call_id}","output":"{output}"}}"#
            )
        };
        let expected = [
            call(r#"Some("fc_1")"#, "c1"),
            output("c1", "1"),
            call("None", "mcp_1"),
            output("mcp_1", "no"),
            call("None", "mcp_1"),
            output("mcp_1", "3"),
            text(&CallItem {
                json: foreign.item,
                upstream_id: Some("mcp_up".into()),
            }),
            output("c", ""),
        ];
        assert_eq!(shown.iter().map(text).collect::<Vec<_>>(), expected);
        assert_eq!(check_pairs(&shown[..6]), Ok(()));
    }

    #[test]
    fn a_session_goes_on_without_the_calls_that_nobody_answered() {
        let item = |json: &'static str| ContextItem {
            item: Bytes::from_static(json.as_bytes()),
            upstream_id: String::new(),
        };
        let said = item(r#"{"type":"message","role":"user"}"#);
        let answered = item(r#"{"type":"function_call","call_id":"c1"}"#);
        let open = item(r#"{"type":"function_call","call_id":"c2"}"#);
        let mut turns = vec![Turn {
            input: vec![said.clone()],
            output: vec![answered.clone(), open],
        }];
        let input = [item(r#"{"type":"function_call_output","call_id":"c1"}"#)];

        leave_unanswered_calls_out(&mut turns, &input);

        let expected = Turn {
            input: vec![said],
            output: vec![answered],
        };
        assert_eq!(turns, [expected]);
    }

    #[test]
    fn input_items_get_ids_and_references_their_items() {
        let input = [
            r#"{"type":"message","role":"user","content":[]}"#,
            r#"{"type":"item_reference","id":"msg_1"}"#,
            r#"{"type":"message","id":"msg_mine","role":"user","content":[]}"#,
        ];
        let input: Vec<Bytes> = input.into_iter().map(Bytes::from).collect();
        let referred = ContextItem {
            item: Bytes::from("{}"),
            upstream_id: "up_1".into(),
        };

        let items = input_items(&input).unwrap();
        assert_eq!(items[1], InputItem::Reference("msg_1".into()));
        let resolved = resolve_input(uuid::Uuid::nil(), items, vec![referred.clone()]).unwrap();

        let id = "msg_00000000000000000000000000000000i0";
        let first = format!(r#"{{"id":"{id}","type":"message","role":"user","content":[]}}"#);
        assert_eq!(resolved[0].item, first);
        assert_eq!(resolved[1], referred);
        assert_eq!(resolved[2].item, input[2]);
    }
}
