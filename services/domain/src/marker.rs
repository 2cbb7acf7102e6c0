//! What the log notes on the items of server-run calls, in the place of an upstream's id: clients never see it.

use talaria_proto::v1::Usage;

use crate::run::{Choice, Effect};

/// The note on a call that the server runs, or on its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub effect: Effect,
    /// The call's id, where the item itself has no place for it.
    pub call_id: String,
    /// The upstream's id of the call.
    pub upstream_id: String,
    /// Of all model calls up to here.
    pub usage: Option<Usage>,
    /// On a call that waits for a person: until when, in Unix seconds.
    pub until: Option<i64>,
    /// On a person's answer: what it was, and whose.
    pub choice: Option<Choice>,
    pub decided_by: String,
    /// The call was answered without being run.
    pub refused: bool,
}

const PREFIX: &str = "effect:";
const REFUSED: &str = "refused";

impl Marker {
    pub(crate) fn of(effect: Effect) -> Self {
        Self {
            effect,
            call_id: String::new(),
            upstream_id: String::new(),
            usage: None,
            until: None,
            choice: None,
            decided_by: String::new(),
            refused: false,
        }
    }

    /// Reads a note; `None` for what is an upstream's id.
    pub(crate) fn parse(upstream_id: &str) -> Option<Self> {
        let mut words = upstream_id.strip_prefix(PREFIX)?.split(' ');
        let mut marker = Self::of(match words.next()? {
            "pure" => Effect::Pure,
            "idempotent" => Effect::Idempotent,
            // What a later version means by another word is not known to be harmless.
            _ => Effect::Once,
        });
        for word in words {
            marker.refused |= word == REFUSED;
            match word.split_once(':') {
                Some(("call", call_id)) => call_id.clone_into(&mut marker.call_id),
                Some(("id", id)) => id.clone_into(&mut marker.upstream_id),
                Some(("usage", usage)) => marker.usage = parse_usage(usage),
                Some(("until", until)) => marker.until = until.parse().ok(),
                Some(("choice", choice)) => marker.choice = Choice::parse(choice),
                Some(("by", by)) => marker.decided_by = by.replace("%20", " ").replace("%25", "%"),
                Some(_) | None => {}
            }
        }
        Some(marker)
    }

    pub(crate) fn encode(&self) -> String {
        let effect = match self.effect {
            Effect::Pure => "pure",
            Effect::Idempotent => "idempotent",
            Effect::Once => "once",
        };
        let mut words = vec![format!("{PREFIX}{effect}")];
        for (name, value) in [("call", &self.call_id), ("id", &self.upstream_id)] {
            if is_word(value) {
                words.push(format!("{name}:{value}"));
            }
        }
        if let Some(usage) = self.usage {
            let numbers = numbers(usage).map(|number| number.to_string());
            words.push(format!("usage:{}", numbers.join(",")));
        }
        if let Some(until) = self.until {
            words.push(format!("until:{until}"));
        }
        if let Some(choice) = self.choice {
            words.push(format!("choice:{}", choice.as_str()));
        }
        if !self.decided_by.is_empty() {
            let by = self.decided_by.replace('%', "%25").replace(' ', "%20");
            words.push(format!("by:{by}"));
        }
        if self.refused {
            words.push(REFUSED.to_owned());
        }
        words.join(" ")
    }
}

/// An upstream's own id; nothing for one that would read as a note.
pub(crate) fn upstream_id(id: &str) -> String {
    if id.starts_with(PREFIX) {
        return String::new();
    }
    id.to_owned()
}

/// Whether it can stand in a note.
pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(' ')
}

fn numbers(usage: Usage) -> [u64; 6] {
    let Usage {
        input_tokens,
        cached_tokens,
        cache_write_tokens,
        output_tokens,
        reasoning_tokens,
        total_tokens,
    } = usage;
    [
        input_tokens,
        cached_tokens,
        cache_write_tokens,
        output_tokens,
        reasoning_tokens,
        total_tokens,
    ]
}

fn parse_usage(text: &str) -> Option<Usage> {
    let numbers: Vec<u64> = text
        .split(',')
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    let [input, cached, cache_write, output, reasoning, total] = numbers.try_into().ok()?;
    Some(Usage {
        input_tokens: input,
        cached_tokens: cached,
        cache_write_tokens: cache_write,
        output_tokens: output,
        reasoning_tokens: reasoning,
        total_tokens: total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_back_as_they_were_and_ids_are_none() {
        let usage = Usage {
            input_tokens: 1,
            cached_tokens: 2,
            cache_write_tokens: 3,
            output_tokens: 4,
            reasoning_tokens: 5,
            total_tokens: 6,
        };
        for effect in [Effect::Pure, Effect::Idempotent, Effect::Once] {
            let whole = Marker {
                effect,
                call_id: "call:1".into(),
                upstream_id: "fc_1".into(),
                usage: Some(usage),
                until: Some(1_700_000_000),
                choice: Some(Choice::Session),
                decided_by: "Ada L. 100%20".into(),
                refused: true,
            };
            for marker in [Marker::of(effect), whole] {
                assert_eq!(Marker::parse(&marker.encode()), Some(marker));
            }
        }
        assert_eq!(Marker::parse("fc_1"), None);
        assert_eq!(upstream_id("effect:pure"), "");
        assert_eq!(upstream_id("fc_1"), "fc_1");
    }
}
