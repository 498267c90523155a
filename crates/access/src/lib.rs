//! Who may come in and who may do what, as the operator of a cloud configures it.
//!
//! **Owns** the authenticators ([`authenticate`]) and the chain of authorizers ([`authorize`]) that flags and files describe, with
//! the names that kube-apiserver has for them, the servers elsewhere that they ask, and the following of files that change.
//!
//! **Must never know** how objects are stored or served. What looks things up in the cloud's own objects (roles, nodes)
//! is handed in by whoever has them. Judging from memory is `yunfan-identity`'s; here is what may have to wait.
//!
//! A server elsewhere may hang, lie or die: every question has a time, every answer a size, and there are
//! so many questions at one time and no more.
//!
//! **Start reading** at [`authenticate::Authentication`] and [`authorize::Judge`].
#![forbid(unsafe_code)]

pub mod authenticate;
pub mod authorize;

mod conditions;
mod error;
mod files;
mod kept;
mod remote;
#[cfg(test)]
mod testing;

use std::time::Duration;

pub use authenticate::{
    Authentication, AuthenticationOptions, BasicError, HeaderOptions, Known, OidcOptions, TokenError,
};
pub use authorize::{Authorization, AuthorizationOptions, Judge};
pub use error::ConfigError;

/// A duration as Go writes them (`1m30s`); `None` for what is none, or less than nothing.
pub fn duration(text: &str) -> Option<Duration> {
    let nanos = yunfan_cel::parse_duration(text)?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}
