//! What a Talaria consists of.

/// One of the parts that can be processes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Gateway,
    Orchestrator,
    Store,
    Postgres,
}

/// How many processes of each there are. Postgres is always one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instances {
    pub gateways: u32,
    pub orchestrators: u32,
    pub stores: u32,
}

impl Part {
    /// In the order in which a request passes them.
    pub const ALL: [Self; 4] = [
        Self::Gateway,
        Self::Orchestrator,
        Self::Store,
        Self::Postgres,
    ];

    /// Its name; for a service, the command that starts it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Orchestrator => "orchestrator",
            Self::Store => "store",
            Self::Postgres => "postgres",
        }
    }
}

impl Instances {
    /// One of each.
    pub const ONE: Self = Self {
        gateways: 1,
        orchestrators: 1,
        stores: 1,
    };

    /// So many of this part, and one of each other.
    pub fn of(part: Part, count: u32) -> Self {
        let mut instances = Self::ONE;
        match part {
            Part::Gateway => instances.gateways = count,
            Part::Orchestrator => instances.orchestrators = count,
            Part::Store => instances.stores = count,
            Part::Postgres => {}
        }
        instances
    }
}
