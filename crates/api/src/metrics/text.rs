//! Prometheus' older text format (0.0.4), made of OpenMetrics: there a counter's name has its `_total` in its description too, and
//! there are neither units nor an end mark.

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

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

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
