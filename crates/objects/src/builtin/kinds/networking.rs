//! The kinds of networking.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::networking;
use crate::builtin::networking::ingress;

const BASE: Kind =
    Kind { group: "networking.k8s.io", definitions: "io.k8s.api.networking.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "Ingress",
        plural: "ingresses",
        short_names: &["ing"],
        status: true,
        columns: ingress::COLUMNS,
        cells: ingress::cells,
        strategy: || Arc::new(ingress::INGRESS),
        ..BASE
    },
    Kind {
        kind: "IngressClass",
        plural: "ingressclasses",
        namespaced: false,
        columns: ingress::CLASS_COLUMNS,
        cells: ingress::class_cells,
        strategy: || Arc::new(ingress::CLASS),
        ..BASE
    },
    Kind {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        short_names: &["netpol"],
        columns: networking::POLICY_COLUMNS,
        cells: networking::policy_cells,
        strategy: || Arc::new(networking::POLICY),
        ..BASE
    },
    Kind {
        kind: "IPAddress",
        plural: "ipaddresses",
        short_names: &["ip"],
        namespaced: false,
        columns: networking::ADDRESS_COLUMNS,
        cells: networking::address_cells,
        strategy: || Arc::new(networking::IP_ADDRESS),
        ..BASE
    },
    Kind {
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        namespaced: false,
        status: true,
        columns: networking::CIDR_COLUMNS,
        cells: networking::cidr_cells,
        strategy: || Arc::new(networking::SERVICE_CIDR),
        ..BASE
    },
];
