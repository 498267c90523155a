//! Variables that stand in a file of a volume (`valueFrom.fileKeyRef`): lines `NAME='value'`.

use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Bytes of a file that are read; a longer one is refused.
const MAX_FILE: u64 = 1024 * 1024;

/// The value of `key` in the file at `path` of a volume; empty where it has none.
///
/// # Errors
/// What is wrong with the file. Links lead nowhere out of the volume.
pub(super) fn value(volume: &Path, path: &str, key: &str) -> Result<String, String> {
    let text = read(volume, Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
    parse(&text, key).map_err(|what| format!("{path}: {what}"))
}

fn read(volume: &Path, path: &Path) -> std::io::Result<String> {
    let base = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A pipe in its place would be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = std::fs::File::from(rustix::fs::openat2(base, path, flags, Mode::empty(), inside)?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut text = String::new();
    if file.take(MAX_FILE + 1).read_to_string(&mut text)? as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// Kubernetes' rules for such files (API reference, FileKeySelector): values stand in single quotes, over several lines too; comments begin with
/// `#`. The first of several is meant, and what comes behind it is not looked at.
fn parse(text: &str, key: &str) -> Result<String, String> {
    let blank = [' ', '\t'];
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    while let Some((at, line)) = lines.next() {
        let wrong = |what: &str| Err(format!("invalid environment variable format at line {at}: {what}"));
        let line = line.trim_start_matches(blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return wrong("missing '='") };
        if name.is_empty() {
            return wrong("empty variable name");
        }
        if name.ends_with(blank) {
            return wrong("whitespace before '=' is not allowed");
        }
        if value.starts_with(blank) {
            // As in a shell: nothing is assigned.
            match name == key {
                true => return Ok(String::new()),
                false => continue,
            }
        }
        let Some(mut rest) = value.strip_prefix('\'') else {
            return wrong("value must be enclosed in single quotes");
        };
        let mut whole = String::new();
        loop {
            if let Some((inside, behind)) = rest.split_once('\'') {
                whole.push_str(inside);
                let behind = behind.trim_start_matches(blank);
                if !behind.is_empty() && !behind.starts_with('#') {
                    return wrong("unexpected content after closing quote");
                }
                break;
            }
            whole.push_str(rest);
            whole.push('\n');
            match lines.next() {
                Some((_, next)) => rest = next,
                None => return wrong("unclosed single quote"),
            }
        }
        if name == key {
            return Ok(whole);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_quotes() {
        let text = "# a comment\n\n  A='1'\nB='two\nlines' # more\nC= '3'\nA='later'\n";
        for (key, value) in [("A", "1"), ("B", "two\nlines"), ("C", ""), ("D", "")] {
            assert_eq!(parse(text, key).as_deref(), Ok(value), "{key}");
        }
        for (text, what) in [
            ("A", "line 1: missing '='"),
            ("='1'", "line 1: empty variable name"),
            ("\nA ='1'", "line 2: whitespace before '=' is not allowed"),
            ("A=1", "line 1: value must be enclosed in single quotes"),
            ("A='1'2", "line 1: unexpected content after closing quote"),
            ("X='1'\nA='1\n2", "line 2: unclosed single quote"),
        ] {
            let wrong = parse(text, "A").unwrap_err();
            assert!(wrong.ends_with(what), "{text:?}: {wrong}");
        }
        assert_eq!(parse("A='1'\nB=broken", "A").as_deref(), Ok("1"));
    }

    #[test]
    fn a_file_is_one_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(dir.path().join("secret"), "A='x'").unwrap();
        std::fs::write(volume.join("own"), "A='own'").unwrap();
        std::os::unix::fs::symlink("/own", volume.join("link")).unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("out")).unwrap();
        let of = |path: &str| value(&volume, path, "A");
        assert_eq!((of("own").as_deref(), of("link").as_deref()), (Ok("own"), Ok("own")));
        for path in ["out", "none", "."] {
            assert!(of(path).is_err(), "{path}");
        }
        std::fs::write(volume.join("own"), vec![b'\n'; 1 << 20]).unwrap();
        assert_eq!(of("own").as_deref(), Ok(""));
        std::fs::write(volume.join("own"), vec![b'\n'; (1 << 20) + 1]).unwrap();
        assert_eq!(of("own").unwrap_err(), "own: it has more than 1048576 bytes");
    }
}
