//! Waiting for what must come true.

use std::time::{Duration, Instant};

/// A duration in seconds, so that deadlines read well.
pub fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Asks again and again until the probe is content, and returns what it gives.
///
/// Fails the test after `limit` with what did not come true and the last thing that the probe saw.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if started.elapsed() > limit => {
                panic!("after {} s still not so: {what}\nlast seen: {seen}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
