//! Servers that are started for one measurement, where what they did before would change it.

use crate::cli::Subject;
use crate::stage::{Process, Stage, Talaria, Target};

/// A server for one measurement.
pub enum Fresh {
    Proxy(Process),
    Talaria(Talaria),
}

impl Fresh {
    /// Starts one for this subject; the mock upstream is nothing that is measured.
    pub async fn start(stage: &Stage, subject: Subject) -> anyhow::Result<Option<Self>> {
        if subject == Subject::Proxy {
            return Ok(Some(Self::Proxy(stage.start_proxy().await?)));
        }
        let Some(shape) = subject.shape() else {
            return Ok(None);
        };
        Ok(Some(Self::Talaria(stage.start_talaria(shape).await?)))
    }

    /// Where it is reached, and what it consists of.
    pub fn target(&self) -> Target {
        match self {
            Self::Proxy(process) => process.target(),
            Self::Talaria(talaria) => talaria.target(),
        }
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Proxy(process) => process.stop().await,
            Self::Talaria(talaria) => talaria.stop().await,
        }
    }
}
