//! What is mounted in this process's mount namespace.

use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use crate::error::{Result, RuntimeError};

/// Unmounts everything that is mounted below a directory, not on it: it is about to be removed, or no one's any more.
///
/// # Errors
/// When a mount can't be undone.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let Ok(real) = std::fs::canonicalize(dir) else { return Ok(()) };
    // The last ones first: they may be on top of others.
    let below = |at: &&PathBuf| at.starts_with(&real) && **at != real;
    mounts()?.iter().rev().filter(below).try_for_each(|at| detach(at))
}

/// Unmounts what is mounted last at a place; who uses it keeps it.
///
/// # Errors
/// When it can't be undone.
pub fn detach(at: &Path) -> Result<()> {
    rustix::mount::unmount(at, UnmountFlags::DETACH)
        .map_err(|errno| RuntimeError::io("unmount", at)(errno.into()))
}

/// Places where something is mounted, in order; twice where two things are.
///
/// # Errors
/// When the table can't be read.
pub fn mounts() -> Result<Vec<PathBuf>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = std::fs::read(TABLE).map_err(RuntimeError::io("read", TABLE))?;
    Ok(places(&table))
}

/// The fifth field of each line, in which blanks and backslashes are written as octal numbers (`proc(5)`).
fn places(table: &[u8]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let fields =
        table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let plain = |field: &[u8]| {
        let mut out = Vec::with_capacity(field.len());
        let mut rest = field;
        while let Some((&first, behind)) = rest.split_first() {
            let digits = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
            match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
                Some(byte) => {
                    out.push(byte);
                    rest = &behind[3..];
                }
                None => {
                    out.push(first);
                    rest = behind;
                }
            }
        }
        std::ffi::OsString::from_vec(out).into()
    };
    fields.map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_with_odd_names_are_found() {
        let table =
            b"22 1 0:21 / /sys rw shared:7 - sysfs sysfs rw\n23 1 0:5 / /a\\040b\\134 rw - tmpfs t rw\n";
        assert_eq!(places(table), [PathBuf::from("/sys"), PathBuf::from("/a b\\")]);
        assert!(mounts().unwrap().contains(&PathBuf::from("/proc")));
    }
}
