//! Which tools of a server a request lets the model use, and which of them a person has to agree to.

/// What a request says about a server's tools. Without a word, all may be used and nobody is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Others are not shown to the model.
    pub allowed: Filter,
    pub approval: Approval,
    /// A longer list is refused altogether.
    pub limits: Option<ListLimits>,
}

/// How long a server's list of tools may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListLimits {
    pub tools: usize,
    /// Of names, descriptions and schemas together.
    pub bytes: usize,
}

/// Some of a server's tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Filter {
    /// By the server's own names.
    #[serde(default)]
    pub tool_names: Option<Vec<String>>,
    /// Those that the server says change nothing, or the others.
    #[serde(default)]
    pub read_only: Option<bool>,
}

/// Whose calls wait for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Approval {
    #[default]
    Never,
    Always,
    /// All but those in `never`; those in both wait.
    Of {
        always: Filter,
        never: Filter,
    },
}

impl Policy {
    pub fn allows(&self, name: &str, is_read_only: bool) -> bool {
        self.allowed.matches(name, is_read_only)
    }

    pub fn needs_approval(&self, name: &str, is_read_only: bool) -> bool {
        // A filter without a condition says nothing about approval, rather than everything.
        let names = |filter: &Filter| !filter.is_empty() && filter.matches(name, is_read_only);
        match &self.approval {
            Approval::Never => false,
            Approval::Always => true,
            Approval::Of { always, never } => names(always) || !names(never),
        }
    }
}

impl Filter {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn matches(&self, name: &str, is_read_only: bool) -> bool {
        let named = self.tool_names.as_ref();
        named.is_none_or(|names| names.iter().any(|known| known == name))
            && self.read_only.is_none_or(|wanted| wanted == is_read_only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(names: &[&str], read_only: Option<bool>) -> Filter {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Filter {
            tool_names: (!names.is_empty()).then_some(names),
            read_only,
        }
    }

    #[test]
    fn both_conditions_of_a_filter_count() {
        for (filter, expected) in [
            (filter(&[], None), [true, true, true]),
            (filter(&["read"], None), [true, false, false]),
            (filter(&[], Some(true)), [true, true, false]),
            (filter(&[], Some(false)), [false, false, true]),
            (filter(&["read", "write"], Some(true)), [true, false, false]),
        ] {
            let policy = Policy {
                allowed: filter.clone(),
                ..Policy::default()
            };
            let allowed = [("read", true), ("list", true), ("write", false)]
                .map(|(name, is_read_only)| policy.allows(name, is_read_only));
            assert_eq!(allowed, expected, "{filter:?}");
        }
    }

    #[test]
    fn what_nobody_mentions_waits_for_a_person() {
        let of = |always: Filter, never: Filter| Approval::Of { always, never };
        let none = Filter::default;
        for (approval, expected) in [
            (Approval::Never, [false, false]),
            (Approval::Always, [true, true]),
            (of(none(), none()), [true, true]),
            (of(none(), filter(&["read"], None)), [false, true]),
            (of(none(), filter(&[], Some(true))), [false, true]),
            (
                of(filter(&["read"], None), filter(&[], Some(true))),
                [true, true],
            ),
            (of(filter(&["write"], None), none()), [true, true]),
        ] {
            let policy = Policy {
                approval: approval.clone(),
                ..Policy::default()
            };
            let needed = [("read", true), ("write", false)]
                .map(|(name, is_read_only)| policy.needs_approval(name, is_read_only));
            assert_eq!(needed, expected, "{approval:?}");
        }
    }
}
