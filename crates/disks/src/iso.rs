//! Small CDs: files in an ISO 9660 file system (ECMA-119) with Joliet beside it, made in memory.
//!
//! Names are as they are given, small letters and underscores too, as `genisoimage -allow-lowercase -l` writes them; systems that
//! want them otherwise read Joliet's.

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;

/// Bytes of a logical block.
const BLOCK: usize = 2048;
/// The blocks of which the standard says nothing come first.
const SYSTEM_AREA: usize = 16;
/// The most bytes that a CD is made of here: it is made in memory.
const MAX_BYTES: usize = 16 << 20;
/// The longest name of a file or a directory, bytes: with `.;1` behind it it is within the standard's 31.
const MAX_NAME: usize = 28;
/// The most directories below one another, the root among them.
const MAX_DEPTH: usize = 8;

/// One of the two trees of directories over the same files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Plain,
    Joliet,
}

impl Tree {
    fn text(self, text: &str) -> Vec<u8> {
        match self {
            Tree::Plain => text.as_bytes().to_vec(),
            Tree::Joliet => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        }
    }

    /// A file's name. The standard wants a dot in it, and a version behind it; in Joliet's tree all do without.
    fn file(self, name: &str) -> Vec<u8> {
        match self {
            Tree::Joliet => self.text(name),
            Tree::Plain if name.contains('.') => self.text(&format!("{name};1")),
            Tree::Plain => self.text(&format!("{name}.;1")),
        }
    }

    /// Text at the start of a field of so many bytes, filled with spaces.
    fn field(self, text: &str, bytes: usize) -> Vec<u8> {
        let mut field = self.text(text);
        while field.len() < bytes {
            field.extend(self.text(" "));
        }
        field.truncate(bytes);
        field
    }
}

/// A directory of the tree; the first one is the root.
struct Directory {
    name: String,
    parent: usize,
    directories: BTreeMap<String, usize>,
    files: BTreeMap<String, usize>,
}

/// Where something lies: the first of its blocks, and its bytes.
#[derive(Clone, Copy, Default)]
struct Extent {
    block: u32,
    bytes: u32,
}

/// A CD with this label (at most 16 letters, digits and dashes) and these files; the directories of their paths are made. What is the
/// same makes the same bytes: no time is written down.
///
/// # Errors
/// [`Error::BadImage`] if a path or the label cannot be written, or all of it is larger than 16 MiB.
pub fn iso(label: &str, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Error> {
    let bad = |message: String| Error::BadImage { message };
    if label.len() > 16 || !is_name(label) {
        return Err(bad(format!("{label:?} cannot be the label of a CD")));
    }
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len() + BLOCK).sum();
    if bytes > MAX_BYTES {
        return Err(Error::TooLarge { limit_bytes: MAX_BYTES as u64 });
    }
    let directories = directories(files).map_err(bad)?;
    // Where all lies is known once the sizes are, which do not depend on where it lies.
    let nowhere = vec![Extent::default(); directories.len().max(files.len())];
    let mut next = SYSTEM_AREA + 3;
    let mut place = |bytes: usize| {
        let block = next;
        next += bytes.div_ceil(BLOCK);
        Extent { block: block as u32, bytes: bytes as u32 }
    };
    let mut trees = Vec::new();
    for tree in [Tree::Plain, Tree::Joliet] {
        let table = path_table(tree, &directories, &nowhere, false).len();
        let tables = [place(table), place(table)];
        let sizes =
            (0..directories.len()).map(|at| records(tree, &directories, at, &nowhere, &nowhere).len());
        let places: Vec<Extent> = sizes.map(&mut place).collect();
        trees.push((tree, tables, places));
    }
    let contents: Vec<Extent> = files.iter().map(|(_, bytes)| place(bytes.len())).collect();

    let mut out = vec![0; next * BLOCK];
    let mut put = |block: u32, bytes: &[u8]| {
        let at = block as usize * BLOCK;
        out[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for (at, (tree, tables, places)) in trees.iter().enumerate() {
        put((SYSTEM_AREA + at) as u32, &descriptor(*tree, label, next as u32, *tables, places[0]));
        for (table, big) in tables.iter().zip([false, true]) {
            put(table.block, &path_table(*tree, &directories, places, big));
        }
        for (at, place) in places.iter().enumerate() {
            put(place.block, &records(*tree, &directories, at, places, &contents));
        }
    }
    put((SYSTEM_AREA + 2) as u32, b"\xffCD001\x01");
    for (place, (_, bytes)) in contents.iter().zip(files) {
        put(place.block, bytes);
    }
    Ok(out)
}

fn is_name(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(letters) && name != "." && name != ".."
}

/// All directories of the paths, in the order of path tables: by depth, then by parent, then by name.
fn directories(files: &[(String, Vec<u8>)]) -> Result<Vec<Directory>, String> {
    let mut paths: BTreeSet<(usize, Vec<&str>)> = BTreeSet::from([(0, Vec::new())]);
    for (path, _) in files {
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() > MAX_DEPTH || parts.iter().any(|part| !is_name(part)) {
            return Err(format!("{path:?} cannot be the path of a file on a CD"));
        }
        paths.extend((1..parts.len()).map(|depth| (depth, parts[..depth].to_vec())));
    }
    let paths: Vec<Vec<&str>> = paths.into_iter().map(|(_, path)| path).collect();
    let find = |path: &[&str]| paths.iter().position(|own| own == path).unwrap_or_default();
    let mut all: Vec<Directory> = Vec::with_capacity(paths.len());
    for (at, path) in paths.iter().enumerate() {
        let (name, above) = path.split_last().map_or(("", &[][..]), |(name, above)| (*name, above));
        let parent = find(above);
        let empty = (BTreeMap::new(), BTreeMap::new());
        all.push(Directory { name: name.to_owned(), parent, directories: empty.0, files: empty.1 });
        if at > 0 {
            all[parent].directories.insert(name.to_owned(), at);
        }
    }
    for (at, (path, _)) in files.iter().enumerate() {
        let parts: Vec<&str> = path.split('/').collect();
        let Some((name, above)) = parts.split_last() else { continue };
        let directory = &mut all[find(above)];
        if directory.directories.contains_key(*name)
            || directory.files.insert((*name).to_owned(), at).is_some()
        {
            return Err(format!("{path:?} is there twice"));
        }
    }
    Ok(all)
}

/// A number as the standard has it: little-endian, then big-endian.
fn both(number: u32) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

fn both_short(number: u16) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

/// A record of a directory (9.1).
fn record(name: &[u8], place: Extent, is_directory: bool) -> Vec<u8> {
    let mut out = vec![0, 0];
    out.extend(both(place.block));
    out.extend(both(place.bytes));
    // 1980: the oldest day that all systems take.
    out.extend([80, 1, 1, 0, 0, 0, 0]);
    out.extend([if is_directory { 2 } else { 0 }, 0, 0]);
    out.extend(both_short(1));
    out.push(name.len() as u8);
    out.extend(name);
    if out.len() % 2 == 1 {
        out.push(0);
    }
    out[0] = out.len() as u8;
    out
}

/// What a directory holds: whole blocks, over whose ends no record goes.
fn records(
    tree: Tree,
    directories: &[Directory],
    at: usize,
    places: &[Extent],
    contents: &[Extent],
) -> Vec<u8> {
    let own = &directories[at];
    let mut entries: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (name, at) in &own.directories {
        entries.insert(name, record(&tree.text(name), places[*at], true));
    }
    for (name, at) in &own.files {
        entries.insert(name, record(&tree.file(name), contents[*at], false));
    }
    let itself = [record(&[0], places[at], true), record(&[1], places[own.parent], true)];
    let mut out = Vec::with_capacity(BLOCK);
    for entry in itself.into_iter().chain(entries.into_values()) {
        if out.len() % BLOCK + entry.len() > BLOCK {
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out.extend(entry);
    }
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

/// Where each directory lies (9.4).
fn path_table(tree: Tree, directories: &[Directory], places: &[Extent], big_endian: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, directory) in directories.iter().enumerate() {
        let name = if at == 0 { vec![0] } else { tree.text(&directory.name) };
        let (block, parent) = (places[at].block, directory.parent as u16 + 1);
        out.extend([name.len() as u8, 0]);
        if big_endian {
            out.extend(block.to_be_bytes());
            out.extend(parent.to_be_bytes());
        } else {
            out.extend(block.to_le_bytes());
            out.extend(parent.to_le_bytes());
        }
        out.extend(&name);
        if name.len() % 2 == 1 {
            out.push(0);
        }
    }
    out
}

/// The volume descriptor of a tree (8.4, 8.5), one block.
fn descriptor(tree: Tree, label: &str, blocks: u32, tables: [Extent; 2], root: Extent) -> Vec<u8> {
    let mut out = vec![if tree == Tree::Plain { 1 } else { 2 }];
    out.extend(b"CD001\x01\x00");
    out.extend(tree.field("", 32));
    out.extend(tree.field(label, 32));
    out.extend([0; 8]);
    out.extend(both(blocks));
    // The escape sequence by which Joliet is known, level 3.
    let escape: &[u8] = if tree == Tree::Joliet { b"%/E" } else { b"" };
    out.extend(escape);
    out.resize(120, 0);
    out.extend(both_short(1));
    out.extend(both_short(1));
    out.extend(both_short(BLOCK as u16));
    out.extend(both(tables[0].bytes));
    out.extend(tables[0].block.to_le_bytes());
    out.extend([0; 4]);
    out.extend(tables[1].block.to_be_bytes());
    out.extend([0; 4]);
    out.extend(record(&[0], root, true));
    for bytes in [128, 128, 128, 128, 37, 37, 37] {
        out.extend(tree.field("", bytes));
    }
    // Four times that nobody wrote down: sixteen digits, and an offset.
    for _ in 0..4 {
        out.extend([b'0'; 16]);
        out.push(0);
    }
    out.push(1);
    out.resize(BLOCK, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// Reads a tree as a system does that knows nothing of how it was made: (path, bytes) of each file.
    fn read(cd: &[u8], descriptor: usize) -> Vec<(String, Vec<u8>)> {
        let root = descriptor * BLOCK + 156;
        let mut found = Vec::new();
        let mut todo = vec![(String::new(), number(cd, root + 2), number(cd, root + 10))];
        while let Some((above, block, bytes)) = todo.pop() {
            let (mut at, end) = (block * BLOCK, block * BLOCK + bytes);
            while at < end {
                let length = usize::from(cd[at]);
                if length == 0 {
                    at = at.next_multiple_of(BLOCK);
                    continue;
                }
                let name = &cd[at + 33..at + 33 + usize::from(cd[at + 32])];
                let name = if cd[descriptor * BLOCK] == 2 && name.len() > 1 {
                    let units = name.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                    String::from_utf16(&units.collect::<Vec<_>>()).unwrap()
                } else {
                    String::from_utf8(name.to_vec()).unwrap()
                };
                let (block, bytes) = (number(cd, at + 2), number(cd, at + 10));
                match (cd[at + 25], name.as_str()) {
                    (_, "\0" | "\u{1}") => {}
                    (2, name) => todo.push((format!("{above}{name}/"), block, bytes)),
                    _ => {
                        let content = cd[block * BLOCK..][..bytes].to_vec();
                        found.push((format!("{above}{name}"), content));
                    }
                }
                at += length;
            }
        }
        found.sort();
        found
    }

    #[test]
    fn both_trees_lead_to_the_same_files() {
        let file = |path: &str, bytes: &[u8]| (path.to_owned(), bytes.to_vec());
        let mut files = vec![
            file("openstack/latest/meta_data.json", b"{}"),
            file("openstack/latest/user_data", &[7; 5000]),
            file("ec2/latest/meta-data.json", b""),
        ];
        // More than one block of records.
        files.extend((0..60).map(|at| file(&format!("many/file-number-{at:03}.txt"), &[at])));
        let cd = iso("config-2", &files).unwrap();
        assert_eq!(&cd[SYSTEM_AREA * BLOCK + 40..][..10], b"config-2  ");
        assert_eq!(number(&cd, SYSTEM_AREA * BLOCK + 80) * BLOCK, cd.len());
        files.sort();
        assert_eq!(read(&cd, SYSTEM_AREA + 1), files);
        let plain = read(&cd, SYSTEM_AREA);
        assert_eq!(plain.len(), files.len());
        assert!(plain.iter().any(|(path, _)| path == "openstack/latest/user_data.;1"));
        assert!(plain.iter().any(|(path, _)| path == "ec2/latest/meta-data.json;1"));
        assert_eq!(iso("config-2", &files[..3]).unwrap(), iso("config-2", &files[..3]).unwrap());
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let file = |path: &str| vec![(path.to_owned(), Vec::new())];
        for path in ["", "/a", "a//b", "../a", "a b", "a/b/c/d/e/f/g/h/i", &"n".repeat(29)] {
            assert!(matches!(iso("l", &file(path)), Err(Error::BadImage { .. })), "{path}");
        }
        assert!(iso("l", &[file("a"), file("a")].concat()).is_err(), "twice");
        assert!(iso("l", &[file("a/b"), file("a")].concat()).is_err(), "a file and a directory");
        assert!(iso("a label that is too long", &file("a")).is_err());
        let large = vec![("a".to_owned(), vec![0; MAX_BYTES])];
        assert!(matches!(iso("l", &large), Err(Error::TooLarge { .. })));
    }
}
