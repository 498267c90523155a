//! Formats of other hypervisors: what such a file must look like before any other program may open it.
//!
//! Each of them can name another file (a parent, an extent) or ask for tables of any size. What can is refused here, from the file's
//! own bytes. A file that passed is turned into qcow2 once, which machines use then; its bytes stay as they were uploaded.
//!
//! Layouts: VMware's "Virtual Disk Format 5.0", VirtualBox's `VDICore.h`, Microsoft's "Virtual Hard Disk Image Format Specification"
//! and MS-VHDX.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::{Error, Format};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Longest descriptor of a VMDK, bytes.
const MAX_DESCRIPTOR: u64 = 64 << 10;
/// Largest block of a disk, bytes: 256 MiB, VHDX's own limit.
const MAX_BLOCK: u64 = 256 << 20;

/// Checks a whole file. Returns the size of the disk that a guest sees, in bytes.
pub(crate) fn check(format: Format, file: &File, file_bytes: u64) -> Result<u64, Error> {
    let bytes = Bytes { file, length: file_bytes };
    match format {
        Format::Vmdk => vmdk(&bytes),
        Format::Vdi => vdi(&bytes),
        Format::Vhd => vhd(&bytes),
        Format::Vhdx => vhdx(&bytes),
        Format::Raw | Format::Iso | Format::Qcow2 => bad("it is of another format"),
    }
}

fn bad<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::BadImage { message: message.into() })
}

/// A file's bytes by their place.
struct Bytes<'a> {
    file: &'a File,
    length: u64,
}

impl Bytes<'_> {
    fn at<const N: usize>(&self, offset: u64) -> Result<[u8; N], Error> {
        let mut found = [0_u8; N];
        match self.file.read_exact_at(&mut found, offset) {
            Ok(()) => Ok(found),
            Err(_) => bad("it is cut off: upload the whole file"),
        }
    }

    fn le32(&self, offset: u64) -> Result<u32, Error> {
        self.at(offset).map(u32::from_le_bytes)
    }

    fn le64(&self, offset: u64) -> Result<u64, Error> {
        self.at(offset).map(u64::from_le_bytes)
    }

    fn be32(&self, offset: u64) -> Result<u32, Error> {
        self.at(offset).map(u32::from_be_bytes)
    }

    fn be64(&self, offset: u64) -> Result<u64, Error> {
        self.at(offset).map(u64::from_be_bytes)
    }

    /// `bytes` from `offset`, which must lie in the file.
    fn part(&self, what: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.length) {
            return bad(format!("its {what} lies behind the end of the file: upload the whole file"));
        }
        // Callers ask for little.
        let mut found = vec![0; usize::try_from(bytes).unwrap_or(0)];
        match self.file.read_exact_at(&mut found, offset) {
            Ok(()) => Ok(found),
            Err(_) => bad(format!("its {what} can't be read")),
        }
    }
}

/// A disk of whole sectors above 0.
fn sized(bytes: u64) -> Result<u64, Error> {
    if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
        return bad(format!("its disk size of {bytes} bytes is no whole number of sectors above 0"));
    }
    Ok(bytes)
}

fn vmdk(bytes: &Bytes<'_>) -> Result<u64, Error> {
    if bytes.at::<4>(0)? != *b"KDMV" {
        return bad(
            "it was declared vmdk but has no sparse extent: a descriptor that names other files is refused, \
             convert it with `qemu-img convert -O vmdk -o subformat=streamOptimized`",
        );
    }
    let version = bytes.le32(4)?;
    if !(1..=3).contains(&version) {
        return bad(format!("its vmdk version is {version}; 1 to 3 are known"));
    }
    let (capacity, grain) = (bytes.le64(12)?, bytes.le64(20)?);
    // Without a capacity a reader would take the descriptor for the whole image, and open what it names.
    let Some(size) = capacity.checked_mul(SECTOR).filter(|size| *size > 0) else {
        return bad("its disk size makes no sense");
    };
    if !grain.is_power_of_two() || !(8..=128 << 10).contains(&grain) || bytes.le32(44)? > 512 {
        return bad("its grain tables make no sense");
    }
    let (at, sectors) = (bytes.le64(28)?, bytes.le64(36)?);
    // Readers look for it in the second sector, wherever the header says that it is.
    if at != 1 {
        return bad("its descriptor is misplaced");
    }
    let length = sectors.checked_mul(SECTOR).filter(|length| (SECTOR..=MAX_DESCRIPTOR).contains(length));
    let Some(length) = length else {
        return bad("it has no descriptor of its own, or one that is too long");
    };
    descriptor(&bytes.part("descriptor", SECTOR, length)?)?;
    let read = READ_DESCRIPTOR.min(bytes.length.saturating_sub(SECTOR));
    if contains(&bytes.part("descriptor", SECTOR, read)?, b"parentFileNameHint") {
        return bad("it names a parent, which images may not: flatten it");
    }
    footer(bytes)?;
    sized(size)
}

/// Bytes behind the header in which QEMU looks for a parent's name, whatever the descriptor's length is.
const READ_DESCRIPTOR: u64 = 20 * SECTOR;

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// Where the grain directory is at the end, so is a second header that readers take in the first one's place: it must say the same.
fn footer(bytes: &Bytes<'_>) -> Result<(), Error> {
    const DIRECTORY: u64 = 56;
    if bytes.le64(DIRECTORY)? != u64::MAX {
        return Ok(());
    }
    let at = bytes.length.checked_sub(2 * SECTOR);
    let (mut first, last) = (bytes.part("header", 0, SECTOR)?, at.map(|at| bytes.part("footer", at, SECTOR)));
    let last = last.unwrap_or_else(|| bad("it is cut off: upload the whole file"))?;
    let directory = DIRECTORY as usize..DIRECTORY as usize + 8;
    first[directory.clone()].copy_from_slice(&last[directory]);
    if first == last { Ok(()) } else { bad("its footer says otherwise than its header") }
}

/// The text inside of a VMDK: it must describe this file alone.
fn descriptor(raw: &[u8]) -> Result<(), Error> {
    let text = String::from_utf8_lossy(raw);
    let text = text.trim_end_matches('\0');
    let value = |key: &str| {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let mut found = lines.filter(|(name, _)| name.trim().eq_ignore_ascii_case(key));
        found.next().map(|(_, value)| value.trim().trim_matches('"').to_owned())
    };
    let kind = value("createType").unwrap_or_default();
    if !["monolithicSparse", "streamOptimized"].contains(&kind.as_str()) {
        return bad(format!(
            "its vmdk type {kind:?} may name other files: convert it to streamOptimized or monolithicSparse"
        ));
    }
    let parent = value("parentCID").unwrap_or_else(|| "ffffffff".to_owned());
    if !parent.eq_ignore_ascii_case("ffffffff") || value("parentFileNameHint").is_some() {
        return bad("it needs a parent, which images may not: flatten it");
    }
    let extents = text.lines().map(str::trim).filter(|line| {
        ["RW ", "RDONLY ", "NOACCESS "].iter().any(|access| line.to_ascii_uppercase().starts_with(access))
    });
    let extents: Vec<&str> = extents.collect();
    match extents.as_slice() {
        [one] if one.split_whitespace().nth(2) == Some("SPARSE") => Ok(()),
        _ => bad("it must have one extent, a sparse one: more would be other files"),
    }
}

fn vdi(bytes: &Bytes<'_>) -> Result<u64, Error> {
    if bytes.le32(0x40)? != 0xbeda_107f {
        return bad("it was declared vdi but has no VDI header: declare its true format");
    }
    let (version, kind) = (bytes.le32(0x44)?, bytes.le32(0x4c)?);
    if version != 0x0001_0001 {
        return bad(format!("its vdi version is {version:#x}; 0x10001 is known"));
    }
    if !matches!(kind, 1 | 2) {
        return bad("it is no dynamic or fixed VDI image: one that needs a parent is refused");
    }
    // The links to a snapshot and to a parent.
    if bytes.at::<16>(0x1a8)? != [0; 16] || bytes.at::<16>(0x1b8)? != [0; 16] {
        return bad("it needs a parent, which images may not: flatten it");
    }
    let (size, block, blocks) = (bytes.le64(0x170)?, u64::from(bytes.le32(0x178)?), bytes.le32(0x180)?);
    if bytes.le32(0x168)? != 512 || block != 1 << 20 || u64::from(blocks) < size.div_ceil(block) {
        return bad("its VDI header makes no sense");
    }
    bytes.part("block map", u64::from(bytes.le32(0x154)?), 0)?;
    let map_end = u64::from(bytes.le32(0x154)?) + 4 * u64::from(blocks);
    if map_end > bytes.length || u64::from(bytes.le32(0x158)?) > bytes.length {
        return bad("its block map or its data lie behind the end of the file: upload the whole file");
    }
    sized(size)
}

fn vhd(bytes: &Bytes<'_>) -> Result<u64, Error> {
    let Some(footer) = bytes.length.checked_sub(SECTOR) else {
        return bad("it is cut off: upload the whole file");
    };
    if bytes.at::<8>(footer)? != *b"conectix" {
        return bad(
            "it was declared vhd but has no VHD footer: declare its true format, or upload the whole file",
        );
    }
    let size = sized(bytes.be64(footer + 48)?)?;
    match bytes.be32(footer + 60)? {
        2 if size > footer => bad("its end is missing: upload the whole file"),
        2 => Ok(size),
        3 => {
            let header = bytes.be64(footer + 16)?;
            bytes.part("dynamic header", header, 1024)?;
            if bytes.at::<8>(header)? != *b"cxsparse" || bytes.at::<16>(header + 40)? != [0; 16] {
                return bad("its dynamic header makes no sense, or names a parent: flatten it");
            }
            let (table, entries) = (bytes.be64(header + 16)?, u64::from(bytes.be32(header + 28)?));
            let block = u64::from(bytes.be32(header + 32)?);
            if !block.is_power_of_two()
                || !(SECTOR..=MAX_BLOCK).contains(&block)
                || entries < size.div_ceil(block)
            {
                return bad("its blocks make no sense");
            }
            if table.checked_add(4 * entries).is_none_or(|end| end > bytes.length) {
                return bad("its block table lies behind the end of the file: upload the whole file");
            }
            Ok(size)
        }
        4 => bad("it is a differencing disk, which needs a parent: flatten it"),
        kind => bad(format!("its vhd type {kind} is not known")),
    }
}

/// GUIDs as they are written: the first three parts little-endian.
const METADATA_REGION: [u8; 16] =
    guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
const PARAMETERS: [u8; 16] =
    guid(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
const SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
const LOCATOR: [u8; 16] = guid(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);

const fn guid(a: u32, b: u16, c: u16, rest: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    let r = rest;
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]]
}

fn vhdx(bytes: &Bytes<'_>) -> Result<u64, Error> {
    if bytes.at::<8>(0)? != *b"vhdxfile" {
        return bad("it was declared vhdx but has no VHDX header: declare its true format");
    }
    // The region table, of which there are two that say the same.
    const REGIONS: u64 = 192 << 10;
    let count = bytes.le32(REGIONS + 8)?;
    if bytes.at::<4>(REGIONS)? != *b"regi" || count > 2047 {
        return bad("its region table makes no sense");
    }
    let mut metadata = None;
    for entry in (0..u64::from(count)).map(|number| REGIONS + 16 + 32 * number) {
        if bytes.at::<16>(entry)? == METADATA_REGION {
            metadata = Some(bytes.le64(entry + 16)?);
        }
    }
    let Some(table) = metadata.filter(|at| *at >= 1 << 20) else {
        return bad("its region table makes no sense");
    };
    let head = bytes.part("metadata", table, 32)?;
    let count = u16::from_le_bytes([head[10], head[11]]);
    if !head.starts_with(b"metadata") || count > 2047 {
        return bad("its metadata makes no sense");
    }
    let (mut size, mut parameters) = (None, None);
    for entry in (0..u64::from(count)).map(|number| table + 32 + 32 * number) {
        let (id, at) = (bytes.at::<16>(entry)?, u64::from(bytes.le32(entry + 16)?));
        let Some(at) = table.checked_add(at) else { return bad("its metadata is misplaced") };
        match id {
            SIZE => size = Some(bytes.le64(at)?),
            PARAMETERS => parameters = Some((bytes.le32(at)?, bytes.le32(at + 4)?)),
            LOCATOR => return bad("it names a parent, which images may not: flatten it"),
            _ => {}
        }
    }
    match (size, parameters) {
        (Some(size), Some((block, flags)))
            if flags & 2 == 0 && (1 << 20..=MAX_BLOCK).contains(&block.into()) =>
        {
            sized(size)
        }
        _ => bad("its metadata makes no sense, or says that it needs a parent"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A file of 4 MiB that qemu-img makes, with some bytes in it.
    fn made(dir: &Path, driver: &str, options: &str) -> Vec<u8> {
        let (raw, to) = (dir.join("raw"), dir.join("made"));
        let mut bytes = vec![0_u8; 4 * MIB as usize];
        bytes[MIB as usize..][..5].copy_from_slice(b"hello");
        std::fs::write(&raw, bytes).unwrap();
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-q", "-f", "raw", "-O", driver]);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        assert!(command.arg(&raw).arg(&to).status().expect("qemu-utils is installed").success());
        std::fs::read(to).unwrap()
    }

    fn checked(dir: &Path, format: Format, bytes: &[u8]) -> Result<u64, Error> {
        let path = dir.join("checked");
        std::fs::write(&path, bytes).unwrap();
        check(format, &File::open(&path).unwrap(), bytes.len() as u64)
    }

    fn with(bytes: &[u8], at: usize, change: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[at..at + change.len()].copy_from_slice(change);
        bytes
    }

    fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).expect("the words");
        with(bytes, at, to.as_bytes())
    }

    fn refused(dir: &Path, format: Format, bytes: &[u8], words: &str) {
        let error = checked(dir, format, bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{words:?} in {error}");
    }

    #[test]
    fn what_qemu_writes_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        for (format, driver, options) in [
            (Format::Vmdk, "vmdk", ""),
            (Format::Vmdk, "vmdk", "subformat=streamOptimized"),
            (Format::Vdi, "vdi", ""),
            (Format::Vhd, "vpc", "force_size=on"),
            (Format::Vhd, "vpc", "subformat=fixed,force_size=on"),
            (Format::Vhdx, "vhdx", ""),
        ] {
            let bytes = made(dir.path(), driver, options);
            assert_eq!(checked(dir.path(), format, &bytes).unwrap(), 4 * MIB, "{driver} {options}");
            // No beginning of it is taken for the whole, nor is anything else.
            for length in [0, 3, 511, 600] {
                assert!(checked(dir.path(), format, &bytes[..length]).is_err(), "{driver} {length}");
            }
            for other in [Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx]
                .into_iter()
                .filter(|one| *one != format)
            {
                assert!(checked(dir.path(), other, &bytes).is_err(), "{driver} as {other:?}");
            }
        }
    }

    #[test]
    fn a_vmdk_that_names_other_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |bytes: &[u8], words: &str| refused(dir.path(), Format::Vmdk, bytes, words);
        let text =
            b"# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/shadow\" 0\n";
        refused(text, "no sparse extent");
        let good = made(dir.path(), "vmdk", "");
        // Without a capacity the descriptor would be read in the header's place.
        refused(&with(&good, 12, &[0; 8]), "disk size");
        refused(&with(&good, 12, &[0xff; 8]), "disk size");
        refused(&replaced(&good, "monolithicSparse", "monolithicFlat\"\n"), "may name other files");
        refused(&replaced(&good, "parentCID=ffffffff", "parentCID=12345678"), "needs a parent");
        refused(&replaced(&good, " SPARSE ", " FLAT   "), "one extent");
        refused(&with(&good, 36, &0x1000_u64.to_le_bytes()), "too long");
        refused(&with(&good, 28, &[0xff; 8]), "misplaced");
        // Readers find it in the second sector, in a comment too.
        refused(&with(&good, 28, &[2, 0, 0, 0, 0, 0, 0, 0]), "misplaced");
        refused(&with(&good, 512 + 9000, b"# parentFileNameHint=x"), "names a parent");
        refused(&with(&good, 56, &[0xff; 8]), "footer");
        refused(&with(&good, 4, &[9, 0, 0, 0]), "version is 9");
        refused(&with(&good, 20, &[3, 0, 0, 0, 0, 0, 0, 0]), "grain tables");
    }

    #[test]
    fn parents_of_vdi_vhd_and_vhdx_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let vdi = made(dir.path(), "vdi", "");
        refused(dir.path(), Format::Vdi, &with(&vdi, 0x4c, &[4, 0, 0, 0]), "needs a parent");
        refused(dir.path(), Format::Vdi, &with(&vdi, 0x1b8, &[1; 16]), "needs a parent");
        refused(dir.path(), Format::Vdi, &with(&vdi, 0x170, &(1_u64 << 60).to_le_bytes()), "makes no sense");
        refused(dir.path(), Format::Vdi, &with(&vdi, 0x154, &[0xff; 4]), "behind the end");
        let vhd = made(dir.path(), "vpc", "force_size=on");
        let footer = vhd.len() - 512;
        refused(dir.path(), Format::Vhd, &with(&vhd, footer + 60, &[0, 0, 0, 4]), "differencing");
        refused(dir.path(), Format::Vhd, &with(&vhd, footer + 48, &[0x7f; 8]), "");
        refused(dir.path(), Format::Vhd, &with(&vhd, footer + 16, &[0x7f; 8]), "behind the end");
        let vhdx = made(dir.path(), "vhdx", "");
        let parameters = vhdx.windows(16).position(|part| part == PARAMETERS).expect("file parameters");
        let locator = with(&vhdx, parameters, &LOCATOR);
        refused(dir.path(), Format::Vhdx, &locator, "names a parent");
        refused(dir.path(), Format::Vhdx, &with(&vhdx, 192 << 10, b"nope"), "region table");
        refused(dir.path(), Format::Vhdx, &with(&vhdx, (192 << 10) + 8, &[0xff; 4]), "region table");
    }

    #[test]
    fn noise_in_headers_never_panics() {
        let dir = tempfile::tempdir().unwrap();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for (format, driver) in
            [(Format::Vmdk, "vmdk"), (Format::Vdi, "vdi"), (Format::Vhd, "vpc"), (Format::Vhdx, "vhdx")]
        {
            let good = made(dir.path(), driver, "");
            let path = dir.path().join("noise");
            std::fs::write(&path, &good).unwrap();
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            for _ in 0..2000 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let areas = [0, 0x140, 192 << 10, good.len() - 512, 2 << 20];
                let at = (areas[(seed % 5) as usize] + (seed >> 40) as usize % 512).min(good.len() - 1);
                file.write_all_at(&[(seed >> 32) as u8], at as u64).unwrap();
                let _ = check(format, &file, good.len() as u64);
            }
        }
    }
}
