//! What a network of this node is told when its objects change.

use std::sync::Arc;

use yunfan_network::{Member, NetworkConfig, Policy};
use yunfan_resources::network::Port;

use super::{LinkError, Links};
use crate::members::held;

impl Links {
    /// Makes the network what its objects say. Rules hold for who is there, also where the rest of it cannot be: what they no longer let
    /// in must not come in for as long as something else is wrong.
    pub(super) async fn program(
        &self,
        config: NetworkConfig,
        members: Vec<Member>,
        policy: Policy,
        ports: &[Arc<Port>],
    ) -> Result<(), LinkError> {
        let uid = config.uid.clone();
        let made = if config.subnets.is_empty() && config.subnets6.is_empty() {
            // Its last subnet may be gone while machines are there.
            Err(LinkError::Waits(format!("network {} has no subnet yet", config.name)))
        } else {
            self.networks.ensure(config).await.map_err(LinkError::from)
        };
        if made.is_err() && !self.networks.networks().iter().any(|network| network.uid == uid) {
            return made;
        }
        let told = self.networks.set_members(&uid, members).await;
        let ruled = self.networks.set_policy(&uid, policy).await;
        let addressed = self.readdress(&uid, ports).await;
        made.and(told.map_err(LinkError::from)).and(ruled.map_err(LinkError::from)).and(addressed)
    }

    /// Machines' ports can be given other addresses while they are plugged in, or none. One that is refused does not keep the others from theirs.
    async fn readdress(&self, network: &str, ports: &[Arc<Port>]) -> Result<(), LinkError> {
        let mut result = Ok(());
        for attachment in self.networks.attachments() {
            let port = ports.iter().find(|port| port.metadata.uid.as_ref() == Some(&attachment.port_uid));
            let here = attachment.pod_uid.is_none() && attachment.network_uid == network;
            if let Some(port) = port.filter(|_| here)
                && let Ok((_, ips, ips6)) = held(port)
            {
                let done = self.networks.set_addresses(&attachment.port_uid, ips, ips6).await;
                result = result.and(done.map_err(LinkError::from));
            }
        }
        result
    }
}
