//! What the demo upstream sends its tools for: the time, a calculation, a wait.

use serde_json::{Value, json};

use super::reply::{Call, after};

/// How questions for the time are put.
const ASKS_TIME: [&str; 7] = [
    "what time",
    "tell me the time",
    "what is the time",
    "what's the time",
    "current time",
    "what day",
    "today's date",
];

/// What stands before something to calculate.
const ASKS_CALCULATION: [&str; 5] = ["calculate", "compute", "what is", "what's", "how much is"];

/// The calls of the offered tools that `question` needs, in the order clock, calculator, wait.
pub fn errands(question: &str, offered: &[&str]) -> Vec<Call> {
    let time = ASKS_TIME
        .iter()
        .any(|asks| after(question, asks).is_some())
        .then(|| json!({}));
    let calculation = ASKS_CALCULATION
        .iter()
        .find_map(|asks| all_after(question, asks).find_map(expression))
        .map(|expression| json!({"expression": expression}));
    let wait = all_after(question, "wait")
        .find_map(seconds)
        .map(|seconds| json!({"seconds": seconds}));
    [("clock", time), ("calculator", calculation), ("wait", wait)]
        .into_iter()
        .filter_map(|(tool, arguments)| call(tool, arguments.as_ref()?, offered))
        .collect()
}

/// What stands after each `needle` in `text`.
fn all_after<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = &'a str> {
    std::iter::successors(after(text, needle), move |rest| after(rest, needle))
}

/// A call of the tool, which may be offered with its server's name before its own.
fn call(tool: &str, arguments: &Value, offered: &[&str]) -> Option<Call> {
    let is_it = |name: &str| name == tool || name == format!("demo__{tool}");
    let name = offered.iter().find(|name| is_it(name))?;
    Some(Call {
        name: (*name).to_owned(),
        arguments: arguments.to_string(),
    })
}

/// The arithmetic that a text begins with: at least two numbers, and what joins them.
fn expression(text: &str) -> Option<String> {
    let belongs = |c: char| c.is_ascii_digit() || "+-*/(). ".contains(c);
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    let text = text[..end].trim_end_matches(|c| !(char::is_ascii_digit(&c) || c == ')'));
    let numbers = text.split(['+', '-', '*', '/']).filter(|number| {
        let number = number.trim_matches([' ', '(', ')']);
        number.parse::<f64>().is_ok()
    });
    (numbers.count() >= 2).then(|| text.trim().to_owned())
}

/// The whole number of seconds that a text begins with: `3 seconds`, `for 3 seconds`.
fn seconds(text: &str) -> Option<u64> {
    let text = text.strip_prefix("for ").unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let is_seconds = text[end..].trim_start().starts_with("second");
    text[..end].parse().ok().filter(|_| is_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(question: &str, offered: &[&str]) -> Vec<String> {
        let calls = errands(question, offered);
        let told = calls
            .iter()
            .map(|call| format!("{} {}", call.name, call.arguments));
        told.collect()
    }

    #[test]
    fn questions_send_to_the_tools_that_are_there() {
        let all = ["clock", "calculator", "wait"];
        let cases: [(&str, &[&str]); 12] = [
            ("What time is it?", &["clock {}"]),
            ("Please tell me the time.", &["clock {}"]),
            (
                "What is 6 * (3.5 + 4)?",
                &[r#"calculator {"expression":"6 * (3.5 + 4)"}"#],
            ),
            ("Calculate 2+2.", &[r#"calculator {"expression":"2+2"}"#]),
            ("Wait for 3 seconds.", &[r#"wait {"seconds":3}"#]),
            (
                "What is the time, and what is -1 - 2?",
                &["clock {}", r#"calculator {"expression":"-1 - 2"}"#],
            ),
            ("What is 42?", &[]),
            ("What is the codeword?", &[]),
            ("Wait a moment", &[]),
            ("wait 3", &[]),
            ("Take a little time", &[]),
            ("What is é?", &[]),
        ];
        for (question, expected) in cases {
            assert_eq!(sent(question, &all), expected, "{question}");
        }
        assert_eq!(
            sent("What time is it?", &["demo__clock"]),
            ["demo__clock {}"]
        );
        assert_eq!(sent("What time is it?", &["calculator"]), [""; 0]);
    }
}
