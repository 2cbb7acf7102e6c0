//! Checks JSON values along their path, and says what is wrong in OpenAI's words.

pub mod body;
pub mod names;
mod words;

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

pub use self::words::{is_invisible, kind_of, quoted};
use self::words::{is_symbol, listed};
use crate::error::ApiError;

/// The longest text that one value may hold, in characters. Source: OpenAI's API reference.
pub const MAX_TEXT: usize = 10_485_760;

/// A value and where it stands in the request.
#[derive(Clone, Copy, Debug)]
pub struct Node<'v, 'p> {
    value: &'v Value,
    path: Path<'p>,
}

/// The place of a value: `input[2].content[0].text`.
#[derive(Clone, Copy, Debug)]
enum Path<'p> {
    Root,
    Member(&'p Path<'p>, &'p str),
    Element(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Path::Root, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl<'v> Node<'v, 'static> {
    pub fn root(value: &'v Value) -> Self {
        Self {
            value,
            path: Path::Root,
        }
    }
}

impl<'v> Node<'v, '_> {
    pub fn value(&self) -> &'v Value {
        self.value
    }

    /// The value as a member of this name.
    pub fn member<'q>(&'q self, name: &'q str, value: &'v Value) -> Node<'v, 'q> {
        Node {
            value,
            path: Path::Member(&self.path, name),
        }
    }

    /// A member that was given and is not `null`.
    pub fn optional<'q>(&'q self, name: &'q str) -> Option<Node<'v, 'q>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(self.member(name, value))
    }

    /// A member that must be there; a `null` is one whose type is wrong.
    pub fn required<'q>(&'q self, name: &'q str) -> Result<Node<'v, 'q>, ApiError> {
        let Some(value) = self.value.get(name) else {
            let path = Path::Member(&self.path, name);
            return Err(missing(&path.to_string()));
        };
        Ok(self.member(name, value))
    }

    /// Checks a member that may be absent or `null`.
    pub fn check(
        &self,
        name: &str,
        check: impl FnOnce(&Node) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        self.optional(name).map_or(Ok(()), |node| check(&node))
    }

    pub fn object(&self) -> Result<&'v Map<String, Value>, ApiError> {
        self.value
            .as_object()
            .ok_or_else(|| self.wrong_type("an object"))
    }

    /// The elements of an array of at most `max`.
    pub fn elements(
        &self,
        max: usize,
    ) -> Result<impl ExactSizeIterator<Item = Node<'v, '_>>, ApiError> {
        let elements = self
            .value
            .as_array()
            .ok_or_else(|| self.wrong_type("an array"))?;
        let length = elements.len();
        if length > max {
            let why = format!(
                "array too long. Expected an array with maximum length {max}, but got an array \
                 with length {length} instead"
            );
            return Err(self.invalid("array_above_max_length", &why));
        }
        let node = |(index, value)| Node {
            value,
            path: Path::Element(&self.path, index),
        };
        Ok(elements.iter().enumerate().map(node))
    }

    pub fn boolean(&self) -> Result<bool, ApiError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong_type("a boolean"))
    }

    /// A boolean, or what Hermes' clients send for one: a number, or `yes`, `off` and the like.
    pub fn switch(&self) -> Result<bool, ApiError> {
        let read = match self.value {
            Value::Bool(value) => Some(*value),
            Value::Number(number) => number.as_f64().map(|number| number != 0.0),
            Value::String(word) => match word.trim().to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Some(true),
                "0" | "false" | "no" | "off" => Some(false),
                _ => None,
            },
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        read.ok_or_else(|| self.wrong_type("a boolean"))
    }

    pub fn integer(&self, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
        let number = self.value.as_number().filter(|number| !number.is_f64());
        let number = number.ok_or_else(|| self.wrong_type("an integer"))?;
        // What does not fit is above every maximum: serde_json reads it as u64.
        let value = number.as_i64().unwrap_or(i64::MAX);
        let (min, max) = range.into_inner();
        if value < min {
            return Err(self.below("integer", min));
        }
        if value > max {
            return Err(self.above("integer", max));
        }
        Ok(value)
    }

    pub fn decimal(&self, range: RangeInclusive<f64>) -> Result<f64, ApiError> {
        let value = self
            .value
            .as_f64()
            .ok_or_else(|| self.wrong_type("a decimal"))?;
        let (min, max) = range.into_inner();
        if value < min {
            return Err(self.below("decimal", min));
        }
        if value > max {
            return Err(self.above("decimal", max));
        }
        Ok(value)
    }

    /// A string of at most `max` characters, whatever they are.
    pub fn text(&self, max: usize) -> Result<&'v str, ApiError> {
        let text = self
            .value
            .as_str()
            .ok_or_else(|| self.wrong_type("a string"))?;
        if text.len() > max {
            let length = text.chars().count();
            if length > max {
                let why = format!(
                    "string too long. Expected a string with maximum length {max}, but got a \
                     string with length {length} instead"
                );
                return Err(self.invalid("string_above_max_length", &why));
            }
        }
        Ok(text)
    }

    /// A string that names something: not empty, at most `max` characters, none of them invisible.
    pub fn identifier(&self, max: usize) -> Result<&'v str, ApiError> {
        let name = self.text(max)?;
        if name.is_empty() {
            let why = "empty string. Expected a string with minimum length 1, but got an empty \
                       string instead";
            return Err(self.invalid("empty_string", why));
        }
        if name.chars().any(is_invisible) {
            return Err(self.invalid("invalid_value", "string contains control characters"));
        }
        Ok(name)
    }

    /// An identifier of letters, digits, underscores and dashes.
    pub fn symbol(&self, max: usize) -> Result<&'v str, ApiError> {
        let name = self.identifier(max)?;
        if !is_symbol(name) {
            let why = "string does not match pattern. Expected a string that matches the pattern \
                       '^[a-zA-Z0-9_-]+$'";
            return Err(self.invalid("invalid_value", why));
        }
        Ok(name)
    }

    /// An id of at most 64 characters that begins with `prefix`.
    pub fn id(&self, prefix: &str) -> Result<&'v str, ApiError> {
        let id = self.text(64)?;
        if !is_symbol(id) {
            let message = format!(
                "Invalid '{}': {}. Expected an ID that contains letters, numbers, underscores, or \
                 dashes, but this value contained additional characters.",
                self.path,
                quoted(id)
            );
            return Err(self.error("invalid_value", message));
        }
        if !id.starts_with(prefix) {
            let message = format!(
                "Invalid '{}': {}. Expected an ID that begins with '{prefix}'.",
                self.path,
                quoted(id)
            );
            return Err(self.error("invalid_id_prefix", message));
        }
        Ok(id)
    }

    /// One of a few words.
    pub fn one_of(&self, words: &[&str]) -> Result<&'v str, ApiError> {
        let Some(word) = self.value.as_str() else {
            return Err(self.wrong_type(&format!("one of {}", listed(words, "or"))));
        };
        if !words.contains(&word) {
            return Err(self.not_among(word, words));
        }
        Ok(word)
    }

    /// `Invalid value: 'x'. Supported values are: …`
    pub fn not_among(&self, value: &str, words: &[&str]) -> ApiError {
        let message = format!(
            "Invalid value: {}. Supported values are: {}.",
            quoted(value),
            listed(words, "and")
        );
        self.error("invalid_value", message)
    }

    /// `Invalid type for '…': expected …, but got … instead.`
    pub fn wrong_type(&self, expected: &str) -> ApiError {
        let message = format!(
            "Invalid type for '{}': expected {expected}, but got {} instead.",
            self.path,
            kind_of(self.value)
        );
        self.error("invalid_type", message)
    }

    /// `Invalid '…': <why>.`
    pub fn invalid(&self, code: &str, why: &str) -> ApiError {
        self.error(code, format!("Invalid '{}': {why}.", self.path))
    }

    /// A 400 that names this place.
    pub fn error(&self, code: &str, message: impl Into<String>) -> ApiError {
        ApiError::invalid(code, message).with_param(self.path.to_string())
    }

    fn below(&self, kind: &str, min: impl fmt::Display) -> ApiError {
        let why = format!(
            "{kind} below minimum value. Expected a value >= {min}, but got {} instead",
            self.value
        );
        self.invalid(&format!("{kind}_below_min_value"), &why)
    }

    fn above(&self, kind: &str, max: impl fmt::Display) -> ApiError {
        let why = format!(
            "{kind} above maximum value. Expected a value <= {max}, but got {} instead",
            self.value
        );
        self.invalid(&format!("{kind}_above_max_value"), &why)
    }
}

/// `Missing required parameter: '…'.`
pub fn missing(param: &str) -> ApiError {
    let message = format!("Missing required parameter: '{param}'.");
    ApiError::invalid("missing_required_parameter", message).with_param(param)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_reads_as_openai_writes_it() {
        let value = json!({"input": [0, {"content": [{"text": 1}]}]});

        let root = Node::root(&value);
        let input = root.required("input").unwrap();
        let item = input.elements(9).unwrap().nth(1).unwrap();
        let content = item.required("content").unwrap();
        let part = content.elements(9).unwrap().next().unwrap();
        let error = part.required("text").unwrap().text(9).unwrap_err();

        assert_eq!(
            error,
            ApiError::invalid(
                "invalid_type",
                "Invalid type for 'input[1].content[0].text': expected a string, but got an \
                 integer instead."
            )
            .with_param("input[1].content[0].text")
        );
    }

    #[test]
    fn numbers_beyond_the_range_are_named() {
        let value = json!({"a": u64::MAX, "b": -3, "c": 2.5});
        let root = Node::root(&value);
        let errors = [
            root.required("a").unwrap().integer(1..=9).unwrap_err(),
            root.required("b").unwrap().integer(1..=9).unwrap_err(),
            root.required("c").unwrap().decimal(0.0..=2.0).unwrap_err(),
        ];

        insta::assert_debug_snapshot!(errors.map(|e| (e.code.unwrap(), e.message)), @r#"
        [
            (
                "integer_above_max_value",
                "Invalid 'a': integer above maximum value. Expected a value <= 9, but got 18446744073709551615 instead.",
            ),
            (
                "integer_below_min_value",
                "Invalid 'b': integer below minimum value. Expected a value >= 1, but got -3 instead.",
            ),
            (
                "decimal_above_max_value",
                "Invalid 'c': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.",
            ),
        ]
        "#);
    }

    #[test]
    fn hermes_spellings_of_booleans_are_understood() {
        for (value, expected) in [
            (json!(true), Some(true)),
            (json!(" Yes "), Some(true)),
            (json!("off"), Some(false)),
            (json!(1), Some(true)),
            (json!(0.0), Some(false)),
            (json!("maybe"), None),
            (json!(""), None),
            (json!([]), None),
        ] {
            assert_eq!(Node::root(&value).switch().ok(), expected, "{value}");
        }
    }
}
