//! Yunfan's own kinds as Rust types: the API groups `*.yunfan.io/v1`.
//!
//! **Owns**: the shape (spec and status) of every kind that Kubernetes does not have, the names of
//! labels, annotations, finalizers and well-known objects, and the list of the
//! CustomResourceDefinitions that a cloud installs at its start ([`system_crds`]).
//!
//! **Must never know**: how an object is stored, served, authorized or acted upon.
//!
//! Start reading at [`compute::VirtualMachineSpec`], then [`network::PortSpec`]. Kubernetes' own
//! kinds come from `k8s-openapi`, re-exported as [`k8s`] so that the tree has one version of it.
#![forbid(unsafe_code)]

pub mod addresses;
pub mod claims;
pub mod compute;
pub mod constraint;
pub mod flavor;
mod groups;
mod guest_file;
pub mod iam;
pub mod image;
mod keypair;
pub mod metadef;
pub mod names;
pub mod network;
pub mod requests;
pub mod storage;
pub mod volume_group;

pub use k8s_openapi as k8s;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, Resource};

/// The CustomResourceDefinitions of every kind in this crate, in the order of their groups.
///
/// They are installed by the API server at each start, and cannot be deleted through the API.
pub fn system_crds() -> Vec<CustomResourceDefinition> {
    vec![
        compute::Flavor::crd(),
        compute::HostAggregate::crd(),
        compute::KeyPair::crd(),
        compute::ServerGroup::crd(),
        compute::VirtualMachine::crd(),
        iam::ApplicationCredential::crd(),
        iam::CatalogEndpoint::crd(),
        iam::CatalogService::crd(),
        iam::Domain::crd(),
        iam::EndpointGroup::crd(),
        iam::Group::crd(),
        iam::Project::crd(),
        iam::Region::crd(),
        iam::RoleGrant::crd(),
        iam::Trust::crd(),
        iam::User::crd(),
        image::Image::crd(),
        metadef::MetadefNamespace::crd(),
        network::AddressGroup::crd(),
        network::AddressScope::crd(),
        network::ExternalNetwork::crd(),
        network::FloatingIp::crd(),
        network::Network::crd(),
        network::Port::crd(),
        network::QosPolicy::crd(),
        network::Router::crd(),
        network::SecurityGroup::crd(),
        network::Subnet::crd(),
        network::SubnetPool::crd(),
        storage::Volume::crd(),
        storage::VolumeSnapshot::crd(),
        storage::VolumeType::crd(),
        storage::VolumeQos::crd(),
        volume_group::VolumeGroup::crd(),
        volume_group::VolumeGroupSnapshot::crd(),
        volume_group::VolumeGroupType::crd(),
    ]
}

/// An object's immutable id, as the OpenStack door shows it: `spec.id` where the kind has one and
/// it is set, else the object's uid.
pub trait Identified {
    /// The id; empty only for an object that was never stored.
    fn id(&self) -> String;
    /// The free display name, which may repeat; `metadata.name` where none was given.
    fn display_name(&self) -> String;
}

macro_rules! identified {
    ($($kind:ty),* $(,)?) => {$(
        impl Identified for $kind {
            fn id(&self) -> String {
                match &self.spec.id {
                    Some(id) if !id.is_empty() => id.clone(),
                    _ => self.meta().uid.clone().unwrap_or_default(),
                }
            }
            fn display_name(&self) -> String {
                match &self.spec.display_name {
                    Some(name) if !name.is_empty() => name.clone(),
                    _ => self.meta().name.clone().unwrap_or_default(),
                }
            }
        }
    )*};
}
identified!(
    compute::Flavor,
    compute::ServerGroup,
    compute::VirtualMachine,
    iam::ApplicationCredential,
    iam::CatalogEndpoint,
    iam::CatalogService,
    iam::Domain,
    iam::EndpointGroup,
    iam::Group,
    iam::Project,
    iam::Region,
    iam::Trust,
    iam::User,
    image::Image,
    metadef::MetadefNamespace,
    network::AddressGroup,
    network::AddressScope,
    network::ExternalNetwork,
    network::FloatingIp,
    network::Network,
    network::Port,
    network::QosPolicy,
    network::Router,
    network::SecurityGroup,
    network::Subnet,
    network::SubnetPool,
    storage::Volume,
    storage::VolumeSnapshot,
    storage::VolumeType,
    storage::VolumeQos,
    volume_group::VolumeGroup,
    volume_group::VolumeGroupSnapshot,
    volume_group::VolumeGroupType,
);
