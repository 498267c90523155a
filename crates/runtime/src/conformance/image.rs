//! Images that are made by hand, from this machine's static busybox.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the image is called that most cases run.
pub const IMAGE: &str = "demo/web:1";

/// The digest of some bytes, as images name them.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// An entry of a layer made by hand, so that it can be as odd as a test wants.
pub enum Entry<'a> {
    /// A directory.
    Dir(&'a str),
    /// A file: its content and mode.
    File(&'a str, &'a [u8], u32),
    /// A symbolic link and where it leads.
    Symlink(&'a str, &'a str),
    /// Another name of a file.
    HardLink(&'a str, &'a str),
    /// A character device.
    Device(&'a str),
}

/// A layer as a tar.
pub fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1);
        header.set_uid(0);
        header.set_gid(0);
        let (path, kind, mode, content, link): (&str, _, _, &[u8], &str) = match *entry {
            Entry::Dir(path) => (path, tar::EntryType::Directory, 0o755, b"", ""),
            Entry::File(path, content, mode) => (path, tar::EntryType::Regular, mode, content, ""),
            Entry::Symlink(path, link) => (path, tar::EntryType::Symlink, 0o777, b"", link),
            Entry::HardLink(path, link) => (path, tar::EntryType::Link, 0o644, b"", link),
            Entry::Device(path) => (path, tar::EntryType::Char, 0o666, b"", ""),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        // Written raw: the library refuses the paths that a hostile layer has.
        let bytes = header.as_mut_bytes();
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Compresses.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The base layer: busybox and what it is called by.
pub fn busybox_layer() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let mut entries = vec![
        Entry::Dir("bin"),
        Entry::Dir("etc"),
        Entry::Dir("tmp"),
        Entry::Dir("www"),
        Entry::File("bin/busybox", &busybox, 0o755),
        Entry::File("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:34::/www:/bin/sh\n", 0o644),
        Entry::File("www/index.html", b"hello from a container\n", 0o644),
        Entry::File("etc/hidden", b"below\n", 0o644),
        Entry::Dir("replaced"),
        Entry::File("replaced/low", b"", 0o644),
    ];
    let names = [
        "sh", "cat", "echo", "httpd", "sleep", "id", "hostname", "ls", "wget", "dd", "tail", "stty", "mount",
        "ip", "touch", "ps", "kill", "env", "true", "head",
    ];
    let paths: Vec<String> = names.iter().map(|name| format!("bin/{name}")).collect();
    entries.extend(paths.iter().map(|path| Entry::Symlink(path, "busybox")));
    layer(&entries)
}

/// A layer of an archive.
pub struct Part {
    /// Compressed.
    pub blob: Vec<u8>,
    /// Digest of the tar.
    pub diff_id: String,
}

impl Part {
    /// Compresses.
    pub fn gzipped(tar: &[u8]) -> Self {
        Self { blob: gzip(tar), diff_id: digest(tar) }
    }

    /// With zstd.
    pub fn zstandard(tar: &[u8]) -> Self {
        Self { blob: zstd::encode_all(tar, 0).unwrap(), diff_id: digest(tar) }
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, content).unwrap();
}

/// Writes an OCI image layout as a tar.
pub fn oci_archive(path: &Path, parts: &[Part], config: Value) {
    archive(path, parts, config, json!({}));
}

/// As [`oci_archive`], with the image's name inside.
pub fn named_archive(path: &Path, parts: &[Part], config: Value, name: &str) {
    archive(path, parts, config, json!({"io.containerd.image.name": name}));
}

fn archive(path: &Path, parts: &[Part], config: Value, annotations: Value) {
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers",
            "diff_ids": parts.iter().map(|part| part.diff_id.clone()).collect::<Vec<_>>()},
    }))
    .unwrap();
    let layers: Vec<Value> = parts
        .iter()
        .map(|part| {
            let kind = if part.blob.starts_with(&[0x28, 0xb5]) { "zstd" } else { "gzip" };
            json!({"mediaType": format!("application/vnd.oci.image.layer.v1.tar+{kind}"),
            "digest": digest(&part.blob), "size": part.blob.len()})
        })
        .collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config), "size": config.len()},
        "layers": layers,
    }))
    .unwrap();
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest), "size": manifest.len(),
            "annotations": annotations}],
    }))
    .unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    append(&mut tar, "index.json", &index);
    let blobs = parts.iter().map(|part| &part.blob).chain([&config, &manifest]);
    for blob in blobs {
        append(&mut tar, &format!("blobs/sha256/{}", &digest(blob)[7..]), blob);
    }
    std::fs::write(path, tar.into_inner().unwrap()).unwrap();
}

/// The image most tests run: two layers, the upper of which hides a file of the lower and replaces a directory.
pub fn web_archive(path: &Path) {
    let upper = layer(&[
        Entry::Dir("etc"),
        Entry::File("etc/.wh.hidden", b"", 0o644),
        Entry::Dir("replaced"),
        Entry::File("replaced/.wh..wh..opq", b"", 0o644),
        Entry::File("replaced/high", b"", 0o644),
    ]);
    let parts = [Part::gzipped(&busybox_layer()), Part::zstandard(&upper)];
    let config = json!({
        "Entrypoint": ["/bin/httpd"],
        "Cmd": ["-f", "-p", "80", "-h", "/www"],
        "Env": ["PATH=/bin", "FROM=image"],
        "WorkingDir": "/www",
    });
    named_archive(path, &parts, config, &format!("docker.io/{IMAGE}"));
}
