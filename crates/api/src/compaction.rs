//! Keeps the store's history short: at each turn what is older than the turn before goes. Every read of a revision that
//! is gone is refused from then on, also where the cache could still answer it: an answer that depends on luck is none.

use std::sync::Weak;

use yunfan_store::StoreError;

use crate::registry::Registry;

/// Compacts until the registry is gone; does nothing where the history is to be kept.
pub(crate) async fn run(registry: Weak<Registry>) {
    let mut before = None;
    loop {
        let every = {
            let Some(registry) = registry.upgrade() else { return };
            if let Some(revision) = before.filter(|revision| *revision > 0) {
                compact(&registry, revision).await;
            }
            before = Some(registry.cache.revision());
            registry.config.compaction_interval
        };
        if every.is_zero() {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

async fn compact(registry: &Registry, revision: u64) {
    match registry.store.compact(revision).await {
        Ok(()) => {
            tracing::debug!(revision, "compacted");
            registry.cache.compacted(revision);
        }
        // Another server was first, and may have gone further.
        Err(StoreError::Compacted { compact_revision }) => {
            registry.cache.compacted(compact_revision.max(revision));
        }
        Err(error) => tracing::warn!(%error, revision, "cannot compact the store"),
    }
}
