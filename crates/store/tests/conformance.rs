//! The suite on both engines.

use std::sync::Arc;

use yunfan_store::conformance::{self, EtcdServer, WATCH_RING};
use yunfan_store::{EmbeddedOptions, EtcdConfig, Store, connect_etcd, open_embedded_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_engine() {
    let home = tempfile::tempdir().unwrap();
    let mut number = 0;
    conformance::run(|| {
        number += 1;
        let dir = home.path().join(number.to_string());
        async move { open_embedded_with(dir, EmbeddedOptions { feed: WATCH_RING }).unwrap() as Arc<dyn Store> }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn etcd_engine() {
    let server = EtcdServer::start(&std::env::temp_dir()).unwrap_or_else(|e| panic!("{e}"));
    let mut number = 0;
    conformance::run(|| {
        number += 1;
        let prefix = format!("/case-{number}");
        let config = EtcdConfig { prefix, feed: WATCH_RING, ..EtcdConfig::new([server.endpoint()]) };
        async move { connect_etcd(config).await.unwrap() as Arc<dyn Store> }
    })
    .await;
}
