//! Prometheus' older text format (0.0.4), made of OpenMetrics: there a counter's name has its `_total` in its description too, and
//! there are neither units nor an end mark. A counter may also have the name of a gauge there.

use std::collections::HashSet;

/// The same metrics in the older format.
pub(super) fn plain(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    // A help text comes before the type that decides how the name is written.
    let mut help = None;
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), Some(text)) => help = Some(text),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some(text) = help.take() {
                    out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
                }
                let kind = if kind == "unknown" { "untyped" } else { kind };
                out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// The same without families that have the name of one before them: OpenMetrics has one family of a name.
pub(super) fn distinct(open: &str) -> String {
    let mut seen = HashSet::new();
    let mut out = String::with_capacity(open.len());
    let mut skips = false;
    for line in open.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            skips = !seen.insert(described.split(' ').next());
        }
        if !skips || line == "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn openmetrics_has_one_family_of_a_name() {
        let mut registry = Registry::default();
        registry.register("away", "Those away", Gauge::<i64>::default());
        registry.register("away", "How often", Counter::<u64>::default());
        registry.register("other", "Others", Counter::<u64>::default());
        let mut open = String::new();
        encode(&mut open, &registry).expect("room");
        assert!(plain(&open).contains("# TYPE away_total counter\naway_total 0\n"));
        assert_eq!(
            distinct(&open),
            "# HELP away Those away.\n# TYPE away gauge\naway 0\n\
             # HELP other Others.\n# TYPE other counter\nother_total 0\n# EOF\n"
        );
    }

    #[test]
    fn counters_have_their_whole_name() {
        let mut registry = Registry::default();
        registry.register("asked", "Questions", Counter::<u64>::default());
        registry.register_with_unit("weight", "How heavy", Unit::Grams, Gauge::<i64>::default());
        let mut open = String::new();
        encode(&mut open, &registry).expect("room");
        assert!(open.ends_with("# EOF\n"));
        assert_eq!(
            plain(&open),
            "# HELP asked_total Questions.\n# TYPE asked_total counter\nasked_total 0\n\
             # HELP weight_grams How heavy.\n# TYPE weight_grams gauge\nweight_grams 0\n"
        );
    }
}
