//! Passwords: argon2id, off the request threads, at most two at once.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

/// Memory that one hash takes, KiB (OWASP's recommendation: 19 MiB, two passes, one lane).
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Hashes made at once: 38 MiB and two cores at most, whatever is asked of us.
static RUNNING: Semaphore = Semaphore::const_new(2);
/// How many may wait for their turn; beyond it [`PasswordError::Busy`].
const MAX_WAITING: usize = 64;
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// The longest password, bytes.
pub const MAX_PASSWORD: usize = 4096;
/// The most that a stored hash may ask for: a Secret written by hand must not take all memory.
const MAX_STORED_MEMORY_KIB: u32 = 256 * 1024;
const MAX_STORED_PASSES: u32 = 16;

/// Why a password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Longer than [`MAX_PASSWORD`].
    #[error("The password is longer than {MAX_PASSWORD} bytes; choose a shorter one")]
    TooLong,
    /// Too many people sign in at this moment.
    #[error("Too many passwords are being checked at this moment; try again in a second")]
    Busy,
    /// The stored hash cannot be used.
    #[error("The stored password hash is not an argon2 PHC string within limits; set the password again")]
    Stored,
    /// The computation failed.
    #[error("The password could not be hashed: {0}")]
    Failed(String),
}

/// The hash of `password` as a PHC string (`$argon2id$v=19$m=19456,t=2,p=1$...`), with a new salt.
///
/// # Errors
/// [`PasswordError`].
pub async fn hash(password: &str) -> Result<String, PasswordError> {
    if password.len() > MAX_PASSWORD {
        return Err(PasswordError::TooLong);
    }
    let password = password.to_owned();
    in_turn(move || hash_now(password.as_bytes())).await
}

/// Whether `password` is the one that `stored` (a PHC string) was made from. `None` stands for a user who does
/// not exist or has no password: the answer is `false` after as much work, so that time does not
/// tell who exists.
///
/// # Errors
/// [`PasswordError`]; a wrong password is no error.
pub async fn verify(password: &str, stored: Option<&str>) -> Result<bool, PasswordError> {
    if password.len() > MAX_PASSWORD {
        return Ok(false);
    }
    let (password, stored) = (password.to_owned(), stored.map(str::to_owned));
    in_turn(move || match stored {
        Some(stored) => verify_now(password.as_bytes(), &stored),
        None => hash_now(password.as_bytes()).map(|_| false),
    })
    .await
}

fn hasher() -> &'static Argon2<'static> {
    static HASHER: LazyLock<Argon2<'static>> = LazyLock::new(|| {
        // The constants are within argon2's limits, so the default is never taken.
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or_default();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
    });
    &HASHER
}

fn hash_now(password: &[u8]) -> Result<String, PasswordError> {
    hasher()
        .hash_password(password)
        .map(|hash| hash.to_string())
        .map_err(|error| PasswordError::Failed(error.to_string()))
}

fn verify_now(password: &[u8], stored: &str) -> Result<bool, PasswordError> {
    let stored = PasswordHash::new(stored).map_err(|_| PasswordError::Stored)?;
    let params = Params::try_from(&stored).map_err(|_| PasswordError::Stored)?;
    if params.m_cost() > MAX_STORED_MEMORY_KIB || params.t_cost() > MAX_STORED_PASSES {
        return Err(PasswordError::Stored);
    }
    // The comparison inside is in constant time.
    Ok(hasher().verify_password(password, &stored).is_ok())
}

async fn in_turn<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
) -> Result<T, PasswordError> {
    struct Waiting;
    impl Drop for Waiting {
        fn drop(&mut self) {
            WAITING.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let waiting = Waiting;
    if WAITING.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
        return Err(PasswordError::Busy);
    }
    let failed = |error: &dyn std::fmt::Display| PasswordError::Failed(error.to_string());
    let permit = RUNNING.acquire().await.map_err(|error| failed(&error))?;
    drop(waiting);
    // The permit goes with the work: a caller who gives up does not make room for another.
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    })
    .await
    .map_err(|error| failed(&error))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other() {
        let stored = hash("correct horse").await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(verify("correct horse", Some(&stored)).await.unwrap());
        assert!(!verify("correct horsf", Some(&stored)).await.unwrap());
        assert!(!verify("correct horse", None).await.unwrap());
        assert!(!verify(&"x".repeat(MAX_PASSWORD + 1), Some(&stored)).await.unwrap());
    }

    #[tokio::test]
    async fn stored_hashes_that_make_no_sense_or_ask_too_much_are_refused() {
        for stored in [
            "",
            "secret",
            "$argon2id$v=19$m=4000000,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(matches!(verify("x", Some(stored)).await, Err(PasswordError::Stored)), "{stored}");
        }
    }
}
