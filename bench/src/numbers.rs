//! Numbers as they are shown.

use std::time::Duration;

/// The middle one. Sorts the times; none has the middle zero.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Milliseconds with one digit behind the point.
pub fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// How our time compares with a peer's, in words.
pub fn ratio(peer: Duration, own: Duration, name: &str) -> String {
    format!("{:.2} of {name} ({} ms)", own.as_secs_f64() / peer.as_secs_f64(), ms(peer))
}
