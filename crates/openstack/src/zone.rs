//! Where machines and volumes are placed, in the words of Nova and Cinder alike.

use k8s_openapi::jiff::SignedDuration;

/// The one availability zone.
pub(crate) const ZONE: &str = "nova";
/// How long what no node has room for is still shown as being scheduled. The scheduler tries on without end, but clients
/// wait for the thing itself or for an error.
pub(crate) const PATIENCE: SignedDuration = SignedDuration::from_secs(20);
