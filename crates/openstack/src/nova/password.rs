//! Passwords of guests' administrators: made up where a client gives none, and kept nowhere.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use rand::Rng;
use serde_json::json;

use super::servers::find;
use crate::auth::Session;
use crate::error::Answer;
use crate::versions::ok;

/// Length of one that is made up (Nova's default).
const LENGTH: usize = 12;
/// No letters or digits that are taken for one another.
const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// A new one.
pub(super) fn random() -> String {
    let mut random = rand::rng();
    (0..LENGTH).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

/// `GET /servers/{id}/os-server-password`: the password that a guest told, encrypted. No guest can tell one here.
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    find(&session, &id).await?;
    Ok(ok(&json!({"password": ""})))
}

/// `DELETE /servers/{id}/os-server-password`: none is kept.
pub(super) async fn clear(session: Session, Path(id): Path<String>) -> Answer {
    find(&session, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        assert_eq!(random().len(), LENGTH);
        assert_ne!(random(), random());
    }
}
