//! Which record continues which, found by their transcripts: a Hermes server stores the whole history each time, and
//! no links.

use std::collections::HashMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What stands for the beginning of a transcript.
type Fingerprint = [u8; 16];

/// The fingerprints of all beginnings of a transcript: the first message, the first two …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginnings(Vec<Fingerprint>);

/// What is known of a record while all of them are looked at.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it was stored.
    pub id: String,
    pub session_id: Option<String>,
    pub created_at: i64,
    pub is_completed: bool,
    pub previous_response_id: Option<String>,
    pub beginnings: Beginnings,
}

/// The records by their whole transcripts.
#[derive(Debug)]
pub struct Lineage<'a> {
    entries: &'a [Entry],
    completed: HashMap<Fingerprint, Vec<usize>>,
}

impl Beginnings {
    pub fn of(transcript: &[Value]) -> Self {
        let mut hash = Sha256::new();
        let fingerprint = |message: &Value| {
            feed(&mut hash, message);
            let digest = hash.clone().finalize();
            let mut fingerprint = Fingerprint::default();
            fingerprint.copy_from_slice(&digest[..size_of::<Fingerprint>()]);
            fingerprint
        };
        Self(transcript.iter().map(fingerprint).collect())
    }

    /// How many messages the transcript has.
    pub fn messages(&self) -> usize {
        self.0.len()
    }
}

impl<'a> Lineage<'a> {
    pub fn new(entries: &'a [Entry]) -> Self {
        let mut completed: HashMap<Fingerprint, Vec<usize>> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if let (true, Some(whole)) = (entry.is_completed, entry.beginnings.0.last()) {
                completed.entry(*whole).or_default().push(index);
            }
        }
        Self { entries, completed }
    }

    /// What is known of a record.
    pub fn entry(&self, index: usize) -> &'a Entry {
        &self.entries[index]
    }

    /// The record that `child` continues: a completed one among the `usable` whose whole transcript `child`'s begins
    /// with. The one that it names itself comes first, then those of its session, then the longest. Never one of another
    /// session: two users may well have said the same so far.
    pub fn parent(&self, child: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let entry = self.entries.get(child)?;
        let (_, shorter) = entry.beginnings.0.split_last()?;
        let candidates = shorter
            .iter()
            .filter_map(|beginning| self.completed.get(beginning))
            .flatten()
            .copied()
            .filter(|candidate| usable(*candidate));
        let kin = candidates.filter_map(|candidate| {
            let its = &self.entries[candidate];
            let is_named = entry.previous_response_id.as_ref() == Some(&its.id);
            let is_of_session = match (&entry.session_id, &its.session_id) {
                (Some(own), Some(its)) => own == its,
                (None, _) | (_, None) => false,
            };
            let may_be_of_session = entry.session_id.is_none() || its.session_id.is_none();
            (is_named || is_of_session || may_be_of_session).then_some((
                candidate,
                is_named,
                is_of_session,
            ))
        });
        let closest = kin.max_by_key(|(candidate, is_named, is_of_session)| {
            let candidate = &self.entries[*candidate];
            let length = candidate.beginnings.messages();
            (
                *is_named,
                *is_of_session,
                length,
                candidate.created_at,
                &candidate.id,
            )
        });
        closest.map(|(candidate, ..)| candidate)
    }

    /// `child`'s parent, that one's parent, and so on.
    pub fn ancestors(&self, child: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.parent(child, |_| true), |parent| {
            self.parent(*parent, |_| true)
        })
    }
}

/// Feeds a value so that no two values look the same, and the order of members does not matter.
fn feed(hash: &mut Sha256, value: &Value) {
    let mut piece = |kind: u8, content: &[u8]| {
        hash.update([kind]);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    };
    match value {
        Value::Null => piece(b'n', b""),
        Value::Bool(value) => piece(b'b', &[u8::from(*value)]),
        Value::Number(number) => piece(b'0', number.to_string().as_bytes()),
        Value::String(text) => piece(b's', text.as_bytes()),
        Value::Array(values) => {
            piece(b'a', &(values.len() as u64).to_le_bytes());
            for value in values {
                feed(hash, value);
            }
        }
        Value::Object(members) => {
            piece(b'o', &(members.len() as u64).to_le_bytes());
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in members {
                feed(hash, &Value::String(name.clone()));
                feed(hash, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(id: &str, session: &str, texts: &[&str]) -> Entry {
        let messages: Vec<Value> = texts
            .iter()
            .map(|text| json!({"role": "user", "content": text}))
            .collect();
        Entry {
            id: id.to_owned(),
            session_id: (!session.is_empty()).then(|| session.to_owned()),
            created_at: 0,
            is_completed: true,
            previous_response_id: None,
            beginnings: Beginnings::of(&messages),
        }
    }

    fn parent<'a>(entries: &'a [Entry], child: &str) -> Option<&'a str> {
        let index = entries.iter().position(|entry| entry.id == child)?;
        let parent = Lineage::new(entries).parent(index, |_| true)?;
        Some(entries[parent].id.as_str())
    }

    #[test]
    fn a_record_continues_the_longest_transcript_that_its_own_begins_with() {
        let entries = [
            entry("one", "s", &["a", "b"]),
            entry("two", "s", &["a", "b", "c", "d"]),
            entry("fork", "s", &["a", "b", "x", "y"]),
            entry("three", "s", &["a", "b", "c", "d", "e", "f"]),
            entry("twin", "s", &["a", "b", "c", "d", "e", "f"]),
            entry("empty", "s", &[]),
        ];

        let parents = entries.iter().map(|entry| parent(&entries, &entry.id));

        let expected = [
            None,
            Some("one"),
            Some("one"),
            Some("two"),
            Some("two"),
            None,
        ];
        assert_eq!(parents.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn its_own_session_comes_first_and_an_unended_record_never() {
        let mut unended = entry("unended", "s", &["a", "b", "c"]);
        unended.is_completed = false;
        let mut named = entry("named", "other", &["a", "b", "c", "d"]);
        named.previous_response_id = Some("foreign".to_owned());
        let entries = [
            entry("own", "s", &["a"]),
            entry("unknown", "", &["a", "b"]),
            entry("foreign", "t", &["a", "b"]),
            unended,
            entry("child", "s", &["a", "b", "c", "d"]),
            entry("stranger", "u", &["a", "b", "c", "d"]),
            named,
        ];

        assert_eq!(parent(&entries, "child"), Some("own"));
        assert_eq!(parent(&entries, "stranger"), Some("unknown"));
        assert_eq!(parent(&entries, "named"), Some("foreign"));
    }

    #[test]
    fn the_order_of_members_does_not_matter_and_their_place_does() {
        let same = [json!({"a": 1, "b": [2]}), json!({"b": [2], "a": 1})];
        let other = json!({"a": 1, "b": 2});

        let beginnings = |value: &Value| Beginnings::of(std::slice::from_ref(value));
        assert_eq!(beginnings(&same[0]), beginnings(&same[1]));
        assert_ne!(beginnings(&same[0]), beginnings(&other));
    }
}
