//! Ingress and IngressClass. They are kept for controllers that serve them; the cloud brings none.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::formats::port_name;
use crate::builtin::formats::{self, domain_prefixed_path};
use crate::builtin::rows::{default_mark, name, or_none, since_creation};
use crate::builtin::rules::Rules;
use crate::builtin::{ColumnSpec, odd};
use crate::error::FieldError;
use crate::lookup::{list, set_default, text};
use crate::meta::{dns_label, dns_subdomain, path_segment};

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Class", "string", 0),
    ("Hosts", "string", 0),
    ("Address", "string", 0),
    ("Ports", "string", 0),
    ("Age", "string", 0),
];

pub(in crate::builtin) fn cells(ingress: &Object, now: Timestamp) -> Vec<Value> {
    let ports = if list(ingress, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        name(ingress),
        or_none(text(ingress, &["spec", "ingressClassName"])),
        json!(hosts(ingress)),
        json!(addresses(ingress)),
        json!(ports),
        since_creation(ingress, now),
    ]
}

fn hosts(ingress: &Object) -> String {
    const SHOWN: usize = 3;
    let rules = list(ingress, &["spec", "rules"]);
    let hosts: Vec<&str> = rules.iter().map(|rule| text(rule, &["host"])).filter(|h| !h.is_empty()).collect();
    match hosts.len() {
        0 => "*".to_owned(),
        count if count > SHOWN => {
            format!("{} + {} more...", hosts[..SHOWN].join(","), rules.len() - SHOWN)
        }
        _ => hosts.join(","),
    }
}

fn addresses(ingress: &Object) -> String {
    let mut texts: Vec<&str> = list(ingress, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|point| match text(point, &["ip"]) {
            "" => text(point, &["hostname"]),
            ip => ip,
        })
        .filter(|text| !text.is_empty())
        .collect();
    texts.sort_unstable();
    texts.dedup();
    texts.join(",")
}

pub(in crate::builtin) const INGRESS: Rules = Rules {
    validate,
    validate_status,
    // What upstream's typed status always shows.
    prepare_create: |ingress| ingress["status"] = json!({"loadBalancer": {}}),
    warnings: |ingress, old| {
        let annotated = !text(ingress, &["metadata", "annotations", CLASS_ANNOTATION]).is_empty();
        let why = "is deprecated, please use 'spec.ingressClassName' instead";
        let new = old.is_none() && annotated;
        new.then(|| format!("annotation {CLASS_ANNOTATION:?} {why}")).into_iter().collect()
    },
    status_warnings: odd::balancers,
    ..Rules::BASE
};

fn validate(ingress: &Object) -> Vec<FieldError> {
    let spec = Field::root(ingress).at("spec");
    let mut errors = Vec::new();
    let (rules, fallback, class) = (spec.at("rules"), spec.at("defaultBackend"), spec.at("ingressClassName"));
    if rules.list().is_empty() && !fallback.is_given() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", rules.value.clone(), why));
    }
    if fallback.is_given() {
        backend(&fallback, &mut errors);
    }
    for rule in rules.items() {
        let host = rule.at("host");
        if !host.text().is_empty() {
            if formats::ip(host.text()).is_empty() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            }
            errors.extend(host.follows(formats::host));
        }
        let http = rule.at("http");
        if http.is_given() {
            errors.extend(http.at("paths").must_be_given(""));
        }
        http.at("paths").items().for_each(|path| validate_path(&path, &mut errors));
    }
    for tls in spec.at("tls").items() {
        errors.extend(tls.at("hosts").items().flat_map(|host| host.follows(formats::host)));
        let secret = tls.at("secretName");
        errors.extend(secret.may_follow(dns_subdomain));
    }
    errors.extend(class.follows(dns_subdomain));
    let annotation = text(ingress, &["metadata", "annotations", CLASS_ANNOTATION]);
    if !annotation.is_empty() && class.is_given() && annotation != class.text() {
        let why = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(format!("annotations.{CLASS_ANNOTATION}"), annotation, why));
    }
    errors
}

/// How the class was named before `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn validate_path(field: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (path, kind) = (field.at("path"), field.at("pathType"));
    let relative = !path.text().starts_with('/');
    match kind.text() {
        "" => {
            errors.push(kind.required("pathType must be specified"));
            return;
        }
        "Exact" | "Prefix" => {
            if relative {
                errors.push(FieldError::invalid(path.path.as_str(), path.text(), "must be an absolute path"));
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.text().contains(sequence) {
                    errors.push(path.invalid(format!("must not contain '{sequence}'")));
                }
            }
            for suffix in ["/..", "/."] {
                if path.text().ends_with(suffix) {
                    errors.push(path.invalid(format!("cannot end with '{suffix}'")));
                }
            }
        }
        "ImplementationSpecific" if relative && !path.text().is_empty() => {
            errors.push(path.invalid("must be an absolute path"));
        }
        "ImplementationSpecific" => {}
        _ => errors.extend(kind.one_of(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
    backend(&field.at("backend"), errors);
}

fn backend(field: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (resource, service) = (field.at("resource"), field.at("service"));
    let mut wrong = |why: &str| errors.push(FieldError::invalid(field.path.as_str(), "", why));
    match (resource.is_given(), service.is_given()) {
        (true, true) => wrong("cannot set both resource and service backends"),
        (false, false) => wrong("resource or service backend is required"),
        (true, false) => reference(&resource, errors),
        (false, true) => {
            let port = service.at("port");
            let (port_text, number) = (port.at("name"), port.at("number"));
            let (has_name, has_number) =
                (!port_text.text().is_empty(), number.number().is_some_and(|number| number != 0));
            match (has_name, has_number) {
                (true, true) => wrong("cannot set both port name & port number"),
                (true, false) => {
                    errors.extend(port_text.follows(port_name));
                }
                (false, true) => errors.extend(number.port()),
                (false, false) => errors.push(field.required("port name or number is required")),
            }
            errors.extend(service.at("name").needs(dns_label));
        }
    }
}

/// A reference to an object of any kind, by group, kind and name.
fn reference(field: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(field.at("apiGroup").follows(dns_subdomain));
    errors.extend(["kind", "name"].iter().flat_map(|key| field.at(key).needs(path_segment)));
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for point in Field::root(new).under(&["status", "loadBalancer", "ingress"]).items() {
        let (ip, hostname) = (point.at("ip"), point.at("hostname"));
        errors.extend(ip.may_follow(formats::ip));
        if !hostname.text().is_empty() {
            errors.extend(hostname.follows(dns_subdomain));
            if formats::ip(hostname.text()).is_empty() {
                errors.push(hostname.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

pub(in crate::builtin) const CLASS_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Controller", "string", 0), ("Parameters", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn class_cells(class: &Object, now: Timestamp) -> Vec<Value> {
    let parameters = &class["spec"]["parameters"];
    let shown = match (text(parameters, &["kind"]), text(parameters, &["apiGroup"])) {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{}", text(parameters, &["name"])),
        (kind, group) => format!("{kind}.{group}/{}", text(parameters, &["name"])),
    };
    vec![
        default_mark(class, &["ingressclass.kubernetes.io/is-default-class"]),
        json!(text(class, &["spec", "controller"])),
        json!(shown),
        since_creation(class, now),
    ]
}

pub(in crate::builtin) const CLASS: Rules = Rules {
    default: |class| {
        if let Some(parameters) = crate::lookup::at_mut(class, &["spec", "parameters"]) {
            set_default(parameters, "scope", "Cluster");
        }
    },
    validate: validate_class,
    validate_update: |new, old| {
        let controller = |class| Field::root(class).under(&["spec", "controller"]);
        controller(new).same_as(&controller(old)).into_iter().collect()
    },
    ..Rules::BASE
};

fn validate_class(class: &Object) -> Vec<FieldError> {
    const CONTROLLER_LIMIT: usize = 250;
    let spec = Field::root(class).at("spec");
    let (controller, parameters) = (spec.at("controller"), spec.at("parameters"));
    let mut errors: Vec<FieldError> = controller.no_longer_than(CONTROLLER_LIMIT).into_iter().collect();
    errors.extend(controller.needs(domain_prefixed_path));
    if !parameters.is_given() {
        return errors;
    }
    reference(&parameters, &mut errors);
    let (scope, namespace) = (parameters.at("scope"), parameters.at("namespace"));
    errors.extend(scope.must_be_one_of(&["Cluster", "Namespace"]));
    match scope.text() {
        "Namespace" if !namespace.is_given() => {
            errors.push(namespace.required("`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => errors.extend(namespace.follows(dns_label)),
        "Cluster" if namespace.is_given() => {
            errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'"));
        }
        _ => {}
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row, status_refusal};

    fn ingress(spec: Value) -> Object {
        json!({"metadata": {"name": "web", "creationTimestamp": "2025-12-31T23:59:00Z"}, "spec": spec})
    }

    fn rule(host: &str, path: Value) -> Value {
        json!({"rules": [{"host": host, "http": {"paths": [path]}}]})
    }

    fn path(kind: &str, path: &str) -> Value {
        json!({"path": path, "pathType": kind, "backend": {"service": {"name": "web", "port": {"number": 80}}}})
    }

    #[test]
    fn a_good_ingress_is_kept_and_shown() {
        let mut spec = rule("*.example.com", path("Prefix", "/"));
        spec["ingressClassName"] = json!("nginx");
        spec["tls"] = json!([{"hosts": ["a.example.com"], "secretName": "cert"}]);
        let mut object = created(&kind("Ingress"), ingress(spec)).unwrap();
        assert_eq!(object["metadata"]["generation"], 1);
        assert_eq!(object["status"], json!({"loadBalancer": {}}));
        object["status"] =
            json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}, {"hostname": "lb.example.com"}]}});
        assert_eq!(
            row("Ingress", &object),
            ["web", "nginx", "*.example.com", "10.0.0.2,lb.example.com", "80, 443", "60s"]
        );
        let (newer, refused) =
            changed("Ingress", &object, json!({"spec": {"ingressClassName": "other"}, "status": null}));
        assert_eq!((refused.as_str(), &newer["metadata"]["generation"]), ("", &json!(2)));
        assert_eq!(newer["status"], object["status"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let service = |port: Value| json!({"defaultBackend": {"service": {"name": "web", "port": port}}});
        for (spec, why) in [
            (json!({}), "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"),
            (
                rule("10.0.0.1", path("Prefix", "/")),
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name",
            ),
            (rule("a.*.b", path("Prefix", "/")), "a wildcard DNS-1123 subdomain must start with"),
            (
                rule("a", path("Prefix", "x")),
                "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            ),
            (rule("a", path("Exact", "/a//b")), "must not contain '//'"),
            (rule("a", path("Exact", "/a/..")), "cannot end with '/..'"),
            (
                rule("a", path("Near", "/")),
                "pathType: Unsupported value: \"Near\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
            ),
            (
                rule("a", json!({"backend": {}})),
                "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            ),
            (
                rule("a", json!({"path": "/", "pathType": "Exact", "backend": {}})),
                "resource or service backend is required",
            ),
            (json!({"rules": [{"http": {"paths": []}}]}), "spec.rules[0].http.paths: Required value"),
            (service(json!({})), "spec.defaultBackend: Required value: port name or number is required"),
            (service(json!({"name": "a", "number": 1})), "cannot set both port name & port number"),
            (
                service(json!({"number": 70000})),
                "spec.defaultBackend.service.port.number: Invalid value: 70000",
            ),
        ] {
            let found = refusal("Ingress", ingress(spec));
            assert!(found.contains(why), "{found}\n{why}");
        }
        let old = created(&kind("Ingress"), ingress(service(json!({"number": 80})))).unwrap();
        let status = json!({"loadBalancer": {"ingress": [{"ip": "x"}, {"hostname": "10.0.0.1"}]}});
        let found = status_refusal("Ingress", &old, status);
        assert!(
            found.contains("status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP"),
            "{found}"
        );
        assert!(
            found.contains("ingress[1].hostname: Invalid value: \"10.0.0.1\": must be a DNS name"),
            "{found}"
        );
    }

    #[test]
    fn a_class_keeps_its_controller() {
        let class = json!({"metadata": {"name": "c", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
            "spec": {"controller": "example.com/c", "parameters": {"apiGroup": "k8s.example.com", "kind": "P", "name": "p"}}});
        let old = created(&kind("IngressClass"), class.clone()).unwrap();
        assert_eq!(old["spec"]["parameters"]["scope"], "Cluster");
        assert_eq!(row("IngressClass", &old)[..3], ["c (default)", "example.com/c", "P.k8s.example.com/p"]);
        let (_, refused) = changed("IngressClass", &old, json!({"spec": {"controller": "example.com/d"}}));
        assert_eq!(refused, "spec.controller: Invalid value: \"example.com/d\": field is immutable");
        let mut bad = class;
        bad["spec"] =
            json!({"controller": "nodomain", "parameters": {"kind": "P", "name": "p", "scope": "Namespace"}});
        let found = refusal("IngressClass", bad);
        assert!(
            found.contains("spec.controller: Invalid value: \"nodomain\": must be a domain-prefixed path"),
            "{found}"
        );
        assert!(
            found.contains("spec.parameters.namespace: Required value: `parameters.scope` is set to"),
            "{found}"
        );
    }
}
