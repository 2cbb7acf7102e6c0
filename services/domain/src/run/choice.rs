//! Which tools a request lets the model call, and how many at once. Upstreams are told, but not all of them obey.

use serde::Deserialize;
use talaria_proto::v1::Response;

use super::ServerTools;
use crate::json::RawObject;

/// What a request says about calls: `tool_choice` and `parallel_tool_calls`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules {
    choice: Choice,
    /// A step may make one call.
    pub one_at_a_time: bool,
}

/// The tools that may be called.
#[derive(Clone, Debug, Default, PartialEq)]
enum Choice {
    #[default]
    Any,
    None,
    /// Until a tool has run, nothing but this.
    First(Named),
    Only(Vec<Named>),
}

/// A tool, or several, as `tool_choice` names them.
#[derive(Clone, Debug, PartialEq)]
enum Named {
    Tool(String),
    /// All tools of a server, or one.
    OfServer {
        label: String,
        name: Option<String>,
    },
    /// What is not the server's to run.
    Other,
}

#[derive(Deserialize)]
struct Words {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    server_label: Option<String>,
    #[serde(default)]
    tools: Vec<Words>,
}

impl Rules {
    /// The rules of the request behind `response`.
    pub fn of(response: &Response) -> Self {
        let settings = RawObject::parse(&response.settings).unwrap_or_default();
        let choice = settings.get("tool_choice").map(Choice::read);
        Self {
            choice: choice.unwrap_or_default(),
            one_at_a_time: settings.get("parallel_tool_calls") == Some("false"),
        }
    }

    /// Whether the model may call the server-run tool `name`. `has_run`: a tool ran in an earlier step.
    pub fn allow(&self, name: &str, tools: &ServerTools, has_run: bool) -> bool {
        match &self.choice {
            Choice::Any => true,
            Choice::None => false,
            Choice::First(only) => has_run || only.is(name, tools),
            Choice::Only(allowed) => allowed.iter().any(|allowed| allowed.is(name, tools)),
        }
    }
}

impl Choice {
    fn read(json: &str) -> Self {
        if json == r#""none""# {
            return Self::None;
        }
        let Ok(words) = serde_json::from_str::<Words>(json) else {
            return Self::Any;
        };
        if words.kind == "allowed_tools" {
            return Self::Only(words.tools.into_iter().map(Named::of).collect());
        }
        match words.kind.as_str() {
            "function" | "custom" | "mcp" => Self::First(Named::of(words)),
            // The upstream runs it, and only the upstream knows when.
            _ => Self::Any,
        }
    }
}

impl Named {
    fn of(words: Words) -> Self {
        match (words.kind.as_str(), words.name, words.server_label) {
            ("function", Some(name), _) => Self::Tool(name),
            ("mcp", name, Some(label)) => Self::OfServer { label, name },
            _ => Self::Other,
        }
    }

    fn is(&self, name: &str, tools: &ServerTools) -> bool {
        match self {
            Self::Tool(tool) => tool == name,
            Self::OfServer { label, name: tool } => {
                let is_theirs = tools
                    .tools
                    .get(name)
                    .is_some_and(|tool| tool.server_label == *label);
                let is_it = |tool: &String| {
                    tool == name || name.strip_prefix(label.as_str()) == Some(&format!("__{tool}"))
                };
                is_theirs && tool.as_ref().is_none_or(is_it)
            }
            Self::Other => false,
        }
    }
}
