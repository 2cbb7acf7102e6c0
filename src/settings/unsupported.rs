//! Settings that are understood and refused, because they would silently do nothing.

use super::error::Error;
use super::file::{File, OneOrMany, ToolItems};

/// Refuses what no part of the server acts on yet.
pub fn refuse(file: &File) -> Result<(), Error> {
    let of_parts = [
        ("mcp_servers", !file.content.mcp_servers.is_empty()),
        (
            "server.allow_remote_images",
            file.content.server.allow_remote_images == Some(true),
        ),
        (
            "upstreams.max_retries",
            file.content
                .upstreams
                .values()
                .any(|upstream| upstream.max_retries > Some(0)),
        ),
    ];
    let of_agents = file.content.agents.iter().flat_map(|agent| {
        let falls_back = matches!(&agent.upstream, Some(OneOrMany::Many(names)) if names.len() > 1);
        [
            ("agents.upstream", falls_back),
            ("agents.mcp_servers", !agent.mcp_servers.is_empty()),
            ("agents.tool_items", agent.tool_items == ToolItems::McpCall),
            (
                "agents.require_approval",
                !agent.require_approval.is_empty(),
            ),
        ]
    });

    match of_parts
        .into_iter()
        .chain(of_agents)
        .find(|(_, is_used)| *is_used)
    {
        Some((key, _)) => Err(file.at(key).error("not supported yet; remove it")),
        None => Ok(()),
    }
}
