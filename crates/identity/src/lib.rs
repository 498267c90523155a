//! Who a request is from, and what they may do.
//!
//! **Owns**: users as the API sees them ([`UserInfo`]), what requests prove who they are from with (client
//! certificates, signed tokens), the certificate authority and its TLS configurations, passwords, the authorizer
//! of nodes ([`node`]), and the role-based one with the roles that each new cloud starts with.
//!
//! **Must never know**: how objects are stored or served, any kind of our own beyond its name in a
//! rule, OpenStack's wire formats. It never blocks on I/O while a request is judged: all that
//! an [`Authorizer`] needs is in memory.
//!
//! Start reading at [`user`], then [`token`] (token to user) and [`rbac::RbacAuthorizer`]
//! (user to decision).
#![forbid(unsafe_code)]

pub mod abac;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod node;
pub mod password;
pub mod pki;
pub mod rbac;
pub mod signature;
pub mod throttle;
pub mod token;
pub mod user;

pub use authn::{AuthnError, PeerCertificate};
pub use authz::{Attributes, Authorizer, Decision};
pub use user::{Caller, UserInfo};

mod files;
