//! A cloud that keeps its objects in Debian's etcd.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use yunfan_tests::{Cloud, Slot, run, seconds, until};

struct Etcd {
    dir: tempfile::TempDir,
    client: String,
    peer: String,
    process: Option<Child>,
}

impl Etcd {
    fn start(slot: &Slot) -> Self {
        let url = |index| format!("http://127.0.0.1:{}", slot.port(index));
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let mut etcd = Self { dir, client: url(2), peer: url(3), process: None };
        etcd.up();
        etcd
    }

    fn up(&mut self) {
        let log: PathBuf = self.dir.path().join("log");
        let log = File::create(&log).expect("a log");
        let child = Command::new("etcd")
            .args(["--name", "e2e", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &self.client, "--advertise-client-urls", &self.client])
            .args(["--listen-peer-urls", &self.peer, "--initial-advertise-peer-urls", &self.peer])
            .arg("--initial-cluster")
            .arg(format!("e2e={}", self.peer))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.process = Some(child.expect("etcd"));
        until("etcd is healthy", seconds(30), || {
            run("curl", &["-fsS", "--max-time", "2", &format!("{}/health", self.client)]).as_probe()
        });
    }

    fn kill_9(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How many keys there are below a prefix.
    fn keys(&self, prefix: &str) -> usize {
        let ctl = ["--endpoints", &self.client, "get", "--prefix", prefix, "--keys-only"];
        let environment = [("ETCDCTL_API".to_owned(), "3".to_owned())];
        let said = yunfan_tests::run_with("etcdctl", &ctl, &environment, "").ok();
        said.lines().filter(|line| !line.is_empty()).count()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill_9();
    }
}

#[test]
fn objects_live_in_etcd() {
    // Only its ports are needed here.
    let slot = Slot::take();
    let mut etcd = Etcd::start(&slot);
    let cloud = Cloud::builder().argument("--etcd").argument(&etcd.client).start();
    assert!(!cloud.data_dir().join("store").exists(), "the embedded store is there as well");
    cloud.import_web();
    cloud.web("default", "web", 1);
    let pods = cloud.web_ready("default", "web");
    cloud.kubectl(&["create", "configmap", "note", "--from-literal=a=b"]).ok();
    let note = cloud.get(&["configmap", "note"]);
    let own = etcd.keys("/yunfan");
    assert!(own > 20, "only {own} keys below /yunfan");
    assert_eq!(etcd.keys("/"), own, "keys outside of /yunfan");

    cloud.kill_9();
    cloud.up_again();
    assert_eq!(cloud.get(&["configmap", "note"]), note);
    let again = cloud.web_ready("default", "web");
    assert_eq!(again[0]["metadata"]["uid"], pods[0]["metadata"]["uid"]);
    assert_eq!(again[0]["status"]["containerStatuses"], pods[0]["status"]["containerStatuses"]);

    // etcd goes and comes: writes are refused in between, and watches find their way again.
    etcd.kill_9();
    cloud.kubectl(&["create", "configmap", "between", "--request-timeout=20s"]).refused();
    etcd.up();
    cloud.until("writes work again", seconds(60), || {
        let made = cloud.kubectl(&["create", "configmap", "after"]);
        if made.succeeded() || made.stderr.contains("already exists") {
            Ok(())
        } else {
            Err(made.to_string())
        }
    });
    cloud.kubectl(&["scale", "deployment/web", "--replicas=2"]).ok();
    cloud.web_ready("default", "web");

    // No etcd at all: the cloud says so.
    cloud.kill_9();
    etcd.kill_9();
    cloud.second_up(None).refused_with(&["etcd", &etcd.client]);
}
