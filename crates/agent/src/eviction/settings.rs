//! From when on a node is short of something, as an administrator says it in the kubelet's words: `memory.available<100Mi`.

use std::time::Duration;

use yunfan_objects::Quantity;

#[cfg(doc)]
use crate::pressure::KINDS;

/// Something that a node has too little of, sooner or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Signal {
    /// Bytes of memory that new programs can have.
    Memory,
    /// Bytes of the file system with the workloads' disks.
    NodeDisk,
    /// Its inodes.
    NodeInodes,
    /// Bytes of the file system with the containers' images, which is the same here.
    ImageDisk,
    /// Its inodes.
    ImageInodes,
    /// Numbers for processes.
    Pids,
}

impl Signal {
    /// All of them, in the order in which what is short is looked after.
    pub(crate) const ALL: [Self; 6] =
        [Self::Memory, Self::NodeDisk, Self::NodeInodes, Self::ImageDisk, Self::ImageInodes, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::NodeDisk => "nodefs.available",
            Self::NodeInodes => "nodefs.inodesFree",
            Self::ImageDisk => "imagefs.available",
            Self::ImageInodes => "imagefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// The resource that it is about, as events and statuses call it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeDisk | Self::ImageDisk => "ephemeral-storage",
            Self::NodeInodes | Self::ImageInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// Which of [`KINDS`] of shortage it tells of.
    pub(crate) fn kind(self) -> usize {
        match self {
            Self::Memory => 0,
            Self::Pids => 2,
            _ => 1,
        }
    }

    pub(crate) fn is_of_disk(self) -> bool {
        !matches!(self, Self::Memory | Self::Pids)
    }
}

impl std::str::FromStr for Signal {
    type Err = InvalidThreshold;

    fn from_str(text: &str) -> Result<Self, InvalidThreshold> {
        let found = Self::ALL.into_iter().find(|signal| signal.name() == text);
        found.ok_or_else(|| InvalidThreshold(format!("unsupported eviction signal {text}")))
    }
}

/// How much: as it is, or of what there is in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    /// Whole units.
    Units(u64),
    /// A share of 1, and never more than so many units.
    Share(f64, u64),
}

impl Amount {
    /// In units, of so many in all.
    pub(crate) fn of(self, total: u64) -> u64 {
        match self {
            Self::Units(units) => units,
            // What is lost of a number of that size is no matter; `as` saturates.
            Self::Share(share, most) => ((total as f64 * share) as u64).min(most),
        }
    }
}

/// Why a setting about eviction can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidThreshold(String);

/// Less of something than this is a shortage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) signal: Signal,
    pub(crate) less_than: Amount,
    /// How long it may be so before Pods end because of it; none at all where it is a hard one.
    pub(crate) grace: Duration,
    /// So much more has to come free until it is over.
    pub(crate) reclaim: Option<Amount>,
}

impl Threshold {
    pub(crate) fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

/// When Pods end because their node is short of something.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionSettings {
    pub(crate) thresholds: Vec<Threshold>,
    /// A shortage is told of for this long after it was last seen, so that a node does not go to and fro.
    pub(crate) transition: Duration,
    /// The most time that Pods have to end at a soft threshold.
    pub(crate) most_grace: Duration,
}

/// Settings as they are written, for [`EvictionSettings::new`].
#[derive(Clone, Debug, Default)]
pub struct EvictionTexts {
    /// Thresholds at which Pods end at once; the usual ones where there are none.
    pub hard: Vec<(String, String)>,
    /// Thresholds at which Pods end after a while.
    pub soft: Vec<(String, String)>,
    /// How long that while is, for each of those.
    pub soft_grace: Vec<(String, String)>,
    /// How much more has to come free.
    pub reclaim: Vec<(String, String)>,
}

/// How long a shortage is told of after it was last seen (the kubelet's default).
const TRANSITION: Duration = Duration::from_secs(300);
/// With this much of the disk free there is no shortage: a tenth of a large disk is more than most workloads ever write.
const ENOUGH_DISK: u64 = 2 << 30;

impl Default for EvictionSettings {
    /// The kubelet's own, but that a large disk is not short of room as long as 2 GiB are left, and that the numbers of processes
    /// count: a node without any left is of no use.
    fn default() -> Self {
        let hard = |signal, less_than| Threshold { signal, less_than, grace: Duration::ZERO, reclaim: None };
        let thresholds = vec![
            hard(Signal::Memory, Amount::Units(100 << 20)),
            hard(Signal::NodeDisk, Amount::Share(0.1, ENOUGH_DISK)),
            hard(Signal::NodeInodes, Amount::Share(0.05, u64::MAX)),
            hard(Signal::Pids, Amount::Share(0.05, u64::MAX)),
        ];
        Self { thresholds, transition: TRANSITION, most_grace: Duration::ZERO }
    }
}

impl EvictionSettings {
    /// How much of something there has to be left at least, of so much in all; with less, Pods end at once.
    pub(crate) fn kept_free(&self, signal: Signal, total: u64) -> u64 {
        let hard = self.thresholds.iter().filter(|t| t.signal == signal && t.is_hard());
        hard.map(|threshold| threshold.less_than.of(total)).max().unwrap_or(0)
    }

    /// # Errors
    /// What is no signal, no amount or no time, and a soft threshold without its time.
    pub fn new(
        texts: &EvictionTexts,
        transition: Duration,
        most_grace: Duration,
    ) -> Result<Self, InvalidThreshold> {
        let usual = Self::default().thresholds;
        let mut thresholds =
            if texts.hard.is_empty() { usual } else { read(&texts.hard, |_| Ok(Duration::ZERO))? };
        let graces = texts.soft_grace.iter().map(|(signal, time)| Ok((signal.parse()?, period(time)?)));
        let graces = graces.collect::<Result<Vec<(Signal, Duration)>, _>>()?;
        thresholds.extend(read(&texts.soft, |signal| {
            let found = graces.iter().find(|(of, _)| *of == signal).map(|(_, grace)| *grace);
            found.ok_or_else(|| {
                let name = signal.name();
                InvalidThreshold(format!(
                    "grace period must be specified for the soft eviction threshold {name}"
                ))
            })
        })?);
        for (signal, text) in &texts.reclaim {
            let (signal, more) = (signal.parse::<Signal>()?, amount(signal, text)?);
            for threshold in thresholds.iter_mut().filter(|threshold| threshold.signal == signal) {
                threshold.reclaim = more;
            }
        }
        Ok(Self { thresholds, transition, most_grace })
    }
}

fn read(
    pairs: &[(String, String)],
    grace: impl Fn(Signal) -> Result<Duration, InvalidThreshold>,
) -> Result<Vec<Threshold>, InvalidThreshold> {
    let mut found = Vec::new();
    for (name, text) in pairs {
        let signal = name.parse()?;
        let grace = grace(signal)?;
        let Some(less_than) = amount(name, text)? else { continue };
        found.push(Threshold { signal, less_than, grace, reclaim: None });
    }
    Ok(found)
}

/// An amount; none for one that means nothing (`0%`, `100%`).
fn amount(signal: &str, text: &str) -> Result<Option<Amount>, InvalidThreshold> {
    let wrong = |why: &str| InvalidThreshold(format!("eviction threshold {signal} {why}: {text}"));
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| wrong("is no percentage"))?;
        return match percent {
            0.0 | 100.0 => Ok(None),
            0.0..100.0 => Ok(Some(Amount::Share(percent / 100.0, u64::MAX))),
            _ => Err(wrong("must be between 0% and 100%")),
        };
    }
    let quantity: Quantity = text.parse().map_err(|_| wrong("is no amount"))?;
    match u64::try_from(quantity.units()) {
        Ok(units) => Ok(Some(Amount::Units(units)).filter(|_| units > 0)),
        Err(_) => Err(wrong("must be positive")),
    }
}

/// A time as Go writes it: `1m30s`.
fn period(text: &str) -> Result<Duration, InvalidThreshold> {
    parse_period(text).ok_or_else(|| InvalidThreshold(format!("{text:?} is no time such as 1m30s")))
}

/// A time as Go writes it (`1m30s`), which is not negative.
pub fn parse_period(text: &str) -> Option<Duration> {
    yunfan_objects::parse_duration(text).and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn settings(texts: &EvictionTexts) -> Result<EvictionSettings, String> {
        EvictionSettings::new(texts, TRANSITION, Duration::ZERO).map_err(|error| error.to_string())
    }

    #[test]
    fn thresholds_are_read() {
        let texts = EvictionTexts {
            hard: pairs(&[("memory.available", "1Gi"), ("nodefs.inodesFree", "5%"), ("pid.available", "0%")]),
            soft: pairs(&[("memory.available", "2Gi")]),
            soft_grace: pairs(&[("memory.available", "1m30s")]),
            reclaim: pairs(&[("memory.available", "512Mi"), ("nodefs.inodesFree", "1%")]),
        };
        let found = settings(&texts).unwrap().thresholds;
        let hard = Threshold {
            signal: Signal::Memory,
            less_than: Amount::Units(1 << 30),
            grace: Duration::ZERO,
            reclaim: Some(Amount::Units(512 << 20)),
        };
        let soft = Threshold { less_than: Amount::Units(2 << 30), grace: Duration::from_secs(90), ..hard };
        assert_eq!((found[0], found[2], found.len()), (hard, soft, 3));
        assert_eq!(found[1].less_than.of(1000), 50);
        assert_eq!(found[1].reclaim.map(|more| more.of(1000)), Some(10));
        assert!(found[0].is_hard() && !found[2].is_hard());
    }

    #[test]
    fn what_is_no_threshold_is_refused() {
        let hard = |name, value| EvictionTexts { hard: pairs(&[(name, value)]), ..EvictionTexts::default() };
        for (name, value, words) in [
            ("disk", "1", "unsupported eviction signal disk"),
            ("memory.available", "lots", "is no amount"),
            ("memory.available", "-1", "must be positive"),
            ("memory.available", "101%", "between"),
            ("memory.available", "x%", "is no percentage"),
        ] {
            let error = settings(&hard(name, value)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let soft = EvictionTexts { soft: pairs(&[("pid.available", "10%")]), ..EvictionTexts::default() };
        assert_eq!(
            settings(&soft).unwrap_err(),
            "grace period must be specified for the soft eviction threshold pid.available"
        );
        let late = EvictionTexts { soft_grace: pairs(&[("pid.available", "soon")]), ..soft };
        assert!(settings(&late).unwrap_err().contains("is no time"));
    }

    #[test]
    fn without_settings_the_usual_ones_count() {
        let usual = settings(&EvictionTexts::default()).unwrap();
        assert_eq!(usual, EvictionSettings::default());
        let disk = usual.thresholds[1].less_than;
        assert_eq!((disk.of(1 << 30), disk.of(1 << 40)), ((1 << 30) / 10, ENOUGH_DISK));
    }
}
