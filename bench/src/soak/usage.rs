//! What a server holds at a moment.

use std::fs;

use anyhow::Context;

use crate::processes::{self, Group};

/// All of its processes together.
pub struct Usage {
    /// Shared pages counted in parts (PSS).
    pub server_mib: f64,
    pub postgres_mib: f64,
    /// Of the services.
    pub threads: f64,
    pub descriptors: f64,
}

/// What a server uses now.
pub fn usage(group: &Group) -> anyhow::Result<Usage> {
    let memory = processes::memory_kib(group)?;
    let mut threads = 0;
    let mut descriptors = 0;
    for pid in &group.services {
        threads += entries(&format!("/proc/{pid}/task"))?;
        descriptors += entries(&format!("/proc/{pid}/fd"))?;
    }
    Ok(Usage {
        server_mib: f64::from(memory.server) / 1024.0,
        postgres_mib: f64::from(memory.postgres) / 1024.0,
        threads: threads.into(),
        descriptors: descriptors.into(),
    })
}

fn entries(directory: &str) -> anyhow::Result<u32> {
    let entries = fs::read_dir(directory).with_context(|| format!("reading {directory}"))?;
    Ok(u32::try_from(entries.count())?)
}
