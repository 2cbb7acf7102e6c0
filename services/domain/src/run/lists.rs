//! The tools of the servers that the request names, shown as `mcp_list_tools` items.

use serde_json::{Value, json};
use talaria_proto::v1::event::Kind;
use talaria_proto::v1::{ItemProgress, OutputItem};

use super::{Run, index_u32};
use crate::ids::{ItemPlace, Side};
use crate::item::{Item, OpenItem, json_bytes};

const INTERRUPTED: &str =
    "The process that asked the server for its tools stopped before it had them.";

impl Run {
    /// Says that a server is asked for its tools, and returns the place of the item that will show them.
    pub fn list_started(&mut self, server_label: &str) -> usize {
        let index = self.snapshot.items().len();
        let place = ItemPlace {
            response: self.response,
            side: Side::Output,
            index: index_u32(index),
        };
        let added = json!({
            "id": place.id("mcp_list_tools"),
            "type": "mcp_list_tools",
            "server_label": server_label,
            "tools": [],
        });
        self.emit(Kind::OutputItemAdded(OutputItem {
            output_index: index_u32(index),
            item: json_bytes(&added),
            upstream_id: String::new(),
        }));
        self.list_progress(index, "in_progress");
        index
    }

    /// Shows the tools that the server has, or why nobody knows.
    pub fn list_ended(&mut self, index: usize, listed: Result<Vec<Value>, String>) {
        let Some(item) = self.list_at(index) else {
            return;
        };
        let mut object = item.added.clone();
        let end = match listed {
            Ok(tools) => {
                object.insert("tools".into(), tools.into());
                "completed"
            }
            Err(error) => {
                object.insert("error".into(), error.into());
                "failed"
            }
        };
        self.list_progress(index, end);
        self.emit(Kind::OutputItemDone(OutputItem {
            output_index: index_u32(index),
            item: json_bytes(&Value::Object(object)),
            upstream_id: String::new(),
        }));
    }

    /// Ends the lists that an earlier attempt did not come to read.
    pub(super) fn give_up_lists(&mut self) {
        for index in 0..self.snapshot.items().len() {
            self.list_ended(index, Err(INTERRUPTED.to_owned()));
        }
    }

    /// The list at `index`, if it is open and not an upstream's own.
    fn list_at(&self, index: usize) -> Option<&OpenItem> {
        match self.snapshot.items().get(index) {
            Some(Item::Open(item))
                if item.item_type == "mcp_list_tools" && item.upstream_id.is_empty() =>
            {
                Some(item)
            }
            Some(Item::Open(_) | Item::Done { .. }) | None => None,
        }
    }

    fn list_progress(&mut self, index: usize, progress: &str) {
        let Some(item) = self.list_at(index) else {
            return;
        };
        let progress = ItemProgress {
            r#type: format!("response.mcp_list_tools.{progress}"),
            item_id: item.id.clone(),
            output_index: index_u32(index),
            fields: bytes::Bytes::new(),
        };
        self.emit(Kind::ItemProgress(progress));
    }
}
