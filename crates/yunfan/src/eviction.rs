//! Options that say when Pods end because their node is short of something; they are the kubelet's.

use std::time::Duration;

use clap::Args;
use yunfan_agent::{EvictionSettings, EvictionTexts, InvalidThreshold, parse_period};

/// When Pods end because the node is short of something.
#[derive(Args)]
pub(crate) struct EvictionOptions {
    /// Pods end at once with less than this, such as `memory.available<100Mi,nodefs.available<10%`.
    #[arg(long, value_delimiter = ',', value_name = "SIGNAL<AMOUNT", value_parser = below)]
    eviction_hard: Vec<(String, String)>,
    /// Pods end with less than this after a while.
    #[arg(long, value_delimiter = ',', value_name = "SIGNAL<AMOUNT", value_parser = below)]
    eviction_soft: Vec<(String, String)>,
    /// How long that while is, such as `memory.available=1m30s`.
    #[arg(long, value_delimiter = ',', value_name = "SIGNAL=TIME", value_parser = equals)]
    eviction_soft_grace_period: Vec<(String, String)>,
    /// How much more has to come free, such as `nodefs.available=500Mi`.
    #[arg(long, value_delimiter = ',', value_name = "SIGNAL=AMOUNT", value_parser = equals)]
    eviction_minimum_reclaim: Vec<(String, String)>,
    /// How long the node says that it is short of something after it was last so.
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = period)]
    eviction_pressure_transition_period: Duration,
    /// The most seconds that Pods have to end by `--eviction-soft`.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    eviction_max_pod_grace_period: u32,
}

impl EvictionOptions {
    /// # Errors
    /// When one can't be used.
    pub(crate) fn settings(&self) -> Result<EvictionSettings, InvalidThreshold> {
        let texts = EvictionTexts {
            hard: self.eviction_hard.clone(),
            soft: self.eviction_soft.clone(),
            soft_grace: self.eviction_soft_grace_period.clone(),
            reclaim: self.eviction_minimum_reclaim.clone(),
        };
        let most_grace = Duration::from_secs(self.eviction_max_pod_grace_period.into());
        EvictionSettings::new(&texts, self.eviction_pressure_transition_period, most_grace)
    }
}

fn below(text: &str) -> Result<(String, String), String> {
    pair(text, '<')
}

fn equals(text: &str) -> Result<(String, String), String> {
    pair(text, '=')
}

fn pair(text: &str, by: char) -> Result<(String, String), String> {
    let (name, value) = text.split_once(by).ok_or_else(|| format!("there is no {by:?} in it"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// A time as Go writes it, such as `1m30s`.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    parse_period(text).ok_or_else(|| "it is no time such as 1m30s".to_owned())
}
