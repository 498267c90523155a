//! The versions of `kubectl` that are at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::run;

/// One version of `kubectl`.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// Where it is.
    pub program: PathBuf,
    /// Of its version, 1.*minor*.
    pub minor: u32,
}

/// One `kubectl` of each version, the oldest first: the one on the path, those that stand beside it as `kubectl.1.NN`, and
/// those in `$YUNFAN_KUBECTLS` (paths, separated by colons).
pub fn kubectls() -> Vec<Kubectl> {
    let mut programs: Vec<PathBuf> = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(default) =
        std::env::split_paths(&path).find_map(|dir| dir.join("kubectl").canonicalize().ok())
    {
        let beside = default.parent().and_then(|dir| dir.read_dir().ok());
        let named =
            |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1."));
        programs.push(default);
        programs.extend(beside.into_iter().flatten().flatten().map(|entry| entry.path()).filter(named));
    }
    let more = std::env::var_os("YUNFAN_KUBECTLS").unwrap_or_default();
    programs.extend(std::env::split_paths(&more).filter(|path| !path.as_os_str().is_empty()));
    let mut found = BTreeMap::new();
    for program in programs {
        let minor = minor(&program);
        found.entry(minor).or_insert(Kubectl { program, minor });
    }
    assert!(!found.is_empty(), "no kubectl on the path: `make deps` installs one");
    found.into_values().collect()
}

fn minor(program: &PathBuf) -> u32 {
    let version = run(program, &["version", "--client", "-o", "json"]).json();
    // Some builds say `32+`.
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+');
    minor.parse().unwrap_or_else(|_| panic!("{} has no version: {version}", program.display()))
}
