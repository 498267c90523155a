//! The binary under test, and the images that the tests use.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::run;

/// The root of the repository. Cargo says where it runs tests: clones that share a build cache share what was compiled in another.
pub fn repository() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let told = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let tests = told.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        tests.parent().expect("the tests are in the repository").to_owned()
    })
}

/// The target directory: the test executable is in `TARGET/debug/deps`.
fn target() -> PathBuf {
    let own = std::env::current_exe().expect("the path of the test");
    own.ancestors().nth(3).expect("the test is in a target directory").to_owned()
}

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("YUNFAN") {
        return named.into();
    }
    let candidates = ["release", "debug"].map(|profile| target().join(profile).join("yunfan"));
    let found = candidates.iter().find(|candidate| candidate.exists());
    found
        .unwrap_or_else(|| panic!("no binary to test: `make build` makes {}", candidates[0].display()))
        .clone()
}

/// The directory with the real OpenStack client.
pub(crate) fn openstack_bin() -> &'static str {
    static BIN: OnceLock<String> = OnceLock::new();
    BIN.get_or_init(|| match std::env::var("YUNFAN_OPENSTACK_BIN") {
        Ok(named) => named,
        Err(_) => run(repository().join("scripts/openstack-client.sh"), &[]).ok(),
    })
}

/// The real `helm`.
pub fn helm() -> &'static str {
    static HELM: OnceLock<String> = OnceLock::new();
    HELM.get_or_init(|| match std::env::var("YUNFAN_HELM") {
        Ok(named) => named,
        Err(_) => run(repository().join("scripts/helm.sh"), &[]).ok(),
    })
}

/// The OpenID provider: it is given the files of its certificate and key.
pub fn openid_provider() -> &'static str {
    static PROVIDER: OnceLock<String> = OnceLock::new();
    PROVIDER.get_or_init(|| match std::env::var("YUNFAN_OIDC") {
        Ok(named) => named,
        Err(_) => run(repository().join("scripts/oidc.sh"), &[]).ok(),
    })
}

fn made_by(script: &str, made: &'static OnceLock<String>) -> &'static str {
    made.get_or_init(|| {
        let out = target().join("demo");
        let said = run(repository().join(script), &[&out.to_string_lossy()]).ok();
        said.lines().last().expect("the script prints a path").to_owned()
    })
}

/// The demo's web image: an OCI archive. It serves a page on `$PORT`, 8080 where there is none.
pub fn web_archive() -> &'static str {
    static MADE: OnceLock<String> = OnceLock::new();
    made_by("demo/web-image.sh", &MADE)
}

/// The demo's guest: a qcow2 disk that boots, serves a page on port 80 and runs its user data.
pub fn guest_disk() -> &'static str {
    static MADE: OnceLock<String> = OnceLock::new();
    made_by("demo/guest-image.sh", &MADE)
}

/// A qcow2 disk with nothing on it: a machine with it runs, and costs nothing.
pub fn empty_disk(dir: &Path) -> String {
    let path = dir.join("empty.qcow2").to_string_lossy().into_owned();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &path, "16M"]).ok();
    path
}
