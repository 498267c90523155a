//! What nodes and Pods use now (metrics.k8s.io): their rows, and how amounts of CPU are written.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::builtin::ColumnSpec;
use crate::builtin::rows::name;
use crate::lookup::{list, text};
use crate::{Object, Quantity};

/// Parts of a core that usage is counted in.
const NANO: u128 = 1_000_000_000;

/// The columns of metrics-server's tables.
pub(super) const COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("cpu", "quantity", 0), ("memory", "quantity", 0), ("Window", "duration", 0)];

/// An amount of CPU, given in billionths of a core, as a quantity.
pub fn nano_cores(amount: u64) -> String {
    let (mut amount, mut suffixes) = (amount, ["n", "u", "m", "", "k", "M", "G"].iter());
    let mut suffix = suffixes.next();
    while amount != 0
        && amount % 1000 == 0
        && let Some(larger) = suffixes.next()
    {
        (amount, suffix) = (amount / 1000, Some(larger));
    }
    if amount == 0 { "0".to_owned() } else { format!("{amount}{}", suffix.unwrap_or(&"")) }
}

/// The billionths of a core that [`nano_cores`] wrote.
fn read_nano(text: &str) -> u128 {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let scale = match &text[digits.len()..] {
        "n" => 1,
        "u" => 1000,
        "m" => 1_000_000,
        "k" => NANO * 1000,
        "M" => NANO * 1_000_000,
        "G" => NANO * NANO,
        _ => NANO,
    };
    digits.parse::<u128>().unwrap_or(0).saturating_mul(scale)
}

pub(super) fn cells(object: &Object, _now: Timestamp) -> Vec<Value> {
    let own = object.get("usage");
    let parts = list(object, &["containers"]).iter().map(|container| &container["usage"]);
    let usages: Vec<&Value> = own.into_iter().chain(parts).collect();
    let cpu: u128 = usages.iter().map(|usage| read_nano(text(usage, &["cpu"]))).sum();
    let memory = usages.iter().filter_map(|usage| text(usage, &["memory"]).parse::<Quantity>().ok());
    let memory = memory.fold(Quantity::from_bytes(0), |all, one| all + one);
    vec![
        name(object),
        json!(nano_cores(u64::try_from(cpu).unwrap_or(u64::MAX))),
        json!(memory.to_string()),
        json!(text(object, &["window"])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_cpu_have_the_largest_suffix_that_keeps_them_exact() {
        for (nano, written) in [
            (0, "0"),
            (1, "1n"),
            (1500, "1500n"),
            (250_000_000, "250m"),
            (12_000, "12u"),
            (2_000_000_000, "2"),
            (3_000_000_000_000, "3k"),
        ] {
            assert_eq!(nano_cores(nano), written);
            assert_eq!(read_nano(written), u128::from(nano), "{written}");
        }
    }

    #[test]
    fn the_row_of_a_pod_is_the_sum_of_its_containers() {
        let usage = |cpu: &str, memory: &str| json!({"name": "c", "usage": {"cpu": cpu, "memory": memory}});
        let pod = json!({"metadata": {"name": "p"}, "window": "10s",
            "containers": [usage("1500n", "1Mi"), usage("2m", "512Ki")]});
        assert_eq!(
            cells(&pod, Timestamp::UNIX_EPOCH),
            [json!("p"), json!("2001500n"), json!("1536Ki"), json!("10s")]
        );
        let node = json!({"metadata": {"name": "n"}, "window": "1m0s", "usage": {"cpu": "2", "memory": "5"}});
        assert_eq!(cells(&node, Timestamp::UNIX_EPOCH), [json!("n"), json!("2"), json!("5"), json!("1m0s")]);
    }
}
