//! What this process takes from its host: read from `/proc` when somebody asks.

use std::fmt::Error;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// This process.
#[derive(Debug)]
pub(super) struct Process;

/// What `/proc/self/stat` says.
#[derive(Debug, PartialEq)]
struct Usage {
    /// Ticks of the processor's clock, in user and kernel mode.
    ticks: u64,
    /// Ticks from the host's start to the process's.
    began: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Usage {
    /// Reads the line of proc_pid_stat(5). The program's name, in parentheses, may hold anything; behind it
    /// comes the third field.
    fn read(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            ticks: number(14)? + number(15)?,
            began: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

/// When the host started, in seconds since 1970.
fn host_start() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

impl Collector for Process {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), Error> {
        let usage = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Usage::read(&stat));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Tasks are to this program what goroutines are to one in Go: dashboards look for these.
            let tasks =
                ConstGauge::new(i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX));
            let text = "Number of tasks that are under way";
            tasks.encode(out.encode_descriptor("go_goroutines", text, None, tasks.metric_type())?)?;
        }
        // A host without /proc has nothing to say here.
        let Some(usage) = usage else { return Ok(()) };
        #[allow(clippy::cast_precision_loss, reason = "a number of seconds to look at")]
        let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
        let cpu = ConstCounter::new(seconds(usage.ticks));
        let text = "Total user and system CPU time spent in seconds";
        cpu.encode(out.encode_descriptor("process_cpu_seconds", text, None, cpu.metric_type())?)?;
        let mut gauge = |name: &str, text: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(out.encode_descriptor(name, text, None, gauge.metric_type())?)
        };
        #[allow(clippy::cast_precision_loss, reason = "numbers to look at")]
        {
            let resident = usage.resident_pages as f64 * page_size() as f64;
            gauge("process_resident_memory_bytes", "Resident memory size in bytes", resident)?;
            let size = usage.virtual_bytes as f64;
            gauge("process_virtual_memory_bytes", "Virtual memory size in bytes", size)?;
            if let Some(host) = host_start() {
                let start = host as f64 + seconds(usage.began);
                gauge("process_start_time_seconds", "Start time since 1970 in seconds", start)?;
            }
            if let Ok(open) = fs::read_dir("/proc/self/fd") {
                gauge("process_open_fds", "Number of open file descriptors", open.count() as f64)?;
            }
            if let Some(most) = getrlimit(Resource::As).current {
                let text = "Maximum amount of virtual memory in bytes";
                gauge("process_virtual_memory_max_bytes", text, most as f64)?;
            }
            if let Some(most) = getrlimit(Resource::Nofile).current {
                gauge("process_max_fds", "Maximum number of open file descriptors", most as f64)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_may_hold_anything() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 50 60 0 0 20 0 1 0 999 1000 11 18446744073709551615";
        let usage = Usage { ticks: 110, began: 999, virtual_bytes: 1000, resident_pages: 11 };
        assert_eq!(Usage::read(stat), Some(usage));
        assert_eq!(Usage::read("7 (a) S"), None);
    }
}
