//! What is wrong with a setting, and where it came from.

use std::fmt;

/// A setting that cannot be used; its text is the one line that the operator sees.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct Error {
    pub origin: Origin,
    pub problem: String,
}

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The flag, with its dashes.
    Flag(&'static str),
    /// The name of the environment variable.
    Environment(String),
    /// The settings file and the key in it, such as `runs.max_steps`.
    File { path: String, key: String },
    /// Nowhere: the setting by which one would give it.
    Default(&'static str),
}

/// A value together with where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    pub value: T,
    pub origin: Origin,
}

impl Origin {
    /// The error that `problem` is with what was written here.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error {
            origin: self.clone(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Default(name) => f.write_str(name),
            Self::Environment(name) => f.write_str(name),
            Self::File { path, key } if key.is_empty() => f.write_str(path),
            Self::File { path, key } => write!(f, "{key} in {path}"),
        }
    }
}
