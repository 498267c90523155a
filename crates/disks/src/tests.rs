//! Images and disks with a real `qemu-img`.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use futures::stream;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use crate::{DiskStore, Error, Format, ImageInfo, ImageStore, Limits};

const LIMITS: Limits = Limits { max_bytes: 64 << 20, max_virtual_bytes: 1 << 40 };

struct Bench {
    dir: TempDir,
    images: ImageStore,
    disks: DiskStore,
}

impl Bench {
    async fn new() -> Bench {
        let dir = tempfile::Builder::new().prefix("yunfan-disks-").tempdir().unwrap();
        let images = ImageStore::open(dir.path().join("root")).await.unwrap();
        Bench { disks: DiskStore::new(images.clone()), images, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn upload(&self, id: &str, format: Format, bytes: Vec<u8>) -> Result<ImageInfo, Error> {
        let pieces: Vec<Result<Bytes, Infallible>> =
            bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        self.images.write(id, format, stream::iter(pieces), LIMITS).await
    }

    /// The refusal's text; nothing may be left behind.
    async fn refused(&self, format: Format, bytes: Vec<u8>) -> String {
        let error = self.upload("refused", format, bytes).await.unwrap_err().to_string();
        assert!(entries(&self.path("root/images")).iter().all(|path| !path.ends_with("refused")));
        assert!(entries(&self.path("root/incoming")).is_empty());
        assert!(!error.contains("incoming"), "{error}");
        error
    }

    /// A qcow2 file with 1 MiB of noise in it.
    fn qcow2(&self, arguments: &[&str]) -> Vec<u8> {
        let (raw, made) = (self.path("raw"), self.path("made.qcow2"));
        let mut seed = 7_u32;
        let noise = |_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        std::fs::write(&raw, (0..1 << 20).map(noise).collect::<Vec<u8>>()).unwrap();
        qemu_img(
            &[
                &["convert", "-f", "raw", "-O", "qcow2"],
                arguments,
                &[raw.to_str().unwrap(), made.to_str().unwrap()],
            ]
            .concat(),
        );
        std::fs::read(made).unwrap()
    }
}

fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-utils is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn images_come_back_as_they_went_in() {
    let bench = Bench::new().await;
    let bytes = bench.qcow2(&["-c"]);
    let info = bench.upload("a", Format::Qcow2, bytes.clone()).await.unwrap();
    assert_eq!((info.size_bytes, info.virtual_size_bytes), (bytes.len() as u64, 1 << 20));
    let raw = bench.upload("b", Format::Raw, b"hello".to_vec()).await.unwrap();
    assert_eq!(
        (raw.size_bytes, raw.virtual_size_bytes, raw.md5.as_str()),
        (5, 512, "5d41402abc4b2a76b9719d911017c592")
    );
    assert!(raw.sha512.starts_with("9b71d224bd62f3785d96d46ad3ea3d73") && raw.sha512.len() == 128);
    for (id, expected) in [("a", bytes), ("b", b"hello".to_vec())] {
        let (_, mut file) = bench.images.read(id).await.unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).await.unwrap();
        assert!(read == expected);
    }
    assert!(matches!(bench.upload("a", Format::Raw, vec![1]).await, Err(Error::Exists { .. })));
    assert!(matches!(bench.upload("../a", Format::Raw, vec![1]).await, Err(Error::BadId { .. })));
    assert!(matches!(bench.images.read("c").await, Err(Error::NotFound { .. })));
    let again = ImageStore::open(bench.path("root")).await.unwrap();
    assert_eq!(again.list().await.unwrap(), [info, raw]);
}

#[tokio::test]
async fn what_is_broken_or_dangerous_is_refused() {
    let bench = Bench::new().await;
    let good = bench.qcow2(&[]);
    let half = good[..good.len() / 2].to_vec();
    assert!(bench.refused(Format::Qcow2, half).await.contains("not usable"));
    let mut damaged = good.clone();
    // Entries of the first second-level table (the fifth cluster): far behind the end, and twice the same.
    let table = 4 << 16;
    damaged[table..table + 8].copy_from_slice(&0x8000_0000_00ff_0000_u64.to_be_bytes());
    let entry: [u8; 8] = damaged[table + 8..table + 16].try_into().unwrap();
    damaged[table + 16..table + 24].copy_from_slice(&entry);
    let error = bench.refused(Format::Qcow2, damaged).await;
    assert!(error.contains("corrupt") || error.contains("end is missing"), "{error}");
    assert!(bench.refused(Format::Qcow2, b"no image".to_vec()).await.contains("no qcow2 header"));
    assert!(bench.refused(Format::Raw, good.clone()).await.contains("declared raw but is qcow2"));

    let (base, child) = (bench.path("base"), bench.path("child"));
    std::fs::write(&base, vec![0; 1 << 20]).unwrap();
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        base.to_str().unwrap(),
        child.to_str().unwrap(),
    ]);
    assert!(bench.refused(Format::Qcow2, std::fs::read(&child).unwrap()).await.contains("backing file"));
    let option = format!("data_file={},data_file_raw=on", bench.path("data").display());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, child.to_str().unwrap(), "1M"]);
    assert!(bench.refused(Format::Qcow2, std::fs::read(&child).unwrap()).await.contains("another file"));
    qemu_img(&["create", "-q", "-f", "qcow2", child.to_str().unwrap(), "2T"]);
    assert!(
        bench.refused(Format::Qcow2, std::fs::read(&child).unwrap()).await.contains("larger than the limit")
    );

    let broken = stream::iter([Ok(Bytes::from_static(b"abc")), Err("connection reset")]);
    let error = bench.images.write("x", Format::Raw, broken, LIMITS).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { received_bytes: 3, .. }), "{error}");
    let tight = Limits { max_bytes: 4, ..LIMITS };
    let many = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"abcde"))]);
    assert!(matches!(
        bench.images.write("x", Format::Raw, many, tight).await,
        Err(Error::TooLarge { limit_bytes: 4 })
    ));
    assert!(entries(&bench.path("root/incoming")).is_empty());
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let bench = Bench::new().await;
    let endless = futures::StreamExt::chain(
        stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"abc"))]),
        stream::pending(),
    );
    let writing = bench.images.write("x", Format::Raw, Box::pin(endless), LIMITS);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), writing).await.is_err());
    assert!(entries(&bench.path("root/incoming")).is_empty());
    assert_eq!(bench.images.get("x").await.unwrap(), None);
}

#[tokio::test]
async fn disks_are_children_of_their_image() {
    let bench = Bench::new().await;
    bench.upload("img", Format::Qcow2, bench.qcow2(&[])).await.unwrap();
    let begun = std::time::Instant::now();
    let disk = bench.disks.create("vm-1", "img", 10 << 30).await.unwrap();
    eprintln!("a disk in {:?}", begun.elapsed());
    assert_eq!(disk.size_bytes, 10 << 30);
    let told = qemu_img(&["info", "--output=json", disk.path.to_str().unwrap()]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["virtual-size"], 10_u64 << 30);
    assert_eq!(
        (told["backing-filename"].as_str(), told["backing-filename-format"].as_str()),
        (disk.base_path.as_deref().and_then(Path::to_str), Some("qcow2"))
    );
    assert!(told["actual-size"].as_u64().unwrap() < 1 << 20);
    assert_eq!(bench.disks.create("vm-1", "img", 0).await.unwrap(), disk);
    let small = bench.disks.create("vm-2", "img", 1).await.unwrap();
    assert_eq!(small.size_bytes, 1 << 20);
    assert_eq!(bench.disks.list().await.unwrap(), [disk, small]);

    let error = bench.images.remove("img").await.unwrap_err();
    assert!(matches!(&error, Error::InUse { disks, .. } if disks == &["vm-1", "vm-2"]), "{error}");
    assert!(matches!(bench.disks.create("vm-3", "none", 1).await, Err(Error::NotFound { .. })));
    for owner in ["vm-1", "vm-2", "vm-2"] {
        bench.disks.remove(owner).await.unwrap();
    }
    bench.images.remove("img").await.unwrap();
    bench.images.remove("img").await.unwrap();
    for dir in ["images", "disks", "incoming"] {
        assert!(entries(&bench.path("root").join(dir)).is_empty());
    }
}

#[tokio::test]
async fn one_owner_has_one_disk_however_often_it_is_asked_for() {
    let bench = Bench::new().await;
    bench.upload("img", Format::Raw, vec![1; 4096]).await.unwrap();
    let made = futures::future::join_all((0..6).map(|_| bench.disks.create("vm", "img", 1 << 30))).await;
    let first = made[0].as_ref().unwrap();
    assert!(made.iter().all(|disk| disk.as_ref().is_ok_and(|disk| disk == first)), "{made:?}");
    assert_eq!(entries(&bench.path("root/disks")).len(), 1);
    assert!(entries(&bench.path("root/incoming")).is_empty());
}

fn virtual_size(disk: &crate::Disk) -> u64 {
    let told = qemu_img(&["info", "--output=json", disk.path.to_str().unwrap()]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    told["virtual-size"].as_u64().unwrap()
}

#[tokio::test]
async fn volumes_are_empty_or_children_and_grow() {
    let bench = Bench::new().await;
    bench.upload("img", Format::Qcow2, bench.qcow2(&[])).await.unwrap();
    let volumes = DiskStore::volumes(bench.images.clone());
    let empty = volumes.create_empty("v-1", 1 << 30).await.unwrap();
    assert_eq!((empty.size_bytes, empty.base_path.clone(), virtual_size(&empty)), (1 << 30, None, 1 << 30));
    assert_eq!((empty.format, std::fs::metadata(&empty.path).unwrap().len()), (Format::Raw, 1 << 30));
    let child = volumes.create("v-2", "img", 1 << 30).await.unwrap();
    assert_eq!(child.format, Format::Qcow2);
    for (name, disk) in [("v-1", &empty), ("v-2", &child)] {
        let grown = volumes.grow(name, 3 << 30).await.unwrap();
        assert_eq!((grown.size_bytes, virtual_size(disk)), (3 << 30, 3 << 30), "{name}");
        assert_eq!(volumes.grow(name, 2 << 30).await.unwrap(), grown, "{name} never shrinks");
    }
    assert!(matches!(volumes.grow("v-1", 1 << 60).await, Err(Error::DiskTooLarge { .. })));
    assert!(bench.disks.list().await.unwrap().is_empty(), "volumes are no root disks");
    assert!(matches!(bench.images.remove("img").await, Err(Error::InUse { disks, .. }) if disks == ["v-2"]));
    volumes.remove("v-2").await.unwrap();
    bench.images.remove("img").await.unwrap();
}

#[tokio::test]
async fn a_volume_whose_header_names_another_file_is_not_touched() {
    let bench = Bench::new().await;
    bench.upload("img", Format::Qcow2, bench.qcow2(&[])).await.unwrap();
    let volumes = DiskStore::volumes(bench.images.clone());
    let disk = volumes.create("v", "img", 1 << 20).await.unwrap();
    let mut bytes = std::fs::read(&disk.path).unwrap();
    bytes[79] |= 4; // an external data file
    std::fs::write(&disk.path, bytes).unwrap();
    let error = volumes.grow("v", 1 << 30).await.unwrap_err().to_string();
    assert!(error.contains("data in another file"), "{error}");
    assert_eq!(volumes.get("v").await.unwrap().unwrap().size_bytes, disk.size_bytes);
}

/// A device of 2 MiB stands in for a full disk.
#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left() {
    let dir = tempfile::Builder::new().prefix("yunfan-disks-").tempdir().unwrap();
    let mount = Mount::small(dir.path());
    let images = ImageStore::open(mount.0.join("root")).await.unwrap();
    let pieces = (0..64).map(|_| Ok::<_, Infallible>(Bytes::from(vec![1; 100_000])));
    let error = images.write("x", Format::Raw, stream::iter(pieces), LIMITS).await.unwrap_err();
    assert!(
        matches!(error, Error::NoSpace { .. }) && error.to_string().contains("no space is left"),
        "{error}"
    );
    assert!(entries(&mount.0.join("root/incoming")).is_empty());
    let rest = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![1; 1_950_000]))]);
    images.write("y", Format::Raw, rest, LIMITS).await.unwrap();
    let disks = DiskStore::new(images);
    let error = disks.create("vm", "y", 1 << 40).await.unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(entries(&mount.0.join("root/incoming")).is_empty() && disks.list().await.unwrap().is_empty());
}

struct Mount(PathBuf);

impl Mount {
    fn small(at: &Path) -> Mount {
        let made = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "yunfan-disks-test"])
            .arg(at)
            .status();
        assert!(made.unwrap().success(), "this test needs root");
        Mount(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

#[tokio::test]
async fn a_snapshot_keeps_what_its_volume_held() {
    use std::os::unix::fs::FileExt;
    let bench = Bench::new().await;
    let (volumes, snapshots) =
        (DiskStore::volumes(bench.images.clone()), DiskStore::snapshots(bench.images.clone()));
    let volume = volumes.create_empty("v", 8 << 20).await.unwrap();
    let write = |path: &Path, word: &[u8]| {
        std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(word, 4 << 20).unwrap();
    };
    let read = |path: &Path| {
        let mut word = [0_u8; 6];
        std::fs::File::open(path).unwrap().read_exact_at(&mut word, 4 << 20).unwrap();
        word
    };
    write(&volume.path, b"before");
    let snapshot = snapshots.copy("s", &volume).await.unwrap();
    write(&volume.path, b"after!");
    assert_eq!((&read(&snapshot.path), &read(&volume.path)), (b"before", b"after!"));
    // The holes stay holes.
    use std::os::unix::fs::MetadataExt;
    assert!(std::fs::metadata(&snapshot.path).unwrap().blocks() * 512 < 1 << 20);
    // Neither needs the other any more, and asking twice copies once.
    volumes.remove("v").await.unwrap();
    write(&snapshot.path, b"middle");
    assert_eq!(snapshots.copy("s", &snapshot).await.unwrap(), snapshot);
    let again = volumes.copy("w", &snapshot).await.unwrap();
    assert_eq!((&read(&again.path), again.size_bytes, again.format), (b"middle", 8 << 20, Format::Raw));
    assert_eq!(volumes.grow("w", 16 << 20).await.unwrap().size_bytes, 16 << 20);
    assert!(entries(&bench.path("root/incoming")).is_empty());
}

#[tokio::test]
async fn an_image_stays_while_a_snapshot_is_made_from_it() {
    let bench = Bench::new().await;
    let bytes = bench.qcow2(&[]);
    bench.upload("os", Format::Qcow2, bytes).await.unwrap();
    let (volumes, snapshots) =
        (DiskStore::volumes(bench.images.clone()), DiskStore::snapshots(bench.images.clone()));
    let volume = volumes.create("v", "os", 4 << 20).await.unwrap();
    let snapshot = snapshots.copy("s", &volume).await.unwrap();
    assert_eq!((snapshot.base_path.as_ref(), snapshot.format), (volume.base_path.as_ref(), Format::Qcow2));
    volumes.remove("v").await.unwrap();
    assert!(matches!(bench.images.remove("os").await, Err(Error::InUse { disks, .. }) if disks == ["s"]));
    // A copy that is begun before the image goes, and ended behind it, is none.
    let begun = volumes.begin_copy("w", &snapshot).await.unwrap();
    begun.make_empty().await.unwrap();
    snapshots.remove("s").await.unwrap();
    bench.images.remove("os").await.unwrap();
    assert!(matches!(begun.publish().await, Err(Error::NotFound { .. })));
    assert!(volumes.get("w").await.unwrap().is_none());
}

#[tokio::test]
async fn an_image_of_another_hypervisor_is_turned_into_what_machines_read() {
    let bench = Bench::new().await;
    let (from, to) = (bench.path("from.qcow2"), bench.path("to.vmdk"));
    std::fs::write(&from, bench.qcow2(&[])).unwrap();
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    qemu_img(&["convert", "-f", "qcow2", "-O", "vmdk", "-o", "subformat=streamOptimized", from, to]);
    let bytes = std::fs::read(to).unwrap();
    let info = bench.upload("os", Format::Vmdk, bytes.clone()).await.unwrap();
    assert_eq!((info.size_bytes, info.virtual_size_bytes), (bytes.len() as u64, 1 << 20));
    // Its own bytes come back, and a disk is made from the others.
    let mut back = Vec::new();
    bench.images.read("os").await.unwrap().1.read_to_end(&mut back).await.unwrap();
    assert!(back == bytes);
    let disk = bench.disks.create("vm", "os", 0).await.unwrap();
    let base = disk.base_path.clone().unwrap();
    assert_eq!((disk.base_format, base.ends_with("readable.qcow2")), (Some(Format::Qcow2), true));
    qemu_img(&["compare", "-f", "qcow2", "-F", "qcow2", from, base.to_str().unwrap()]);
    assert_eq!(bench.disks.get("vm").await.unwrap().unwrap().base_path, Some(base));
    bench.refused(Format::Vmdk, b"# Disk DescriptorFile\nRW 8 FLAT \"/etc/passwd\" 0".to_vec()).await;
    let mut iso = vec![0; 40_000];
    bench.refused(Format::Iso, iso.clone()).await;
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    assert_eq!(bench.upload("cd", Format::Iso, iso).await.unwrap().virtual_size_bytes, 40_448);
}

#[tokio::test]
async fn an_image_is_made_of_what_a_disk_shows() {
    let bench = Bench::new().await;
    let bytes = bench.qcow2(&[]);
    bench.upload("os", Format::Qcow2, bytes).await.unwrap();
    let disk = DiskStore::volumes(bench.images.clone()).create("v", "os", 2 << 20).await.unwrap();
    let (whole, small) = (
        bench.images.make("raw", "u", Format::Raw, &disk).await.unwrap(),
        bench.images.make("small", "u", Format::Qcow2, &disk).await.unwrap(),
    );
    assert_eq!((whole.size_bytes, whole.virtual_size_bytes), (2 << 20, 2 << 20));
    assert_eq!(small.virtual_size_bytes, 2 << 20);
    assert_eq!(bench.images.make("raw", "u", Format::Raw, &disk).await.unwrap(), whole, "once is enough");
    let [raw, qcow2] = ["raw", "small"].map(|id| bench.path(&format!("root/images/{id}/image")));
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
    let taken = bench.images.make("raw", "another", Format::Raw, &disk).await;
    assert!(matches!(taken, Err(Error::Exists { .. })));
    // What a guest that broke out wrote into the header is not followed.
    let name = disk.path.to_str().unwrap();
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", name]);
    let again = bench.images.make("again", "u", Format::Raw, &disk).await.unwrap();
    assert_eq!(again.sha512, whole.sha512);
}

#[tokio::test]
async fn what_another_node_has_is_taken_by_its_digest() {
    use sha2::{Digest, Sha512};
    let bench = Bench::new().await;
    // A guest may write to its disk what it likes, also what other formats begin with.
    let bytes = bench.qcow2(&[]);
    assert!(bench.refused(Format::Raw, bytes.clone()).await.contains("declared raw but is qcow2"));
    let sha512: String = Sha512::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let fetch = |id: &'static str, sha512: String| {
        let (images, bytes) = (bench.images.clone(), bytes.clone());
        async move {
            let pieces = stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]);
            images.fetch(id, Format::Raw, pieces, LIMITS, &sha512).await
        }
    };
    let error = fetch("other", "0".repeat(128)).await.unwrap_err().to_string();
    assert!(error.contains("another SHA-512"), "{error}");
    assert_eq!(bench.images.get("other").await.unwrap(), None);
    let info = fetch("made", sha512).await.unwrap();
    assert_eq!((info.size_bytes, info.format), (bytes.len() as u64, Format::Raw));
    assert_eq!(bench.disks.create("vm", "made", 0).await.unwrap().base_format, Some(Format::Raw));
}

/// Root gives its rights away, so this test needs them.
#[tokio::test]
async fn what_strangers_wrote_is_read_by_nobody() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new().await;
    let (dir, secret) = (bench.path("lent"), bench.path("secret"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&secret, vec![7; 4096]).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(dir.join("image"), vec![1; 4096]).unwrap();
    let run = |arguments: Vec<String>, writes: Option<(&'static str, u64)>| {
        let dir = dir.clone();
        async move { crate::qemu_img::run_apart(&dir, &arguments, writes).await.unwrap() }
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let told = run(words("info -f raw image"), None).await;
    assert_eq!(told.code, Some(0), "{}", told.complaint);
    let told = run([words("info -f raw"), vec![secret.to_str().unwrap().to_owned()]].concat(), None).await;
    assert!(told.complaint.contains("Permission denied"), "{}", told.complaint);
    // It makes no file but the one that it is to make, and that no larger than it may be.
    let told = run(words("create -q -f raw other 4096"), Some(("allowed", 8192))).await;
    assert!(
        told.complaint.contains("Permission denied") && !dir.join("other").exists(),
        "{}",
        told.complaint
    );
    assert_ne!(run(words("resize -f raw image 8192"), None).await.code, Some(0));
    let convert = words("convert -q -f raw -O raw -S 0 image made");
    assert_ne!(run(convert.clone(), Some(("made", 2048))).await.code, Some(0));
    std::fs::remove_file(dir.join("made")).unwrap();
    let told = run(convert, Some(("made", 8192))).await;
    assert_eq!(told.code, Some(0), "{}", told.complaint);
    assert_eq!(std::fs::read(dir.join("made")).unwrap(), vec![1; 4096]);
    for path in [dir.clone(), dir.join("image"), dir.join("made")] {
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o022), (0, 0), "{}", path.display());
    }
}

#[tokio::test]
async fn the_local_driver_of_volumes_keeps_its_promises() {
    let bench = Bench::new().await;
    bench.upload("base", Format::Raw, vec![7; 4096]).await.unwrap();
    for driver in [DiskStore::volumes(bench.images.clone()), DiskStore::snapshots(bench.images.clone())] {
        crate::conformance::volumes(&driver, "base").await;
    }
}
