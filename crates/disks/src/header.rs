//! What an uploaded file must look like before any other program may open it.
//!
//! qcow2 can name other files of the host (a backing file, a data file) and can ask for tables of any size. A file that does is
//! refused here, from its header alone; `qemu-img` sees only what passed.

use crate::{Error, Format};

/// Bytes of the file's beginning that the checks want (fewer when the file is shorter).
pub(crate) const HEAD_BYTES: usize = 34 << 10;
/// Where an ISO 9660 file system says what it is (ECMA-119, 8.1: the first volume descriptor is in sector 16).
const ISO_MARK: (usize, &[u8]) = (0x8001, b"CD001");

/// Largest first-level table: 32 MiB, QEMU's own limit.
const MAX_L1_ENTRIES: u32 = 4 << 20;
/// Most snapshots inside an image.
const MAX_SNAPSHOTS: u32 = 1024;
/// Incompatible feature bits: 0 dirty, 1 corrupt, 2 external data file, 3 compression type, 4 extended L2 entries.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const KNOWN: u64 = (1 << 3) | (1 << 4);

/// Formats that `raw` must not be mistaken for: where their mark lies, the mark, and their name.
const MARKS: [(usize, &[u8], &str); 8] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"conectix", "VHD"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"QED\0", "QED"),
    (0, b"LUKS\xba\xbe", "LUKS (encrypted)"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
];

/// Checks a file's beginning. Returns the size of the disk that a guest sees, in bytes.
pub(crate) fn check(format: Format, head: &[u8], file_bytes: u64) -> Result<u64, Error> {
    match format {
        Format::Raw => check_raw(head, file_bytes),
        Format::Iso => check_iso(head, file_bytes),
        Format::Qcow2 => check_qcow2(head, file_bytes),
        // Those are checked with more of the file than its beginning.
        _ => bad("it is of another format"),
    }
}

/// As [`check`], for a qcow2 disk of ours that guests have written to: it may have a backing file, which whoever opens it must
/// leave out.
pub(crate) fn check_disk(head: &[u8], file_bytes: u64) -> Result<u64, Error> {
    let mut head = head.to_vec();
    if let Some(backing) = head.get_mut(8..20) {
        backing.fill(0);
    }
    check_qcow2(&head, file_bytes)
}

fn bad<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::BadImage { message: message.into() })
}

fn mark(head: &[u8]) -> Option<&'static str> {
    MARKS
        .iter()
        .find(|(at, mark, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(mark)))
        .map(|(_, _, name)| *name)
}

fn check_raw(head: &[u8], file_bytes: u64) -> Result<u64, Error> {
    if let Some(name) = mark(head) {
        return bad(format!(
            "it was declared raw but is {name}: declare its true format, or convert it with `qemu-img convert`"
        ));
    }
    // A disk has whole sectors; one of no bytes, which clients upload that are given no file, has one of zeros.
    Ok(file_bytes.max(1).next_multiple_of(512))
}

fn check_iso(head: &[u8], file_bytes: u64) -> Result<u64, Error> {
    let (at, mark) = ISO_MARK;
    if !head.get(at..).is_some_and(|rest| rest.starts_with(mark)) {
        return bad("it was declared iso but has no ISO 9660 file system: declare its true format");
    }
    check_raw(head, file_bytes)
}

/// Big-endian numbers at fixed places.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> Result<u32, Error> {
        let bytes = self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or_else(cut_off)
    }

    fn u64(&self, at: usize) -> Result<u64, Error> {
        let bytes = self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_be_bytes).ok_or_else(cut_off)
    }
}

fn cut_off() -> Error {
    Error::BadImage { message: "its qcow2 header is cut off: upload the whole file".into() }
}

fn check_qcow2(head: &[u8], file_bytes: u64) -> Result<u64, Error> {
    if !head.starts_with(b"QFI\xfb") {
        let is = mark(head).map_or_else(|| "has no qcow2 header".to_owned(), |name| format!("is {name}"));
        return bad(format!(
            "it was declared qcow2 but {is}: declare its true format, or convert it with `qemu-img convert -O qcow2`"
        ));
    }
    let fields = Fields(head);
    let version = fields.u32(4)?;
    if version != 2 && version != 3 {
        return bad(format!("its qcow2 version is {version}; 2 and 3 are known"));
    }
    if fields.u64(8)? != 0 || fields.u32(16)? != 0 {
        return bad(
            "it needs a backing file, which images may not: flatten it with `qemu-img convert -O qcow2`",
        );
    }
    let cluster_bits = fields.u32(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return bad(format!("its cluster size of 2^{cluster_bits} bytes is outside of 2^9 to 2^21"));
    }
    let virtual_bytes = fields.u64(24)?;
    if virtual_bytes == 0 || !virtual_bytes.is_multiple_of(512) {
        return bad(format!("its disk size of {virtual_bytes} bytes is no whole number of sectors above 0"));
    }
    if fields.u32(32)? != 0 {
        return bad("it is encrypted, which is not supported: decrypt it with `qemu-img convert`");
    }
    let l1_entries = fields.u32(36)?;
    if l1_entries > MAX_L1_ENTRIES {
        return bad(format!("its first-level table of {l1_entries} entries is longer than {MAX_L1_ENTRIES}"));
    }
    check_place("first-level table", fields.u64(40)?, u64::from(l1_entries) * 8, cluster_bits, file_bytes)?;
    let refcount_bytes = u64::from(fields.u32(56)?) << cluster_bits;
    check_place("refcount table", fields.u64(48)?, refcount_bytes, cluster_bits, file_bytes)?;
    if fields.u32(60)? > MAX_SNAPSHOTS {
        return bad(format!("it holds more than {MAX_SNAPSHOTS} snapshots"));
    }
    if version == 3 {
        check_features(fields.u64(72)?, fields.u32(96)?, fields.u32(100)?)?;
    }
    Ok(virtual_bytes)
}

fn check_place(what: &str, offset: u64, bytes: u64, cluster_bits: u32, file_bytes: u64) -> Result<(), Error> {
    if bytes == 0 || offset == 0 || !offset.is_multiple_of(1 << cluster_bits) {
        return bad(format!("its {what} is missing or misplaced"));
    }
    match offset.checked_add(bytes) {
        Some(end) if end <= file_bytes.next_multiple_of(1 << cluster_bits) => Ok(()),
        _ => bad(format!("its {what} lies behind the end of the file: upload the whole file")),
    }
}

fn check_features(incompatible: u64, refcount_order: u32, header_bytes: u32) -> Result<(), Error> {
    if incompatible & DATA_FILE != 0 {
        return bad(
            "it keeps its data in another file, which images may not: flatten it with `qemu-img convert -O qcow2`",
        );
    }
    if incompatible & CORRUPT != 0 {
        return bad("it is marked as corrupt: repair it with `qemu-img check -r all`");
    }
    if incompatible & DIRTY != 0 {
        return bad("it was not closed cleanly: repair it with `qemu-img check -r all`");
    }
    if incompatible & !KNOWN != 0 {
        return bad(format!("it uses features that are not known here (bits {:#x})", incompatible & !KNOWN));
    }
    if refcount_order > 6 || !(104..=4096).contains(&header_bytes) {
        return bad("its qcow2 header makes no sense");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A good header of version 3 with 64 KiB clusters and 1 GiB.
    fn header() -> Vec<u8> {
        let mut head = vec![0_u8; HEAD_BYTES];
        head[..4].copy_from_slice(b"QFI\xfb");
        for (at, value) in [(4, 3_u32), (20, 16), (36, 2), (56, 1), (96, 4), (100, 112)] {
            head[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        for (at, value) in [(24, 1_u64 << 30), (40, 0x3_0000), (48, 0x1_0000)] {
            head[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        head
    }

    fn with(at: usize, bytes: &[u8]) -> Result<u64, Error> {
        let mut head = header();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        check(Format::Qcow2, &head, 0x4_0000)
    }

    #[test]
    fn a_raw_disk_has_whole_sectors() {
        for (bytes, size) in [(0, 512), (1, 512), (512, 512), (513, 1024)] {
            assert_eq!(check(Format::Raw, &[], bytes).unwrap(), size, "{bytes}");
        }
        assert!(check(Format::Iso, &[], 0).is_err());
    }

    #[test]
    fn each_danger_is_refused_by_name() {
        assert_eq!(with(0, b"QFI\xfb").unwrap(), 1 << 30);
        let cases: [(usize, &[u8], &str); 12] = [
            (4, &[0, 0, 0, 4], "version is 4"),
            (8, &[0, 0, 0, 0, 0, 0, 1, 0], "backing file"),
            (20, &[0, 0, 0, 8], "cluster size"),
            (20, &[0, 0, 0, 63], "cluster size"),
            (24, &[0; 8], "disk size"),
            (32, &[0, 0, 0, 2], "encrypted"),
            (36, &[0x7f, 0, 0, 0], "first-level table"),
            (40, &[0x7f, 0, 0, 0, 0, 1, 0, 0], "behind the end"),
            (56, &[0xff, 0, 0, 0], "refcount table"),
            (72, &[0, 0, 0, 0, 0, 0, 0, 4], "data in another file"),
            (72, &[0, 0, 0, 0, 0, 0, 0, 2], "corrupt"),
            (72, &[0, 0, 0, 0, 0, 0, 1, 0], "not known"),
        ];
        for (at, bytes, words) in cases {
            let error = with(at, bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let mut of_ours = header();
        of_ours[8..16].copy_from_slice(&256_u64.to_be_bytes());
        assert_eq!(check_disk(&of_ours, 0x4_0000).unwrap(), 1 << 30);
        of_ours[79] = 4;
        assert!(check_disk(&of_ours, 0x4_0000).unwrap_err().to_string().contains("data in another file"));
        for length in 0..104 {
            assert!(check(Format::Qcow2, &header()[..length], 0x4_0000).is_err(), "{length}");
        }
    }

    #[test]
    fn raw_is_not_taken_for_what_it_hides() {
        assert_eq!(check(Format::Raw, b"anything", 1000).unwrap(), 1024);
        for (at, mark, name) in MARKS {
            let mut head = vec![0; at];
            head.extend_from_slice(mark);
            head.resize(512, 0);
            assert!(check(Format::Raw, &head, 512).unwrap_err().to_string().contains(name));
        }
        assert!(check(Format::Qcow2, b"KDMV....", 512).unwrap_err().to_string().contains("VMDK"));
    }

    #[test]
    fn random_headers_never_panic() {
        // xorshift: the same numbers on each run.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut head = header();
            for _ in 0..8 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                head[(seed % 104) as usize] = (seed >> 32) as u8;
            }
            let _ = check(Format::Qcow2, &head, seed);
        }
    }
}
