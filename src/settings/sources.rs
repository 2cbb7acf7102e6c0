//! Where settings are looked for: flags, then environment, then file.

use super::error::{Error, Found, Origin};
use super::file::File;

/// Everything but the flags, which the caller names one by one.
pub struct Sources<'a> {
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub file: Option<&'a File>,
}

impl Sources<'_> {
    /// The first of the variables that is set; an empty one counts as not set.
    pub fn environment(&self, names: &[&str]) -> Option<Found<String>> {
        names.iter().find_map(|name| {
            let value = (self.env)(name).filter(|value| !value.is_empty())?;
            Some(Found {
                value,
                origin: Origin::Environment((*name).to_owned()),
            })
        })
    }

    /// What the settings file says, as `read` finds it under `key`.
    pub fn file<T>(&self, key: &str, read: impl FnOnce(&File) -> Option<T>) -> Option<Found<T>> {
        let file = self.file?;
        read(file).map(|value| Found {
            value,
            origin: file.at(key),
        })
    }
}

/// What was given as a flag.
pub fn flag<T>(name: &'static str, value: Option<T>) -> Option<Found<T>> {
    value.map(|value| Found {
        value,
        origin: Origin::Flag(name),
    })
}

/// The value, or the error that asks for it under the name `setting`.
pub fn required<T>(
    found: Option<Found<T>>,
    setting: &'static str,
    asking: &str,
) -> Result<Found<T>, Error> {
    found.ok_or_else(|| Origin::Default(setting).error(asking))
}
