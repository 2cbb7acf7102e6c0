//! JSON text that is passed on: read as far as needed, and otherwise kept as it was spelled.

use std::fmt;

use memchr::memmem;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of a JSON object in their order, names read, values as they were spelled.
#[derive(Debug, Default)]
pub struct RawObject<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a> RawObject<'a> {
    /// Reads one JSON object.
    pub fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The text of the value of the last member of this name, unless it is `null`.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.0.iter().rev().find(|(member, _)| member == name)?;
        Some(value.get()).filter(|text| *text != "null")
    }
}

impl<'de> Deserialize<'de> for RawObject<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawObject<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(RawObject(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// What follows the member `id` in the text of an object that begins with it: from the comma or the brace on. None if
/// it does not, or is spelled in any but the shortest way.
///
/// So what was written by [`with_id`], or by ourselves, gets another id without being parsed.
pub fn behind_id(json: &str) -> Option<&str> {
    let id_and_rest = json.strip_prefix(r#"{"id":""#)?;
    let end = memchr::memchr2(b'"', b'\\', id_and_rest.as_bytes())?;
    let rest = id_and_rest[end..].strip_prefix('"')?;
    rest.starts_with([',', '}']).then_some(rest)
}

/// Writes JSON objects member by member.
#[derive(Debug)]
pub struct ObjectWriter {
    text: String,
}

impl ObjectWriter {
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// With room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Self { text }
    }

    /// Adds a member whose value is already JSON.
    pub fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        self.written(name, |text| text.push_str(json))
    }

    /// Adds a member that is a string.
    pub fn string(&mut self, name: &str, value: &str) -> &mut Self {
        self.written(name, |text| push_string(text, value))
    }

    /// Adds a member whose value `write` appends, as JSON.
    pub fn written(&mut self, name: &str, write: impl FnOnce(&mut String)) -> &mut Self {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        push_string(&mut self.text, name);
        self.text.push(':');
        write(&mut self.text);
        self
    }

    /// The finished object.
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

impl Default for ObjectWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// A word that is looked for in JSON before it is parsed.
#[derive(Debug)]
pub struct Word {
    itself: memmem::Finder<'static>,
    escape: memmem::Finder<'static>,
}

impl Word {
    /// A word of ASCII letters, digits, `_` and `-`.
    pub fn new(word: &'static str) -> Self {
        Self {
            itself: memmem::Finder::new(word),
            escape: memmem::Finder::new(r"\u"),
        }
    }

    /// Whether `json` may hold the word, in a name or in a string. If not, no parser finds it there, which is known about
    /// ten times as fast; if so, it may still be somewhere else, or be spelled with escapes.
    pub fn may_be_in(&self, json: &[u8]) -> bool {
        self.itself.find(json).is_some() || self.escape.find(json).is_some()
    }
}

/// Appends `value` as a JSON string.
pub fn push_string(text: &mut String, value: &str) {
    text.push('"');
    let mut plain_from = 0;
    for (at, byte) in value.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        text.push_str(&value[plain_from..at]);
        if escape.is_empty() {
            push_control(text, byte);
        } else {
            text.push_str(escape);
        }
        plain_from = at + 1;
    }
    text.push_str(&value[plain_from..]);
    text.push('"');
}

fn push_control(text: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    text.push_str("\\u00");
    text.push(char::from(HEX[usize::from(byte >> 4)]));
    text.push(char::from(HEX[usize::from(byte & 15)]));
}

/// The object `json` with member `id` set to `id`, everything else as it was spelled.
///
/// Fails when `json` is not one object.
pub fn with_id(json: &[u8], id: &str) -> Result<String, serde_json::Error> {
    let object = RawObject::parse(json)?;
    let mut writer = ObjectWriter::new();
    writer.string("id", id);
    for (name, value) in object.0.iter().filter(|(name, _)| name != "id") {
        writer.raw(name, value.get());
    }
    Ok(writer.finish())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_read_back_as_they_were(value in any::<String>()) {
            let mut text = String::new();
            push_string(&mut text, &value);
            prop_assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
        }
    }

    #[test]
    fn a_word_is_found_however_it_is_spelled() {
        let word = Word::new("call_id");
        for json in [
            r#"{"call_id":1}"#,
            r#"{"x":"a call_id"}"#,
            r#"{"\u0063all_id":1}"#,
            r#"{"call\u005fid":1}"#,
        ] {
            assert!(word.may_be_in(json.as_bytes()), "{json}");
        }
        assert!(!word.may_be_in(br#"{"call":"id \n"}"#));
    }

    #[test]
    fn what_follows_an_id_is_found_only_where_it_comes_first_and_plain() {
        let table = [
            (r#"{"id":"a","type":"x"}"#, Some(r#","type":"x"}"#)),
            (r#"{"id":""}"#, Some("}")),
            (r#"{"id":"a\"b"}"#, None),
            (r#"{"id":null,"type":"x"}"#, None),
            (r#"{"id": "a"}"#, None),
            (r#"{"id":"a" ,"type":"x"}"#, None),
            (r#"{"type":"x","id":"a"}"#, None),
            (r#"{"id":"a"#, None),
        ];
        for (json, expected) in table {
            assert_eq!(behind_id(json), expected, "{json}");
        }
    }

    #[test]
    fn numbers_and_unknown_members_keep_their_spelling() {
        let json = br#"{"type":"x","n":1.0e+2,"big":18446744073709551616,"id":null,"s":"\u00e9"}"#;

        assert_eq!(
            with_id(json, "x_1").unwrap(),
            r#"{"id":"x_1","type":"x","n":1.0e+2,"big":18446744073709551616,"s":"\u00e9"}"#
        );
    }
}
