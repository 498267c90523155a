//! Volumes that are put together of several sources.

use std::collections::HashSet;

use crate::builtin::field::Field;
use crate::builtin::formats;
use crate::builtin::volumes::sources::{downward_file, item_of, mode, projected_path};
use crate::error::FieldError;
use crate::meta::{all_wrong, dns_subdomain, qualified_name};

const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
/// Seconds that a certificate lasts at least and at most; the signers of Kubernetes itself give them for a day.
const LEAST_SECONDS: i64 = 3600;
const MOST_SECONDS: i64 = 91 * 24 * 3600;
const MOST_SECONDS_OF_OWN: i64 = 24 * 3600;

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
            ("clusterTrustBundle", Self::trust_bundle),
            ("podCertificate", Self::certificate),
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

    fn trust_bundle(&mut self, bundle: &Field<'a>) {
        let (name, signer, path) = (bundle.at("name"), bundle.at("signerName"), bundle.at("path"));
        match (name.is_given(), signer.is_given()) {
            (true, true) => {
                self.errors.push(bundle.invalid("only one of name and signerName may be used"));
            }
            (true, false) => self.bundle_name(bundle, &name),
            (false, true) => {
                if signer.text().is_empty() {
                    self.errors.push(signer.required("must be a valid signer name"));
                }
                self.signer(&signer);
                self.errors.extend(bundle.at("labelSelector").label_selector());
            }
            (false, false) => {
                self.errors.push(bundle.required("either name or signerName must be specified"));
            }
        }
        self.errors.extend(path.must_be_given(""));
        self.errors.extend(projected_path(&path));
        self.taken(path.text(), path.text());
    }

    fn bundle_name(&mut self, bundle: &Field<'a>, name: &Field<'a>) {
        if name.text().is_empty() {
            self.errors.push(name.required("must be a valid object name"));
        }
        // Behind the last colon, where there is one, is what the signer does not give.
        let last = name.text().rsplit(':').next().unwrap_or_default();
        let wrong = dns_subdomain(last).into_iter();
        self.errors
            .extend(wrong.map(|why| name.invalid(format!("not a valid clustertrustbundlename: {why}"))));
        let selector = bundle.at("labelSelector");
        if selector.is_given() {
            self.errors.push(selector.invalid("labelSelector must be unset if name is specified"));
        }
    }

    fn signer(&mut self, signer: &Field<'a>) {
        if signer.text().is_empty() {
            self.errors.push(signer.required(""));
        } else {
            self.errors.extend(signer.obeys(formats::signer));
        }
    }

    fn certificate(&mut self, certificate: &Field<'a>) {
        let signer = certificate.at("signerName");
        self.signer(&signer);
        let annotations = certificate.at("userAnnotations");
        for (key, _) in crate::lookup::entries(annotations.value, &[]) {
            self.errors.extend(all_wrong(&annotations.path, key, qualified_name(&key.to_lowercase())));
        }
        let kind = certificate.at("keyType");
        if !KEY_TYPES.contains(&kind.text()) {
            self.errors.push(FieldError::not_supported(kind.path.as_str(), kind.text(), KEY_TYPES));
        }
        let seconds = certificate.at("maxExpirationSeconds");
        let own = signer.text().starts_with("kubernetes.io/");
        let most = if own { MOST_SECONDS_OF_OWN } else { MOST_SECONDS };
        if seconds.number().is_some_and(|given| given < LEAST_SECONDS) {
            let why = format!("if provided, maxExpirationSeconds must be >= {LEAST_SECONDS}");
            self.errors.push(seconds.invalid(why));
        }
        if seconds.number().is_some_and(|given| given > most) {
            let why = format!("if provided, maxExpirationSeconds must be <= {most}");
            self.errors.push(seconds.invalid(why));
        }
        let paths =
            ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|key| certificate.at(key));
        for path in paths.iter().filter(|path| !path.text().is_empty()) {
            self.errors.extend(projected_path(path));
            self.taken(path.text(), path.text());
        }
        if paths.iter().all(|path| path.text().is_empty()) {
            let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
            self.errors.push(certificate.required(why));
        }
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
            {"serviceAccountToken": {"path": "", "expirationSeconds": 1}},
            {"clusterTrustBundle": {"path": "/b"}},
            {"podCertificate": {"signerName": "x", "keyType": "Y", "maxExpirationSeconds": 1}}]});
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
            "v.sources[3].clusterTrustBundle: Required value: either name or signerName",
            "v.sources[3].clusterTrustBundle.path: Invalid value: \"/b\": must be a relative path",
            "v.sources[4].podCertificate.signerName: Invalid value: \"x\": must be a fully qualified",
            "v.sources[4].podCertificate.keyType: Unsupported value: \"Y\"",
            "v.sources[4].podCertificate.maxExpirationSeconds: Invalid value: 1: if provided",
            "v.sources[4].podCertificate: Required value: specify at least one of",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }
}
