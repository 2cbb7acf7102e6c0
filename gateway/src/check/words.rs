//! The words of error messages, and which words are names.

use serde_json::Value;

/// What a value is, as OpenAI's messages name it.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A client's word inside a message: in quotes, on one line, of bounded length.
pub fn quoted(word: &str) -> String {
    let mut text = String::from("'");
    text.extend(
        word.chars()
            .take(64)
            .map(|c| if is_invisible(c) { '?' } else { c }),
    );
    if word.chars().nth(64).is_some() {
        text.push('…');
    }
    text.push('\'');
    text
}

/// Whether a name with this character could look like another name, or break the line that shows it.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{fff9}'..='\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether a name has only letters, digits, underscores and dashes.
pub fn is_symbol(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// `'a'`, `'a' and 'b'`, `'a', 'b', and 'c'`.
pub fn listed(words: &[&str], last: &str) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} {last} {two}"),
        [firsts @ .., end] => format!("{}, {last} {end}", firsts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_word_is_shown_on_one_line_and_cut() {
        assert_eq!(quoted("a\r\nb\u{202e}"), "'a??b?'");
        assert_eq!(quoted(&"x".repeat(70)), format!("'{}…'", "x".repeat(64)));
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!(listed(&["a"], "and"), "'a'");
        assert_eq!(listed(&["a", "b"], "or"), "'a' or 'b'");
        assert_eq!(listed(&["a", "b", "c"], "and"), "'a', 'b', and 'c'");
    }
}
