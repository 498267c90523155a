//! Whether one client's flood moves another's answers: the 99th percentile of a calm client's reads, alone and while another client
//! sends 10,000 reads a second, each by the token of an account of its own, so that both are judged as anybody is.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use yunfan_bench::http::Server;
use yunfan_bench::numbers::{Number, median};

/// Rounds of the calm client alone and beside the flood.
const ROUNDS: usize = 7;
/// Its reads each time.
const READS: usize = 1_000;
/// Its pause between two.
const PAUSE: Duration = Duration::from_millis(3);
/// Connections of the flood.
const CONNECTIONS: usize = 64;
/// What it sends in all, a second.
const RATE: usize = 10_000;

/// First argument of the flood's own process.
pub(crate) const ARGUMENT: &str = "--flood";
/// How much longer the calm client waits beside the flood.
pub(crate) const TIMES: &str = "times as long";

/// What the flood came to.
#[derive(Default)]
struct Sent {
    answered: AtomicUsize,
    /// With an error, such as 429.
    refused: AtomicUsize,
}

/// The calm client's 99th percentile alone and beside the flood, and what the flood was answered: the medians of several rounds, each
/// of both, since what else a machine does in between is longer than what is measured. Both requests are whole, with their tokens; `pki`
/// is where the flood finds the server's certificate.
///
/// # Errors
/// The calm client is refused, or the flood ends early.
pub(crate) async fn measure(
    server: &Server,
    pki: &Path,
    calm: &[u8],
    wild: &[u8],
) -> anyhow::Result<Vec<Number>> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let (mut answered, mut refused, mut seconds) = (0.0, 0.0, 0.0);
    for _ in 0..ROUNDS {
        alone.push(percentile(server, calm).await?);
        let flood = Flood::start(server, pki, wild).await?;
        let begun = Instant::now();
        beside.push(percentile(server, calm).await?);
        seconds += begun.elapsed().as_secs_f64();
        let (yes, no) = flood.end().await?;
        (answered, refused) = (answered + yes, refused + no);
    }
    let (alone, beside) = (median(&mut alone), median(&mut beside));
    let rate = |what, count: f64| Number { what, value: count / seconds, unit: "/s" };
    let micros = |what, time: Duration| Number { what, value: time.as_secs_f64() * 1e6, unit: "µs" };
    Ok(vec![
        micros("a calm client's read, p99, alone", alone),
        micros("the same beside a flood", beside),
        Number { what: TIMES, value: beside.as_secs_f64() / alone.as_secs_f64(), unit: "" },
        rate("of the flood, answered", answered),
        rate("of the flood, refused", refused),
    ])
}

/// A flood under way, in a process of its own.
struct Flood {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Flood {
    async fn start(server: &Server, pki: &Path, request: &[u8]) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .arg(pki)
            .arg(server.address.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the flood's own process")?;
        let mut input = process.stdin.take().context("the flood's input")?;
        input.write_all(request).await?;
        input.write_all(&[0]).await?;
        let mut output = BufReader::new(process.stdout.take().context("the flood's output")?).lines();
        output.next_line().await?.context("the flood did not begin")?;
        Ok(Self { process, input, output })
    }

    /// Ends it; how many of its requests were answered, and how many refused.
    async fn end(mut self) -> anyhow::Result<(f64, f64)> {
        drop(self.input);
        let line = self.output.next_line().await?.context("the flood ended early")?;
        let (answered, refused) = line.split_once(' ').context("the flood's counts")?;
        self.process.wait().await?;
        Ok((answered.parse()?, refused.parse()?))
    }
}

/// The flood's own process: sends the request that stands on its input, up to a zero byte, until the input ends; then says how
/// many were answered and how many refused.
///
/// # Errors
/// No connection to the server.
pub(crate) async fn send(server: &Server) -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut request = Vec::new();
    input.read_until(0, &mut request).await?;
    request.pop();
    let sent = Arc::new(Sent::default());
    let mut flood = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection = server.connect().await?;
        let (sent, request) = (sent.clone(), request.clone());
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
    println!("begun");
    sent.answered.store(0, Ordering::Relaxed);
    input.read_until(0, &mut request).await?;
    flood.shutdown().await;
    println!("{} {}", sent.answered.load(Ordering::Relaxed), sent.refused.load(Ordering::Relaxed));
    Ok(())
}

/// The 99th percentile of the calm client's reads.
async fn percentile(server: &Server, request: &[u8]) -> anyhow::Result<Duration> {
    let (server, request) = (server.clone(), request.to_vec());
    // On a thread of its own: what its threads would cost to wake one another would be measured with it.
    let reads = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connection = server.connect().await?;
            let mut times = Vec::with_capacity(READS);
            for _ in 0..READS {
                tokio::time::sleep(PAUSE).await;
                let begun = Instant::now();
                connection.call(&request).await?;
                times.push(begun.elapsed());
            }
            anyhow::Ok(times)
        })
    });
    let mut times = reads.await??;
    times.sort_unstable();
    Ok(times[READS * 99 / 100])
}
