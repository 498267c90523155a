//! Whether one client's flood moves another's answers: the 99th percentile of a calm client's reads, alone and while another client
//! sends 10,000 reads a second, each by the token of an account of its own, so that both are judged as anybody is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use yunfan_bench::http::Server;
use yunfan_bench::numbers::Number;

/// Reads of the calm client, each time.
const READS: usize = 3_000;
/// Its pause between two.
const PAUSE: Duration = Duration::from_millis(3);
/// Connections of the flood.
const CONNECTIONS: usize = 64;
/// What it sends in all, a second.
const RATE: usize = 10_000;

/// How much longer the calm client waits beside the flood.
pub(crate) const TIMES: &str = "times as long";

/// What the flood came to.
#[derive(Default)]
struct Sent {
    answered: AtomicUsize,
    /// With an error, such as 429.
    refused: AtomicUsize,
}

/// The calm client's 99th percentile alone and beside the flood, and what the flood was answered. Both requests are whole, with
/// their tokens.
///
/// # Errors
/// The calm client is refused, or a connection fails.
pub(crate) async fn measure(server: &Server, calm: &[u8], wild: &[u8]) -> anyhow::Result<Vec<Number>> {
    let alone = percentile(server, calm).await?;
    let sent = Arc::new(Sent::default());
    let mut flood = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut connection = server.connect().await?;
        let (sent, request) = (sent.clone(), wild.to_vec());
        flood.spawn(async move {
            let mut ticks =
                interval(Duration::from_secs(1) * u32::try_from(CONNECTIONS).unwrap_or(1) / RATE as u32);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                ticks.tick().await;
                let to = if connection.call(&request).await.is_ok() { &sent.answered } else { &sent.refused };
                to.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let beside = percentile(server, calm).await?;
    let seconds = begun.elapsed().as_secs_f64();
    flood.shutdown().await;
    let rate = |what, count: &AtomicUsize| Number {
        what,
        value: count.load(Ordering::Relaxed) as f64 / seconds,
        unit: "/s",
    };
    let micros = |what, time: Duration| Number { what, value: time.as_secs_f64() * 1e6, unit: "µs" };
    Ok(vec![
        micros("a calm client's read, p99, alone", alone),
        micros("the same beside a flood", beside),
        Number { what: TIMES, value: beside.as_secs_f64() / alone.as_secs_f64(), unit: "" },
        rate("of the flood, answered", &sent.answered),
        rate("of the flood, refused", &sent.refused),
    ])
}

/// The 99th percentile of the calm client's reads.
async fn percentile(server: &Server, request: &[u8]) -> anyhow::Result<Duration> {
    let (server, request) = (server.clone(), request.to_vec());
    // On the runtime's own threads, as the flood.
    let times = tokio::spawn(async move {
        let mut connection = server.connect().await?;
        let mut times = Vec::with_capacity(READS);
        for _ in 0..READS {
            tokio::time::sleep(PAUSE).await;
            let begun = Instant::now();
            connection.call(&request).await?;
            times.push(begun.elapsed());
        }
        anyhow::Ok(times)
    });
    let mut times = times.await??;
    times.sort_unstable();
    Ok(times[READS * 99 / 100])
}
