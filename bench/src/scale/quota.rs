//! A share of one core for some processes: by a CPU quota of Linux' control groups, and by pinning.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::processes::{self, Group};

/// Where the first version of control groups counts CPU time, and where the second does.
const V1: &str = "/sys/fs/cgroup/cpu";
const V2: &str = "/sys/fs/cgroup";
/// The smallest quota that Linux takes, in µs; one share is as much in each period.
const SHARE_US: u32 = 1000;

/// A control group of ours. Dropping it lets its processes go.
pub struct Quota {
    directory: PathBuf,
    parent: &'static Path,
}

impl Quota {
    /// A new group with so many times `share` per cent of one core.
    pub fn new(name: &str, share: u32, times: u32) -> anyhow::Result<Self> {
        let period = SHARE_US * 100 / share;
        let quota = SHARE_US * times;
        let has_v1 = Path::new(V1).join("cpu.shares").exists();
        let parent = Path::new(if has_v1 { V1 } else { V2 });
        let directory = parent.join(format!("talaria-bench-{}-{name}", std::process::id()));
        fs::create_dir(&directory)
            .with_context(|| format!("creating the control group {}", directory.display()))?;
        let group = Self { directory, parent };
        if has_v1 {
            group.write("cpu.cfs_period_us", &period.to_string())?;
            group.write("cpu.cfs_quota_us", &quota.to_string())?;
        } else {
            group.write("cpu.max", &format!("{quota} {period}"))?;
        }
        Ok(group)
    }

    /// Puts processes into it; what they start follows them.
    pub fn hold(&self, group: &Group) -> anyhow::Result<()> {
        for pid in processes::pids(group)? {
            self.write("cgroup.procs", &pid.to_string())?;
        }
        Ok(())
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, text).with_context(|| format!("writing {text:?} to {}", path.display()))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let held = fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        for pid in held.lines() {
            // One that has ended needs no other group.
            drop(fs::write(self.parent.join("cgroup.procs"), pid));
        }
        if let Err(error) = fs::remove_dir(&self.directory) {
            eprintln!("removing {}: {error}", self.directory.display());
        }
    }
}

/// Says why processes could not be given shares of a core, if so.
pub fn check() -> anyhow::Result<()> {
    Quota::new("check", 100, 1)?;
    cores()?;
    Ok(())
}

/// Two cores that this process may use.
pub fn cores() -> anyhow::Result<[usize; 2]> {
    let allowed = sched_getaffinity(None).context("asking for this process' cores")?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&core| allowed.is_set(core))
        .collect();
    match cores[..] {
        [first, second, ..] => Ok([first, second]),
        _ => bail!("there is only one core"),
    }
}

/// Binds all threads of processes to a core; what they start is bound to it, too.
pub fn pin(group: &Group, core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    for pid in processes::pids(group)? {
        let directory = format!("/proc/{pid}/task");
        let threads = fs::read_dir(&directory).with_context(|| format!("reading {directory}"))?;
        let ids = threads
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Pid::from_raw);
        for id in ids {
            sched_setaffinity(Some(id), &set)
                .with_context(|| format!("binding a thread of {pid} to core {core}"))?;
        }
    }
    Ok(())
}

/// Binds this process, and so what it will start, to a core.
pub fn pin_self(core: usize) -> anyhow::Result<()> {
    let own = Group {
        services: vec![std::process::id()],
        postgres: None,
    };
    ensure!(
        processes::pids(&own)?.len() == 1,
        "this process has started others before it was bound to a core"
    );
    pin(&own, core)
}
