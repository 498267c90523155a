//! The suite on both engines.

use std::sync::Arc;

use yunfan_store::conformance::{self, WATCH_RING};
use yunfan_store::{EmbeddedOptions, Store, open_embedded_with};

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
