//! What the parts of a Talaria have used, and what they use meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::database::{Committed, Session, Written};
use crate::processes;
use crate::stage::{Part, Talaria};

/// What has been used so far.
pub struct Usage {
    pub cpu: BTreeMap<Part, Duration>,
    pub written: Written,
    pub committed: Committed,
}

/// Looks at everything that is counted.
pub async fn usage(talaria: &Talaria, session: &Session) -> anyhow::Result<Usage> {
    Ok(Usage {
        cpu: cpu(talaria)?,
        written: session.written().await?,
        committed: session.committed().await?,
    })
}

/// The CPU time of each part so far.
pub fn cpu(talaria: &Talaria) -> anyhow::Result<BTreeMap<Part, Duration>> {
    let of_part = |part| {
        let used = processes::cpu(&talaria.part(part))?;
        anyhow::Ok((part, used.server + used.postgres))
    };
    Part::ALL.into_iter().map(of_part).collect()
}

/// The memory of each part, in KiB (PSS).
pub fn memory_kib(talaria: &Talaria) -> anyhow::Result<BTreeMap<Part, f64>> {
    let of_part = |part| {
        let held = processes::memory_kib(&talaria.part(part))?;
        anyhow::Ok((part, f64::from(held.server + held.postgres)))
    };
    Part::ALL.into_iter().map(of_part).collect()
}
