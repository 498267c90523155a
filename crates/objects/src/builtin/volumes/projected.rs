//! Volumes that are put together of several sources.

use std::collections::HashSet;

use crate::builtin::field::Field;
use crate::builtin::formats::signer;
use crate::builtin::volumes::sources::{downward_file, item_of, mode, projected_path};
use crate::builtin::{bundles, inner};
use crate::error::FieldError;
use crate::meta::all_wrong;

/// The keys that a node can make for a Pod's certificate.
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

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
            ("clusterTrustBundle", Self::bundle),
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

    /// Whom to trust: one bundle by its name, or all of a signer that are labelled so.
    fn bundle(&mut self, bundle: &Field<'a>) {
        let (name, signed_by) = (bundle.at("name"), bundle.at("signerName"));
        let labels = bundle.at("labelSelector");
        match (name.is_given(), signed_by.is_given()) {
            (true, true) => {
                let why = "only one of name and signerName may be used";
                self.errors.push(bundle.invalid_object(inner::pods::CLUSTER_TRUST_BUNDLE, why));
            }
            (true, false) => {
                self.errors.extend(name.must_be_given("must be a valid object name"));
                let wrong = bundles::wrong_name(name.text(), &bundles::signer_of(name.text()));
                let wrong = wrong.into_iter().map(|why| format!("not a valid clustertrustbundlename: {why}"));
                self.errors.extend(all_wrong(&name.path, name.text(), wrong.collect()));
                if labels.is_given() {
                    let why = "labelSelector must be unset if name is specified";
                    self.errors.push(labels.invalid_object(inner::LABEL_SELECTOR, why));
                }
            }
            (false, true) => {
                self.errors.extend(signed_by.must_be_given("must be a valid signer name"));
                self.errors.extend(signed_by.needs(signer));
                if labels.is_given() {
                    self.errors.extend(labels.label_selector());
                }
            }
            (false, false) => {
                self.errors.push(bundle.required("either name or signerName must be specified"));
            }
        }
        let path = bundle.at("path");
        self.errors.extend(path.must_be_given(""));
        self.errors.extend(projected_path(&path));
        self.taken(path.text(), path.text());
    }

    /// A key that the node makes, and the certificate that a signer gives for it.
    fn certificate(&mut self, certificate: &Field<'a>) {
        let signed_by = certificate.at("signerName");
        self.errors.extend(signed_by.needs(signer));
        self.errors.extend(bundles::user_annotations(&certificate.at("userAnnotations")));
        let key = certificate.at("keyType");
        if !KEY_TYPES.contains(&key.text()) {
            self.errors.push(FieldError::not_supported(key.path.as_str(), key.text(), &KEY_TYPES));
        }
        let seconds = certificate.at("maxExpirationSeconds");
        let (least, most) = bundles::seconds_of(signed_by.text());
        if let Some(given) = seconds.number() {
            let bound = match given {
                _ if given < least => Some(format!("must be >= {least}")),
                _ if given > most => Some(format!("must be <= {most}")),
                _ => None,
            };
            let why = bound.map(|bound| format!("if provided, maxExpirationSeconds {bound}"));
            self.errors.extend(why.map(|why| seconds.invalid(why)));
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

    #[test]
    fn bundles_and_certificates_say_whose_they_are_and_where_they_go() {
        let volume = json!({"sources": [
            {"clusterTrustBundle": {"name": "a.b:c:ok", "path": "p"}},
            {"clusterTrustBundle": {"signerName": "a.b/c", "path": "q", "labelSelector": {"matchLabels": {"x": "y"}}}},
            {"podCertificate": {"signerName": "a.b/c", "keyType": "ED25519", "credentialBundlePath": "b", "maxExpirationSeconds": 3600}},
            {"clusterTrustBundle": {"path": ""}},
            {"clusterTrustBundle": {"name": "a.b:c:Bad", "path": "../r", "labelSelector": {}}},
            {"clusterTrustBundle": {"signerName": "", "path": "p"}},
            {"podCertificate": {"signerName": "odd", "keyType": "odd", "maxExpirationSeconds": 5, "userAnnotations": {"plain": ""}}},
            {"podCertificate": {"signerName": "kubernetes.io/x", "keyType": "RSA3072", "maxExpirationSeconds": 86401, "keyPath": "k", "certificateChainPath": "k"}}]});
        let field = Field { value: &volume, path: "v".to_owned() };
        let found: Vec<String> = validate(&field).iter().map(ToString::to_string).collect();
        let beginnings = [
            "v.sources[3].clusterTrustBundle: Required value: either name or signerName must be specified",
            "v.sources[3].clusterTrustBundle.path: Required value",
            "v.sources[4].clusterTrustBundle.name: Invalid value: \"a.b:c:Bad\": not a valid clustertrustbundlename: a lowercase RFC 1123",
            "v.sources[4].clusterTrustBundle.labelSelector: Invalid value: {}: labelSelector must be unset if name is specified",
            "v.sources[4].clusterTrustBundle.path: Invalid value: \"../r\": must not contain '..'",
            "v.sources[5].clusterTrustBundle.signerName: Required value: must be a valid signer name",
            "v.sources[5].clusterTrustBundle.signerName: Required value",
            "v: Invalid value: \"p\": conflicting duplicate paths",
            "v.sources[6].podCertificate.signerName: Invalid value: \"odd\": must be a fully qualified domain",
            "v.sources[6].podCertificate.userAnnotations: Invalid value: \"plain\": must be a domain-prefixed key",
            "v.sources[6].podCertificate.keyType: Unsupported value: \"odd\"",
            "v.sources[6].podCertificate.maxExpirationSeconds: Invalid value: 5: if provided, maxExpirationSeconds must be >= 3600",
            "v.sources[6].podCertificate: Required value: specify at least one of",
            "v.sources[7].podCertificate.maxExpirationSeconds: Invalid value: 86401: if provided, maxExpirationSeconds must be <= 86400",
            "v: Invalid value: \"k\": conflicting duplicate paths",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }
}
