//! What the tokens of an application credential are good for, where that is less than their roles allow.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests to one of OpenStack's services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// Id, by which its user finds it.
    pub id: String,
    /// Type of the service, as the catalog has it.
    pub service: String,
    /// Method of the request.
    pub method: String,
    /// Path of the request below the service, in which `*` and `{name}` stand for one word and `**` for any number of them.
    pub path: String,
}

impl AccessRule {
    /// Whether it speaks of a request to a service that has these types.
    pub fn allows(&self, services: &[&str], method: &str, path: &str) -> bool {
        services.contains(&self.service.as_str()) && self.method == method && matches(&self.path, path)
    }
}

/// Whether a path is one of those that a pattern means.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    // Which of the path's words, from the first on, the pattern's words so far can stand for.
    let mut at = vec![false; path.len() + 1];
    at[0] = true;
    for word in pattern {
        let mut next = vec![false; path.len() + 1];
        let one = word == "*" || (word.starts_with('{') && word.ends_with('}'));
        for end in 0..=path.len() {
            next[end] = if word == "**" {
                at[end] || (end > 0 && next[end - 1])
            } else {
                end > 0 && at[end - 1] && if one { !path[end - 1].is_empty() } else { path[end - 1] == word }
            };
        }
        at = next;
    }
    at[path.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_for_one_service_method_and_path() {
        let rule = |path: &str| AccessRule {
            service: "compute".into(),
            method: "GET".into(),
            path: path.into(),
            ..AccessRule::default()
        };
        let allows = |pattern: &str, path: &str| rule(pattern).allows(&["compute"], "GET", path);
        assert!(allows("/v2.1/servers", "/v2.1/servers") && !allows("/v2.1/servers", "/v2.1/servers/1"));
        for pattern in ["/v2.1/servers/*", "/v2.1/servers/{id}", "/v2.1/**", "/**/1"] {
            assert!(allows(pattern, "/v2.1/servers/1"), "{pattern}");
        }
        assert!(!allows("/v2.1/*", "/v2.1/servers/1") && !allows("/v2.1/servers/*", "/v2.1/servers/"));
        assert!(
            !rule("/**").allows(&["compute"], "POST", "/v2.1")
                && !rule("/**").allows(&["image"], "GET", "/v2")
        );
    }
}
