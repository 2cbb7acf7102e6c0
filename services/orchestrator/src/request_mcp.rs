//! The MCP servers that a request names: tools of type `mcp`, whose credentials are never written down.
//!
//! Credentials are taken out of a request before anything else is done with it. They live in the memory of the process
//! that admitted the run, until it ends; another process that takes it over knows only that there were some.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use talaria_domain::context::{ToolListing, tool_listings};
use talaria_domain::json::{ObjectWriter, RawObject};
use talaria_domain::model::Object;
use talaria_proto::v1::{ContextItem, OnActive, RunRequest};
use talaria_runtime::error::Reason;
use tonic::Status;
use uuid::Uuid;

use crate::agents::Agent;
use crate::tools::{
    Approval, Egress, Filter, ListLimits, McpServerConfig, McpTransport, Policy, Refusal,
    RequestedServer,
};

/// Servers of one request at most.
const MAX_SERVERS: usize = 16;
/// Of one of them. Its list is written into the log and, in each step, into the request to the model.
const LIST_LIMITS: ListLimits = ListLimits {
    tools: 128,
    bytes: 512 * 1024,
};
const START_TIMEOUT: Duration = Duration::from_secs(15);
const LIST_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs whose credentials are kept; those of the oldest go first.
const MAX_KEPT: usize = 1024;
/// Bytes of the names and values of one request's headers.
const MAX_SECRETS: usize = 64 * 1024;

const LOST: &str = "The credentials of the MCP server went with the process that started the run; its tools cannot be \
                    called any more.";
const REFUSED: &str =
    "The MCP server cannot be used: this server does not let requests name MCP servers.";

/// What the servers of one request are told about its client, by their labels.
#[derive(Clone, Debug, Default)]
pub struct Credentials(HashMap<String, Vec<(String, SecretString)>>);

/// A server as a request names it.
#[derive(Deserialize)]
struct McpTool {
    server_label: String,
    #[serde(default)]
    server_url: Option<String>,
    #[serde(default)]
    allowed_tools: Option<AllowedTools>,
    #[serde(default)]
    require_approval: Option<RequireApproval>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AllowedTools {
    Names(Vec<String>),
    Filter(Filter),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RequireApproval {
    Word(String),
    Of {
        #[serde(default)]
        always: Option<Filter>,
        #[serde(default)]
        never: Option<Filter>,
    },
}

#[derive(Deserialize)]
struct Secrets {
    server_label: String,
    #[serde(default)]
    server_url: Option<String>,
    #[serde(default)]
    headers: Option<HashMap<String, String>>,
    #[serde(default)]
    authorization: Option<String>,
}

/// Takes the credentials out of a request, and notes in it whose they were. Refuses what nobody could keep or use.
pub fn take_credentials(
    request: &mut RunRequest,
    egress: Option<&Arc<Egress>>,
) -> Result<Credentials, Status> {
    let unreadable = |_| invalid("tools", "The tools are no JSON.");
    let parameters = RawObject::parse(&request.parameters);
    let parameters = if request.parameters.is_empty() {
        RawObject::default()
    } else {
        parameters.map_err(unreadable)?
    };
    let Some(tools) = parameters.get("tools") else {
        return Ok(Credentials::default());
    };
    let tools: Vec<&RawValue> = serde_json::from_str(tools).map_err(unreadable)?;
    let mut credentials = HashMap::new();
    let mut kept = Vec::with_capacity(tools.len());
    let mut servers = 0;
    for (index, tool) in tools.iter().enumerate() {
        if !is_mcp(tool) {
            kept.push(tool.get().to_owned());
            continue;
        }
        servers += 1;
        if egress.is_none() {
            let message = "MCP tools in requests are switched off on this server. Its operator can allow them with \
                           'request_mcp = true' under [tools] in talaria.toml.";
            return Err(invalid(&format!("tools[{index}].type"), message));
        }
        let secrets: Secrets = serde_json::from_str(tool.get()).map_err(unreadable)?;
        let checked = egress
            .zip(secrets.server_url.as_deref())
            .map(|(egress, url)| egress.check(url));
        if matches!(checked, Some(Err(Refusal::UserInfo))) {
            let message = "The URL holds a user or a password, and would be kept: use 'authorization' or 'headers'.";
            return Err(invalid(&format!("tools[{index}].server_url"), message));
        }
        let headers = secrets.headers.unwrap_or_default().into_iter();
        let mut headers: Vec<(String, SecretString)> =
            headers.map(|(name, value)| (name, value.into())).collect();
        if let Some(token) = secrets.authorization {
            let value = format!("Bearer {token}");
            headers.push(("authorization".to_owned(), value.into()));
        }
        if !headers.is_empty() {
            credentials.insert(secrets.server_label, headers);
        }
        kept.push(without_secrets(tool).map_err(unreadable)?);
    }
    if servers == 0 {
        return Ok(Credentials::default());
    }
    if size_bytes(&credentials) > MAX_SECRETS {
        let message = "Too long: the 'headers' of all MCP servers together may have 64 KiB.";
        return Err(invalid("tools", message));
    }
    if servers > MAX_SERVERS {
        let message = format!("Too many MCP servers: a request may name {MAX_SERVERS} at most.");
        return Err(invalid("tools", message));
    }
    if !credentials.is_empty() && request.on_active() != OnActive::Reject {
        let message = "A response that may wait for its conversation cannot have MCP servers with 'headers' or \
                       'authorization': they are not kept.";
        return Err(invalid("on_active", message));
    }
    let tools = format!("[{}]", kept.join(","));
    let mut writer = ObjectWriter::new();
    for (name, value) in &parameters.0 {
        writer.raw(name, if name == "tools" { &tools } else { value.get() });
    }
    request.parameters = writer.finish().into();
    let mut labels: Vec<String> = credentials.keys().cloned().collect();
    labels.sort();
    request.mcp_servers_with_credentials = labels;
    Ok(Credentials(credentials))
}

fn size_bytes(servers: &HashMap<String, Vec<(String, SecretString)>>) -> usize {
    let headers = servers.values().flatten();
    headers
        .map(|(name, value)| name.len() + value.expose_secret().len())
        .sum()
}

/// Refuses a request that gives a server of its own the label of one of the agent's: people who agree to calls of one,
/// for longer too, would agree to calls of the other.
pub fn check_labels(parameters: &Object, agent: &Agent) -> Result<(), Status> {
    let tools = parameters.get("tools").and_then(|tools| tools.as_array());
    for (index, tool) in tools.into_iter().flatten().enumerate() {
        let label = tool["server_label"].as_str().unwrap_or_default();
        if tool["type"] == "mcp" && agent.toolbox.has_server(label) {
            let message =
                format!("Invalid server_label '{label}': a server of the agent's has it.");
            return Err(invalid(&format!("tools[{index}].server_label"), message));
        }
    }
    Ok(())
}

/// Credentials of runs that this process admitted and that have not ended. A run that waits for a person has no task
/// that could hold them.
#[derive(Debug, Default)]
pub struct KeptCredentials(Mutex<VecDeque<(Uuid, Credentials)>>);

impl Credentials {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl KeptCredentials {
    pub fn keep(&self, id: Uuid, credentials: &Credentials) {
        if credentials.0.is_empty() {
            return;
        }
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back((id, credentials.clone()));
    }

    pub fn of(&self, id: Uuid) -> Credentials {
        let kept = self.kept();
        let found = kept.iter().find(|(known, _)| *known == id);
        found
            .map(|(_, credentials)| credentials.clone())
            .unwrap_or_default()
    }

    pub fn forget(&self, id: Uuid) {
        self.kept().retain(|(known, _)| *known != id);
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Uuid, Credentials)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The servers that a request names, as its run speaks with them.
///
/// `credentials` are what is left of those that came with the request: nothing, where another process took them.
/// `context` shows what servers had that cannot be spoken with any more.
pub fn servers<'a>(
    parameters: &Object,
    with_credentials: &[String],
    mut credentials: Credentials,
    egress: Option<&Arc<Egress>>,
    context: impl IntoIterator<Item = &'a ContextItem>,
) -> Vec<RequestedServer> {
    let tools = parameters.get("tools").and_then(|tools| tools.as_array());
    let named: Vec<McpTool> = tools
        .into_iter()
        .flatten()
        .filter(|tool| tool["type"] == "mcp")
        .filter_map(|tool| McpTool::deserialize(tool).ok())
        .take(MAX_SERVERS)
        .collect();
    if named.is_empty() {
        return Vec::new();
    }
    let listings = tool_listings(context);
    let server = |tool: McpTool| {
        let headers = credentials.0.remove(&tool.server_label);
        let is_without = headers.is_none() && with_credentials.contains(&tool.server_label);
        match egress {
            None => lost(tool.server_label, &listings, REFUSED),
            Some(_) if is_without => lost(tool.server_label, &listings, LOST),
            Some(egress) => {
                RequestedServer::Live(Box::new(tool.config(headers.unwrap_or_default(), egress)))
            }
        }
    };
    named.into_iter().map(server).collect()
}

impl McpTool {
    fn config(self, headers: Vec<(String, SecretString)>, egress: &Arc<Egress>) -> McpServerConfig {
        let policy = Policy {
            allowed: match self.allowed_tools {
                None => Filter::default(),
                Some(AllowedTools::Filter(filter)) => filter,
                Some(AllowedTools::Names(names)) => Filter {
                    tool_names: Some(names),
                    read_only: None,
                },
            },
            approval: match self.require_approval {
                Some(RequireApproval::Word(word)) if word == "never" => Approval::Never,
                Some(RequireApproval::Of { always, never }) => Approval::Of {
                    always: always.unwrap_or_default(),
                    never: never.unwrap_or_default(),
                },
                Some(RequireApproval::Word(_)) | None => Approval::Always,
            },
            limits: Some(LIST_LIMITS),
        };
        let transport = McpTransport::Http {
            url: self.server_url.unwrap_or_default(),
            headers,
            egress: Some(Arc::clone(egress)),
        };
        McpServerConfig {
            start_timeout: START_TIMEOUT,
            list_timeout: LIST_TIMEOUT,
            policy,
            ..McpServerConfig::new(self.server_label, transport)
        }
    }
}

fn lost(server_label: String, listings: &[ToolListing], problem: &str) -> RequestedServer {
    let latest = listings
        .iter()
        .rfind(|listing| listing.server_label == server_label);
    RequestedServer::Lost {
        tools: latest
            .map(|listing| listing.tools.clone())
            .unwrap_or_default(),
        server_label,
        problem: problem.to_owned(),
    }
}

/// However its type is spelled.
fn is_mcp(tool: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(rename = "type", borrow)]
        kind: std::borrow::Cow<'a, str>,
    }
    serde_json::from_str(tool.get()).is_ok_and(|head: Head<'_>| head.kind == "mcp")
}

fn without_secrets(tool: &RawValue) -> Result<String, serde_json::Error> {
    let tool = RawObject::parse(tool.get().as_bytes())?;
    let mut writer = ObjectWriter::new();
    for (name, value) in &tool.0 {
        match name.as_str() {
            "headers" | "authorization" => {}
            "type" => drop(writer.string("type", "mcp")),
            name => drop(writer.raw(name, value.get())),
        }
    }
    Ok(writer.finish())
}

fn invalid(param: &str, message: impl Into<String>) -> Status {
    Reason::InvalidValue.status_at(param, message)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    fn egress() -> Arc<Egress> {
        Arc::default()
    }

    fn request(tools: &serde_json::Value) -> RunRequest {
        RunRequest {
            parameters: json!({"temperature": 1.0, "tools": tools})
                .to_string()
                .into(),
            ..RunRequest::default()
        }
    }

    fn text(request: &RunRequest) -> String {
        String::from_utf8(request.parameters.to_vec()).unwrap()
    }

    #[test]
    fn credentials_leave_the_request_and_reach_the_server() {
        let mut request = request(&json!([
            {"type": "function", "name": "f", "headers": 1},
            {"type": "mcp", "server_label": "a", "server_url": "https://a.example/mcp", "headers": {"x-key": "hidden"},
                "require_approval": "never"},
            {"type": "mcp", "server_label": "b", "server_url": "https://b.example/mcp", "authorization": "hidden"},
            {"type": "mcp", "server_label": "c", "server_url": "https://c.example/mcp", "headers": null},
        ]));
        let spelled = text(&request).replace(
            r#""mcp","server_label":"b""#,
            r#""m\u0063p","server_label":"b""#,
        );
        request.parameters = spelled
            .replace("authorization", r"author\u0069zation")
            .into();

        let credentials = take_credentials(&mut request, Some(&egress())).unwrap();

        assert_eq!(request.mcp_servers_with_credentials, ["a", "b"]);
        insta::assert_snapshot!(text(&request), @r#"{"temperature":1.0,"tools":[{"type":"function","name":"f","headers":1},{"type":"mcp","server_label":"a","server_url":"https://a.example/mcp","require_approval":"never"},{"type":"mcp","server_label":"b","server_url":"https://b.example/mcp"},{"type":"mcp","server_label":"c","server_url":"https://c.example/mcp"}]}"#);
        assert!(!format!("{credentials:?}").contains("hidden"));
        let parameters = serde_json::from_slice(&request.parameters).unwrap();
        let with = request.mcp_servers_with_credentials;
        let servers = servers(&parameters, &with, credentials, Some(&egress()), []);
        let headers: Vec<Vec<(String, String)>> = servers
            .iter()
            .map(|server| match server {
                RequestedServer::Live(config) => match &config.transport {
                    McpTransport::Http { headers, .. } => headers
                        .iter()
                        .map(|(name, value)| (name.clone(), value.expose_secret().to_owned()))
                        .collect(),
                    McpTransport::Stdio { .. } => panic!("a request starts a program"),
                },
                RequestedServer::Lost { problem, .. } => panic!("{problem}"),
            })
            .collect();
        let header = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        assert_eq!(
            headers,
            [
                header("x-key", "hidden"),
                header("authorization", "Bearer hidden"),
                Vec::new()
            ]
        );
    }

    #[test]
    fn who_takes_a_run_over_knows_that_credentials_are_missing() {
        let mut request = request(&json!([
            {"type": "mcp", "server_label": "a", "server_url": "https://a.example/mcp", "headers": {"x": "hidden"}},
            {"type": "mcp", "server_label": "b", "server_url": "https://b.example/mcp"},
        ]));
        take_credentials(&mut request, Some(&egress())).unwrap();
        let parameters = serde_json::from_slice(&request.parameters).unwrap();
        let listed =
            json!({"type": "mcp_list_tools", "server_label": "a", "tools": [{"name": "add"}]});
        let context = [ContextItem {
            item: listed.to_string().into(),
            upstream_id: String::new(),
        }];
        let of = |egress: Option<&Arc<Egress>>| {
            let with = &request.mcp_servers_with_credentials;
            let servers = servers(&parameters, with, Credentials::default(), egress, &context);
            let told = |server: &RequestedServer| match server {
                RequestedServer::Live(config) => config.name.clone(),
                RequestedServer::Lost { problem, tools, .. } => {
                    format!("{}: {problem}", tools.len())
                }
            };
            servers.iter().map(told).collect::<Vec<_>>()
        };

        assert_eq!(of(Some(&egress())), [format!("1: {LOST}"), "b".to_owned()]);
        assert_eq!(of(None), [format!("1: {REFUSED}"), format!("0: {REFUSED}")]);
    }

    #[test]
    fn credentials_are_kept_until_their_run_has_ended_and_not_for_ever() {
        let kept = KeptCredentials::default();
        let headers = vec![("x".to_owned(), SecretString::from("hidden"))];
        let credentials = Credentials(HashMap::from([("a".to_owned(), headers)]));
        let has = |id: u128| !kept.of(Uuid::from_u128(id)).0.is_empty();

        kept.keep(Uuid::from_u128(1), &credentials);
        kept.keep(Uuid::from_u128(2), &Credentials::default());
        assert_eq!((has(1), has(2)), (true, false));
        assert!(!format!("{kept:?}").contains("hidden"));
        kept.forget(Uuid::from_u128(1));
        assert!(!has(1));

        let runs = 10..10 + MAX_KEPT as u128 + 1;
        runs.for_each(|id| kept.keep(Uuid::from_u128(id), &credentials));
        assert_eq!((has(10), has(11)), (false, true));
    }

    #[test]
    fn what_cannot_be_kept_or_is_not_allowed_is_refused() {
        let server = |label: &str| json!({"type": "mcp", "server_label": label, "server_url": "https://a.example"});
        let many: Vec<_> = (0..17).map(|n| server(&n.to_string())).collect();
        let mut secret = server("a");
        secret["authorization"] = "hidden".into();
        let mut waits = request(&json!([secret]));
        waits.set_on_active(OnActive::Enqueue);
        let off = None;
        for (mut request, egress, param) in [
            (
                request(&json!([{"type": "function", "name": "f"}, server("a")])),
                off,
                "tools[1].type",
            ),
            (request(&json!(many)), Some(&egress()), "tools"),
            (waits, Some(&egress()), "on_active"),
        ] {
            let refused = take_credentials(&mut request, egress).map(|_| ());
            let refused = refused.unwrap_err();
            assert_eq!(Reason::of(&refused), Some(Reason::InvalidValue), "{param}");
            assert!(!refused.message().contains("hidden"));
        }
    }

    #[test]
    fn who_may_use_what_is_read_in_each_of_its_forms() {
        let of = |more: serde_json::Value| {
            let mut tool = json!({"server_label": "a", "server_url": "https://a.example"});
            if let (Some(tool), serde_json::Value::Object(more)) = (tool.as_object_mut(), more) {
                tool.extend(more);
            }
            let tool: McpTool = serde_json::from_value(tool).unwrap();
            tool.config(Vec::new(), &egress()).policy
        };
        let names = |names: &[&str]| Filter {
            tool_names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            read_only: None,
        };
        let read_only = Filter {
            tool_names: None,
            read_only: Some(true),
        };
        let nothing = of(json!({}));
        assert_eq!(
            (nothing.allowed, nothing.approval),
            (Filter::default(), Approval::Always)
        );
        assert_eq!(of(json!({"allowed_tools": ["x"]})).allowed, names(&["x"]));
        assert_eq!(of(json!({"allowed_tools": []})).allowed, names(&[]));
        assert_eq!(
            of(json!({"allowed_tools": {"read_only": true}})).allowed,
            read_only
        );
        assert_eq!(
            of(json!({"allowed_tools": {"tool_names": ["x"]}})).allowed,
            names(&["x"])
        );
        assert_eq!(
            of(json!({"require_approval": "never"})).approval,
            Approval::Never
        );
        assert_eq!(
            of(json!({"require_approval": "always"})).approval,
            Approval::Always
        );
        assert_eq!(
            of(json!({"require_approval": {"never": {"tool_names": ["x"]}, "always": null}}))
                .approval,
            Approval::Of {
                always: Filter::default(),
                never: names(&["x"])
            }
        );
    }
}
