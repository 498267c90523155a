//! What a namespace's labels say.

use std::fmt;

use serde_json::Value;
use yunfan_resources::names::POD_SECURITY_PREFIX as PREFIX;

/// The newest version that any rule here changed with.
const NEWEST: u32 = 35;

/// How strict a standard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level, as of a version of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    /// The number after `v1.`; none for the latest.
    pub(super) version: Option<u32>,
}

impl Standard {
    /// The version whose rules hold.
    pub(super) fn number(self) -> u32 {
        self.version.unwrap_or(NEWEST).min(NEWEST)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.version {
            Some(minor) => write!(f, ":v1.{minor}"),
            None => f.write_str(":latest"),
        }
    }
}

/// A label that is not understood: its name, its value, and why.
pub(super) type Wrong = (String, String, String);

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// What Pods must keep to.
    pub(super) enforce: Standard,
    /// What people are warned of.
    pub(super) warn: Standard,
    /// What the audit log tells of.
    pub(super) audit: Standard,
}

impl Policy {
    /// Reads the labels of a namespace; a level that is not understood is the strictest where it is enforced.
    pub(super) fn of(labels: &Value) -> (Self, Vec<Wrong>) {
        let mut wrong = Vec::new();
        let mut level = |name: &str, otherwise: Level| match labels[format!("{PREFIX}{name}")].as_str() {
            None => None,
            Some("privileged") => Some((Level::Privileged, true)),
            Some("baseline") => Some((Level::Baseline, true)),
            Some("restricted") => Some((Level::Restricted, true)),
            Some(other) => {
                let why = "must be one of privileged, baseline, restricted".to_owned();
                wrong.push((format!("{PREFIX}{name}"), other.to_owned(), why));
                Some((otherwise, false))
            }
        };
        let enforced = level("enforce", Level::Restricted);
        let audited = level("audit", Level::Privileged);
        let warned = level("warn", Level::Privileged);
        let mut version = |name: &str| -> Option<Option<u32>> {
            let text = labels[format!("{PREFIX}{name}-version")].as_str()?;
            if text == "latest" {
                return Some(None);
            }
            let minor = text
                .strip_prefix("v1.")
                .filter(|minor| is_number(minor))
                .and_then(|minor| minor.parse().ok());
            if minor.is_none() {
                let why = "must be \"latest\" or \"v1.x\"".to_owned();
                wrong.push((format!("{PREFIX}{name}-version"), text.to_owned(), why));
            }
            Some(minor)
        };
        let versions = [version("enforce"), version("warn"), version("audit")];
        let asked = |level: Option<(Level, bool)>| level.map_or(Level::Privileged, |(level, _)| level);
        let enforce = Standard { level: asked(enforced), version: versions[0].flatten() };
        let mut warn = Standard { level: asked(warned), version: versions[1].flatten() };
        // Who enforces something is warned of it too, where nothing else is said.
        if warned.is_none() && enforced.is_some_and(|(level, known)| known && level > warn.level) {
            warn.level = enforce.level;
            warn.version = versions[1].unwrap_or(enforce.version);
        }
        let audit = Standard { level: asked(audited), version: versions[2].flatten() };
        (Self { enforce, warn, audit }, wrong)
    }
}

/// Digits, without a zero before others.
fn is_number(text: &str) -> bool {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text.len() == 1 || !text.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(labels: Value) -> (String, String, usize) {
        let (policy, wrong) = Policy::of(&labels);
        (policy.enforce.to_string(), policy.warn.to_string(), wrong.len())
    }

    #[test]
    fn labels_say_what_holds() {
        let (enforce, warn) = (format!("{PREFIX}enforce"), format!("{PREFIX}warn"));
        let version = format!("{PREFIX}enforce-version");
        for (labels, wanted) in [
            (json!(null), ("privileged:latest", "privileged:latest", 0)),
            (json!({&enforce: "baseline"}), ("baseline:latest", "baseline:latest", 0)),
            (json!({&enforce: "restricted", &version: "v1.24"}), ("restricted:v1.24", "restricted:v1.24", 0)),
            (json!({&warn: "baseline"}), ("privileged:latest", "baseline:latest", 0)),
            (json!({&enforce: "none", &version: "v1.024"}), ("restricted:latest", "privileged:latest", 2)),
            (json!({&enforce: "privileged"}), ("privileged:latest", "privileged:latest", 0)),
            (json!({&enforce: "restricted"}), ("restricted:latest", "restricted:latest", 0)),
        ] {
            let (enforce, warn, wrong) = wanted;
            assert_eq!(of(labels.clone()), (enforce.to_owned(), warn.to_owned(), wrong), "{labels}");
        }
    }

    #[test]
    fn later_versions_have_the_newest_rules() {
        assert_eq!(Standard { level: Level::Baseline, version: Some(99) }.number(), NEWEST);
        assert_eq!(Standard { level: Level::Baseline, version: Some(3) }.number(), 3);
    }
}
