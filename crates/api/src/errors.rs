//! The store's errors in the API's words.

use yunfan_objects::ApiError;
use yunfan_store::StoreError;

/// What a client is told when the store refuses.
pub(crate) fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => list_expired(None),
        StoreError::FutureRevision { requested, current } => ApiError::revision_too_large(requested, current),
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

/// The list asks for history that is gone; `go_on` is a token that continues it with what is there now.
pub(crate) fn list_expired(go_on: Option<String>) -> ApiError {
    const PAGE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
    match go_on {
        Some(token) => ApiError::gone(PAGE).with_continue(token),
        None => ApiError::gone("The resourceVersion for the provided list is too old."),
    }
}

/// A watch asks for history that is gone, in the words that clients look for.
pub(crate) fn too_old(asked: u64, oldest: u64) -> ApiError {
    ApiError::gone(format!("too old resource version: {asked} ({oldest})"))
}
