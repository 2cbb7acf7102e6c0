//! What the demo upstream answers, from the words of the conversation alone.

use serde_json::Value;
use talaria_domain::model::{ModelCall, Object};

use super::errand::errands;

/// A sentence of the slow reply.
const SLOW: &str = "I am taking a little time, so that you may leave and come back: \
    the run goes on without you, and every word waits in its log. ";

/// How often the slow reply says it: about a hundred words, twelve seconds at the usual pace.
const SLOW_REPEATS: usize = 4;

const CODEWORD: &str = "codeword";

/// An answer of the demo upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Text {
        text: String,
        slow: bool,
    },
    /// One at least, all at once.
    Calls(Vec<Call>),
}

/// A call of one of the functions that the demo upstream was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// A JSON object.
    pub arguments: String,
}

impl Reply {
    /// Whether the words are to come slowly.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Text { slow: true, .. })
    }
}

/// The answer to `call`.
pub fn reply(call: &ModelCall) -> Reply {
    let items = items(call);
    let asked = items.iter().rposition(is_from_user);
    let question = asked.map(|at| text_of(&items[at])).unwrap_or_default();
    let question = question.trim();
    let since = &items[asked.map_or(0, |at| at + 1)..];
    let outputs = since
        .iter()
        .filter(|item| kind(item) == "function_call_output");
    let outputs: Vec<String> = outputs.map(text_of).collect();
    match &outputs[..] {
        [] => {}
        [output] => return said(format!("The tool answered: {output}")),
        outputs => return said(format!("The tools answered: {}", outputs.join(" · "))),
    }
    if let Some(exactly) = after(question, "reply with exactly:") {
        return said(exactly);
    }
    let offered = offered(call);
    if let Some(call) = asked_for_call(question, &offered) {
        return Reply::Calls(vec![call]);
    }
    if find(question, CODEWORD).is_some() {
        return said(about_codeword(question, &items[..asked.unwrap_or(0)]));
    }
    if find(question, "take a little time").is_some() {
        return Reply::Text {
            text: SLOW.repeat(SLOW_REPEATS).trim_end().to_owned(),
            slow: true,
        };
    }
    let errands = errands(question, &offered);
    if !errands.is_empty() {
        return Reply::Calls(errands);
    }
    said(format!(
        "Hello! I am Talaria's demo model: no network, no key, and little wit. You said: {question}"
    ))
}

fn said(text: impl Into<String>) -> Reply {
    Reply::Text {
        text: text.into(),
        slow: false,
    }
}

/// The items of the call's context that are JSON objects.
pub fn items(call: &ModelCall) -> Vec<Object> {
    let items = call
        .context
        .iter()
        .map(|item| serde_json::from_slice(&item.json));
    items.filter_map(Result::ok).collect()
}

/// The text in an item: its content or its output.
pub fn text_of(item: &Object) -> String {
    let content = item.get("content").or_else(|| item.get("output"));
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

fn kind(item: &Object) -> &str {
    item.get("type")
        .and_then(Value::as_str)
        .unwrap_or("message")
}

fn is_from_user(item: &Object) -> bool {
    kind(item) == "message" && item.get("role").is_some_and(|role| role == "user")
}

/// The call of one of the request's function tools that the question asks for: `call get_time {"zone":"UTC"}`.
fn asked_for_call(question: &str, offered: &[&str]) -> Option<Call> {
    // Of `get` and `get_time` the longer one is meant.
    let (name, rest) = offered
        .iter()
        .filter_map(|name| Some((name, after(question, &format!("call {name}"))?)))
        .max_by_key(|(name, _)| name.len())?;
    let arguments = serde_json::Deserializer::from_str(rest)
        .into_iter::<Object>()
        .next();
    let arguments = arguments.and_then(Result::ok).unwrap_or_default();
    Some(Call {
        name: (*name).to_owned(),
        arguments: Value::Object(arguments).to_string(),
    })
}

/// The names of the functions that may be called.
fn offered(call: &ModelCall) -> Vec<&str> {
    let tools = call.parameters.get("tools").and_then(Value::as_array);
    let functions = tools.into_iter().flatten();
    functions
        .filter(|tool| tool["type"] == "function")
        .filter_map(|tool| tool["name"].as_str())
        .collect()
}

/// Takes a codeword in, or tells the last one that the user said before.
fn about_codeword(question: &str, before: &[Object]) -> String {
    if let Some(word) = codeword_in(question) {
        return format!("I will remember the codeword {word}.");
    }
    let told = before.iter().filter(|item| is_from_user(item)).map(text_of);
    match told.filter_map(|text| codeword_in(&text)).next_back() {
        Some(word) => format!("The codeword is {word}."),
        None => "You have not told me a codeword.".to_owned(),
    }
}

/// The codeword that a text gives: `remember the codeword X`, `the codeword is X`, `codeword: X`.
fn codeword_in(text: &str) -> Option<String> {
    let at = find(text, CODEWORD).filter(|_| !text.trim_end().ends_with('?'))?;
    let rest = &text[at + CODEWORD.len()..];
    let mut words = rest.split(|c: char| !c.is_alphanumeric() && !"-_".contains(c));
    let mut next_word = || words.find(|word| !word.is_empty());
    let (is_told, word) = match next_word()? {
        is if is.eq_ignore_ascii_case("is") => (true, next_word()?),
        word => (
            rest.starts_with(':') || find(&text[..at], "remember").is_some(),
            word,
        ),
    };
    is_told.then(|| word.to_owned())
}

/// What stands after the first `needle` in `text`, whatever its case.
pub fn after<'a>(text: &'a str, needle: &str) -> Option<&'a str> {
    let at = find(text, needle)?;
    Some(text[at + needle.len()..].trim())
}

/// Where `needle`, which is ASCII, stands in `text`, whatever its case.
fn find(text: &str, needle: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(&needle.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use talaria_domain::model::CallItem;

    use super::*;

    fn call(context: &[Value]) -> ModelCall {
        let item = |item: &Value| CallItem {
            json: item.to_string().into(),
            upstream_id: None,
        };
        let tools = json!({"tools": [{"type": "function", "name": "get"},
            {"type": "function", "name": "get_time"}, {"type": "web_search"}]});
        ModelCall {
            model: "demo".to_owned(),
            instructions: None,
            context: context.iter().map(item).collect(),
            parameters: tools.as_object().unwrap().clone(),
        }
    }

    fn asked(question: &str) -> Reply {
        reply(&call(&[
            json!({"role": "user", "content": [{"type": "input_text", "text": question}]}),
        ]))
    }

    #[test]
    fn orders_are_obeyed() {
        let called = |name: &str, arguments: &str| {
            Reply::Calls(vec![Call {
                name: name.to_owned(),
                arguments: arguments.to_owned(),
            }])
        };
        let cases = [
            ("Reply with EXACTLY: Ünïcode  fine ", said("Ünïcode  fine")),
            (
                "Remember the codeword swordfish, please.",
                said("I will remember the codeword swordfish."),
            ),
            (
                "The codeword is: blue-fish.",
                said("I will remember the codeword blue-fish."),
            ),
            (
                "What is the codeword?",
                said("You have not told me a codeword."),
            ),
            (
                "Do you remember the codeword I gave you?",
                said("You have not told me a codeword."),
            ),
            (
                "Tell me the codeword please",
                said("You have not told me a codeword."),
            ),
            ("please call get_time now", called("get_time", "{}")),
            ("Call get {\"a\": 1} twice", called("get", r#"{"a":1}"#)),
            (
                "call home",
                said(
                    "Hello! I am Talaria's demo model: no network, no key, and little wit. You said: call home",
                ),
            ),
            (
                "",
                said(
                    "Hello! I am Talaria's demo model: no network, no key, and little wit. You said: ",
                ),
            ),
        ];
        for (question, expected) in cases {
            assert_eq!(asked(question), expected, "{question}");
        }
    }

    #[test]
    fn a_little_time_is_about_a_hundred_slow_words() {
        let Reply::Text { text, slow: true } = asked("Please take a little time.") else {
            panic!("a slow text is expected");
        };
        assert!((90..120).contains(&text.split(' ').count()), "{text}");
    }

    #[test]
    fn earlier_turns_are_remembered() {
        let user = |text: &str| json!({"role": "user", "content": text});
        let context = [
            user("Remember the codeword alpha"),
            user("remember the codeword beta"),
            json!({"role": "assistant", "content": "the codeword is gamma"}),
            user("and what is the codeword?"),
        ];

        assert_eq!(reply(&call(&context)), said("The codeword is beta."));
    }

    #[test]
    fn a_tool_s_answer_is_passed_on() {
        let context = [
            json!({"role": "user", "content": "call get_time"}),
            json!({"type": "function_call", "call_id": "c", "name": "get_time", "arguments": "{}"}),
            json!({"type": "function_call_output", "call_id": "c", "output": "noon"}),
        ];

        assert_eq!(reply(&call(&context)), said("The tool answered: noon"));
    }

    #[test]
    fn the_answers_of_several_tools_are_passed_on_together() {
        let output = |id: &str, output: Value| json!({"type": "function_call_output", "call_id": id, "output": output});
        let context = [
            json!({"role": "user", "content": "What time is it, and what is 6 * 7?"}),
            output("c", json!("noon")),
            output("d", json!([{"type": "input_text", "text": "42"}])),
        ];

        assert_eq!(
            reply(&call(&context)),
            said("The tools answered: noon · 42")
        );
    }
}
