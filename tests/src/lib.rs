//! End-to-end tests: the real binary, driven by real clients.
//!
//! **Owns**: what the tests share: starting, killing and removing clouds ([`Cloud`]), running clients ([`Ran`]), waiting for
//! conditions ([`until`]), and looking at the host ([`host`]).
//!
//! **Must never know**: any crate of the product. The tests see what a user sees: the command line, the two doors, the host.
//!
//! Start reading at `cloud.rs`; the tests are the files beside `src`, one topic each.
//!
//! The binary is `$YUNFAN`, else the one in the target directory (release, then debug). The real `openstack` is in
//! `$YUNFAN_OPENSTACK_BIN`, else where `scripts/openstack-client.sh` puts it; so with `helm`, in
//! `$YUNFAN_HELM` or from `scripts/helm.sh`, and the OpenID provider, in `$YUNFAN_OIDC` or from `scripts/oidc.sh`. Each `kubectl` at hand is tried where versions differ ([`kubectls`]).
//! `YUNFAN_E2E_KEEP=1` keeps the directory of a test that failed. Many clouds may run at once on one host: each takes a [`slot`](Slot) of ports and address ranges.
#![forbid(unsafe_code)]

mod cloud;
pub mod compare;
mod containerd;
mod etcd;
mod files;
mod hook;
pub mod host;
mod kubectls;
pub mod marker;
mod parts;
pub mod registry;
mod run;
mod slot;
mod tenant;
mod wait;

pub use cloud::{Builder, Cloud};
pub use containerd::Containerd;
pub use etcd::Etcd;
pub use files::{binary, empty_disk, guest_disk, helm, openid_provider, repository, web_archive};
pub use hook::{Hook, HookAuthority};
pub use kubectls::{Kubectl, kubectls};
pub use run::{Ran, Running, run, run_with, run_within};
pub use slot::Slot;
pub use tenant::Tenant;
pub use wait::{seconds, until};
