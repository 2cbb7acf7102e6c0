//! Gives tools of several servers names that are unique and that upstreams accept.

use std::collections::HashSet;
use std::sync::Arc;

use super::arguments::ArgumentCheck;
use super::{SourceTools, Tool};

/// All tools in the order of their servers; a name that two servers have becomes `server__tool` for both.
///
/// The servers from the place `requested` on are named by the request: what they have changes no name of the others'.
pub(super) fn named(sources: &[Arc<SourceTools>], requested: usize) -> Vec<Tool> {
    let (own, others) = sources.split_at(requested.min(sources.len()));
    let mut seen = HashSet::new();
    let clashing_own = clashing(own, &mut seen);
    let clashing_requested = clashing(others, &mut seen);

    let mut taken = HashSet::new();
    let mut tools = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        for tool in &source.tools {
            let mut name = accepted(&tool.name);
            let clashing = if index < requested {
                &clashing_own
            } else {
                &clashing_requested
            };
            if clashing.contains(&name) {
                name = accepted(&format!("{}__{}", source.label, tool.name));
            }
            let name = free(name, &taken);
            taken.insert(name.clone());
            tools.push(Tool {
                name,
                server_label: source.label.clone(),
                description: tool.description.clone(),
                parameters: Arc::clone(&tool.parameters),
                annotations: tool.annotations.clone(),
                effect: tool.effect,
                arguments: ArgumentCheck::new(Arc::clone(&tool.parameters)),
                needs_approval: tool.needs_approval,
                is_requested: false,
                source: index,
                name_there: tool.name.clone(),
            });
        }
    }
    tools
}

/// Names of these servers' tools that were seen before, or that several have.
fn clashing(sources: &[Arc<SourceTools>], seen: &mut HashSet<String>) -> HashSet<String> {
    let mut clashing = HashSet::new();
    for source in sources {
        let names: HashSet<String> = source
            .tools
            .iter()
            .map(|tool| accepted(&tool.name))
            .collect();
        for name in names {
            if !seen.insert(name.clone()) {
                clashing.insert(name);
            }
        }
    }
    clashing
}

/// What the OpenAI API accepts as the name of a function: 1 to 64 of `a-zA-Z0-9_-`.
fn accepted(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .take(MAX_LENGTH)
        .collect();
    if name.is_empty() {
        return String::from("tool");
    }
    name
}

const MAX_LENGTH: usize = 64;

/// The name itself, or with the first number behind it that makes it unique.
fn free(name: String, taken: &HashSet<String>) -> String {
    if !taken.contains(&name) {
        return name;
    }
    for number in 2..=taken.len() + 2 {
        let suffix = format!("_{number}");
        let length = name.len().min(MAX_LENGTH - suffix.len());
        let numbered = format!("{}{suffix}", &name[..length]);
        if !taken.contains(&numbered) {
            return numbered;
        }
    }
    // More numbers were tried than names are taken.
    name
}

#[cfg(test)]
mod tests {
    use super::super::{Effect, SourceTool};
    use super::*;

    fn source(label: &str, names: &[&str]) -> Arc<SourceTools> {
        let tool = |name: &&str| SourceTool {
            name: (*name).to_owned(),
            description: None,
            parameters: Arc::default(),
            annotations: None,
            effect: Effect::Once,
            needs_approval: false,
        };
        Arc::new(SourceTools {
            label: label.to_owned(),
            tools: names.iter().map(tool).collect(),
            problem: None,
        })
    }

    fn names_of(sources: &[Arc<SourceTools>]) -> Vec<String> {
        named(sources, sources.len())
            .into_iter()
            .map(|tool| tool.name)
            .collect()
    }

    #[test]
    fn only_names_that_clash_get_their_servers_name() {
        let sources = [
            source("files", &["read", "list"]),
            source("web", &["read", "search"]),
        ];
        assert_eq!(
            names_of(&sources),
            ["files__read", "list", "web__read", "search"]
        );
    }

    #[test]
    fn a_server_that_the_request_names_changes_no_name_of_the_agent_s() {
        let sources = [
            source("files", &["read"]),
            source("b", &["read", "list"]),
            source("c", &["list"]),
        ];
        let names = named(&sources, 1).into_iter().map(|tool| tool.name);
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["read", "b__read", "b__list", "c__list"]
        );
    }

    #[test]
    fn names_are_made_acceptable_and_stay_unique() {
        let long = "n".repeat(80);
        let sources = [
            source("a b", &["odd name!", "odd.name!", &long, &long, ""]),
            source("a.b", &["odd name?"]),
        ];
        let expected = [
            "a_b__odd_name_".to_owned(),
            "a_b__odd_name__2".to_owned(),
            "n".repeat(64),
            format!("{}_2", "n".repeat(62)),
            "tool".to_owned(),
            "a_b__odd_name__3".to_owned(),
        ];
        assert_eq!(names_of(&sources), expected);
    }

    #[test]
    fn a_tool_keeps_the_name_that_its_server_knows() {
        let tools = named(&[source("s", &["odd name!"])], 1);
        let known: Vec<_> = tools
            .iter()
            .map(|tool| (tool.source, &*tool.name_there))
            .collect();
        assert_eq!(known, [(0, "odd name!")]);
    }
}
