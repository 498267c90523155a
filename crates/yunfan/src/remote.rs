//! Reaching a running cloud from another process, as its admin.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// A client for the cloud of a data directory.
pub(crate) async fn client(dir: &Path) -> anyhow::Result<kube::Client> {
    let path = dir.join("kubeconfig");
    anyhow::ensure!(
        path.exists(),
        "{} does not exist: is there a cloud in {}? Start one with `yunfan up --data-dir {}`",
        path.display(),
        dir.display(),
        dir.display()
    );
    Ok(yunfan_client::connect(&path).await?)
}

/// The URL of the cloud's API server.
pub(crate) fn server(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("kubeconfig");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: start the server first", path.display()))?;
    let config: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let server = config["clusters"][0]["cluster"]["server"].as_str();
    Ok(server.with_context(|| format!("{} names no server", path.display()))?.to_owned())
}
