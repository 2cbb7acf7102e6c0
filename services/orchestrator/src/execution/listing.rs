//! Shows the tools of the servers that a request names: once for each server, before the model is first asked.

use std::collections::HashSet;

use talaria_domain::context::tool_listings;

use super::Execution;
use crate::tools::ToolList;

/// Whether the tools of the servers that the request names are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listings {
    ToShow,
    Shown,
}

/// An item that waits for a server's tools.
#[derive(Debug)]
pub(super) struct Listing {
    server_label: String,
    /// Its place in the output.
    index: usize,
}

impl Execution {
    /// Begins an item for each server whose tools the context does not show yet.
    pub(super) fn begin_listings(&mut self) -> Vec<Listing> {
        let before = std::mem::replace(&mut self.listings, Listings::Shown);
        let names_servers = self.toolbox.requested_labels().next().is_some();
        if before == Listings::Shown || !names_servers {
            return Vec::new();
        }
        let shown = self.listed_labels();
        let labels: Vec<String> = self
            .toolbox
            .requested_labels()
            .filter(|label| !shown.contains(*label))
            .map(str::to_owned)
            .collect();
        labels
            .into_iter()
            .map(|server_label| Listing {
                index: self.run.list_started(&server_label),
                server_label,
            })
            .collect()
    }

    /// Ends the items with what the servers said.
    pub(super) fn end_listings(&mut self, listings: Vec<Listing>, list: &ToolList) {
        for Listing {
            server_label,
            index,
        } in listings
        {
            let found = list
                .requested
                .iter()
                .find(|server| server.server_label == server_label);
            let listed = match found.map(|server| (&server.problem, &server.tools)) {
                Some((None, tools)) => {
                    let tools = list.tools[tools.clone()].iter();
                    Ok(tools.map(crate::tools::Tool::listed).collect())
                }
                Some((Some(problem), _)) => Err(problem.clone()),
                None => Err("The MCP server cannot be used.".to_owned()),
            };
            self.run.list_ended(index, listed);
        }
    }

    /// The servers whose tools the turns before, the input or the output so far show.
    fn listed_labels(&self) -> HashSet<String> {
        let output = self.run.output();
        let turns = self
            .turns
            .iter()
            .flat_map(|turn| turn.input.iter().chain(&turn.output));
        tool_listings(turns.chain(&self.input).chain(&output))
            .into_iter()
            .map(|listing| listing.server_label)
            .collect()
    }
}
