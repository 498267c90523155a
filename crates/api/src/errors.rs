//! The store's errors in the API's words.

use yunfan_objects::ApiError;
use yunfan_store::StoreError;

/// What a client is told when the store refuses.
pub(crate) fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => expired(),
        StoreError::FutureRevision { requested, current } => {
            ApiError::timeout(format!("Too large resource version: {requested}, current: {current}"))
        }
        StoreError::TooLarge { .. } | StoreError::TooManyOps { .. } => {
            ApiError::new(413, yunfan_objects::Reason::RequestEntityTooLarge, error.to_string())
        }
        StoreError::Unavailable(_) | StoreError::Closed => {
            ApiError::service_unavailable(error.to_string(), 1)
        }
        StoreError::Unknown(_) => ApiError::timeout(error.to_string()),
        error => {
            tracing::error!(%error, "store error");
            ApiError::internal(error.to_string())
        }
    }
}

/// The list or watch asks for history that is gone.
pub(crate) fn expired() -> ApiError {
    ApiError::gone("The resourceVersion for the provided list or watch is too old: list again")
}

/// A watch asks for history that is gone, in the words that clients look for.
pub(crate) fn too_old(asked: u64, oldest: u64) -> ApiError {
    ApiError::gone(format!("too old resource version: {asked} ({oldest})"))
}
