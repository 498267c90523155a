//! Directories and files of the node that Pods are shown (`hostPath`).

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use super::What;

/// Makes sure that there is what `kind` asks for (Kubernetes API, HostPathVolumeSource, `type`).
pub(super) fn check(path: &Path, kind: &str) -> Result<(), What> {
    let wrong = |expected: &str| {
        Err(What::Refused(format!("hostPath type check failed: {} is not {expected}", path.display())))
    };
    let found = std::fs::metadata(path).ok();
    let is = |test: fn(&std::fs::Metadata) -> bool| found.as_ref().is_some_and(test);
    match kind {
        // Container runtimes make a directory of what is missing.
        "" if found.is_none() => make_dir(path),
        "" => Ok(()),
        "Directory" if !is(|found| found.is_dir()) => wrong("a directory"),
        "File" if !is(|found| found.is_file()) => wrong("a file"),
        "Socket" if !is(|found| found.file_type().is_socket()) => wrong("a socket file"),
        "CharDevice" if !is(|found| found.file_type().is_char_device()) => wrong("a character device"),
        "BlockDevice" if !is(|found| found.file_type().is_block_device()) => wrong("a block device"),
        "DirectoryOrCreate" => match found {
            Some(found) if found.is_dir() => Ok(()),
            Some(_) => wrong("a directory"),
            None => make_dir(path),
        },
        "FileOrCreate" => match found {
            Some(found) if found.is_file() => Ok(()),
            Some(_) => wrong("a file"),
            None => make_file(path),
        },
        "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice" => Ok(()),
        other => Err(What::Refused(format!("{other} is an invalid volume type"))),
    }
}

fn make_dir(path: &Path) -> Result<(), What> {
    std::fs::create_dir_all(path)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

fn make_file(path: &Path) -> Result<(), What> {
    std::fs::File::create_new(path)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_must_be_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let says = |name: &str, kind: &str| check(&at(name), kind).map_err(|what| what.to_string());
        for (name, kind) in [
            ("whatever", ""),
            ("whatever", "Directory"),
            ("file", "File"),
            ("socket", "Socket"),
            ("made/deep", "DirectoryOrCreate"),
            ("made/deep", "Directory"),
            ("made/file", "FileOrCreate"),
            ("made/file", "FileOrCreate"),
            ("../../dev/null", "CharDevice"),
        ] {
            let path = if kind == "CharDevice" { "/dev/null".into() } else { at(name) };
            assert!(check(&path, kind).is_ok(), "{name} {kind}");
        }
        for (name, kind, expected) in [
            ("none", "Directory", "is not a directory"),
            ("file", "DirectoryOrCreate", "is not a directory"),
            ("made", "File", "is not a file"),
            ("file", "Socket", "is not a socket file"),
            ("file", "BlockDevice", "is not a block device"),
            ("file", "Magic", "Magic is an invalid volume type"),
        ] {
            let text = says(name, kind).unwrap_err();
            assert!(text.ends_with(expected), "{text}");
        }
        drop(socket);
    }
}
