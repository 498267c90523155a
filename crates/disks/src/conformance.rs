//! One suite for every [`VolumeDriver`]: what the agent may rely on, whoever keeps the disks.
//!
//! Each case uses disks of its own and panics on a difference. Disks are read and written through their files, as a machine does that
//! runs on this node; a driver whose disks are no files here would bring a suite of its own for that.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::{Disk, Error, VolumeDriver};

/// Bytes of the disks of the cases.
const SIZE: u64 = 1 << 20;
/// What is written to a disk, and where.
const WORDS: &[u8] = b"written by a machine";
const PLACE: u64 = 300_000;

/// Tries everything. `image` is the id of an image that the driver's disks can be children of, smaller than a MiB.
///
/// # Panics
/// The driver does something otherwise.
pub async fn volumes(driver: &dyn VolumeDriver, image: &str) {
    empty_disks(driver).await;
    children(driver, image).await;
    growth(driver, image).await;
    copies(driver, image).await;
    unfinished_copies(driver).await;
    ids(driver).await;
}

fn write(disk: &Disk) {
    let file = File::options().write(true).open(&disk.path).expect("the disk's file opens");
    file.write_all_at(WORDS, PLACE).expect("the disk is written to");
}

fn read(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; WORDS.len()];
    let file = File::open(&disk.path).expect("the disk's file opens");
    file.read_exact_at(&mut bytes, PLACE).expect("the disk is read");
    bytes
}

async fn there(driver: &dyn VolumeDriver, owner: &str) -> Option<Disk> {
    driver.get(owner).await.expect("it is looked up")
}

/// An empty disk reads as zeros, is made once, and goes.
async fn empty_disks(driver: &dyn VolumeDriver) {
    let made = driver.create_empty("empty", SIZE).await.expect("an empty disk");
    assert_eq!((made.owner.as_str(), made.image.as_ref(), made.size_bytes), ("empty", None, SIZE));
    assert_eq!(read(&made), vec![0; WORDS.len()]);
    write(&made);
    let again = driver.create_empty("empty", 2 * SIZE).await.expect("the same disk");
    assert_eq!((&again, read(&again)), (&made, WORDS.to_vec()), "what is there stays as it is");
    assert!(driver.list().await.expect("a list").contains(&made));
    driver.remove("empty").await.expect("it goes");
    driver.remove("empty").await.expect("one that is gone is no error");
    assert_eq!(there(driver, "empty").await, None);
    let fresh = driver.create_empty("empty", SIZE).await.expect("a new one");
    assert_eq!(read(&fresh), vec![0; WORDS.len()], "nothing of the one before is in it");
    driver.remove("empty").await.expect("it goes");
}

/// A child of an image names it, and is never smaller.
async fn children(driver: &dyn VolumeDriver, image: &str) {
    let made = driver.create("child", image, SIZE).await.expect("a child");
    assert_eq!((made.image.as_deref(), made.size_bytes), (Some(image), SIZE));
    assert!(made.base_path.is_some() && made.base_format.is_some(), "who reads it has to know its base");
    assert_eq!(there(driver, "child").await.as_ref(), Some(&made));
    let small = driver.create("small", image, 0).await.expect("a child");
    assert!(small.size_bytes > 0, "it is as large as its image");
    let orphan = driver.create("orphan", "no-such-image", SIZE).await;
    assert!(matches!(orphan, Err(Error::NotFound { .. })), "{orphan:?}");
    assert_eq!(there(driver, "orphan").await, None, "nothing is left of it");
    for owner in ["child", "small"] {
        driver.remove(owner).await.expect("it goes");
    }
}

/// Disks grow, never shrink, and keep what they hold.
async fn growth(driver: &dyn VolumeDriver, image: &str) {
    let made = driver.create_empty("growing", SIZE).await.expect("a disk");
    write(&made);
    let grown = driver.grow("growing", 2 * SIZE).await.expect("a larger disk");
    assert_eq!((grown.size_bytes, read(&grown)), (2 * SIZE, WORDS.to_vec()));
    assert_eq!(driver.grow("growing", SIZE).await.expect("the same disk").size_bytes, 2 * SIZE);
    let noted = driver.note_size("growing", 3 * SIZE).await.expect("a note");
    assert_eq!(there(driver, "growing").await.map(|disk| disk.size_bytes), Some(noted.size_bytes));
    driver.create("growing-child", image, SIZE).await.expect("a child");
    assert_eq!(driver.grow("growing-child", 2 * SIZE).await.expect("larger").size_bytes, 2 * SIZE);
    let absurd = driver.grow("growing", u64::MAX).await;
    assert!(matches!(absurd, Err(Error::DiskTooLarge { .. })), "{absurd:?}");
    let missing = driver.grow("missing", SIZE).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    for owner in ["growing", "growing-child"] {
        driver.remove(owner).await.expect("it goes");
    }
}

/// A copy holds what its source held then, and outlives it.
async fn copies(driver: &dyn VolumeDriver, image: &str) {
    let source = driver.create_empty("source", SIZE).await.expect("a disk");
    write(&source);
    let copy = driver.copy("copy", &source).await.expect("a copy");
    assert_eq!((copy.owner.as_str(), copy.size_bytes, read(&copy)), ("copy", SIZE, WORDS.to_vec()));
    assert_eq!(driver.copy("copy", &source).await.expect("the same copy"), copy);
    driver.remove("source").await.expect("it goes");
    assert_eq!(read(&copy), WORDS, "it needs its source no more");
    driver.remove("copy").await.expect("it goes");
    let child = driver.create("source-child", image, SIZE).await.expect("a child");
    let copy = driver.copy("copy-child", &child).await.expect("a copy");
    assert_eq!((copy.image.as_deref(), &copy.base_path), (Some(image), &child.base_path));
    for owner in ["source-child", "copy-child"] {
        driver.remove(owner).await.expect("it goes");
    }
}

/// Nothing is known of a copy until it is whole, and nothing left of one that never is.
async fn unfinished_copies(driver: &dyn VolumeDriver) {
    let source = driver.create_empty("source", SIZE).await.expect("a disk");
    let begun = driver.begin_copy("copy", &source).await.expect("a copy begins");
    begun.make_empty().await.expect("its file");
    assert_eq!(there(driver, "copy").await, None);
    write(begun.disk());
    let copy = begun.publish().await.expect("it is whole");
    assert_eq!((there(driver, "copy").await.as_ref(), read(&copy)), (Some(&copy), WORDS.to_vec()));
    driver.remove("copy").await.expect("it goes");
    let dropped = driver.begin_copy("copy", &source).await.expect("a copy begins");
    dropped.make_empty().await.expect("its file");
    let path = dropped.disk().path.clone();
    drop(dropped);
    assert!(!path.exists() && there(driver, "copy").await.is_none());
    driver.remove("source").await.expect("it goes");
}

/// What can't be the name of a disk is refused before anything is done.
async fn ids(driver: &dyn VolumeDriver) {
    for wrong in ["", "..", "a/b", ".hidden"] {
        let made = driver.create_empty(wrong, SIZE).await;
        assert!(matches!(made, Err(Error::BadId { .. })), "{wrong:?}: {made:?}");
    }
}
