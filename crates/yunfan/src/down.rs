//! `yunfan down`: the end of a cloud on this machine.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::DownOptions;
use crate::{instance, say};

/// How long the cloud process may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(options: &DownOptions) -> anyhow::Result<()> {
    let dir = &options.data.data_dir;
    if !dir.exists() {
        say(&format!("nothing to do: {} does not exist", dir.display()));
        return Ok(());
    }
    let dir = dir.canonicalize()?;
    stop_process(&dir)?;
    let Some(tag) = instance::read_tag(&dir)? else {
        say(&format!("nothing to do: {} was never a cloud's data directory", dir.display()));
        return Ok(());
    };
    // Held from here on, so that no cloud starts on the directory while it is cleared.
    let held = instance::Instance::open(&dir)?;
    if let Err(problems) = yunfan_agent::teardown(&tag, &dir.join("agent")) {
        bail!("not everything could be removed; try again after this is solved: {}", problems.join("; "));
    }
    if options.delete_data {
        yunfan_agent::remove_logs(&dir.join("agent")).context("cannot delete the logs of its Pods")?;
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot delete {}", dir.display()))?;
        say(&format!("removed the cloud {tag} and its data in {}", dir.display()));
    } else {
        say(&format!(
            "removed everything of the cloud {tag} from this machine; its data are still in {} (--delete-data deletes them)",
            dir.display()
        ));
    }
    drop(held);
    Ok(())
}

fn stop_process(dir: &Path) -> anyhow::Result<()> {
    let Some(pid) = instance::holder(dir) else { return Ok(()) };
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    // Where Pods have time to end, the process ends them first, and then itself.
    let period = yunfan_agent::shutdown_period(&dir.join("agent"));
    let (signal, patience) = match period {
        Some(period) => (Signal::USR1, PATIENCE + period),
        None => (Signal::TERM, PATIENCE),
    };
    say(&match period {
        Some(period) => {
            format!("stopping process {pid}; Pods have up to {} seconds to end", period.as_secs())
        }
        None => format!("stopping process {pid}"),
    });
    let _ = kill_process(process, signal);
    let started = Instant::now();
    let mut killed = false;
    while instance::holder(dir) == Some(pid) {
        if started.elapsed() > patience && !killed {
            let _ = kill_process(process, Signal::KILL);
            killed = true;
        }
        if started.elapsed() > patience + PATIENCE {
            bail!("process {pid} holds {} and does not end", dir.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
