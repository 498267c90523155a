//! A real registry on loopback: Debian's `docker-registry`.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::{run, seconds, until, web_archive};

const USER: &str = "ann";
const PASSWORD: &str = "s3cret";
/// The media type of an image's manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry with images in a directory of the test's.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    /// Whom a registry that asks lets in: name and password.
    pub const CREDENTIALS: (&'static str, &'static str) = (USER, PASSWORD);

    /// Starts one with `auth`, a line of its configuration, which may be empty, and its images in `dir`.
    #[track_caller]
    pub fn start(dir: &Path, auth: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = listener.expect("a free port").to_string();
        let file = dir.join("registry.yml");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}/images}}}}\n\
             http: {{addr: \"{address}\"}}\n{auth}\n",
            dir.display()
        );
        std::fs::write(&file, config).expect("the registry's configuration");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's docker-registry");
        until("the registry listens", seconds(10), || {
            TcpStream::connect(&address).map_err(|e| e.to_string())
        });
        Self { process, address }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The whole name of an image there.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Puts the demo's web image there, with more options for `skopeo copy`.
    #[track_caller]
    pub fn push_web(&self, name: &str, options: &[&str]) {
        let (from, to) = (format!("oci-archive:{}", web_archive()), format!("docker://{}", self.image(name)));
        let credentials = format!("{USER}:{PASSWORD}");
        let fixed = [
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            "--dest-creds",
            &credentials,
            &from,
            &to,
        ];
        run("skopeo", &[&fixed[..], options].concat()).ok();
    }

    /// Asks the registry's API; gives the answer with its head.
    #[track_caller]
    pub fn ask(&self, path: &str, arguments: &[&str]) -> String {
        let (url, user) = (format!("http://{}/v2/{path}", self.address), format!("{USER}:{PASSWORD}"));
        run("curl", &[&["-sSf", "-i", "-u", &user, &url], arguments].concat()).ok()
    }

    /// An image's manifest, and its digest.
    #[track_caller]
    pub fn manifest(&self, path: &str) -> (Value, String) {
        let said = self.ask(path, &["-H", &format!("Accept: {MANIFEST}")]);
        let plain = said.replace('\r', "");
        let body = plain.split_once("\n\n").expect("an answer").1;
        (serde_json::from_str(body).expect("a manifest"), digest(&said))
    }

    /// Puts a manifest under a name; returns its digest.
    #[track_caller]
    pub fn put(&self, path: &str, kind: &str, manifest: &Value) -> String {
        let (kind, body) = (format!("Content-Type: {kind}"), manifest.to_string());
        digest(&self.ask(path, &["-X", "PUT", "-H", &kind, "-d", &body]))
    }

    /// Puts a file among the blobs of a repository; returns its digest and size.
    #[track_caller]
    pub fn put_blob(&self, repository: &str, file: &Path) -> (String, u64) {
        let name = file.to_string_lossy();
        let sum = run("sha256sum", &[&name]).ok();
        let digest = format!("sha256:{}", sum.split(' ').next().unwrap_or_default());
        let begun = self.ask(&format!("{repository}/blobs/uploads/"), &["-X", "POST", "-d", ""]);
        let place = header(&begun, "location");
        let url = format!("{place}&digest={digest}");
        let user = format!("{USER}:{PASSWORD}");
        let kind = "Content-Type: application/octet-stream";
        run("curl", &["-sSf", "-u", &user, "-X", "PUT", "-H", kind, "-T", &name, &url]).ok();
        (digest, file.metadata().expect("the file").len())
    }

    /// Puts an image there that is the one at `base` of the same repository with one more layer, of this many bytes that can't be
    /// compressed.
    #[track_caller]
    pub fn push_larger(&self, repository: &str, (base, tag): (&str, &str), bytes: u64) {
        let dir = tempfile::tempdir().expect("a directory");
        let (content, layer) = (dir.path().join("filler"), dir.path().join("layer.tar"));
        let noise = std::fs::File::open("/dev/urandom").expect("noise");
        let mut file = std::fs::File::create(&content).expect("a file");
        std::io::copy(&mut noise.take(bytes), &mut file).expect("a file's content");
        run("tar", &["-cf", &layer.to_string_lossy(), "-C", &dir.path().to_string_lossy(), "filler"]).ok();
        let (layer, size) = self.put_blob(repository, &layer);
        let (mut manifest, _) = self.manifest(&format!("{repository}/manifests/{base}"));
        let config = manifest["config"]["digest"].as_str().expect("a digest");
        let said = self.ask(&format!("{repository}/blobs/{config}"), &[]).replace('\r', "");
        let text = said.split_once("\n\n").expect("an answer").1;
        let mut config: Value = serde_json::from_str(text).expect("a configuration");
        config["rootfs"]["diff_ids"].as_array_mut().expect("layers").push(json!(layer));
        let file = dir.path().join("config.json");
        std::fs::write(&file, config.to_string()).expect("a file");
        let (config, length) = self.put_blob(repository, &file);
        manifest["config"]["digest"] = json!(config);
        manifest["config"]["size"] = json!(length);
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let entry = json!({"mediaType": kind, "digest": layer, "size": size});
        manifest["layers"].as_array_mut().expect("layers").push(entry);
        self.put(&format!("{repository}/manifests/{tag}"), MANIFEST, &manifest);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The digest that an answer tells of.
fn digest(answer: &str) -> String {
    header(answer, "docker-content-digest")
}

fn header(answer: &str, wanted: &str) -> String {
    let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    found.unwrap_or_else(|| panic!("no {wanted}: {answer}")).1.trim().to_owned()
}
