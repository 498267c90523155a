//! What is wrong with a configuration.

use std::path::Path;

/// A flag or a file that cannot be used. The message says where, what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}{why}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct ConfigError {
    /// The flag, or the file's path.
    pub place: String,
    /// The field in the file, or the line; empty where it is the whole.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub why: String,
}

impl ConfigError {
    /// A flag is at fault.
    pub(crate) fn flag(flag: &str, why: impl Into<String>) -> Self {
        Self { place: flag.to_owned(), field: String::new(), why: why.into() }
    }

    /// A file is at fault.
    pub(crate) fn file(path: &Path, field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { place: path.display().to_string(), field: field.into(), why: why.into() }
    }
}

/// What is wrong with one field of a file that is being read; who reads it knows its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) field: String,
    pub(crate) why: String,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }

    pub(crate) fn of(self, path: &Path) -> ConfigError {
        ConfigError::file(path, self.field, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_and_why() {
        let error = Fault::new("authorizers[0].name", "is missing").of(Path::new("/etc/a.yaml"));
        assert_eq!(error.to_string(), "/etc/a.yaml: authorizers[0].name: is missing");
        assert_eq!(ConfigError::flag("--x", "is empty").to_string(), "--x: is empty");
    }
}
