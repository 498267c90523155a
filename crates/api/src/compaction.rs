//! Keeps the store's history short: every five minutes what is older than five minutes goes.

use std::sync::Weak;
use std::time::Duration;

use yunfan_store::StoreError;

use crate::registry::Registry;

const EVERY: Duration = Duration::from_secs(300);

/// Compacts until the registry is gone.
pub(crate) async fn run(registry: Weak<Registry>) {
    let mut before = None;
    loop {
        {
            let Some(registry) = registry.upgrade() else { return };
            if let Some(revision) = before.filter(|revision| *revision > 0) {
                match registry.store.compact(revision).await {
                    // Another server may have been first.
                    Ok(()) | Err(StoreError::Compacted { .. }) => tracing::debug!(revision, "compacted"),
                    Err(error) => tracing::warn!(%error, revision, "cannot compact the store"),
                }
            }
            before = Some(registry.cache.revision());
        }
        tokio::time::sleep(EVERY).await;
    }
}
