//! Whether a call's arguments fit the schema of its tool.
//!
//! Schemas come from whoever wrote the tool. So nothing is fetched for them, patterns are matched in linear time, and
//! a schema whose check could take long is not enforced: the tool then judges its arguments itself.

use std::collections::HashMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::{Arc, OnceLock};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use talaria_domain::model::Object;

/// How many schemas one holds at most, each reference counted as what it stands for.
const MAX_UNFOLDED: usize = 10_000;
/// How deep schemas, references included, stand in each other.
const MAX_DEPTH: usize = 64;
/// The longest text of all strings and names in a schema, in bytes.
const MAX_TEXT_BYTES: usize = 512 << 10;
/// How many patterns one holds at most.
const MAX_PATTERNS: usize = 64;
/// The most memory that a compiled pattern takes, in bytes.
const MAX_PATTERN_BYTES: usize = 256 << 10;

/// The most work that a check may be, in schemas that look at a value: some 10 ns each.
const MAX_WORK: usize = 4_000_000;
/// What is more than this is done where it keeps nobody else waiting.
const MAX_WORK_INLINE: usize = 100_000;
/// So many bytes of text take as long to look at as another value.
const TEXT_UNIT: usize = 64;
/// The work of matching a byte with a pattern.
const PATTERN_WORK: usize = 10;
/// The most work, and the most bytes of names in errors' places, of a check that says what is wrong: each schema that
/// looks at a value can have an error, and all are kept until the last is found.
const MAX_TOLD_WORK: usize = 50_000;
const MAX_TOLD_BYTES: usize = 16 << 20;

/// Keywords whose meaning depends on what all others beside them make of a value.
const UNEVALUATED: [&str; 2] = ["unevaluatedProperties", "unevaluatedItems"];

/// How many things the model is told of at once, and how long the text about one is, in characters.
const MAX_ERRORS: usize = 5;
const MAX_ERROR_LENGTH: usize = 300;

/// The check of a tool's arguments. Made ready for the first call, and shared by all clones.
#[derive(Clone)]
pub struct ArgumentCheck {
    schema: Arc<Object>,
    ready: Arc<OnceLock<Option<Compiled>>>,
}

/// A schema that is enforced.
#[derive(Debug)]
struct Compiled {
    validator: Validator,
    size: Unfolded,
}

/// Why a schema is not enforced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unusable {
    #[error("it is too large")]
    TooLarge,
    #[error("it refers to itself, or nests too deep")]
    TooDeep,
    #[error("it has references of a kind that is not followed")]
    Reference,
    #[error("it does not compile: {0}")]
    Invalid(String),
}

impl ArgumentCheck {
    pub fn new(schema: Arc<Object>) -> Self {
        let ready = Arc::default();
        Self { schema, ready }
    }

    /// What is wrong with the arguments, for the model to read. `tool` is for the log.
    ///
    /// Arguments that would take too long to check may be anything.
    pub async fn check(&self, tool: &str, arguments: &Object) -> Result<(), String> {
        let Some(compiled) = self.compiled(tool) else {
            return Ok(());
        };
        let looks = Looks::at(arguments);
        let work = looks.work(compiled.size);
        if work > MAX_WORK {
            tracing::debug!(tool, work, "arguments are too large to be checked");
            return Ok(());
        }
        let arguments = Value::Object(arguments.clone());
        if work <= MAX_WORK_INLINE {
            return compiled.check(&arguments, &looks);
        }
        let (check, name) = (self.clone(), tool.to_owned());
        let checked = tokio::task::spawn_blocking(move || match check.compiled(&name) {
            Some(compiled) => compiled.check(&arguments, &looks),
            None => Ok(()),
        });
        checked.await.unwrap_or_else(|error| {
            tracing::error!(tool, %error, "checking arguments failed");
            Ok(())
        })
    }

    fn compiled(&self, tool: &str) -> Option<&Compiled> {
        let ready = self.ready.get_or_init(|| {
            compiled(&self.schema)
                .inspect_err(
                    |reason| tracing::debug!(tool, %reason, "a tool's schema is not enforced"),
                )
                .ok()
        });
        ready.as_ref()
    }
}

impl Compiled {
    fn check(&self, arguments: &Value, looks: &Looks) -> Result<(), String> {
        // Unlike the search for errors, this keeps nothing.
        if self.validator.is_valid(arguments) {
            return Ok(());
        }
        let told = if looks.may_be_told(self.size) {
            self.errors(arguments)
        } else {
            "what is wrong would take too long to say".to_owned()
        };
        Err(format!(
            "The arguments do not fit the tool's schema: {told}. The tool was not called."
        ))
    }

    /// The first errors. All are found, however few are told.
    fn errors(&self, arguments: &Value) -> String {
        let mut errors = self.validator.iter_errors(arguments);
        let told: Vec<String> = errors
            .by_ref()
            .take(MAX_ERRORS)
            .map(|error| {
                let what = shortened(error.masked().to_string());
                match error.instance_path().as_str() {
                    "" => what,
                    place => format!("at {}: {what}", shortened(place.to_owned())),
                }
            })
            .collect();
        let more = if errors.next().is_some() {
            "; and more"
        } else {
            ""
        };
        format!("{}{more}", told.join("; "))
    }
}

/// How much there is to look at in the arguments of a call.
#[derive(Clone, Copy, Debug, Default)]
struct Looks {
    values: usize,
    text_bytes: usize,
    /// The most bytes of names on the way to a value.
    longest_place: usize,
}

impl Looks {
    fn at(arguments: &Object) -> Self {
        let mut looks = Self::default();
        looks.add_members(arguments, 0);
        looks
    }

    fn add(&mut self, value: &Value, place: usize) {
        match value {
            Value::Array(values) => {
                self.values += 1;
                for value in values {
                    self.add(value, place);
                }
            }
            Value::Object(members) => self.add_members(members, place),
            Value::String(text) => {
                self.values += 1;
                self.text_bytes += text.len();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.values += 1,
        }
    }

    fn add_members(&mut self, members: &Object, place: usize) {
        self.values += 1;
        for (name, value) in members {
            let place = place + name.len();
            self.longest_place = self.longest_place.max(place);
            self.text_bytes += name.len();
            self.add(value, place);
        }
    }

    /// What a check by a schema of this size takes at most: each part of it looks at each value.
    fn work(&self, size: Unfolded) -> usize {
        let values = self.values.saturating_add(self.text_bytes / TEXT_UNIT);
        let matching = size.patterns.saturating_mul(self.text_bytes);
        let looking = size.values.saturating_mul(values);
        looking.saturating_add(matching.saturating_mul(PATTERN_WORK))
    }

    /// Whether the errors that there can be fit into memory, however many they are.
    fn may_be_told(&self, size: Unfolded) -> bool {
        let errors = size.values.saturating_mul(self.values);
        let places = errors.saturating_mul(self.longest_place);
        // Errors name what is not allowed.
        let unexpected = size.values.saturating_mul(self.text_bytes);
        errors <= MAX_TOLD_WORK && places.saturating_add(unexpected) <= MAX_TOLD_BYTES
    }
}

impl fmt::Debug for ArgumentCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArgumentCheck").finish_non_exhaustive()
    }
}

impl PartialEq for ArgumentCheck {
    fn eq(&self, other: &Self) -> bool {
        self.schema == other.schema
    }
}

fn compiled(schema: &Object) -> Result<Compiled, Unusable> {
    let schema = Value::Object(schema.clone());
    let mut size = Size::of(&schema);
    let unfolded = size.unfolded(&schema, 0)?;
    if size.text_bytes > MAX_TEXT_BYTES || size.patterns > MAX_PATTERNS {
        return Err(Unusable::TooLarge);
    }
    let patterns = PatternOptions::regex()
        .size_limit(MAX_PATTERN_BYTES)
        .dfa_size_limit(MAX_PATTERN_BYTES);
    let validator = jsonschema::options()
        .offline()
        .with_pattern_options(patterns)
        .should_validate_formats(false)
        .build(&schema)
        .map_err(|error| Unusable::Invalid(shortened(error.masked().to_string())))?;
    Ok(Compiled {
        validator,
        size: unfolded,
    })
}

/// How large a schema is when each reference in it is replaced by what it stands for.
///
/// That bounds the work of a check: a small schema whose definitions use each other twice doubles with each of them.
struct Size<'a> {
    root: &'a Value,
    /// By the reference, what it stands for; `None` while that is counted.
    known: HashMap<&'a str, Option<Unfolded>>,
    text_bytes: usize,
    patterns: usize,
}

/// How much there is of a schema, what it refers to counted once for each reference.
#[derive(Clone, Copy, Debug, Default)]
struct Unfolded {
    values: usize,
    patterns: usize,
}

impl AddAssign for Unfolded {
    fn add_assign(&mut self, more: Self) {
        self.values += more.values;
        self.patterns += more.patterns;
    }
}

impl<'a> Size<'a> {
    fn of(root: &'a Value) -> Self {
        Self {
            root,
            known: HashMap::new(),
            text_bytes: 0,
            patterns: 0,
        }
    }

    /// Counts all values, whether they are schemas or not: there are never fewer.
    fn unfolded(&mut self, value: &'a Value, depth: usize) -> Result<Unfolded, Unusable> {
        if depth > MAX_DEPTH {
            return Err(Unusable::TooDeep);
        }
        let mut size = Unfolded {
            values: 1,
            patterns: 0,
        };
        match value {
            Value::Array(values) => {
                for value in values {
                    size += self.unfolded(value, depth + 1)?;
                }
            }
            Value::Object(members) => {
                for (name, value) in members {
                    self.text_bytes += name.len();
                    let patterns = patterns(name, value);
                    self.patterns += patterns;
                    size.patterns += patterns;
                    size += match (name.as_str(), value) {
                        ("$ref", Value::String(reference)) => {
                            self.referred(reference, depth + 1)?
                        }
                        // Their targets depend on who refers. A property may have such a name, but is no string.
                        ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                            return Err(Unusable::Reference);
                        }
                        // What references mean would depend on where they stand.
                        ("$id" | "$schema", Value::String(_)) if depth > 0 => {
                            return Err(Unusable::Reference);
                        }
                        ("id", Value::String(_)) if depth > 0 && self.is_of_draft_4() => {
                            return Err(Unusable::Reference);
                        }
                        (_, value) => self.unfolded(value, depth + 1)?,
                    };
                }
                // Everything beside these is looked at once more.
                if UNEVALUATED.iter().any(|name| members.contains_key(*name)) {
                    size += size;
                }
            }
            Value::String(text) => self.text_bytes += text.len(),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        if size.values > MAX_UNFOLDED {
            return Err(Unusable::TooLarge);
        }
        Ok(size)
    }

    /// Its schemas are named by `id`, which is a member like others everywhere else.
    fn is_of_draft_4(&self) -> bool {
        let dialect = self.root.get("$schema").and_then(Value::as_str);
        dialect.is_some_and(|dialect| dialect.contains("draft-04"))
    }

    fn referred(&mut self, reference: &'a str, depth: usize) -> Result<Unfolded, Unusable> {
        match self.known.get(reference) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(Unusable::TooDeep),
            None => {}
        }
        // An anchor, or something that would have to be fetched.
        let pointer = reference.strip_prefix('#').ok_or(Unusable::Reference)?;
        let target = self.root.pointer(pointer).ok_or(Unusable::Reference)?;
        self.known.insert(reference, None);
        let size = self.unfolded(target, depth)?;
        self.known.insert(reference, Some(size));
        Ok(size)
    }
}

/// How many patterns this member of a schema holds itself.
fn patterns(name: &str, value: &Value) -> usize {
    match (name, value) {
        ("pattern", Value::String(_)) => 1,
        ("patternProperties", Value::Object(patterns)) => patterns.len(),
        _ => 0,
    }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_ERROR_LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Arc<Object> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[tokio::main(flavor = "current_thread")]
    async fn check(schema: Value, arguments: Value) -> Result<(), String> {
        let check = ArgumentCheck::new(object(schema));
        check.check("t", &object(arguments)).await
    }

    fn why_unusable(schema: Value) -> Option<Unusable> {
        compiled(&object(schema)).err()
    }

    #[test]
    fn the_model_is_told_where_and_what_is_wrong() {
        let schema = json!({"type": "object", "required": ["a"], "additionalProperties": false, "properties": {
            "a": {"type": "string", "pattern": "^x+$"},
            "list": {"type": "array", "items": {"$ref": "#/$defs/entry"}},
            "mode": {"enum": ["r", "w"]}},
            "$defs": {"entry": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}}});
        let cases = [
            json!({"a": "xx", "list": [{"n": 1}], "mode": "w"}),
            json!({}),
            json!({"a": 1}),
            json!({"a": "y", "list": [{}, {"n": 0}, {"n": "1"}], "mode": "x", "other": null}),
        ];
        let mut told = String::new();
        for arguments in cases {
            let _ = writeln!(told, "{:?}", check(schema.clone(), arguments));
        }
        insta::assert_snapshot!(told, @r#"
        Ok(())
        Err("The arguments do not fit the tool's schema: \"a\" is a required property. The tool was not called.")
        Err("The arguments do not fit the tool's schema: at /a: value is not of type \"string\". The tool was not called.")
        Err("The arguments do not fit the tool's schema: at /a: value does not match \"^x+$\"; at /list/1/n: value is less than the minimum of 1; at /list/2/n: value is not of type \"integer\"; at /mode: value is not one of \"r\" or \"w\"; Additional properties are not allowed ('other' was unexpected). The tool was not called.")
        "#);
    }

    #[test]
    fn what_is_told_is_bounded() {
        let schema = json!({"additionalProperties": {"type": "string"}, "maxProperties": 1});
        let arguments: Object = (0..50)
            .map(|n| (format!("{n}{}", "n".repeat(10_000)), n.into()))
            .collect();

        let told = check(schema, Value::Object(arguments)).unwrap_err();

        assert!(
            told.len() < MAX_ERRORS * (2 * MAX_ERROR_LENGTH + 20) + 200,
            "{told}"
        );
        assert!(told.contains("; and more."), "{told}");
    }

    #[test]
    fn a_schema_that_does_not_compile_is_not_enforced() {
        for schema in [
            json!({"type": "nonsense"}),
            json!({"properties": {"a": {"pattern": "("}}}),
            // Look-around has no linear-time engine.
            json!({"properties": {"a": {"pattern": "(?=x)y"}}}),
            json!({"properties": {"a": {"pattern": "^(a{1,1000}){1,1000}$"}}}),
            json!({"$schema": "https://example.com/unknown"}),
        ] {
            let reason = why_unusable(schema.clone());
            assert!(
                matches!(reason, Some(Unusable::Invalid(_))),
                "{schema} {reason:?}"
            );
            assert_eq!(check(schema, json!({"a": "b"})), Ok(()));
        }
    }

    #[test]
    fn nothing_is_fetched_for_a_schema() {
        for reference in [
            "https://example.com/a.json",
            "file:///etc/passwd",
            "other.json",
            "#anchor",
            "#/$defs/none",
        ] {
            let schema = json!({"properties": {"a": {"$ref": reference}}});
            assert_eq!(
                why_unusable(schema),
                Some(Unusable::Reference),
                "{reference}"
            );
        }
    }

    #[test]
    fn a_schema_that_grows_when_it_is_unfolded_is_not_enforced() {
        let mut definitions = Object::new();
        for level in 0..15 {
            let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
            definitions.insert(format!("d{level}"), json!({"allOf": [next, next]}));
        }
        definitions.insert("d15".to_owned(), json!({"type": "string"}));
        let bomb = json!({"$defs": definitions, "properties": {"a": {"$ref": "#/$defs/d0"}}});
        assert_eq!(why_unusable(bomb), Some(Unusable::TooLarge));

        let recursive = json!({"properties": {"a": {"$ref": "#"}}});
        assert_eq!(why_unusable(recursive), Some(Unusable::TooDeep));
        let again = (0..15).fold(
            json!({}),
            |inner, _| json!({"allOf": [inner], "unevaluatedProperties": false}),
        );
        assert_eq!(why_unusable(again), Some(Unusable::TooLarge));
        let patterns: Object = (0..=MAX_PATTERNS)
            .map(|n| (format!("^{n}$"), json!({})))
            .collect();
        let patterns = json!({"patternProperties": patterns});
        assert_eq!(why_unusable(patterns), Some(Unusable::TooLarge));
        let long = json!({"description": "d".repeat(MAX_TEXT_BYTES + 1)});
        assert_eq!(why_unusable(long), Some(Unusable::TooLarge));
        let deep = (0..MAX_DEPTH).fold(json!({}), |inner, _| json!({"not": inner}));
        assert_eq!(why_unusable(json!({"not": deep})), Some(Unusable::TooDeep));
    }

    #[test]
    fn a_pattern_is_matched_in_linear_time() {
        let schema = json!({"properties": {"a": {"type": "string", "pattern": "^(a|a)*(a*)*b$"}}});
        assert!(check(schema, json!({"a": "a".repeat(20_000)})).is_err());
    }

    #[test]
    fn errors_without_number_are_not_collected() {
        let branches = vec![json!({"type": "string"}); 30];
        let schema = json!({"properties": {"a": {"items": {"anyOf": branches}}}});
        let few = json!({"a": vec![0; 10]});
        let told = check(schema.clone(), few).unwrap_err();
        assert!(told.contains("at /a/0: "), "{told}");

        let many = json!({"a": vec![0; 10_000]});
        let long = json!({"a": vec![json!({"n".repeat(10_000): 0}); 20]});
        for arguments in [many, long] {
            assert_eq!(
                check(schema.clone(), arguments),
                Err("The arguments do not fit the tool's schema: what is wrong would take too long to say. \
                     The tool was not called."
                    .to_owned())
            );
        }
        let fitting = json!({"a": vec![""; 10_000]});
        assert_eq!(check(schema, fitting), Ok(()));
    }

    #[test]
    fn what_would_take_too_long_to_check_is_not_checked() {
        let branches = vec![json!({"type": "string"}); 4_500];
        let schema = json!({"properties": {"a": {"items": {"anyOf": branches}}}});
        assert_eq!(why_unusable(schema.clone()), None);
        assert_eq!(check(schema, json!({"a": vec![0; 10_000]})), Ok(()));

        let entry = json!({"$ref": "#/$defs/e"});
        let schema = json!({"$defs": {"e": {"pattern": "^(a|b)*a(a|b){200}c$"}}, "additionalProperties": {
            "allOf": vec![entry; 50]}});
        let arguments = |length: usize| json!({"a": "ab".repeat(length / 2)});
        assert!(check(schema.clone(), arguments(100)).is_err());
        assert_eq!(check(schema, arguments(20_000)), Ok(()));
    }

    #[tokio::test]
    async fn a_long_check_keeps_nobody_waiting() {
        let schema = json!({"properties": {"a": {"items": {"allOf": vec![json!({"type": "integer"}); 100]}}}});
        let check = ArgumentCheck::new(object(schema));
        let arguments = object(json!({"a": vec![0; 10_000]}));
        let mut checked = Box::pin(check.check("t", &arguments));

        assert_eq!(
            checked.as_mut().now_or_never(),
            None,
            "it is done elsewhere"
        );
        assert_eq!(checked.await, Ok(()));
        let short = object(json!({"a": [0, 1]}));
        assert_eq!(check.check("t", &short).now_or_never(), Some(Ok(())));
    }
}
