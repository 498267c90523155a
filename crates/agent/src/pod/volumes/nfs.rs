//! Directories of NFS servers.

use std::path::Path;

use super::What;
use super::tools::{run, text};

/// Mounts what `from` names.
pub(super) async fn mount_nfs(from: &str, at: &Path, options: &[String]) -> Result<(), What> {
    let kinds = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = |kinds: &str| kinds.lines().any(|line| line.ends_with("\tnfs") || line.ends_with("\tnfs4"));
    if !known(&kinds) && run("modprobe", &["nfs"]).await.is_err() {
        let why = format!("cannot mount {from}: this node's kernel has no NFS client");
        return Err(What::Refused(why));
    }
    std::fs::create_dir_all(at)?;
    run("mount", &nfs_arguments(from, &options.join(","), text(at)?)).await.map(drop)
}

/// Who may make Pods chooses the server: its name is no option of `mount`, whatever it begins with.
fn nfs_arguments<'a>(from: &'a str, options: &'a str, at: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["-t", "nfs"];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    arguments.extend(["--", from, at]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_name_is_no_option() {
        let arguments = nfs_arguments("-T/tmp/fstab:/x", "ro", "/at");
        assert_eq!(arguments, ["-t", "nfs", "-o", "ro", "--", "-T/tmp/fstab:/x", "/at"]);
    }
}
