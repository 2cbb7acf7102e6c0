//! The settings of a response: what the request asked for, with OpenAI's defaults filled in.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{ObjectWriter, RawObject};

/// Members of the response object that only repeat the request, in the order in which they are shown, with the JSON
/// shown when the request does not name them. Source: OpenAI's response object; Open Responses demands every one.
const DEFAULTS: [(&str, &str); 19] = [
    ("max_output_tokens", "null"),
    ("max_tool_calls", "null"),
    ("parallel_tool_calls", "true"),
    ("presence_penalty", "0.0"),
    ("frequency_penalty", "0.0"),
    ("prompt_cache_key", "null"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("safety_identifier", "null"),
    ("service_tier", r#""default""#),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", r#""auto""#),
    ("tools", "[]"),
    ("top_logprobs", "0"),
    ("top_p", "1.0"),
    ("truncation", r#""disabled""#),
    ("user", "null"),
    ("metadata", "{}"),
    ("prompt_cache_retention", ""),
];

/// The settings of a response as one JSON object, from the request's instructions and its given parameters.
///
/// Fails when `parameters` is not one JSON object, or a member that is looked into (`tools`, `text`, `reasoning`) has
/// another shape than the request check lets through.
pub fn settings(
    instructions: Option<&str>,
    parameters: &[u8],
) -> Result<String, serde_json::Error> {
    let given = RawObject::parse(if parameters.is_empty() {
        b"{}"
    } else {
        parameters
    })?;
    let mut writer = ObjectWriter::new();
    match instructions {
        Some(text) => writer.string("instructions", text),
        None => writer.raw("instructions", "null"),
    };
    for (name, default) in DEFAULTS {
        let shown: Cow<'_, str> = match (name, given.get(name)) {
            (_, None) if default.is_empty() => continue,
            (_, None) => default.into(),
            ("tools", Some(tools)) => tools_shown(tools)?.into(),
            ("text", Some(text)) => text_shown(text)?.into(),
            ("reasoning", Some(reasoning)) => reasoning_shown(reasoning)?.into(),
            ("service_tier", Some(r#""auto""#)) => r#""default""#.into(),
            ("service_tier", Some(r#""fast""#)) => r#""priority""#.into(),
            (_, Some(value)) => value.into(),
        };
        writer.raw(name, &shown);
    }
    Ok(writer.finish())
}

/// Function and MCP tools with all their members; every other tool as it came.
fn tools_shown(json: &str) -> Result<String, serde_json::Error> {
    let tools: Vec<&RawValue> = serde_json::from_str(json)?;
    let shown: Result<Vec<_>, _> = tools.iter().map(|tool| tool_shown(tool.get())).collect();
    Ok(format!("[{}]", shown?.join(",")))
}

/// Members that a shown function tool always has.
const MEMBERS: [(&str, &str); 5] = [
    ("type", r#""function""#),
    ("name", "null"),
    ("description", "null"),
    ("parameters", "null"),
    ("strict", "true"),
];

/// Members that a shown MCP tool always has. Source: OpenAI's response object.
const MCP_MEMBERS: [(&str, &str); 7] = [
    ("type", r#""mcp""#),
    ("allowed_tools", "null"),
    ("headers", "null"),
    ("require_approval", r#""always""#),
    ("server_description", "null"),
    ("server_label", "null"),
    ("server_url", "null"),
];

/// Members of an MCP tool that are between the client and the server: never shown, whoever put them there.
const SECRETS: [&str; 2] = ["headers", "authorization"];

fn tool_shown(json: &str) -> Result<String, serde_json::Error> {
    let tool = RawObject::parse(json.as_bytes())?;
    // However it is spelled: `"m\u0063p"` is one, too.
    let kind = tool.get("type").map(serde_json::from_str::<String>);
    let (members, secrets) = match kind.transpose()?.as_deref() {
        Some("function") => (&MEMBERS[..], &[][..]),
        Some("mcp") => (&MCP_MEMBERS[..], &SECRETS[..]),
        _ => return Ok(json.to_owned()),
    };
    let mut writer = ObjectWriter::new();
    for (name, default) in members {
        let given = tool.get(name).filter(|_| !secrets.contains(name));
        writer.raw(name, given.unwrap_or(default));
    }
    let further = tool.0.iter().filter(|(name, _)| {
        members.iter().all(|(known, _)| known != name) && !secrets.contains(&name.as_str())
    });
    for (name, value) in further {
        writer.raw(name, value.get());
    }
    Ok(writer.finish())
}

fn text_shown(json: &str) -> Result<String, serde_json::Error> {
    let text = RawObject::parse(json.as_bytes())?;
    let mut writer = ObjectWriter::new();
    writer.raw("format", text.get("format").unwrap_or(r#"{"type":"text"}"#));
    if let Some(verbosity) = text.get("verbosity") {
        writer.raw("verbosity", verbosity);
    }
    Ok(writer.finish())
}

fn reasoning_shown(json: &str) -> Result<String, serde_json::Error> {
    let reasoning = RawObject::parse(json.as_bytes())?;
    let mut writer = ObjectWriter::new();
    for name in ["effort", "summary"] {
        writer.raw(name, reasoning.get(name).unwrap_or("null"));
    }
    let further = reasoning
        .0
        .iter()
        .filter(|(name, _)| name != "effort" && name != "summary");
    for (name, value) in further {
        writer.raw(name, value.get());
    }
    Ok(writer.finish())
}

/// Whether a request asks to have `value` included: the `include` list of its parameters.
pub fn includes(parameters: &[u8], value: &str) -> bool {
    #[derive(Default, Deserialize)]
    struct Included {
        #[serde(default)]
        include: Vec<String>,
    }
    let included: Included = serde_json::from_slice(parameters).unwrap_or_default();
    included.include.iter().any(|name| name == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_settings_shows_the_defaults() {
        insta::assert_snapshot!(settings(None, b"").unwrap(), @r#"{"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"parallel_tool_calls":true,"presence_penalty":0.0,"frequency_penalty":0.0,"prompt_cache_key":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default","temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","user":null,"metadata":{}}"#);
    }

    #[test]
    fn credentials_of_mcp_servers_are_not_shown() {
        for kind in ["mcp", r"m\u0063p"] {
            let given = format!(
                r#"{{"tools":[{{"type":"{kind}","server_label":"s","server_url":"https://a.example/mcp",
                "he\u0061ders":{{"x":"secret"}},"authorization":"secret","x":1}}]}}"#
            );

            let shown = settings(None, given.as_bytes()).unwrap();

            let expected = format!(
                r#""tools":[{{"type":"{kind}","allowed_tools":null,"headers":null,"require_approval":"always","server_description":null,"server_label":"s","server_url":"https://a.example/mcp","x":1}}]"#
            );
            assert!(shown.contains(&expected), "{shown}");
            assert!(!shown.contains("secret"));
        }
    }

    #[test]
    fn given_settings_keep_their_spelling_and_function_tools_are_whole() {
        let given = br#"{"temperature":2e-1,"tools":[{"type":"function","name":"f","x":1.0},{"type":"web_search"}],
            "text":{"verbosity":null,"format":{"type":"json_object"}},"reasoning":{"effort":"low"},
            "service_tier":"auto","include":["reasoning.encrypted_content"]}"#;

        insta::assert_snapshot!(settings(Some("Be \"brief\"."), given).unwrap(), @r#"{"instructions":"Be \"brief\".","max_output_tokens":null,"max_tool_calls":null,"parallel_tool_calls":true,"presence_penalty":0.0,"frequency_penalty":0.0,"prompt_cache_key":null,"reasoning":{"effort":"low","summary":null},"safety_identifier":null,"service_tier":"default","temperature":2e-1,"text":{"format":{"type":"json_object"}},"tool_choice":"auto","tools":[{"type":"function","name":"f","description":null,"parameters":null,"strict":true,"x":1.0},{"type":"web_search"}],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","user":null,"metadata":{}}"#);
        assert!(includes(given, "reasoning.encrypted_content"));
        assert!(!includes(b"{}", "reasoning.encrypted_content"));
    }
}
