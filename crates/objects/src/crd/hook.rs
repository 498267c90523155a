//! What a definition says of conversion.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::error::FieldError;
use crate::lookup::{list, text};
use crate::meta::{all_wrong, dns_label, dns_subdomain, dns1035_label};

/// Versions of the ConversionReview that are spoken.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const CLIENT: &str = "spec.conversion.webhookClientConfig";
const REVIEWS: &str = "spec.conversion.conversionReviewVersions";

/// All that is wrong with `spec.conversion`.
pub(super) fn validate(conversion: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if conversion.is_null() {
        return errors;
    }
    let webhook = &conversion["webhook"];
    let strategy = text(conversion, &["strategy"]);
    match strategy {
        "Webhook" | "None" => {}
        "" => errors.push(FieldError::required("spec.conversion.strategy", "")),
        other => {
            let known = ["None", "Webhook"];
            errors.push(FieldError::not_supported("spec.conversion.strategy", other, &known));
        }
    }
    let given = list(webhook, &["conversionReviewVersions"]);
    if strategy == "Webhook" {
        client_config(&webhook["clientConfig"], &mut errors);
        review_versions(given, &mut errors);
        return errors;
    }
    let why = "should not be set when strategy is not set to Webhook";
    if !webhook["clientConfig"].is_null() {
        errors.push(FieldError::forbidden(CLIENT, why));
    }
    if !given.is_empty() {
        errors.push(FieldError::forbidden(REVIEWS, why));
    }
    errors
}

fn review_versions(given: &[Value], errors: &mut Vec<FieldError>) {
    if given.is_empty() {
        return errors.push(FieldError::required(REVIEWS, ""));
    }
    let mut seen = HashSet::new();
    for (index, version) in given.iter().enumerate() {
        let field = format!("{REVIEWS}[{index}]");
        let name = version.as_str().unwrap_or_default();
        if seen.insert(version) {
            errors.extend(all_wrong(&field, name, dns1035_label(name)));
        } else {
            errors.push(FieldError::invalid(field, version.clone(), "duplicate version"));
        }
    }
    if !given.iter().filter_map(Value::as_str).any(|version| REVIEW_VERSIONS.contains(&version)) {
        errors.push(FieldError::invalid(REVIEWS, json!(given), "must include at least one of v1, v1beta1"));
    }
}

fn client_config(config: &Value, errors: &mut Vec<FieldError>) {
    if !config.is_object() {
        return errors.push(FieldError::required(CLIENT, "required when strategy is set to Webhook"));
    }
    let service = &config["service"];
    match (config["url"].as_str(), service.is_object()) {
        (Some(source), false) => url(source, errors),
        (None, true) => self::service(service, errors),
        _ => errors.push(FieldError::required(CLIENT, "exactly one of url or service is required")),
    }
}

fn url(source: &str, errors: &mut Vec<FieldError>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let field = format!("{CLIENT}.url");
    let Some((scheme, rest)) = source.split_once(':').filter(|(scheme, _)| !scheme.is_empty()) else {
        let why = format!("url must be a valid URL: parse {source:?}: missing protocol scheme{FORM}");
        return errors.push(FieldError::required(field, why));
    };
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or_default());
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let findings = [
        (scheme != "https", scheme, format!("'https' is the only allowed URL scheme{FORM}")),
        (host.is_empty(), host, format!("host must be specified{FORM}")),
        (!user.is_empty(), user, "user information is not permitted in the URL".to_owned()),
        (!fragment.is_empty(), fragment, "fragments are not permitted in the URL".to_owned()),
        (!query.is_empty(), query, "query parameters are not permitted in the URL".to_owned()),
    ];
    for (_, value, why) in findings.into_iter().filter(|(wrong, ..)| *wrong) {
        errors.push(FieldError::invalid(field.as_str(), value, why));
    }
}

fn service(service: &Value, errors: &mut Vec<FieldError>) {
    let at = |key: &str| format!("{CLIENT}.service.{key}");
    for key in ["name", "namespace"] {
        let given = text(service, &[key]);
        if given.is_empty() {
            errors.push(FieldError::required(at(key), ""));
        } else {
            errors.extend(all_wrong(&at(key), given, dns_label(given)));
        }
    }
    let port = service["port"].as_i64().unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(at("port"), port, why));
    }
    let path = text(service, &["path"]);
    if path.is_empty() || path == "/" {
        return;
    }
    let mut wrong = |why: String| errors.push(FieldError::invalid(at("path"), path, why));
    if path == "//" {
        return wrong("segment[0] may not be empty".to_owned());
    }
    if !path.starts_with('/') {
        wrong("must start with a '/'".to_owned());
    }
    // Neither the first character nor a slash at the end belongs to a segment.
    let mut rest = path.chars();
    rest.next();
    let rest = rest.as_str();
    for (index, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            wrong(format!("segment[{index}] may not be empty"));
        } else {
            dns_subdomain(segment).iter().for_each(|why| wrong(format!("segment[{index}]: {why}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(conversion: Value) -> Vec<String> {
        validate(&conversion).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_hook_is_checked() {
        let with = |client: Value| {
            texts(json!({"strategy": "Webhook",
                "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1", "odd"]}}))
        };
        assert!(with(json!({"url": "https://a.b/c"})).is_empty());
        assert!(with(json!({"service": {"name": "a", "namespace": "b", "path": "/c/d/"}})).is_empty());
        assert_eq!(
            with(json!({})),
            [
                "spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required"
            ]
        );
        assert_eq!(
            with(json!({"url": "http://u@a?x#y"})),
            [
                "spec.conversion.webhookClientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "spec.conversion.webhookClientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                "spec.conversion.webhookClientConfig.url: Invalid value: \"y\": fragments are not permitted in the URL",
                "spec.conversion.webhookClientConfig.url: Invalid value: \"x\": query parameters are not permitted in the URL",
            ]
        );
        assert_eq!(
            with(json!({"service": {"name": "a", "namespace": "b", "port": 70000, "path": "/a//b"}})),
            [
                "spec.conversion.webhookClientConfig.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
                "spec.conversion.webhookClientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
            ]
        );
    }

    #[test]
    fn what_belongs_to_hooks_is_theirs_alone() {
        assert!(texts(Value::Null).is_empty());
        assert!(texts(json!({"strategy": "None"})).is_empty());
        assert_eq!(
            texts(json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}})),
            [
                "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook"
            ]
        );
        assert_eq!(
            texts(
                json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["x"]}})
            ),
            [
                "spec.conversion.conversionReviewVersions: Invalid value: [\"x\"]: must include at least one of v1, v1beta1"
            ]
        );
    }
}
