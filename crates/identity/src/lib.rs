//! Who a request is from, and what they may do.
//!
//! **Owns**: users as the API sees them ([`UserInfo`]), the authenticators (client certificate,
//! signed token), the certificate authority and its TLS configurations, passwords, the authorizer
//! of nodes ([`node`]), and the role-based one with the roles that each new cloud starts with.
//!
//! **Must never know**: how objects are stored or served, any kind of our own beyond its name in a
//! rule, OpenStack's wire formats. It never blocks on I/O while a request is judged: all that
//! [`Authenticator`] and [`Authorizer`] need is in memory.
//!
//! Start reading at [`user`], then [`authn::Chain`] (request to user) and [`rbac::RbacAuthorizer`]
//! (user to decision).
#![forbid(unsafe_code)]

pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod node;
pub mod password;
pub mod pki;
pub mod rbac;
pub mod token;
pub mod user;

pub use authn::{Authenticator, AuthnError, PeerCertificate};
pub use authz::{Attributes, Authorizer, Decision};
pub use user::{Caller, UserInfo};

mod files;
