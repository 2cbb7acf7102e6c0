use std::collections::HashMap;

use clap::Parser;

use super::*;
use crate::cli::{Cli, Invocation};
use crate::settings::agents::Endpoint;
use crate::settings::server::CorsOrigins;

const KEY: &str = "sixteen-letters!";

const FULL_FILE: &str = r#"
[server]
listen = "127.0.0.1:9999"
cors_origins = ["https://a.example", "http://localhost:3000"]
max_body_bytes = 1000
keepalive_seconds = 5
allow_remote_images = false
strict_models = true
chat_disconnect = "detach"
tool_progress_events = false

[store]
database_url = "postgres://ada:geheim@db/talaria"
max_responses = 100
retention_days = 0
event_retention_hours = 0
turn_cache_mb = 0

[runs]
max_concurrent = 8
max_starting = 40
lease_seconds = 20
drain_seconds = 0
max_steps = 10
max_total_tokens = 50_000
max_run_seconds = 600
max_attempts = 1
on_broken_stream = "fail"
approval_timeout_seconds = 60
approval_on_timeout = "approve"

[[agents]]
name = "main"
instructions = "Be kind."
inherit_instructions = false
upstream = ["first", "second"]
model = "gpt-5.2"
mcp_servers = ["files", "demo"]
tool_items = "mcp_call"
max_steps = 3
max_tool_calls = 5
max_parallel_tools = 2
require_approval = ["files/rm", "wait"]
max_total_tokens = 1000
max_run_seconds = 60

[[agents]]
name = "toy"
upstream = "toy"

[upstreams.first]
kind = "responses"
base_url = "http://127.0.0.1:9000/v1/"
api_key_env = "MAIN_KEY"
connect_timeout_seconds = 1
first_byte_timeout_seconds = 2
idle_timeout_seconds = 3
total_timeout_seconds = 4
max_retries = 0
resumable = true

[upstreams.second]
kind = "chat_completions"
base_url = "https://llm.example/v1"

[upstreams.toy]
kind = "demo"

[mcp_servers.files]
command = "python3"
args = ["server.py"]
env = { ROOT = "/srv" }
call_timeout_seconds = 5
effects = { read = "pure", save = "idempotent", send = "once" }

[mcp_servers.web]
url = "http://127.0.0.1:9100/mcp/"
headers = { "X-Api-Key" = "hidden" }
bearer_token_env = "WEB_TOKEN"

[tools]
request_mcp = true
request_mcp_allow = ["127.0.0.1", "10.1.0.0/8", "MCP.internal.example"]
"#;

type Env<'a> = &'a [(&'a str, &'a str)];

/// Loads settings from a command line, an environment and the text of a file.
fn load(line: &str, env: Env, file: Option<&str>) -> Result<Settings, Error> {
    let words = std::iter::once("talaria").chain(line.split_whitespace());
    let Invocation::Command(command) = Cli::try_parse_from(words).unwrap().invocation() else {
        panic!("not a command");
    };
    let env: HashMap<_, _> = env.iter().copied().collect();
    let env = |name: &str| env.get(name).map(|value| (*value).to_owned());
    let file = file
        .map(|text| File::parse("talaria.toml", text))
        .transpose()?;
    Settings::from_sources(
        command,
        &Sources {
            env: &env,
            file: file.as_ref(),
        },
    )
}

fn lines(results: impl IntoIterator<Item = Result<Settings, Error>>) -> String {
    let line = |result: Result<Settings, Error>| match result {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    results.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

fn server_of(settings: Settings) -> Server {
    match settings.role {
        Role::Serve { server, .. } | Role::Gateway { server, .. } => server,
        other => panic!("{other:?} has no façade"),
    }
}

#[test]
fn nothing_at_all_is_the_demo_on_this_machine() {
    let settings = load("", &[], None).unwrap();

    insta::assert_debug_snapshot!(settings, @r#"
    Settings {
        role: Serve {
            server: Server {
                listen: 127.0.0.1:8642,
                api_key: None,
                cors_origins: List(
                    [],
                ),
                max_body_bytes: 10000000,
                keepalive: 10s,
                drain: 2s,
                chat_disconnect: None,
                tool_progress_events: true,
            },
            database: Embedded {
                data_dir: "./.talaria",
            },
        },
        keeping: Keeping {
            max_responses: 0,
            retention_days: 30,
            event_retention_hours: 24,
            turn_cache_mb: 64,
        },
        runs: Runs {
            max_concurrent: 256,
            max_starting: None,
            lease: 10s,
            drain: 30s,
            max_attempts: 3,
            on_broken_stream: Continue,
            approval_timeout: 86400s,
            approval_on_timeout: Deny,
        },
        strict_models: false,
        agents: [
            Agent {
                name: "hermes-agent",
                instructions: None,
                upstreams: [
                    "demo",
                ],
                model: "demo",
                inherit_instructions: true,
                mcp_servers: [
                    "demo",
                ],
                tool_items: FunctionCall,
                max_steps: 64,
                max_tool_calls: None,
                max_parallel_tools: 8,
                require_approval: [],
                max_total_tokens: None,
                max_run: None,
            },
        ],
        upstreams: {
            "demo": Upstream {
                endpoint: Demo,
                connect_timeout: 10s,
                first_byte_timeout: 60s,
                idle_timeout: 60s,
                total_timeout: 1800s,
                max_retries: 2,
            },
        },
        mcp_servers: {},
        request_mcp: None,
        token: None,
        log: Log {
            format: Text,
            filter: "info",
        },
    }
    "#);
}

/// The settings that the full file gives.
fn full() -> Settings {
    let env = [("MAIN_KEY", "very-secret"), ("WEB_TOKEN", "very-secret")];
    load("serve", &env, Some(FULL_FILE)).unwrap()
}

#[test]
fn a_full_file_says_how_the_process_runs() {
    let settings = full();

    assert!(settings.strict_models);
    insta::assert_debug_snapshot!(settings.role, @r#"
    Serve {
        server: Server {
            listen: 127.0.0.1:9999,
            api_key: None,
            cors_origins: List(
                [
                    "https://a.example",
                    "http://localhost:3000",
                ],
            ),
            max_body_bytes: 1000,
            keepalive: 5s,
            drain: 2s,
            chat_disconnect: Some(
                Detach,
            ),
            tool_progress_events: false,
        },
        database: Url(
            SecretBox<str>([REDACTED]),
        ),
    }
    "#);
    insta::assert_debug_snapshot!(settings.keeping, @"
    Keeping {
        max_responses: 100,
        retention_days: 0,
        event_retention_hours: 0,
        turn_cache_mb: 0,
    }
    ");
    insta::assert_debug_snapshot!(settings.runs, @"
    Runs {
        max_concurrent: 8,
        max_starting: Some(
            40,
        ),
        lease: 20s,
        drain: 0ns,
        max_attempts: 1,
        on_broken_stream: Fail,
        approval_timeout: 60s,
        approval_on_timeout: Approve,
    }
    ");
}

#[test]
fn a_full_file_says_which_agents_there_are_and_whom_they_call() {
    let settings = full();

    insta::assert_debug_snapshot!(settings.agents, @r#"
    [
        Agent {
            name: "main",
            instructions: Some(
                "Be kind.",
            ),
            upstreams: [
                "first",
                "second",
            ],
            model: "gpt-5.2",
            inherit_instructions: false,
            mcp_servers: [
                "files",
                "demo",
            ],
            tool_items: McpCall,
            max_steps: 3,
            max_tool_calls: Some(
                5,
            ),
            max_parallel_tools: 2,
            require_approval: [
                "files/rm",
                "wait",
            ],
            max_total_tokens: Some(
                1000,
            ),
            max_run: Some(
                60s,
            ),
        },
        Agent {
            name: "toy",
            instructions: None,
            upstreams: [
                "toy",
            ],
            model: "demo",
            inherit_instructions: false,
            mcp_servers: [
                "demo",
            ],
            tool_items: FunctionCall,
            max_steps: 10,
            max_tool_calls: None,
            max_parallel_tools: 8,
            require_approval: [],
            max_total_tokens: Some(
                50000,
            ),
            max_run: Some(
                600s,
            ),
        },
    ]
    "#);
    insta::assert_debug_snapshot!(settings.upstreams, @r#"
    {
        "first": Upstream {
            endpoint: Responses {
                base_url: "http://127.0.0.1:9000/v1",
                api_key: Some(
                    SecretBox<str>([REDACTED]),
                ),
                resumable: true,
            },
            connect_timeout: 1s,
            first_byte_timeout: 2s,
            idle_timeout: 3s,
            total_timeout: 4s,
            max_retries: 0,
        },
        "second": Upstream {
            endpoint: ChatCompletions {
                base_url: "https://llm.example/v1",
                api_key: None,
            },
            connect_timeout: 10s,
            first_byte_timeout: 60s,
            idle_timeout: 60s,
            total_timeout: 1800s,
            max_retries: 2,
        },
        "toy": Upstream {
            endpoint: Demo,
            connect_timeout: 10s,
            first_byte_timeout: 60s,
            idle_timeout: 60s,
            total_timeout: 1800s,
            max_retries: 2,
        },
    }
    "#);
}

#[test]
fn a_full_file_says_whose_tools_there_are() {
    insta::assert_debug_snapshot!(full().mcp_servers, @r#"
    {
        "files": McpServer {
            transport: Stdio {
                command: "python3",
                args: [
                    "server.py",
                ],
                env: {
                    "ROOT": "/srv",
                },
            },
            call_timeout: 5s,
            effects: {
                "read": Pure,
                "save": Idempotent,
                "send": Once,
            },
        },
        "web": McpServer {
            transport: Http {
                url: "http://127.0.0.1:9100/mcp/",
                headers: [
                    (
                        "X-Api-Key",
                        SecretBox<str>([REDACTED]),
                    ),
                    (
                        "Authorization",
                        SecretBox<str>([REDACTED]),
                    ),
                ],
            },
            call_timeout: 60s,
            effects: {},
        },
    }
    "#);
}

#[test]
fn a_full_file_says_where_requests_may_name_mcp_servers() {
    insta::assert_debug_snapshot!(full().request_mcp, @r#"
    Some(
        RequestMcp {
            allow: [
                Network(
                    127.0.0.1/32,
                ),
                Network(
                    10.0.0.0/8,
                ),
                Host(
                    "mcp.internal.example",
                ),
            ],
        },
    )
    "#);
}

#[test]
fn flags_come_before_environment_before_file_before_defaults() {
    let file = Some("[server]\nlisten = '127.0.0.1:4'");
    let both = [("API_SERVER_HOST", "127.0.0.2"), ("API_SERVER_PORT", "3")];
    let all = [("TALARIA_LISTEN", "127.0.0.1:2"), both[0], both[1]];
    let empty = [("TALARIA_LISTEN", ""), ("API_SERVER_PORT", "")];
    let cases: [(&str, Env, Option<&str>, &str); 9] = [
        ("--listen 127.0.0.1:1", &all, file, "127.0.0.1:1"),
        (
            "gateway --listen [::1]:1 --orchestrator http://o --store http://s",
            &all,
            file,
            "[::1]:1",
        ),
        ("", &all, file, "127.0.0.1:2"),
        ("", &both, file, "127.0.0.2:3"),
        ("", &both[..1], file, "127.0.0.2:8642"),
        ("", &both[1..], file, "127.0.0.1:3"),
        ("", &[], file, "127.0.0.1:4"),
        ("--listen localhost:5", &[], None, "127.0.0.1:5"),
        ("", &empty, None, "127.0.0.1:8642"),
    ];

    for (line, env, file, expected) in cases {
        let listen = server_of(load(line, env, file).unwrap()).listen;
        assert_eq!(listen.to_string(), expected, "{line} {env:?}");
    }
}

#[test]
fn a_wrong_flag_or_variable_is_named_in_one_line() {
    let in_env = |name: &str, value: &str| load("", &[(name, value)], None);
    let results = [
        load("--listen nonsense", &[], None),
        load("--listen 0.0.0.0:8642", &[], None),
        load(
            "--listen 0.0.0.0:8642",
            &[("TALARIA_API_KEY", "short")],
            None,
        ),
        load("--database-url mysql://u:geheim@h/d", &[], None),
        load("store", &[], None),
        load("migrate", &[("DATABASE_URL", "nonsense")], None),
        load("gateway --store http://s", &[], None),
        load("gateway --orchestrator o:1 --store http://s", &[], None),
        load(
            "orchestrator --advertise host:1 --store http://s",
            &[],
            None,
        ),
        in_env("TALARIA_LISTEN", "8642"),
        in_env("API_SERVER_PORT", "99999"),
        in_env("API_SERVER_HOST", "0.0.0.0"),
        in_env("API_SERVER_KEY", "a key with blanks in it"),
        in_env("TALARIA_CORS_ORIGINS", "https://a.example, b.example"),
        in_env("TALARIA_TOKEN", "short"),
        in_env("TALARIA_LOG", "xml"),
        in_env("RUST_LOG", "info,=,"),
        in_env("OPENAI_BASE_URL", "api.example/v1"),
    ];

    insta::assert_snapshot!(lines(results), @r#"
    --listen: "nonsense" is not an address such as 127.0.0.1:8642
    TALARIA_API_KEY: a key of at least 16 characters is required, because 0.0.0.0:8642 from --listen can be reached from other machines
    TALARIA_API_KEY: must have at least 16 characters
    --database-url: must be a URL such as postgres://user:password@host/database
    TALARIA_DATABASE_URL: is required here: only `talaria serve` brings its own Postgres
    DATABASE_URL: must be a URL such as postgres://user:password@host/database
    --orchestrator: the URL of that service is required
    --orchestrator: must be a URL such as http://host:port
    --advertise: must be a URL such as http://host:port
    TALARIA_LISTEN: "8642" is not an address such as 127.0.0.1:8642
    API_SERVER_PORT: "99999" is not a port number
    TALARIA_API_KEY: a key of at least 16 characters is required, because 0.0.0.0:8642 from API_SERVER_HOST can be reached from other machines
    API_SERVER_KEY: must be visible ASCII characters without spaces
    TALARIA_CORS_ORIGINS: "b.example" is not an origin such as https://example.com (or "*" alone)
    TALARIA_TOKEN: must have at least 16 characters
    TALARIA_LOG: "xml" is neither "text" nor "json"
    RUST_LOG: "info,=,": invalid filter directive
    OPENAI_BASE_URL: must be a URL such as http://host:port
    "#);
}

#[test]
fn a_wrong_key_of_the_file_is_named_in_one_line() {
    let agent = "[[agents]]\nname = 'a'\nmodel = 'm'\n";
    let demo = "[upstreams.u]\nkind = 'demo'\n";
    let with_agent = |more: &str| format!("{agent}{more}\n{demo}");
    let in_file = |text: &str| load("", &[], Some(text));
    let results = [
        in_file("[servr]"),
        in_file("[server]\nlisten = 8642"),
        in_file("[server]\nlisten = '0.0.0.0:1'"),
        in_file("[server]\ncors_origins = 1"),
        in_file("[runs]\n\nmax_steps = 0"),
        in_file("[runs]\nmax_step = 1"),
        in_file("[[agents]"),
        in_file("[store]\nretention_days = -1"),
        in_file("[server]\nchat_disconnect = 'stay'"),
        in_file("[runs]\non_broken_stream = 'hide'"),
        in_file(demo),
        in_file(agent),
        in_file(&format!(
            "[[agents]]\nname = 'a'\n{demo}[upstreams.v]\nkind = 'responses'"
        )),
        in_file(&with_agent("upstream = 'other'")),
        in_file(&with_agent("upstream = []")),
        in_file(&with_agent("upstream = ['u', 'v']")),
        in_file(&with_agent("mcp_servers = ['files']")),
        in_file(&with_agent("mcp_servers = ['demo', 'demo']")),
        in_file(&with_agent("tool_items = 'tool_call'")),
        in_file(&with_agent("max_parallel_tools = 0")),
        in_file("[runs]\napproval_on_timeout = 'ask'"),
        in_file(&with_agent("max_total_tokens = 0")),
        in_file("[runs]\nmax_run_seconds = -1"),
        in_file(&format!("{agent}{agent}{demo}")),
        in_file(&format!("{agent}[upstreams.u]\nkind = 'responses'")),
        in_file(&format!("{agent}[upstreams.u]\nkind = 'grpc'")),
        in_file(&format!("{agent}{demo}resumable = true")),
        in_file("[[agents]]\nname = 'a'\n[upstreams.u]\nkind = 'responses'\nbase_url = 'http://u'"),
        in_file(&format!(
            "{agent}[upstreams.u]\nkind = 'responses'\nbase_url = 'http://a:b@u'"
        )),
        in_file(&format!(
            "{agent}[upstreams.u]\nkind = 'responses'\nbase_url = 'http://u'\napi_key_env = 'NOT_SET'"
        )),
    ];

    insta::assert_snapshot!(lines(results), @r#"
    talaria.toml, line 1: unknown field `servr`, expected one of `server`, `store`, `runs`, `tools`, `agents`, `upstreams`, `mcp_servers`
    talaria.toml, line 2: invalid type: integer `8642`, expected a string in `server.listen`
    TALARIA_API_KEY: a key of at least 16 characters is required, because 0.0.0.0:1 from server.listen in talaria.toml can be reached from other machines
    talaria.toml, line 2: expected a string or a list of strings in `server.cors_origins`
    talaria.toml, line 3: invalid value: integer `0`, expected a nonzero u32 in `runs.max_steps`
    talaria.toml, line 2: unknown field `max_step`, expected one of `max_concurrent`, `max_starting`, `lease_seconds`, `drain_seconds`, `max_steps`, `max_total_tokens`, `max_run_seconds`, `max_attempts`, `on_broken_stream`, `approval_timeout_seconds`, `approval_on_timeout` in `runs`
    talaria.toml, line 1: unclosed array table, expected `]`
    talaria.toml, line 2: invalid value: integer `-1`, expected u32 in `store.retention_days`
    talaria.toml, line 2: unknown variant `stay`, expected `detach` or `cancel` in `server.chat_disconnect`
    talaria.toml, line 2: unknown variant `hide`, expected `continue` or `fail` in `runs.on_broken_stream`
    agents in talaria.toml: there are upstreams, but no [[agents]] to call them
    agents.upstream of "a" in talaria.toml: must name one of [upstreams]
    agents.upstream of "a" in talaria.toml: must name one of [upstreams]
    agents.upstream of "a" in talaria.toml: there is no [upstreams.other]
    agents.upstream of "a" in talaria.toml: must name at least one of [upstreams]
    agents.upstream of "a" in talaria.toml: there is no [upstreams.v]
    agents.mcp_servers of "a" in talaria.toml: there is no [mcp_servers.files]
    agents.mcp_servers of "a" in talaria.toml: names "demo" twice
    talaria.toml, line 4: unknown variant `tool_call`, expected `function_call` or `mcp_call` in `agents.tool_items`
    talaria.toml, line 4: invalid value: integer `0`, expected a nonzero u32 in `agents.max_parallel_tools`
    talaria.toml, line 2: unknown variant `ask`, expected `deny` or `approve` in `runs.approval_on_timeout`
    talaria.toml, line 4: invalid value: integer `0`, expected a nonzero u64 in `agents.max_total_tokens`
    talaria.toml, line 2: invalid value: integer `-1`, expected a nonzero u64 in `runs.max_run_seconds`
    agents.name in talaria.toml: two agents are named "a"
    upstreams.u.base_url in talaria.toml: is required
    talaria.toml, line 5: unknown variant `grpc`, expected one of `responses`, `chat_completions`, `demo` in `upstreams.u.kind`
    upstreams.u.resumable in talaria.toml: only upstreams of kind "responses" can be resumed
    agents.model of "a" in talaria.toml: must be the upstream's name for the model
    upstreams.u.base_url in talaria.toml: must not hold a user or password
    upstreams.u.api_key_env in talaria.toml: the environment variable NOT_SET is not set
    "#);
}

#[test]
fn a_wrong_key_about_tools_is_named_in_one_line() {
    let in_file = |text: &str| load("", &[], Some(text));
    let results = [
        in_file("[mcp_servers.files]"),
        in_file("[mcp_servers.files]\ncommand = 'a'\nurl = 'http://b'"),
        in_file("[mcp_servers.files]\ncommand = ' '"),
        in_file("[mcp_servers.files]\nurl = 'b'"),
        in_file("[mcp_servers.files]\nurl = 'http://b'\nargs = ['c']"),
        in_file("[mcp_servers.files]\ncommand = 'a'\nheaders = { a = 'b' }"),
        in_file("[mcp_servers.files]\nurl = 'http://b'\nheaders = { 'a b' = 'c' }"),
        in_file("[mcp_servers.files]\nurl = 'http://b'\nheaders = { 'Mcp-Session-Id' = 'c' }"),
        in_file("[mcp_servers.files]\nurl = 'http://b'\nheaders = { a = '''b\nc''' }"),
        in_file("[mcp_servers.files]\nurl = 'http://b'\nbearer_token_env = 'NOT_SET'"),
        in_file(
            "[mcp_servers.files]\nurl = 'http://b'\nbearer_token_env = 'X'\nheaders = { authorization = 'c' }",
        ),
        in_file("[tools]\nrequest_mcp_allow = ['127.0.0.1']"),
        in_file("[tools]\nrequest_mcp = true\nrequest_mcp_allow = ['10.0.0.0/33']"),
        in_file("[tools]\nrequest_mcp = true\nrequest_mcp_allow = ['http://a']"),
        in_file("[mcp_servers.files]\ncommand = 'a'\neffects = { b = 'none' }"),
        in_file("[mcp_servers.'my files']\ncommand = 'a'"),
        in_file("[mcp_servers.demo]\ncommand = 'a'"),
    ];

    insta::assert_snapshot!(lines(results), @r#"
    mcp_servers.files.command in talaria.toml: a server has either a command or a url
    mcp_servers.files.command in talaria.toml: a server has either a command or a url
    mcp_servers.files.command in talaria.toml: must not be empty
    mcp_servers.files.url in talaria.toml: must be a URL such as http://host:port
    mcp_servers.files.url in talaria.toml: goes without args and env, which are a command's
    mcp_servers.files.command in talaria.toml: goes without headers and bearer_token_env, which are a url's
    mcp_servers.files.headers in talaria.toml: "a b" is no name of a header that can be set
    mcp_servers.files.headers in talaria.toml: "Mcp-Session-Id" is no name of a header that can be set
    mcp_servers.files.headers in talaria.toml: the value of "a" is none for a header
    mcp_servers.files.bearer_token_env in talaria.toml: the environment variable NOT_SET is not set
    mcp_servers.files.bearer_token_env in talaria.toml: goes without a header Authorization, which it is
    tools.request_mcp_allow in talaria.toml: says nothing without request_mcp = true
    tools.request_mcp_allow in talaria.toml: "10.0.0.0/33" is neither an address, nor a network, nor the name of a host
    tools.request_mcp_allow in talaria.toml: "http://a" is neither an address, nor a network, nor the name of a host
    talaria.toml, line 3: unknown variant `none`, expected one of `pure`, `idempotent`, `once` in `mcp_servers.files.effects.b`
    mcp_servers.my files in talaria.toml: a name is 1 to 32 of the characters a-z, A-Z, 0-9, _ and -
    mcp_servers.demo in talaria.toml: the tools of this name are built in; choose another
    "#);
}

#[test]
fn a_key_opens_other_addresses() {
    for name in ["TALARIA_API_KEY", "API_SERVER_KEY"] {
        let server = server_of(load("--listen 0.0.0.0:1", &[(name, KEY)], None).unwrap());

        assert_eq!(server.api_key.unwrap().expose_secret(), KEY, "{name}");
    }
}

#[test]
fn the_openai_variables_replace_the_demo() {
    let url = ("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1/");
    let key = ("OPENAI_API_KEY", "sk-1");
    let cases: [(Env, &str, Option<&str>, &str); 5] = [
        (&[key], "https://api.openai.com/v1", Some("sk-1"), "gpt-5.2"),
        (&[url], "http://127.0.0.1:9000/v1", None, "hermes-agent"),
        (
            &[url, key],
            "http://127.0.0.1:9000/v1",
            Some("sk-1"),
            "hermes-agent",
        ),
        (
            &[url, ("TALARIA_MODEL_NAME", "ada")],
            "http://127.0.0.1:9000/v1",
            None,
            "ada",
        ),
        (
            &[key, ("OPENAI_MODEL", "o9")],
            "https://api.openai.com/v1",
            Some("sk-1"),
            "o9",
        ),
    ];

    for (env, expected_url, expected_key, expected_model) in cases {
        let settings = load("", env, Some("[server]\nstrict_models = true")).unwrap();
        let [agent] = &settings.agents[..] else {
            panic!("{settings:?}")
        };
        let Endpoint::Responses {
            base_url, api_key, ..
        } = &settings.upstreams[&agent.upstreams[0]].endpoint
        else {
            panic!("{settings:?}")
        };
        assert_eq!(base_url, expected_url, "{env:?}");
        assert_eq!(
            api_key.as_ref().map(ExposeSecret::expose_secret),
            expected_key,
            "{env:?}"
        );
        assert_eq!(agent.model, expected_model, "{env:?}");
    }
}

#[test]
fn the_environment_names_the_default_agent_of_a_file_too() {
    let file = "[[agents]]\nname = 'a'\n[[agents]]\nname = 'b'\n[upstreams.u]\nkind = 'demo'";

    let settings = load("", &[("API_SERVER_MODEL_NAME", "lucas")], Some(file)).unwrap();

    let names: Vec<_> = settings
        .agents
        .iter()
        .map(|agent| agent.name.as_str())
        .collect();
    assert_eq!(names, ["lucas", "b"]);
}

#[test]
fn a_gateway_needs_no_keys_of_upstreams() {
    let file = "[[agents]]\nname = 'a'\nmodel = 'm'\n[upstreams.u]\nkind = 'responses'\n\
                base_url = 'http://u'\napi_key_env = 'NOT_SET'";

    load(
        "gateway --orchestrator http://o --store http://s",
        &[],
        Some(file),
    )
    .unwrap();
}

#[test]
fn origins_are_a_list_or_all() {
    let cases = [
        ("*", CorsOrigins::Any),
        (
            "https://a.example",
            CorsOrigins::List(vec!["https://a.example".to_owned()]),
        ),
        (
            "https://a.example, http://localhost:3000,",
            CorsOrigins::List(vec![
                "https://a.example".to_owned(),
                "http://localhost:3000".to_owned(),
            ]),
        ),
    ];

    for (text, expected) in cases {
        let server = server_of(load("", &[("API_SERVER_CORS_ORIGINS", text)], None).unwrap());
        assert_eq!(server.cors_origins, expected, "{text}");
    }
}

#[test]
fn an_orchestrator_advertises_what_it_is_told_and_services_are_lists() {
    let cases = [
        ("orchestrator --store http://s", None, &["http://s"][..]),
        (
            "orchestrator --store http://s:1,http://t:2/ --advertise http://host:7/",
            Some("http://host:7"),
            &["http://s:1", "http://t:2"],
        ),
    ];

    for (line, address, urls) in cases {
        let Role::Orchestrator {
            advertise, stores, ..
        } = load(line, &[], None).unwrap().role
        else {
            panic!("not an orchestrator")
        };
        assert_eq!(advertise.as_deref(), address, "{line}");
        assert_eq!(stores, urls, "{line}");
    }
    let both = [
        ("TALARIA_ORCHESTRATOR", "http://o, http://p"),
        ("TALARIA_STORE", "http://s,http://t"),
    ];
    let Role::Gateway {
        orchestrators,
        stores,
        ..
    } = load("gateway", &both, None).unwrap().role
    else {
        panic!("not a gateway")
    };
    assert_eq!(
        (orchestrators, stores),
        (
            vec!["http://o".into(), "http://p".into()],
            vec!["http://s".into(), "http://t".into()]
        )
    );
}
