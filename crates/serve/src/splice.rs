//! Two connections made one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Two connections without a byte for this time, or twice of it, are closed.
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// When one direction has ended, the other may be silent for this time, or twice of it.
const HALF_IDLE: Duration = Duration::from_secs(30);
/// Bytes that are under way in each direction.
const BUFFER: usize = 32 * 1024;

/// Carries bytes between two connections until both directions have ended, one of them fails, or nothing moves for too long.
/// Returns the number of bytes from `one` to `other` and back. Both are closed at the end.
pub async fn splice<A, B>(one: A, other: B) -> (u64, u64)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (from_one, to_one) = tokio::io::split(one);
    let (from_other, to_other) = tokio::io::split(other);
    let (there, back) = (AtomicU64::new(0), AtomicU64::new(0));
    let moved = || there.load(Ordering::Relaxed).wrapping_add(back.load(Ordering::Relaxed));
    {
        let going = carry(from_one, to_other, &there);
        let coming = carry(from_other, to_one, &back);
        tokio::pin!(going, coming);
        let half = tokio::select! {
            whole = &mut going => whole.then_some(false),
            whole = &mut coming => whole.then_some(true),
            () = idle(IDLE, moved) => None,
        };
        // A half that failed leaves nothing worth waiting for.
        match half {
            Some(false) => tokio::select! { _ = coming => {}, () = idle(HALF_IDLE, moved) => {} },
            Some(true) => tokio::select! { _ = going => {}, () = idle(HALF_IDLE, moved) => {} },
            None => {}
        }
    }
    (there.into_inner(), back.into_inner())
}

/// Carries one direction; true when it came to its end.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &AtomicU64) -> bool {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return to.shutdown().await.is_ok(),
            Ok(length) => {
                moved.fetch_add(length as u64, Ordering::Relaxed);
                if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
}

async fn idle(limit: Duration, moved: impl Fn() -> u64) {
    let mut seen = moved();
    loop {
        tokio::time::sleep(limit).await;
        let now = moved();
        if now == seen {
            return;
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut client, ours) = tokio::io::duplex(64);
        let (theirs, mut server) = tokio::io::duplex(64);
        let splicing = tokio::spawn(splice(ours, theirs));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        server.write_all(b"a long answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "a long answer"));
        assert_eq!(splicing.await.unwrap(), (8, 13));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_sooner_when_one_side_is_over() {
        let (client, ours) = tokio::io::duplex(64);
        let (theirs, server) = tokio::io::duplex(64);
        let begun = tokio::time::Instant::now();
        splice(ours, theirs).await;
        assert!(begun.elapsed() >= IDLE);
        drop((client, server));
        let (mut client, ours) = tokio::io::duplex(64);
        let (theirs, _server) = tokio::io::duplex(64);
        client.shutdown().await.unwrap();
        let begun = tokio::time::Instant::now();
        splice(ours, theirs).await;
        assert!(begun.elapsed() >= HALF_IDLE && begun.elapsed() < IDLE);
    }
}
