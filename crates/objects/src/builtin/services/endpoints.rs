//! Endpoints and PodTemplate.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::pods::template;
use crate::builtin::rows::{containers, labels, name, since_creation};
use crate::builtin::{ColumnSpec, formats, odd};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{list, list_mut, number, set_default, text};
use crate::meta::{dns_label, dns_subdomain};

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Endpoints", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn cells(endpoints: &Object, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 3;
    let mut all = Vec::new();
    for subset in list(endpoints, &["subsets"]) {
        let ports = list(subset, &["ports"]);
        let addresses = || list(subset, &["addresses"]).iter().map(|address| text(address, &["ip"]));
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let port = number(port, &["port"]).unwrap_or(0);
            all.extend(
                addresses().map(|ip| {
                    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
                }),
            );
        }
    }
    let shown = match all.len() {
        0 if list(endpoints, &["subsets"]).is_empty() => "<none>".to_owned(),
        count if count > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), count - SHOWN),
        _ => all.join(","),
    };
    vec![name(endpoints), json!(shown), since_creation(endpoints, now)]
}

pub(in crate::builtin) struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    fn default(&self, endpoints: &mut Object) {
        for subset in list_mut(endpoints, &["subsets"]) {
            for port in list_mut(subset, &["ports"]) {
                set_default(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, endpoints: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for subset in Field::root(endpoints).at("subsets").items() {
            let (ready, others) = (subset.at("addresses"), subset.at("notReadyAddresses"));
            if ready.list().is_empty() && others.list().is_empty() {
                errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
            }
            for address in ready.items().chain(others.items()) {
                validate_address(&address, &mut errors);
            }
            let many = subset.at("ports").list().len() > 1;
            for port in subset.at("ports").items() {
                validate_port(&port, many, &mut errors);
            }
        }
        errors
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        // The controller's addresses come from Pods.
        if text(new, &["metadata", "labels", "endpoints.kubernetes.io/managed-by"]) == "endpoint-controller" {
            return Vec::new();
        }
        let subsets = Field::root(new).at("subsets");
        let addresses = subsets.items().flat_map(|subset| {
            let lists = ["addresses", "notReadyAddresses"].map(|key| subset.at(key));
            lists.into_iter().flat_map(|list| list.items())
        });
        odd::ips(addresses.map(|address| address.at("ip")))
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn validate_address(address: &Field<'_>, errors: &mut Vec<FieldError>) {
    let ip = address.at("ip");
    errors.extend(ip.obeys(formats::ip));
    errors.extend(address.at("hostname").may_follow(dns_label));
    errors.extend(address.at("nodeName").follows(dns_subdomain));
    if ip.text().parse::<std::net::IpAddr>().is_err() {
        errors.push(ip.invalid("must be a valid IP address"));
    }
    errors.extend(ip.obeys(formats::endpoint_ip));
}

fn validate_port(port: &Field<'_>, needs_name: bool, errors: &mut Vec<FieldError>) {
    let name = port.at("name");
    errors.extend(if needs_name { name.needs(dns_label) } else { name.may_follow(dns_label) });
    errors.extend(port.at("port").port());
    errors.extend(port.at("protocol").must_be_one_of(&["SCTP", "TCP", "UDP"]));
    errors.extend(port.at("appProtocol").follows(formats::qualified));
}

pub(in crate::builtin) const TEMPLATE_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Containers", "string", 0),
    ("Images", "string", 0),
    ("Pod Labels", "string", 0),
];

pub(in crate::builtin) fn template_cells(object: &Object, _now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(&object["template"]["spec"]);
    vec![name(object), names, images, labels(&object["template"]["metadata"]["labels"])]
}

pub(in crate::builtin) struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    fn default(&self, object: &mut Object) {
        template::defaults(object, &["template"]);
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        template::validate(&Field::root(object).at("template"))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template::warnings(new, old, &["template"], false)
    }
}
