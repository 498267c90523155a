//! Which store the cloud keeps its objects in.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use yunfan_store::Store;

/// Opens the embedded store in the data directory, or connects to etcd.
pub(crate) async fn open(dir: &Path, etcd: &[String]) -> anyhow::Result<Arc<dyn Store>> {
    if etcd.is_empty() {
        let path = dir.join("store");
        let opened = tokio::task::spawn_blocking(move || yunfan_store::open_embedded(path)).await?;
        return Ok(opened.context("the embedded store cannot be opened")?);
    }
    let config = yunfan_store::EtcdConfig::new(etcd.iter().cloned());
    let store = yunfan_store::connect_etcd(config).await;
    Ok(store.with_context(|| format!("etcd at {} cannot be used", etcd.join(", ")))?)
}
