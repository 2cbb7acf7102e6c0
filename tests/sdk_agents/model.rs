//! A scripted model that does what it is asked: `echo a and weather Oslo then add 1 2` are two steps of calls, and then the
//! answer `Tools: …` with what all of them said. Anything else it says again.

use serde_json::{Value, json};
use talaria_testkit::upstream::{ChatStream, Request, ResponsesStream, Script};

/// The tools that the model knows: name, and what its words are.
const TOOLS: [(&str, &[&str]); 8] = [
    ("echo", &["text"]),
    ("add", &["a", "b"]),
    ("fail", &[]),
    ("image", &[]),
    ("once_effect", &["text"]),
    ("weather", &["city"]),
    ("transfer_to_poet", &[]),
    ("appeared", &[]),
];

/// Answers as the Responses API does.
pub fn responses(request: &Request) -> Option<Script> {
    let items = request.body["input"].as_array()?;
    let said = items.iter().filter_map(|item| {
        if item["role"] == "user" {
            Some(Said::Question(text(&item["content"])))
        } else if item["type"] == "function_call_output" {
            Some(Said::Output(text(&item["output"])))
        } else {
            None
        }
    });
    let stream = ResponsesStream::new();
    Some(match reply(&said.collect::<Vec<_>>()) {
        Reply::Calls(calls) => {
            let call = |stream: ResponsesStream, call: &Call| {
                let id = format!("call_{}_{}", items.len(), call.name);
                stream.function_call(&id, &call.name, &halves(&call.arguments))
            };
            calls.iter().fold(stream, call).completed()
        }
        Reply::Text(text) => stream.text(&halves(&text)).completed(),
    })
}

/// Answers as the Chat Completions API does.
pub fn chat_completions(request: &Request) -> Option<Script> {
    let messages = request.body["messages"].as_array()?;
    let said = messages.iter().filter_map(|message| {
        let text = || text(&message["content"]);
        match message["role"].as_str()? {
            "user" => Some(Said::Question(text())),
            "tool" => Some(Said::Output(text())),
            _ => None,
        }
    });
    let stream = ChatStream::new();
    Some(match reply(&said.collect::<Vec<_>>()) {
        Reply::Calls(calls) => {
            let call = |stream: ChatStream, call: &Call| {
                let id = format!("call_{}_{}", messages.len(), call.name);
                stream.function_call(&id, &call.name, &halves(&call.arguments))
            };
            calls.iter().fold(stream, call).finish("tool_calls")
        }
        Reply::Text(text) => stream.text(&halves(&text)).finish("stop"),
    })
}

enum Said {
    Question(String),
    Output(String),
}

enum Reply {
    Calls(Vec<Call>),
    Text(String),
}

struct Call {
    name: String,
    arguments: String,
}

fn reply(said: &[Said]) -> Reply {
    let (mut first, mut last, mut outputs) = (None, "", Vec::new());
    for said in said {
        match said {
            Said::Question(question) => {
                first.get_or_insert(question.as_str());
                last = question;
                outputs.clear();
            }
            Said::Output(output) => outputs.push(output.as_str()),
        }
    }
    if last == "what did I ask first" {
        return Reply::Text(first.unwrap_or_default().to_owned());
    }
    let mut made = 0;
    for step in last.split(" then ") {
        let Some(calls) = step.split(" and ").map(call).collect::<Option<Vec<_>>>() else {
            return Reply::Text(format!("You said: {last}"));
        };
        if outputs.len() <= made {
            return Reply::Calls(calls);
        }
        made += calls.len();
    }
    outputs.sort_unstable();
    Reply::Text(format!("Tools: {}", outputs.join(", ")))
}

fn call(words: &str) -> Option<Call> {
    let mut words = words.split(' ');
    let word = words.next()?;
    let (name, members) = TOOLS.iter().find(|(name, _)| *name == word)?;
    let mut arguments = json!({});
    for (member, word) in members.iter().zip(words) {
        arguments[member] = word.parse::<i64>().map_or(word.into(), Value::from);
    }
    Some(Call {
        name: (*name).to_owned(),
        arguments: arguments.to_string(),
    })
}

fn text(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let parts = content.as_array().into_iter().flatten();
    parts
        .filter_map(|part| match part["text"].as_str() {
            Some(text) => Some(text),
            None => part["type"].as_str(),
        })
        .collect::<Vec<_>>()
        .join(" + ")
}

fn halves(text: &str) -> [&str; 2] {
    let (a, b) = text.split_at(text.floor_char_boundary(text.len() / 2));
    [a, b]
}
