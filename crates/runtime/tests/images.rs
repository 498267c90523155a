//! Images: archives, a real registry, hostile and corrupt layers. Needs root; the registry test needs Debian's
//! `docker-registry` and `skopeo`.

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::{Entry, IMAGE, Instance, Part, Registry, layer, script};
use serde_json::json;
use yunfan_runtime::image::{Limits, RegistryAuth, rewrite};
use yunfan_runtime::{ImageStore, Runtime, RuntimeError};

fn store(dir: &Path) -> ImageStore {
    let limits = Limits { entries: 50, bytes: 1 << 20 };
    ImageStore::open_with(&dir.join("images"), &dir.join("pods"), limits).unwrap()
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Imports a single layer and expects that it is refused for a reason with these words, and that nothing stays.
async fn refused(part: Part, digest: &str, words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let archive = dir.path().join("a.tar");
    common::oci_archive(&archive, &[part], json!({}));
    let error = store.import(&archive, Some("x")).await.unwrap_err();
    let RuntimeError::BadLayer { digest: named, reason } = &error else {
        panic!("{error}");
    };
    assert_eq!(named, digest);
    assert!(reason.contains(words), "{reason}");
    assert_eq!(entries(&dir.path().join("images/layers")), 0);
    assert_eq!(entries(&dir.path().join("images/tmp")), 0);
    assert!(store.list().is_empty());
}

async fn refused_layer(entries: &[Entry<'_>], words: &str) {
    let part = Part::gzipped(&layer(entries));
    let digest = common::digest(&part.blob);
    refused(part, &digest, words).await;
}

#[tokio::test]
async fn hostile_layers_are_refused() {
    use Entry::{Device, Dir, File, HardLink, Symlink};
    refused_layer(&[File("../x", b"x", 0o644)], "`..`").await;
    refused_layer(&[File("a/../../x", b"x", 0o644)], "`..`").await;
    refused_layer(&[File("/etc/x", b"x", 0o644)], "absolute").await;
    refused_layer(&[Symlink("a", "/etc"), File("a/x", b"x", 0o644)], "symbolic link").await;
    refused_layer(&[Dir("d"), Symlink("d/a", ".."), Dir("d/a/b")], "symbolic link").await;
    refused_layer(&[HardLink("x", "../../etc/passwd")], "`..`").await;
    refused_layer(&[Symlink("a", "/etc"), HardLink("x", "a/passwd")], "symbolic link").await;
    refused_layer(&[Symlink("a", "/etc"), File("a/.wh.passwd", b"", 0)], "symbolic link").await;
    refused_layer(&[Device("sda")], "device").await;
    refused_layer(&[File("f", b"x", 0o644), File("f/g", b"x", 0o644)], "through a file").await;
    refused_layer(&[File(".wh...", b"", 0)], "whiteout").await;
    let many: Vec<String> = (0..51).map(|n| format!("f{n}")).collect();
    let many: Vec<Entry<'_>> = many.iter().map(|name| File(name, b"", 0o644)).collect();
    refused_layer(&many, "more than 50 entries").await;
    // A bomb: little to transport, much to unpack.
    refused_layer(&[File("zeros", &vec![0; 2 << 20], 0o644)], "more than 1048576 bytes").await;
}

#[tokio::test]
async fn corrupt_layers_are_refused() {
    let tar = layer(&[Entry::File("f", b"content", 0o644)]);
    let mut wrong_diff_id = Part::gzipped(&tar);
    wrong_diff_id.diff_id = common::digest(b"something else");
    let digest = common::digest(&wrong_diff_id.blob);
    refused(wrong_diff_id, &digest, "unpacked it has digest").await;

    let mut cut = Part::gzipped(&tar);
    cut.blob.truncate(cut.blob.len() / 2);
    let digest = common::digest(&cut.blob);
    refused(cut, &digest, "").await;

    let noise = Part {
        blob: b"this is no tar at all, though it is long enough to look at".repeat(30),
        diff_id: common::digest(b""),
    };
    let digest = common::digest(&noise.blob);
    refused(noise, &digest, "").await;

    // A blob that does not have the digest it is filed under.
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let archive = dir.path().join("a.tar");
    let part = Part::gzipped(&tar);
    let digest = common::digest(&part.blob);
    common::oci_archive(&archive, &[part], json!({}));
    let mut bytes = std::fs::read(&archive).unwrap();
    let at = bytes.windows(3).position(|w| w == [0x1f, 0x8b, 8]).unwrap();
    bytes[at + 5] ^= 1; // The time in the gzip header: it still unpacks well.
    std::fs::write(&archive, bytes).unwrap();
    let error = store.import(&archive, Some("x")).await.unwrap_err().to_string();
    assert!(error.contains(&digest) && error.contains("its content has digest"), "{error}");
}

#[tokio::test]
async fn archives_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let path = dir.path().join("a.tar");
    let error = store.import(&path, None).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Io { .. }));
    std::fs::write(&path, b"hello").unwrap();
    let error = store.import(&path, None).await.unwrap_err();
    assert!(matches!(error, RuntimeError::BadImage { .. }), "{error}");
    common::oci_archive(&path, &[], json!({}));
    let error = store.import(&path, None).await.unwrap_err();
    assert!(error.to_string().contains("give a name"), "{error}");
    let error = store.import(&path, Some("Not A Name")).await.unwrap_err();
    assert!(matches!(error, RuntimeError::BadReference { .. }), "{error}");
}

#[tokio::test]
async fn names_layers_and_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let path = dir.path().join("a.tar");
    let shared = || Part::gzipped(&layer(&[Entry::File("a", b"1", 0o644)]));
    let own = Part::gzipped(&layer(&[Entry::File("b", b"2", 0o644)]));
    common::oci_archive(&path, &[shared()], json!({"Cmd": ["a"]}));
    let first = store.import(&path, Some("demo/web:1")).await.unwrap().remove(0);
    common::oci_archive(&path, &[shared(), own], json!({"Cmd": ["b"]}));
    // Compressed as a whole, too.
    std::fs::write(&path, common::gzip(&std::fs::read(&path).unwrap())).unwrap();
    let second = store.import(&path, Some("demo/web:2")).await.unwrap().remove(0);
    let layers = dir.path().join("images/layers");
    assert_eq!(entries(&layers), 2);
    for name in ["demo/web:1", "docker.io/demo/web:1", &first.id] {
        assert_eq!(store.resolve(name).unwrap().id, first.id);
    }
    // A name moves to the image that got it last.
    let moved = store.import(&path, Some("demo/web:1")).await.unwrap().remove(0);
    assert_eq!(moved.id, second.id);
    assert_eq!(store.resolve("demo/web:1").unwrap().id, second.id);
    store.remove("demo/web:2").await.unwrap();
    assert!(store.resolve("demo/web:1").is_some());
    let again = ImageStore::open(&dir.path().join("images"), &dir.path().join("pods")).unwrap();
    assert_eq!(again.list(), store.list());
    let removed = store.gc(&HashSet::from([second.id.clone()])).await.unwrap();
    assert_eq!((removed.images, removed.layers), (1, 0));
    store.remove(&second.id).await.unwrap();
    store.remove(&second.id).await.unwrap();
    assert_eq!(entries(&layers), 0);
    assert_eq!(entries(&dir.path().join("images/configs")), 0);
}

/// A mount in a layer's directory, which can't be deleted while it is there.
struct Stuck(std::path::PathBuf);

impl Stuck {
    fn in_dir(dir: &Path) -> Self {
        let at = dir.join("stuck");
        std::fs::create_dir(&at).unwrap();
        rustix::mount::mount("tmpfs", &at, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        Self(at)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_removal_that_ends_in_the_middle_leaves_no_half_layer() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let path = dir.path().join("a.tar");
    common::oci_archive(&path, &[Part::gzipped(&layer(&[Entry::File("a", b"1", 0o644)]))], json!({}));
    let image = store.import(&path, Some("demo/web:1")).await.unwrap().remove(0);
    let (layers, tmp) = (dir.path().join("images/layers"), dir.path().join("images/tmp"));
    let one = std::fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    let mut stuck = Stuck::in_dir(&one);
    let error = store.remove(&image.id).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Io { .. }), "{error}");
    assert_eq!(entries(&layers), 0, "what is there is taken for whole");
    stuck.0 = std::fs::read_dir(&tmp).unwrap().next().unwrap().unwrap().path().join("stuck");
    drop(stuck);
    let again = ImageStore::open(&dir.path().join("images"), &dir.path().join("pods")).unwrap();
    assert!(again.list().is_empty());
    assert_eq!(entries(&tmp), 0, "the rest goes when the store is opened");
}

#[tokio::test]
async fn what_docker_saves() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("images"), &dir.path().join("pods")).unwrap();
    let (from, to) = (dir.path().join("oci.tar"), dir.path().join("docker.tar"));
    let parts = ["a", "b"].map(|name| Part::gzipped(&layer(&[Entry::File(name, b"x", 0o644)])));
    common::oci_archive(&from, &parts, json!({"Entrypoint": ["/bin/httpd"]}));
    let done = Command::new("skopeo")
        .args(["copy", "--insecure-policy"])
        .arg(format!("oci-archive:{}", from.display()))
        .arg(format!("docker-archive:{}:team/saved:2", to.display()))
        .output()
        .expect("Debian's skopeo");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let image = store.import(&to, None).await.unwrap().remove(0);
    assert_eq!(image.names, ["docker.io/team/saved:2"]);
    assert_eq!(image.config.entrypoint, ["/bin/httpd"]);
    assert_eq!(entries(&dir.path().join("images/layers")), 2);

    // Both kinds, made anew for another importer: the same image by the names that it is to have.
    for (archive, name, expected) in [
        (&from, Some("team/anew:1"), "docker.io/team/anew:1"),
        (&to, None, "docker.io/team/saved:2"),
        (&to, Some("r.example/x"), "r.example/x:latest"),
    ] {
        let anew = dir.path().join("anew.tar");
        let file = std::fs::File::create(&anew).unwrap();
        let names = rewrite(archive, name, &dir.path().join("images"), file).unwrap();
        assert_eq!(names, [expected]);
        let again = store.import(&anew, None).await.unwrap().remove(0);
        assert_eq!(again.id, image.id);
        assert!(again.names.contains(&expected.to_owned()), "{:?}", again.names);
    }
    let nameless = rewrite(&from, None, &dir.path().join("images"), std::io::sink()).unwrap_err();
    assert!(nameless.to_string().contains("give a name"), "{nameless}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_in_use_stay() {
    let cloud = Instance::new().await;
    let id = cloud.start("i1", script("a", "sleep 1000")).await;
    let images = cloud.runtime.images();
    assert!(matches!(images.remove(IMAGE).await, Err(RuntimeError::ImageInUse { .. })));
    images.gc(&HashSet::new()).await.unwrap();
    let image = images.resolve(IMAGE).unwrap().id;
    let both = || HashSet::from([image.clone(), "sha256:none".to_owned()]);
    assert!(images.remove_unused(both()).await.unwrap().is_empty());
    assert!(images.resolve(IMAGE).is_some());
    cloud.runtime.remove_container(&id).await.unwrap();
    assert_eq!(images.remove_unused(both()).await.unwrap(), [image.clone()].into());
    assert!(images.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_from_a_registry_and_run() {
    let cloud = Instance::new().await;
    let registry = Registry::start(&cloud.dir.path().join("registry"));
    registry.push(&cloud.dir.path().join("web.tar"), "team/web:7");
    let images = cloud.runtime.images();
    images.remove(IMAGE).await.unwrap();
    let name = format!("127.0.0.1:{}/team/web:7", registry.port);
    let last = Arc::new(Mutex::new(None));
    let told = Arc::clone(&last);
    let progress = Arc::new(move |now| *told.lock().unwrap() = Some(now));
    // Three replicas ask at once: it is fetched once.
    let pulls = (0..3).map(|_| images.pull(&name, RegistryAuth::Anonymous, Some(progress.clone())));
    let pulled = futures::future::try_join_all(pulls).await.unwrap();
    assert_eq!(pulled[0], pulled[2]);
    let last = last.lock().unwrap().unwrap();
    assert_eq!((last.layers, last.layers_done), (2, 2));
    assert!(pulled[0].repo_digests[0].contains("/team/web@sha256:"));
    assert!(pulled[0].was_pulled() && pulled[0].is_open_to_all(&name));
    assert!(!pulled[0].is_open_to_all("127.0.0.1:1/team/web:7"), "not what was fetched from elsewhere");

    let config =
        yunfan_runtime::ContainerConfig { image: name.clone(), ..script("a", "cat /www/index.html") };
    let id = cloud.start("r1", config).await;
    assert_eq!(cloud.exited(&id).await.exit_code, Some(0));

    let missing = format!("127.0.0.1:{}/team/none:1", registry.port);
    let error = images.pull(&missing, RegistryAuth::Anonymous, None).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Pull { reference, .. } if *reference == missing), "{error}");
    assert_eq!(images.used().await.unwrap(), [pulled[0].id.clone()].into());
    images.import(&cloud.dir.path().join("web.tar"), Some(IMAGE)).await.unwrap();
    assert!(!images.resolve(&name).unwrap().was_pulled(), "an administrator gives it to all");
    let nobody = images.pull("127.0.0.1:1/x", RegistryAuth::Anonymous, None).await.unwrap_err();
    assert!(nobody.to_string().to_lowercase().contains("connection refused"), "{nobody}");
}
