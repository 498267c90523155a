//! Pods that waited while there was no scheduler, and how fast it gives them nodes when it comes.

use std::time::{Duration, Instant};

use yunfan_bench::process::Cloud;

use crate::hollow::{Nodes, SERVER, create_pods};
use crate::{PORT, Run};

const LIMIT: Duration = Duration::from_secs(600);

/// A backlog of 5,000 Pods on 1,000 nodes.
pub(crate) async fn run(run: &Run<'_>) -> anyhow::Result<()> {
    let (count, pods) = (run.scaled(1000), run.scaled(5000));
    let dir = run.scratch.join("backlog");
    {
        let waiting = [SERVER.as_slice(), &["--scheduler", "own"]].concat();
        let cloud = Cloud::start_with(run.yunfan, &dir, PORT, &waiting)?;
        let client = yunfan_client::connect(&cloud.dir.join("kubeconfig")).await?;
        let _nodes = Nodes::start(&client, count).await?;
        let started = Instant::now();
        create_pods(&client, pods).await?;
        let rate = pods as f64 / started.elapsed().as_secs_f64();
        println!(
            "{pods} pods made, no scheduler          {rate:>7.0}/s   Kubernetes 603/s ({:.1})",
            rate / 603.0
        );
    }
    // Counted from the new process's start: what it takes to be there is in it.
    let started = Instant::now();
    let cloud = Cloud::start_with(run.yunfan, &dir, PORT, &SERVER)?;
    let client = yunfan_client::connect(&cloud.dir.join("kubeconfig")).await?;
    let mut watched = crate::seen::Watched::start(client, |_| {});
    let took = watched.until(started, LIMIT, |counts| counts.bound == pods).await?;
    let rate = pods as f64 / took.as_secs_f64();
    println!(
        "a backlog of {pods} pods, all bound      {rate:>7.0}/s   {:.2} s after the start of the process (ready after {:.2} s); \
         Kubernetes 245/s ({:.1})",
        took.as_secs_f64(),
        cloud.took.as_secs_f64(),
        rate / 245.0
    );
    Ok(())
}
