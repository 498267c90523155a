//! Images from a registry and from archives, until they are removed.

use std::path::Path;
use std::process::Command;

use futures::StreamExt;
use serde_json::json;

use super::image::{Entry, Part, busybox_layer, layer, named_archive};
use super::{Cloud, Registry, script};
use crate::image::RegistryAuth::Anonymous;
use crate::{ContainerConfig, ImageService, RuntimeError};

/// Tries what the agent does with images; the containers are those of `cloud`. Needs Debian's `docker-registry` and `skopeo`, too.
///
/// # Panics
/// When the service differs.
pub async fn images(cloud: &Cloud, service: &dyn ImageService) {
    let archive = cloud.dir.join("images.tar");
    let own = layer(&[Entry::File("own", b"of this case", 0o644)]);
    let parts = [Part::gzipped(&busybox_layer()), Part::gzipped(&own)];
    named_archive(&archive, &parts, json!({"Env": ["PATH=/bin"]}), "docker.io/demo/inside:1");
    let registry = Registry::start(&cloud.dir.join("registry"));
    registry.push(&archive, "team/web:7");
    let name = format!("127.0.0.1:{}/team/web:7", registry.port);

    for missing in [format!("127.0.0.1:{}/team/none:1", registry.port), "127.0.0.1:1/x:1".to_owned()] {
        let error = service.pull(&missing, Anonymous).await.unwrap_err();
        assert!(matches!(&error, RuntimeError::Pull { reference, .. } if *reference == missing), "{error}");
        assert!(service.resolve(&missing).await.unwrap().is_none());
    }
    let pulled = service.pull(&name, Anonymous).await.unwrap();
    assert!(pulled.names.contains(&name) && pulled.size_bytes > 0, "{pulled:?}");
    assert!(pulled.repo_digests[0].contains("/team/web@sha256:"), "{pulled:?}");
    assert!(pulled.was_pulled() && service.is_open_to(&pulled, &name, &[]));
    assert!(!service.is_open_to(&pulled, "127.0.0.1:1/team/web:7", &[]), "not what came from elsewhere");
    for spelling in [&name, &pulled.id, &pulled.repo_digests[0]] {
        assert_eq!(service.resolve(spelling).await.unwrap().unwrap().id, pulled.id, "{spelling}");
    }
    assert!(service.list().await.unwrap().iter().any(|image| image.id == pulled.id));
    assert!(service.place().await.unwrap().is_dir());

    let run = ContainerConfig { image: name.clone(), ..script("main", "cat /own; sleep 1000") };
    cloud.start("im1", run).await;
    assert!(service.used().await.unwrap().contains(&pulled.id));
    let all = || [pulled.id.clone()].into();
    assert!(service.remove_unused(all()).await.unwrap().is_empty(), "a container was made from it");
    cloud.runtime.remove_sandbox("im1").await.unwrap();
    assert!(!service.used().await.unwrap().contains(&pulled.id));
    assert_eq!(service.remove_unused(all()).await.unwrap(), all());
    assert!(service.resolve(&name).await.unwrap().is_none());

    let imported = service.import(&archive, Some("demo/given:2")).await.unwrap().remove(0);
    assert_eq!(imported.id, pulled.id, "it is the same image");
    assert_eq!(imported.names, ["docker.io/demo/given:2"]);
    assert!(service.resolve("docker.io/demo/inside:1").await.unwrap().is_none(), "it was given another name");
    service.pull(&name, Anonymous).await.unwrap();
    let known = service.resolve("demo/given:2").await.unwrap().unwrap();
    assert!(!known.was_pulled() && service.is_open_to(&known, "demo/given:2", &[]), "it is for all");
    service.import(&archive, None).await.unwrap();
    assert_eq!(service.resolve("demo/inside:1").await.unwrap().unwrap().id, pulled.id);
    assert_eq!(service.remove_unused(all()).await.unwrap(), all());
    for gone in [&name, "demo/given:2", "demo/inside:1"] {
        assert!(service.resolve(gone).await.unwrap().is_none(), "{gone}");
    }
    exported_images_come_back(cloud, service, &archive).await;
    std::fs::write(&archive, "no archive").unwrap();
    let refused = service.import(&archive, None).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::BadImage { .. }), "{refused}");
}

async fn exported_images_come_back(cloud: &Cloud, service: &dyn ImageService, archive: &Path) {
    service.import(archive, Some("demo/out:1")).await.unwrap();
    let nothing = service.export(&["demo/none:1".to_owned()]).await.map(drop).unwrap_err();
    assert!(matches!(nothing, RuntimeError::ImageNotFound(_)), "{nothing}");
    let bytes = service.export(&["demo/out:1".to_owned()]).await.unwrap();
    let bytes: Vec<_> = bytes.map(Result::unwrap).collect().await;
    let file = cloud.dir.join("exported.tar");
    std::fs::write(&file, bytes.concat()).unwrap();
    for form in ["oci-archive", "docker-archive"] {
        let from = format!("{form}:{}", file.display());
        let done =
            Command::new("skopeo").args(["inspect", "--config", &from]).output().expect("Debian's skopeo");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("PATH=/bin"), "{form}: {done:?}");
    }
    let there = service.resolve("demo/out:1").await.unwrap().unwrap();
    service.remove_unused([there.id].into()).await.unwrap();
    assert!(service.resolve("demo/out:1").await.unwrap().is_none());
    let back = service.import(&file, None).await.unwrap().remove(0);
    assert_eq!(back.names, ["docker.io/demo/out:1"]);
    let run = ContainerConfig { image: "demo/out:1".to_owned(), ..script("main", "cat /own; echo") };
    let id = cloud.start("im2", run).await;
    cloud.exited(&id).await;
    assert_eq!(cloud.log(&id, Default::default()).await, "of this case\n");
    cloud.runtime.remove_sandbox("im2").await.unwrap();
    assert_eq!(service.remove_unused([back.id.clone()].into()).await.unwrap(), [back.id].into());
}
