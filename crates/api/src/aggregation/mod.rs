//! API aggregation: group versions that other servers answer for, as APIService objects say (kube-aggregator).
//!
//! An APIService that names a Service takes its group version over from whoever would serve it else, but for
//! apiregistration.k8s.io itself. A request goes there after it was authenticated and authorized here (`proxied.rs`), over a connection
//! that shows the front proxy's certificate (`server.rs`), and says whom it is from. What such a server needs in order to
//! believe that is published in a ConfigMap (`trust.rs`). Whether it can be asked is looked at all the time
//! (`availability.rs`), and what it has is learnt then (`told.rs`, `spec.rs`), for the lists of all that clients can ask
//! for here (`merged.rs`). Group versions that are served here have APIServices, too (`local.rs`).

mod availability;
mod checks;
mod identity;
mod local;
mod merged;
mod metrics;
mod places;
pub(crate) mod priorities;
mod proxied;
mod server;
mod services;
mod spec;
mod told;
mod trust;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::sync::Mutex;
use yunfan_identity::pki::{Authority, PkiError, Shown};
use yunfan_objects::ApiError;

use crate::cache::{Cache, KindCache};
use crate::door::path;
use crate::keys;
use crate::kinds::Table;
use crate::reach::Reach;
use crate::registry::Registry;
pub(crate) use merged::{Group, Merged};
use metrics::{Metrics, Told};
pub(crate) use places::Place;
pub(crate) use proxied::{document, handle};
pub(crate) use services::Remote;
use services::Services;
pub(crate) use told::Known;
use trust::Trust;

/// The group of the APIServices, which always answers for itself.
pub(crate) const GROUP: &str = "apiregistration.k8s.io";
const PLURAL: &str = "apiservices";
/// The user whose certificate says that requests are passed on.
const PROXY_USER: &str = "front-proxy-client";

/// Who answers for a request that is not answered here.
pub(crate) struct Target {
    pub(crate) remote: Arc<Remote>,
    /// Whether the OpenAPI document of its group version is asked for.
    pub(crate) document: bool,
}

/// The other servers of the API.
pub(crate) struct Aggregation {
    objects: Arc<KindCache>,
    reach: Reach,
    /// The front proxy's own certificate.
    shown: Arc<Shown>,
    /// How many requests of one server may be under way.
    most: usize,
    trust: Trust,
    services: RwLock<Arc<Services>>,
    /// What the servers tell, by the names of their APIServices; and a number that changes with it.
    told: RwLock<(u64, BTreeMap<String, Arc<Known>>)>,
    merged: RwLock<Option<Arc<Merged>>>,
    metrics: Arc<Metrics>,
    /// Held by who reads what a server told.
    reading: Mutex<()>,
    started: AtomicBool,
}

impl Aggregation {
    /// The servers that the APIServices of this cache name, reached in this way, each with so many requests
    /// under way at most. Certificates of users are `authority`'s.
    ///
    /// # Errors
    /// The front proxy has no certificate.
    pub(crate) fn new(
        cache: &Cache,
        reach: Reach,
        authority: &Authority,
        most: usize,
    ) -> Result<Self, ApiError> {
        let fault = |why: PkiError| ApiError::internal(format!("no certificate for a front proxy: {why}"));
        let front = authority.front_proxy().map_err(fault)?;
        let none: &[&str] = &[];
        let objects = cache.kind(&prefix());
        Ok(Self {
            metrics: Arc::new(Metrics::new(objects.clone())),
            objects,
            reach,
            shown: front.shown_client("client", PROXY_USER, none).map_err(fault)?,
            most,
            trust: Trust::new(authority.certificate_pem(), front.certificate_pem(), PROXY_USER),
            services: RwLock::default(),
            told: RwLock::default(),
            merged: RwLock::default(),
            reading: Mutex::default(),
            started: AtomicBool::new(false),
        })
    }

    /// The table of the servers, as the cache has it now.
    fn services(&self) -> Arc<Services> {
        let revision = self.objects.last();
        let known = self.services.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.revision == revision {
            return known;
        }
        let mut place = self.services.write().unwrap_or_else(PoisonError::into_inner);
        let listing = self.objects.list(&prefix());
        if place.revision < listing.last {
            *place = Arc::new(Services::new(&listing, &place, &self.shown, self.most));
        }
        place.clone()
    }

    /// The server that answers for a request; none where we do. The path is taken as authorization takes it.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<Target> {
        let services = self.services();
        if services.remotes.is_empty() {
            return None;
        }
        let words = path::words(path);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let (group, version, document) = match words.as_slice() {
            ["api", version, ..] => ("", version, false),
            ["apis", group, version, ..] => (*group, version, false),
            ["openapi", "v3", "api", version] if reads => ("", version, true),
            ["openapi", "v3", "apis", group, version] if reads => (*group, version, true),
            _ => return None,
        };
        let remote = services.remotes.get(&(group.to_owned(), (*version).to_owned()))?.clone();
        Some(Target { remote, document })
    }

    /// All group versions, of this server and of others.
    pub(crate) fn merged(&self, table: &Table) -> Arc<Merged> {
        let services = self.services();
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        let stamps = [table.revision(), services.revision, told.0];
        let known = self.merged.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.stamps == stamps) {
            return known;
        }
        let merged = Arc::new(Merged::new(table, &services, &told.1, stamps));
        *self.merged.write().unwrap_or_else(PoisonError::into_inner) = Some(merged.clone());
        merged
    }

    /// Whether another server told that it has this resource.
    pub(crate) fn has(&self, remote: &Remote, plural: &str) -> bool {
        let known = self.known(&remote.name);
        known.is_some_and(|known| known.resources.iter().any(|resource| resource["resource"] == plural))
    }

    fn known(&self, name: &str) -> Option<Arc<Known>> {
        self.told.read().unwrap_or_else(PoisonError::into_inner).1.get(name).cloned()
    }

    /// Asks a server that can be asked what it has.
    async fn learn(&self, remote: &Remote) {
        let before = self.known(&remote.name);
        let documents = before.as_ref().map(|before| before.documents.clone()).unwrap_or_default();
        let (told, documents) =
            tokio::join!(told::learn(self, remote, before.as_deref()), spec::learn(self, remote, documents));
        match told {
            Ok(known) => self.put(&remote.name, Known { documents, ..known }),
            Err(why) => {
                tracing::debug!(name = remote.name, why, "an extension server does not tell what it has");
                self.lose(&remote.name);
            }
        }
    }

    /// Reads what a server told, where nobody waits for it, and one text at a time: each takes many times its size.
    ///
    /// # Errors
    /// A word on why it is no JSON.
    async fn read<T: Send + 'static>(
        &self,
        text: Bytes,
        read: impl FnOnce(&Value) -> T + Send + 'static,
    ) -> Result<T, String> {
        let _one_at_a_time = self.reading.lock().await;
        let parse = move || serde_json::from_slice(&text).map(|value: Value| read(&value));
        let done = tokio::task::spawn_blocking(parse).await.map_err(|error| error.to_string())?;
        done.map_err(|error| error.to_string())
    }

    /// Notes that what a server told is from before it could not be asked any more.
    fn lose(&self, name: &str) {
        if let Some(known) = self.known(name).filter(|known| !known.stale) {
            self.put(name, Known { stale: true, ..Known::clone(&known) });
        }
    }

    fn put(&self, name: &str, known: Known) {
        let mut told = self.told.write().unwrap_or_else(PoisonError::into_inner);
        if told.1.get(name).is_none_or(|before| **before != known) {
            told.0 += 1;
            told.1.insert(name.to_owned(), Arc::new(known));
        }
    }

    /// Forgets what was told by servers that no APIService names any more.
    fn forget_all_but(&self, services: &Services) {
        let names: HashSet<&String> = services.remotes.values().map(|remote| &remote.name).collect();
        let mut told = self.told.write().unwrap_or_else(PoisonError::into_inner);
        let count = told.1.len();
        told.1.retain(|name, _| names.contains(name));
        told.0 += u64::from(told.1.len() != count);
    }

    /// Publishes what other servers must know in order to believe us, and starts what follows from APIServices. That ends
    /// with the registry.
    ///
    /// # Errors
    /// The store refuses.
    pub(crate) async fn start(self: &Arc<Self>, registry: &Arc<Registry>) -> Result<(), ApiError> {
        self.publish(registry).await?;
        if self.started.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let mut keeper = local::Keeper::default();
        // What was refused is said, and tried again.
        let _ = keeper.pass(registry).await;
        let (own, registry) = (Arc::downgrade(self), Arc::downgrade(registry));
        tokio::spawn(trust::keep(own.clone(), registry.clone()));
        tokio::spawn(local::keep(keeper, registry.clone()));
        tokio::spawn(availability::keep(own, registry));
        Ok(())
    }

    /// What is counted of the servers.
    pub(crate) fn collector(&self) -> Told {
        Told(self.metrics.clone())
    }

    async fn publish(&self, registry: &Registry) -> Result<(), ApiError> {
        self.trust.publish(registry).await
    }
}

fn prefix() -> String {
    keys::kind_prefix(GROUP, PLURAL)
}
