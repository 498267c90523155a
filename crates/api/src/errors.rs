//! The store's errors in the API's words.

use yunfan_objects::{ApiError, Reason};
use yunfan_store::StoreError;

/// What a client is told when the store refuses.
pub(crate) fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => list_expired(None),
        StoreError::FutureRevision { requested, current } => ApiError::revision_too_large(requested, current),
        StoreError::TooLarge { .. } | StoreError::TooManyOps { .. } => {
            ApiError::new(413, Reason::RequestEntityTooLarge, error.to_string())
        }
        StoreError::Unavailable(_) | StoreError::Closed | StoreError::Sealing(_) => {
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

/// Two 422s of one object as one: first the findings of the first. Anything else than a 422 in the second place counts alone.
pub(crate) fn joined(first: &ApiError, second: ApiError) -> ApiError {
    let parts = |error: &ApiError| {
        let details = error.details().filter(|_| error.reason() == Reason::Invalid)?;
        Some((error.message().split_once(" is invalid: ")?.0.to_owned(), details.clone()))
    };
    let (Some((about, mut details)), Some((_, more))) = (parts(first), parts(&second)) else { return second };
    details.causes.extend(more.causes);
    let mut texts: Vec<String> = Vec::new();
    for cause in &details.causes {
        let text = format!("{}: {}", cause.field, cause.message);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let message = format!("{about} is invalid: [{}]", texts.join(", "));
    ApiError::new(422, Reason::Invalid, message).with_details(details)
}
