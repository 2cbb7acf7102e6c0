//! What processes and their descendants use: CPU time and memory, as Linux counts them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;
use std::time::Duration;

use anyhow::Context;

/// A figure for a server process and one for everything that it started (its Postgres).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split<T> {
    pub server: T,
    pub postgres: T,
}

/// The processes of one server.
#[derive(Clone, Debug)]
pub struct Group {
    /// One, or the services apart. What they started is their Postgres.
    pub services: Vec<u32>,
    /// A Postgres that none of them started.
    pub postgres: Option<u32>,
}

/// One line of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time, in clock ticks.
    own: u64,
    /// The same of children that have ended and were waited for.
    reaped: u64,
}

impl<T: Sub<Output = T>> Sub for Split<T> {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            server: self.server - earlier.server,
            postgres: self.postgres - earlier.postgres,
        }
    }
}

/// The CPU time that a server has used so far.
pub fn cpu(group: &Group) -> anyhow::Result<Split<Duration>> {
    let all = stats()?;
    let mut services = 0;
    for pid in &group.services {
        services += all.get(pid).context("a process has ended")?.own;
    }
    let postgres: u64 = group
        .postgres_processes(&all)
        .iter()
        .filter_map(|pid| all.get(pid))
        .map(|stat| stat.own + stat.reaped)
        .sum();
    Ok(Split {
        server: ticks(services),
        postgres: ticks(postgres),
    })
}

/// Every process of a server.
pub fn pids(group: &Group) -> anyhow::Result<Vec<u32>> {
    let mut pids = group.services.clone();
    pids.extend(group.postgres_processes(&stats()?));
    Ok(pids)
}

/// The memory of a server in KiB, shared pages counted in parts (PSS).
pub fn memory_kib(group: &Group) -> anyhow::Result<Split<i32>> {
    let postgres = group
        .postgres_processes(&stats()?)
        .into_iter()
        // One that ends at this moment uses nothing.
        .filter_map(|pid| pss_kib(pid).ok())
        .sum();
    Ok(Split {
        server: services_memory_kib(group)?,
        postgres,
    })
}

/// The memory of a server's services alone, which is quicker to find out: in KiB.
pub fn services_memory_kib(group: &Group) -> anyhow::Result<i32> {
    group.services.iter().map(|&pid| pss_kib(pid)).sum()
}

impl Group {
    /// The processes of its Postgres.
    fn postgres_processes(&self, all: &BTreeMap<u32, Stat>) -> Vec<u32> {
        let roots = self.services.iter().chain(&self.postgres);
        let mut found: Vec<u32> = roots.flat_map(|&root| descendants(all, root)).collect();
        found.extend(self.postgres);
        found
    }
}

fn pss_kib(pid: u32) -> anyhow::Result<i32> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{path} tells no Pss"))
}

fn stats() -> anyhow::Result<BTreeMap<u32, Stat>> {
    let pids = fs::read_dir("/proc")
        .context("reading /proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids
        .filter_map(|pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, Stat::parse(&text)?))
        })
        .collect())
}

fn descendants(all: &BTreeMap<u32, Stat>, root: u32) -> Vec<u32> {
    let children = |parent: u32| {
        all.iter()
            .filter(move |(_, stat)| stat.parent == parent)
            .map(|(pid, _)| *pid)
    };
    let mut found: Vec<u32> = children(root).collect();
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs(count)
        / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name before it may hold anything, also spaces and parentheses.
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<_> = after_name.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: number(11)? + number(12)?,
            reaped: number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_any_name() {
        let line = "42 (a) b (c) S 7 1 1 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7";

        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                parent: 7,
                own: 120,
                reaped: 7
            })
        );
        assert_eq!(Stat::parse("42 (a) S 7"), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth() {
        let stat = |parent| Stat {
            parent,
            own: 0,
            reaped: 0,
        };
        let all = BTreeMap::from([(1, stat(0)), (2, stat(1)), (3, stat(9)), (4, stat(2))]);

        assert_eq!(descendants(&all, 1), [2, 4]);
    }

    #[test]
    fn a_postgres_of_its_own_counts_with_what_it_started() {
        let stat = |parent| Stat {
            parent,
            own: 0,
            reaped: 0,
        };
        let all = BTreeMap::from([(1, stat(0)), (2, stat(0)), (3, stat(0)), (4, stat(3))]);
        let apart = Group {
            services: vec![1, 2],
            postgres: Some(3),
        };

        assert_eq!(apart.postgres_processes(&all), [4, 3]);
    }

    #[test]
    fn a_process_sees_its_own_use() {
        let own = Group {
            services: vec![std::process::id()],
            postgres: None,
        };

        assert!(memory_kib(&own).unwrap().server > 0);
        assert!(cpu(&own).is_ok());
    }
}
