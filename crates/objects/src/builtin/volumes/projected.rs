//! Volumes that are put together of several sources.

use std::collections::HashSet;

use crate::builtin::field::Field;
use crate::builtin::volumes::sources::{downward_file, item_of, mode, projected_path};
use crate::error::FieldError;

/// All that is wrong with the sources of a projected volume.
pub(in crate::builtin) fn validate(source: &Field<'_>) -> Vec<FieldError> {
    let mut check = Check { volume: source, errors: Vec::new(), paths: HashSet::new() };
    check.errors.extend(mode(&source.at("defaultMode")));
    for from in source.at("sources").items() {
        check.source(&from);
    }
    check.errors
}

struct Check<'a> {
    volume: &'a Field<'a>,
    errors: Vec<FieldError>,
    paths: HashSet<&'a str>,
}

/// Checks one kind of source.
type Kind<'a> = fn(&mut Check<'a>, &Field<'a>);

impl<'a> Check<'a> {
    fn source(&mut self, from: &Field<'a>) {
        let kinds: &[(&str, Kind<'a>)] = &[
            ("secret", Self::keyed),
            ("configMap", Self::keyed),
            ("downwardAPI", Self::downward),
            ("serviceAccountToken", Self::token),
        ];
        let mut count = 0;
        for (kind, check) in kinds {
            let each = from.at(kind);
            if each.is_given() {
                count += 1;
                check(self, &each);
            }
        }
        if count > 1 {
            self.errors.push(from.forbidden("may not specify more than 1 volume type per source"));
        }
    }

    /// Refuses a path that an earlier source has; `shown` stands for it.
    fn taken(&mut self, path: &'a str, shown: &str) {
        if !path.is_empty() && !self.paths.insert(path) {
            let why = "conflicting duplicate paths";
            self.errors.push(FieldError::invalid(self.volume.path.as_str(), shown, why));
        }
    }

    fn keyed(&mut self, each: &Field<'a>) {
        let name = each.at("name");
        self.errors.extend(name.must_be_given(""));
        for item in each.at("items").items() {
            self.errors.extend(item_of(&item));
            self.taken(item.at("path").text(), name.text());
        }
    }

    fn downward(&mut self, each: &Field<'a>) {
        for file in each.at("items").items() {
            self.errors.extend(downward_file(&file, each));
            let path = file.at("path").text();
            self.taken(path, path);
        }
    }

    fn token(&mut self, token: &Field<'a>) {
        let seconds = token.at("expirationSeconds");
        if seconds.number().is_some_and(|given| given < 600) {
            self.errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        if seconds.number().is_some_and(|given| given > 1 << 32) {
            self.errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
        // Upstream names the volume here, and not the source.
        let path = Field { path: self.volume.at("path").path, ..token.at("path") };
        self.errors.extend(path.must_be_given(""));
        self.errors.extend(projected_path(&path));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sources_do_not_meet_at_one_path() {
        let volume = json!({"sources": [
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "a"}]},
             "secret": {"items": [{"key": "", "path": "../x"}]}},
            {"downwardAPI": {"items": [{"path": "a", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}]}},
            {"serviceAccountToken": {"path": "", "expirationSeconds": 1}}]});
        let field = Field { value: &volume, path: "v".to_owned() };
        let found: Vec<String> = validate(&field).iter().map(ToString::to_string).collect();
        let beginnings = [
            "v.sources[0].secret.name: Required value",
            "v.sources[0].secret.items[0].key: Required value",
            "v.sources[0].secret.items[0].path: Invalid value: \"../x\": must not contain '..'",
            "v.sources[0]: Forbidden: may not specify more than 1 volume type per source",
            "v: Invalid value: \"a\": conflicting duplicate paths",
            "v.sources[2].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less",
            "v.path: Required value",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }
}
