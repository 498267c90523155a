//! Images from where an administrator says: mirrors, registries with authorities of their own, plain HTTP.

mod common;

use std::path::{Path, PathBuf};

use common::{Instance, Registry};
use yunfan_runtime::image::RegistryAuth;
use yunfan_runtime::{Image, RuntimeError};

/// No host has this name.
const REGISTRY: &str = "registry.invalid";
const NAME: &str = "registry.invalid/team/web:7";

struct Bench {
    cloud: Instance,
    private: Registry,
}

impl Bench {
    async fn new() -> Self {
        let cloud = Instance::new().await;
        let private = Registry::start_private(&cloud.dir.path().join("private"));
        private.push(&cloud.dir.path().join("web.tar"), "team/web:7");
        cloud.runtime.images().remove(common::IMAGE).await.unwrap();
        Self { cloud, private }
    }

    fn dir(&self) -> &Path {
        self.cloud.dir.path()
    }

    fn configure(&self, text: &str) {
        let dir = self.dir().join("certs.d").join(REGISTRY);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    async fn pull(&self) -> Result<Image, String> {
        let pulled = self.cloud.runtime.images().pull(NAME, RegistryAuth::Anonymous, None).await;
        pulled.map_err(|error| {
            assert!(
                matches!(error, RuntimeError::Pull { .. } | RuntimeError::InvalidConfig { .. }),
                "{error:?}"
            );
            error.to_string()
        })
    }

    /// Pulls, and forgets it again.
    async fn comes(&self) {
        let image = self.pull().await.unwrap();
        assert_eq!(image.names, [NAME]);
        assert!(image.repo_digests[0].starts_with("registry.invalid/team/web@sha256:"), "{image:?}");
        assert!(image.is_open_to_all(NAME));
        self.cloud.runtime.images().remove(NAME).await.unwrap();
        assert!(self.cloud.runtime.images().list().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_place_does_not_give_the_next_does() {
    let bench = Bench::new().await;
    let (port, ca) = (bench.private.port, bench.dir().join("private/ca.crt").display().to_string());
    let none = bench.pull().await.unwrap_err();
    assert!(!none.contains("127.0.0.1"), "{none}");

    // Who has no certificate of a known authority is not believed; what is changed holds at once.
    bench.configure(&format!("[host.'https://127.0.0.1:{port}']"));
    let unknown = bench.pull().await.unwrap_err().to_lowercase();
    assert!(unknown.contains("certificate") && unknown.contains(&format!("127.0.0.1:{port}")), "{unknown}");
    bench.configure(&format!("[host.'https://127.0.0.1:{port}']\nskip_verify = true"));
    bench.comes().await;
    // The first does not answer.
    bench.configure(&format!(
        "[host.'http://127.0.0.1:1']\n[host.'https://127.0.0.1:{port}']\nca = '{ca}'\ncapabilities = ['pull', 'resolve']"
    ));
    bench.comes().await;
    // A mirror that gives content alone does not say what a tag leads to.
    bench.configure(&format!("[host.'https://127.0.0.1:{port}']\nca = '{ca}'\ncapabilities = ['pull']"));
    assert!(!bench.pull().await.unwrap_err().contains("127.0.0.1"));
    bench.configure(&format!("server = 'https://127.0.0.1:{port}'\nca = ['{ca}']"));
    bench.comes().await;
    bench.configure("[host.'https://127.0.0.1:1']\nheader = {a = 'b'}");
    assert!(bench.pull().await.unwrap_err().contains("header"));
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_come_from_the_next_place_where_one_has_only_told_of_them() {
    let bench = Bench::new().await;
    let (port, ca) = (bench.private.port, bench.dir().join("private/ca.crt").display().to_string());
    let broken = Registry::start(&bench.dir().join("broken"));
    broken.push(&bench.dir().join("web.tar"), "team/web:7");
    let blobs = bench.dir().join("broken/data/docker/registry/v2/blobs/sha256");
    // The manifest and the configuration are small.
    let mut taken = 0;
    for file in files_below(&blobs) {
        if std::fs::metadata(&file).unwrap().len() > 100_000 {
            std::fs::remove_file(&file).unwrap();
            taken += 1;
        }
    }
    assert!(taken > 0, "there was a layer");
    bench.configure(&format!("[host.'http://127.0.0.1:{}']", broken.port));
    let error = bench.pull().await.unwrap_err();
    assert!(error.contains("layer"), "{error}");
    bench.configure(&format!(
        "[host.'http://127.0.0.1:{}']\n[host.'https://127.0.0.1:{port}']\nca = '{ca}'",
        broken.port
    ));
    bench.comes().await;
}
