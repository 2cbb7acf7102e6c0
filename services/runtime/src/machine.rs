//! Which machine this is.

use std::fs;

/// What tells this machine, since it was started, and the network that this process sees from all others: of two processes
/// with the same one, only one can listen on an address. None where it cannot be told.
pub fn identity() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let network = fs::read_link("/proc/self/ns/net").ok()?;
    Some(format!("{} {}", boot.trim(), network.display()))
}
