//! The ranges that Services' addresses come from, and the addresses as objects. The range of the cloud itself is always there. A
//! range keeps a finalizer until no address of it is in use, and says whether it is ready: those that nodes do not serve are
//! not. IPAddresses are made and deleted with their Services; one that somebody deletes comes back, one without a Service goes.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{
    IPAddress, IPAddressSpec, ParentReference, ServiceCIDR, ServiceCIDRSpec, ServiceCIDRStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Index, Informer, Queue, is_exists, is_not_found, run_loop};
use yunfan_resources::addresses::{DEFAULT_RANGE, FAMILY, FINALIZER, MANAGED_BY, MANAGER};

use crate::Context;
use crate::status::{now, status_patch};

/// A range stays this long after it was marked for deletion: a Service may just have got an address of it.
const LINGERS: Duration = Duration::from_secs(10);
/// What is younger may have its other half on the way here.
const YOUNG: Duration = Duration::from_secs(5);
/// The condition of ranges.
const READY: &str = "Ready";

/// Runs the loop.
pub async fn run(context: Context) {
    let ranges = context.informers.of::<ServiceCIDR>();
    let addresses = context.informers.of::<IPAddress>();
    let services = context.informers.of::<Service>();
    let queue = Queue::new();
    tokio::join!(ranges.synced(), addresses.synced(), services.synced());
    queue.feed(&ranges, |_| [Work::Ranges]);
    queue.feed(&addresses, |address| [Work::Address(address.name_any()), Work::Ranges]);
    queue.feed(&services, |service| addresses_of(service).into_iter().map(Work::Address));
    // There may be none of them yet.
    queue.add(Work::Ranges);
    let services = services.index("clusterIP", addresses_of);
    let work = Arc::new(Loop { context, ranges, addresses, services });
    run_loop("service-cidr", queue, 2, move |key| {
        let work = work.clone();
        async move {
            match key {
                Work::Ranges => work.ranges().await,
                Work::Address(ip) => work.address(&ip).await,
            }
        }
    })
    .await;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// All ranges: they are few, and one may hold another.
    Ranges,
    /// One address.
    Address(String),
}

struct Loop {
    context: Context,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
    /// By their addresses.
    services: Index<Service>,
}

impl Loop {
    async fn ranges(&self) -> kube::Result<Option<Duration>> {
        if self.ranges.get(None, DEFAULT_RANGE).is_none() {
            let cidrs = self.own_cidrs();
            let range = ServiceCIDR {
                metadata: ObjectMeta { name: Some(DEFAULT_RANGE.to_owned()), ..ObjectMeta::default() },
                spec: Some(ServiceCIDRSpec { cidrs: Some(cidrs) }),
                status: None,
            };
            unless_exists(self.context.writer.create(&range).await)?;
        }
        let mut again: Option<Duration> = None;
        for range in self.ranges.list() {
            let wait = if range.metadata.deletion_timestamp.is_some() {
                self.ends(&range).await?
            } else {
                self.stays(&range).await?;
                None
            };
            again = again.into_iter().chain(wait).min();
        }
        Ok(again)
    }

    fn own_cidrs(&self) -> Vec<String> {
        self.context.config.service_cidrs().iter().map(IpNet::to_string).collect()
    }

    /// A cloud that gets its second family later has its range complete then.
    async fn complete(&self, range: &ServiceCIDR) -> kube::Result<()> {
        let wanted = self.own_cidrs();
        let there = range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
        if range.name_any() == DEFAULT_RANGE && there.len() == 1 && wanted.len() == 2 && there[0] == wanted[0]
        {
            let patch = json!({"spec": {"cidrs": wanted}});
            self.context.writer.merge::<ServiceCIDR>(None, DEFAULT_RANGE, &patch).await?;
        }
        Ok(())
    }

    async fn stays(&self, range: &ServiceCIDR) -> kube::Result<()> {
        if !self.context.config.kubernetes {
            // All but the first word on the cloud's own range is kube-controller-manager's.
            if range.name_any() == DEFAULT_RANGE && ready(range).is_none() {
                self.tell(range, "True", "", "Kubernetes default Service CIDR is ready").await?;
            }
            return Ok(());
        }
        self.complete(range).await?;
        let served = self.context.config.service_cidrs();
        if !prefixes(range).all(|prefix| served.iter().any(|served| served.contains(&prefix))) {
            let served = self.own_cidrs().join(" and ");
            let why = format!(
                "No addresses are given of it: nodes serve those of {served} alone, the Services' range of this cloud"
            );
            return self.tell(range, "False", "NotServed", &why).await;
        }
        self.context.writer.add_finalizer(range, FINALIZER).await?;
        self.tell(range, "True", "", "Kubernetes Service CIDR is ready").await
    }

    /// Lets a range go that nothing needs; tells when to look again.
    async fn ends(&self, range: &ServiceCIDR) -> kube::Result<Option<Duration>> {
        if !self.context.config.kubernetes || !range.finalizers().iter().any(|own| own == FINALIZER) {
            return Ok(None);
        }
        if self.is_needed(range) {
            let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            self.tell(range, "False", "Terminating", why).await?;
            return Ok(None);
        }
        let left = LINGERS.saturating_sub(age(range.metadata.deletion_timestamp.as_ref().map(|time| time.0)));
        if !left.is_zero() {
            return Ok(Some(left));
        }
        self.context.writer.remove_finalizer(range, FINALIZER).await?;
        Ok(None)
    }

    /// Whether an address of the range is in use that no other range has.
    fn is_needed(&self, range: &ServiceCIDR) -> bool {
        let others: Vec<IpNet> = self
            .ranges
            .list()
            .iter()
            .filter(|other| other.metadata.name != range.metadata.name)
            .flat_map(|other| prefixes(other).collect::<Vec<_>>())
            .collect();
        if prefixes(range).all(|prefix| others.iter().any(|other| other.contains(&prefix))) {
            return false;
        }
        let own: Vec<IpNet> = prefixes(range).collect();
        self.addresses.list().iter().filter(|address| is_ours(address)).any(|address| {
            let Ok(ip) = address.name_any().parse::<std::net::IpAddr>() else { return false };
            let gives = |prefix: &IpNet| {
                let broadcast = ip.is_ipv4() && ip == prefix.broadcast();
                prefix.contains(&ip) && ip != prefix.network() && !broadcast
            };
            own.iter().any(gives) && !others.iter().any(gives)
        })
    }

    /// Sets the condition, unless it is as it should be.
    async fn tell(&self, range: &ServiceCIDR, status: &str, reason: &str, message: &str) -> kube::Result<()> {
        let is = ready(range);
        if is.is_some_and(|is| is.status == status && is.reason == reason && is.message == message) {
            return Ok(());
        }
        let since = is.filter(|is| is.status == status).map(|is| is.last_transition_time.clone());
        let condition = Condition {
            type_: READY.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: since.unwrap_or_else(now),
            observed_generation: None,
        };
        let before = range.status.clone().unwrap_or_default();
        let others = before.conditions.iter().flatten().filter(|other| other.type_ != READY).cloned();
        let after = ServiceCIDRStatus { conditions: Some(others.chain([condition]).collect()) };
        let Some(patch) = status_patch(&range.metadata, &before, &after) else { return Ok(()) };
        match self.context.writer.merge_status::<ServiceCIDR>(None, &range.name_any(), &patch).await {
            // That it went is on its way here.
            Err(error) if is_not_found(&error) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Makes the two halves fit: the address that a Service has, and the object that stands for it.
    async fn address(&self, ip: &str) -> kube::Result<Option<Duration>> {
        let holders = self.services.get(ip);
        match self.addresses.get(None, ip) {
            Some(address) if is_ours(&address) => self.keep(&address, !holders.is_empty()).await,
            Some(_) => Ok(None),
            None => {
                let Some(holder) = holders.first() else { return Ok(None) };
                let left = youth(&holder.metadata);
                if !left.is_zero() {
                    return Ok(Some(left));
                }
                if let Some(holder) = self.fresh(holder.namespace(), &holder.name_any()).await?
                    && addresses_of(&holder).iter().any(|own| own == ip)
                {
                    unless_exists(self.context.writer.create(&object(ip, &holder)).await)?;
                }
                Ok(None)
            }
        }
    }

    /// Deletes an address whose Service is gone, or has another.
    async fn keep(&self, address: &IPAddress, held: bool) -> kube::Result<Option<Duration>> {
        let left = youth(&address.metadata);
        if held || !left.is_zero() {
            return Ok((!held).then_some(left));
        }
        let parent = &address.spec.parent_ref;
        if let Some(service) = self.fresh(parent.namespace.clone(), &parent.name).await?
            && addresses_of(&service).contains(&address.name_any())
        {
            return Ok(None);
        }
        let uid = address.metadata.uid.as_deref();
        self.context.writer.delete::<IPAddress>(None, &address.name_any(), uid).await?;
        Ok(None)
    }

    /// The Service as it is now: what was seen of it last may be old.
    async fn fresh(&self, namespace: Option<String>, name: &str) -> kube::Result<Option<Service>> {
        match self.context.writer.get::<Service>(namespace.as_deref(), name).await {
            Err(error) if is_not_found(&error) => Ok(None),
            result => result.map(Some),
        }
    }
}

/// The object for a Service's address.
fn object(ip: &str, service: &Service) -> IPAddress {
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    let labels = [(FAMILY, family), (MANAGED_BY, MANAGER)];
    let parent = ParentReference {
        group: None,
        resource: "services".to_owned(),
        namespace: service.namespace(),
        name: service.name_any(),
    };
    IPAddress {
        metadata: ObjectMeta {
            name: Some(ip.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec { parent_ref: parent },
    }
}

/// That it was made is on its way here.
fn unless_exists<K>(result: kube::Result<K>) -> kube::Result<()> {
    match result {
        Err(error) if is_exists(&error) => Ok(()),
        result => result.map(drop),
    }
}

/// The Service's addresses as objects are called that stand for them.
fn addresses_of(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut ips: Vec<String> =
        all.filter_map(|ip| Some(ip.parse::<std::net::IpAddr>().ok()?.to_string())).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn is_ours(address: &IPAddress) -> bool {
    address.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER)
}

fn ready(range: &ServiceCIDR) -> Option<&Condition> {
    range.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == READY)
}

fn prefixes(range: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| cidr.parse().ok())
}

fn age(since: Option<Timestamp>) -> Duration {
    let age = since.map(|since| Timestamp::now().duration_since(since));
    age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
}

/// For how long what has this metadata is young still.
fn youth(meta: &ObjectMeta) -> Duration {
    YOUNG.saturating_sub(age(meta.creation_timestamp.as_ref().map(|time| time.0)))
}
