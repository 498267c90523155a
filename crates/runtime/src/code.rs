//! The memory that the program's own code takes.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ops::Range;

/// Unmaps the program's own code and constants, and says how many bytes of them were looked at. What is needed again comes back
/// from the page cache, at a fault for each 64 KiB; what start-up alone needed counts as this process' memory no longer, and the
/// kernel may have it back. Call it when start-up is over: it was a third of an idle cloud.
///
/// # Errors
/// The kernel does not tell what is mapped, or refuses.
pub fn unmap_code() -> std::io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let program = std::fs::read_link("/proc/self/exe")?;
    let ranges = code(&maps, &program.to_string_lossy());
    for range in &ranges {
        // SAFETY: these are private mappings of the program's file that were never writable (see `code`), so no page of them differs
        // from the file: one that is touched again is read from there, with the same bytes, and no pointer into them dangles. The
        // file can't change under a process that runs it (ETXTBSY), and keeps its content when it is removed.
        let done = unsafe { libc::madvise(range.start as *mut c_void, range.len(), libc::MADV_DONTNEED) };
        if done != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(ranges.iter().map(ExactSizeIterator::len).sum())
}

/// Addresses at which `program` is mapped and was never writable: its code, and its head, where linkers put constants. Other
/// mappings without the right to write, those of relocated data, were written before they lost it, and would lose that.
fn code(maps: &str, program: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for line in maps.lines() {
        // proc_pid_maps(5): address perms offset dev inode pathname.
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(rights), Some(offset)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let head = rights == "r--p" && offset.bytes().all(|digit| digit == b'0');
        if !(rights == "r-xp" || head) || !line.ends_with(program) {
            continue;
        }
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = address.split_once('-')
            && let (Some(start), Some(end)) = (number(start), number(end))
        {
            ranges.push(start..end);
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_once_writable_stays() {
        let maps = "\
561c77122000-561c78a21000 r--p 00000000 fe:00 123 /usr/bin/yunfan
561c78a21000-561c7cc95000 r-xp 018ff000 fe:00 123 /usr/bin/yunfan
561c7cc95000-561c7cf0d000 r--p 05b73000 fe:00 123 /usr/bin/yunfan
561c7cf0d000-561c7cf18000 rw-p 05dea000 fe:00 123 /usr/bin/yunfan
7f0000000000-7f0000001000 r-xp 00000000 fe:00 124 /lib/x86_64-linux-gnu/libc.so.6
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
";
        let found = code(maps, "/usr/bin/yunfan");
        assert_eq!(found, [0x561c77122000..0x561c78a21000, 0x561c78a21000..0x561c7cc95000]);
    }

    #[test]
    fn a_program_without_its_code_goes_on() {
        static TEXT: &str = "as it was";
        // KiB that are mapped of the program's constants and code.
        let resident = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").expect("what is mapped");
            let mut lines = maps.lines();
            let head = lines.find(|line| line.contains("r-xp")).expect("code");
            assert!(head.contains("/yunfan_runtime-"), "{head}");
            let line = lines.find(|line| line.starts_with("Rss:")).expect("Rss");
            line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("KiB")
        };
        // As if start-up had used all of it.
        let maps = std::fs::read_to_string("/proc/self/maps").expect("what is mapped");
        let program = std::fs::read_link("/proc/self/exe").expect("this program");
        for range in code(&maps, &program.to_string_lossy()) {
            // SAFETY: it maps pages of the program's file, and changes none.
            let done =
                unsafe { libc::madvise(range.start as *mut c_void, range.len(), libc::MADV_POPULATE_READ) };
            assert_eq!(done, 0, "Linux 5.14 or later is needed");
        }
        let before = resident();
        let unmapped = unmap_code().expect("to unmap");
        assert!(unmapped > 1 << 20, "{unmapped} bytes of code");
        // What goes on is mapped again, but not all of it.
        assert!(resident() < before, "{before} KiB before");
        assert_eq!(std::hint::black_box(TEXT), "as it was");
    }
}
