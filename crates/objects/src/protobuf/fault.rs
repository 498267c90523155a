//! What is wrong with a message, and where.

use std::fmt;

/// A fault in the bytes of a message.
#[derive(Debug)]
pub(super) struct Fault {
    /// From the innermost field outwards, since it grows while the error goes up.
    path: Vec<String>,
    what: String,
}

impl Fault {
    /// A fault at the place where reading stands.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { path: Vec::new(), what: what.into() }
    }

    /// The same fault, seen from the message that has the field.
    pub(super) fn under(mut self, field: &str) -> Self {
        // The fields of an inlined message are its owner's.
        if !field.is_empty() {
            self.path.push(field.to_owned());
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, field) in self.path.iter().rev().enumerate() {
            write!(f, "{}{field}", if at == 0 { "" } else { "." })?;
        }
        write!(f, "{}{}", if self.path.is_empty() { "" } else { ": " }, self.what)
    }
}
