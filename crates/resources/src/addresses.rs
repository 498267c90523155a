//! Names of the objects that Services' addresses come from and stand for: ServiceCIDRs and IPAddresses.

/// Their group.
pub const GROUP: &str = "networking.k8s.io";
/// The ServiceCIDR of the cloud's own range.
pub const DEFAULT_RANGE: &str = "kubernetes";
/// Keeps a ServiceCIDR while addresses of it are in use.
pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Label of an IPAddress: its family.
pub const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// Label of an IPAddress: who makes and deletes it.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// What [`MANAGED_BY`] says of the addresses of Services.
pub const MANAGER: &str = "ipallocator.k8s.io";
