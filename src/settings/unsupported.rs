//! Settings that are understood and refused, because they would silently do nothing.

use super::error::Error;
use super::file::File;

/// Refuses what no part of the server acts on yet.
pub fn refuse(file: &File) -> Result<(), Error> {
    let allows_images = file.content.server.allow_remote_images == Some(true);
    let of_agents = file.content.agents.iter().map(|agent| {
        (
            "agents.require_approval",
            !agent.require_approval.is_empty(),
        )
    });

    match std::iter::once(("server.allow_remote_images", allows_images))
        .chain(of_agents)
        .find(|(_, is_used)| *is_used)
    {
        Some((key, _)) => Err(file.at(key).error("not supported yet; remove it")),
        None => Ok(()),
    }
}
