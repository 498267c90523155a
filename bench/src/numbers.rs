//! Numbers as they are shown.

#![expect(clippy::print_stdout, reason = "a benchmark speaks to whoever runs it")]

use std::time::Duration;

/// One number of a run.
pub struct Number {
    /// What it is of.
    pub what: &'static str,
    /// How much, in `unit`.
    pub value: f64,
    /// `ms`, `/s`, `MiB`, ...
    pub unit: &'static str,
}

/// Shows our numbers, each beside that of the same name of a peer, where there is one.
pub fn show(own: &[Number], peer: Option<&[Number]>) {
    println!("{:<44} {:>12} {:>24} {:>7}", "", "yunfan", "kube-apiserver + etcd", "ratio");
    for number in own {
        let Number { what, value, unit } = number;
        let other = peer.and_then(|peer| peer.iter().find(|other| other.what == *what));
        let (shown, ratio) = match other {
            Some(other) => (format!("{:.1} {unit}", other.value), format!("{:.2}", value / other.value)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        println!("{what:<44} {:>12} {shown:>24} {ratio:>7}", format!("{value:.1} {unit}"));
    }
}

/// A time, in milliseconds.
pub fn time(what: &'static str, time: Duration) -> Number {
    Number { what, value: time.as_secs_f64() * 1000.0, unit: "ms" }
}

/// So many a second.
pub fn rate(what: &'static str, value: f64) -> Number {
    Number { what, value, unit: "/s" }
}

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
