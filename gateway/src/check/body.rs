//! The body of a request: one JSON object, read twice, once for its meaning and once for its spelling.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use talaria_domain::json::RawObject;

use super::{Node, kind_of, quoted};
use crate::error::ApiError;

/// One JSON object and the text that it was read from.
pub struct Body<'a> {
    value: Value,
    members: RawObject<'a>,
}

impl<'a> Body<'a> {
    /// Reads UTF-8 JSON that is one object without repeated members, at most 128 levels deep.
    ///
    /// Repeated members are refused at every level: two readers could disagree on which one counts.
    pub fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        if body.trim_ascii().is_empty() {
            return Err(unreadable("it is empty"));
        }
        if body.starts_with(b"\xef\xbb\xbf") {
            return Err(unreadable("it begins with a byte order mark"));
        }
        if let Err(error) = std::str::from_utf8(body) {
            return Err(unreadable(format!(
                "it is not UTF-8 at byte {}",
                error.valid_up_to()
            )));
        }
        let Strict(value) = serde_json::from_slice(body).map_err(unreadable)?;
        if !value.is_object() {
            let message = format!(
                "The request body must be a JSON object, but got {}.",
                kind_of(&value)
            );
            return Err(ApiError::invalid("invalid_type", message));
        }
        let members = RawObject::parse(body).map_err(unreadable)?;
        Ok(Self { value, members })
    }

    pub fn node(&self) -> Node<'_, 'static> {
        Node::root(&self.value)
    }

    /// The text of a member, unless it is absent or `null`.
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.members.get(name)
    }
}

/// The elements of a JSON array as they were spelled.
pub fn raw_elements(json: &str) -> Result<Vec<&RawValue>, ApiError> {
    serde_json::from_str(json).map_err(unreadable)
}

/// The members of a JSON object as they were spelled.
pub fn raw_members(json: &str) -> Result<RawObject<'_>, ApiError> {
    RawObject::parse(json.as_bytes()).map_err(unreadable)
}

/// The same JSON without the white space between its tokens: one line, whatever the client's taste.
pub fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_string = c == '"';
        }
        text.push(c);
    }
    text
}

fn unreadable(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!(
        "We could not parse the JSON body of your request: {why}."
    ))
}

/// A JSON value none of whose objects names a member twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(Strict(element)) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(A::Error::custom(format!(
                    "repeated member {}",
                    quoted(&name)
                )));
            }
            let Strict(value) = map.next_value()?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn white_space_between_tokens_goes_and_spelling_stays() {
        assert_eq!(
            compact("{\n \"a b\" : [ 1.0E+2 ,\t\"\\\" \\\\\" , \"\\u00e9  \" ]\r\n}"),
            r#"{"a b":[1.0E+2,"\" \\","\u00e9  "]}"#
        );
    }

    proptest! {
        #[test]
        fn compact_text_means_the_same(strings in prop::collection::vec(any::<String>(), 0..4)) {
            let value = serde_json::json!({ "a": strings, "b": { "c": [1, null, 1.5] } });
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(&pretty), value.to_string());
        }
    }
}
