//! A registry to pull from. Needs Debian's `docker-registry` and `skopeo`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A real registry on loopback; it ends with this.
pub struct Registry {
    process: Child,
    /// Its port.
    pub port: u16,
}

impl Registry {
    /// Starts an empty one, whose files are in `dir`.
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        Self::serve(dir, "")
    }

    /// The same by HTTPS, with a certificate of an authority of its own, `ca.crt` in `dir`. Needs `openssl`.
    pub fn start_private(dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=tests -days 2 &&
            openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=registry &&
            echo subjectAltName=IP:127.0.0.1 > names &&
            openssl x509 -req -in request.pem -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem";
        let made = Command::new("sh").args(["-ec", script]).current_dir(dir).output().expect("a shell");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let file = |name: &str| dir.join(name).display().to_string();
        Self::serve(dir, &format!(", tls: {{certificate: {}, key: {}}}", file("cert.pem"), file("key.pem")))
    }

    fn serve(dir: &Path, tls: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"{tls}}}\n",
            dir.display()
        );
        let file = dir.join("config.yml");
        std::fs::write(&file, config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's docker-registry");
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, port }
    }

    /// Gives it the image of an OCI archive.
    pub fn push(&self, archive: &Path, name: &str) {
        let done = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://127.0.0.1:{}/{name}", self.port))
            .output()
            .expect("Debian's skopeo");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
