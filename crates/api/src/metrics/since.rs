//! What is counted since it was last said that all counting begins anew (`DELETE /metrics`).
//!
//! What counts goes on counting: what was told then is taken from what is told now, so nothing that counts has to know of it.

use std::collections::{HashMap, HashSet};

/// Gauges that count, under names that counters cannot have here.
const COUNTING: [&str; 2] = ["authentication_attempts", "authenticated_user_requests"];

/// What all had counted at that moment, as it is written there: by what it is counted by.
#[derive(Debug, Default)]
pub(super) struct Since(HashMap<String, String>);

impl Since {
    /// What is told in OpenMetrics now is where counting begins. What has no labels of its own is of the process as a whole and goes
    /// on, as in Kubernetes.
    pub(super) fn now(told: &str) -> Self {
        let mut counted = Counted::default();
        let mut before = HashMap::new();
        for line in told.lines() {
            if counted.has(line)
                && let Some((by, count)) = line.rsplit_once(' ')
            {
                before.insert(by.to_owned(), count.to_owned());
            }
        }
        Self(before)
    }

    /// What is told now, from then on.
    pub(super) fn of(&self, told: String) -> String {
        if self.0.is_empty() {
            return told;
        }
        let mut counted = Counted::default();
        let mut out = String::with_capacity(told.len());
        for line in told.lines() {
            let before = line.rsplit_once(' ').filter(|_| counted.has(line));
            match before.and_then(|(by, count)| Some((by, less(count, self.0.get(by)?)))) {
                Some((by, count)) => out.extend([by, " ", count.as_str()]),
                None => out.push_str(line),
            }
            out.push('\n');
        }
        out
    }
}

/// Which lines count something by labels.
#[derive(Default)]
struct Counted<'a>(HashSet<&'a str>);

impl<'a> Counted<'a> {
    /// Whether this line does. The lines are to be given one after the other.
    fn has(&mut self, line: &'a str) -> bool {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            if let Some((name, kind)) = described.split_once(' ')
                && (matches!(kind, "counter" | "histogram") || COUNTING.contains(&name))
            {
                self.0.insert(name);
            }
            return false;
        }
        let Some((name, labels)) = line.split_once('{') else { return false };
        // That of a class alone is none of its own.
        let own = labels
            .rsplit_once('}')
            .is_some_and(|(labels, _)| !labels.starts_with("le=") || labels.contains("\","));
        let parts = ["", "_total", "_sum", "_count", "_bucket"];
        own && parts.iter().any(|part| name.strip_suffix(part).is_some_and(|family| self.0.contains(family)))
    }
}

/// The difference of two counts, written as they are.
fn less(count: &str, before: &str) -> String {
    match (count.parse::<u64>(), before.parse::<u64>()) {
        (Ok(count), Ok(before)) => count.saturating_sub(before).to_string(),
        _ => {
            let number = |text: &str| text.parse::<f64>().unwrap_or_default();
            // What counts of one labelled by what is gone and came again may be less than it was.
            format!("{:?}", (number(count) - number(before)).max(0.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_begins_anew_by_labels() {
        let told = |asked: u64, sum: f64, open: u64| {
            format!(
                "# HELP asked Questions.\n# TYPE asked counter\nasked_total{{code=\"200\"}} {asked}\n\
                 # TYPE took histogram\ntook_sum{{a=\"b\"}} {sum:?}\ntook_bucket{{le=\"1.0\",a=\"b\"}} {asked}\n\
                 # TYPE alone histogram\nalone_bucket{{le=\"1.0\"}} {asked}\n\
                 # TYPE open gauge\nopen{{a=\"b\"}} {open}\n# TYPE cpu counter\ncpu_total {asked}\n\
                 # TYPE authentication_attempts gauge\nauthentication_attempts{{a=\"b\"}} {asked}\n# EOF\n"
            )
        };
        assert_eq!(Since::default().of(told(3, 0.5, 2)), told(3, 0.5, 2));
        let since = Since::now(&told(3, 0.5, 2));
        let later = since.of(told(5, 2.0, 7));
        for line in [
            "asked_total{code=\"200\"} 2\n",
            "took_sum{a=\"b\"} 1.5\n",
            "took_bucket{le=\"1.0\",a=\"b\"} 2\n",
            "alone_bucket{le=\"1.0\"} 5\n",
            "open{a=\"b\"} 7\n",
            "cpu_total 5\n",
            "authentication_attempts{a=\"b\"} 2\n",
        ] {
            assert!(later.contains(line), "{line} is not in {later}");
        }
        assert!(later.ends_with("# EOF\n"));
        assert!(since.of(told(1, 0.25, 0)).contains("took_sum{a=\"b\"} 0.0\n"), "what began anew of itself");
    }
}
