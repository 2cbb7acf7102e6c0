//! Settings that are understood and refused, because they would silently do nothing.

use super::error::Error;
use super::file::File;

/// Refuses what no part of the server acts on yet.
pub fn refuse(file: &File) -> Result<(), Error> {
    if file.content.server.allow_remote_images == Some(true) {
        let at = file.at("server.allow_remote_images");
        return Err(at.error("not supported yet; remove it"));
    }
    Ok(())
}
