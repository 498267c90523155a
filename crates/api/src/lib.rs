//! The front desk: the one way in to the objects of the cloud.
//!
//! **Owns** the kinds that are served ([`kinds`]), the watch cache, the registry with its admission chain, the
//! kube door (`/api`, `/apis`, discovery, schemas, streams to the nodes), and what a new
//! cloud starts with.
//!
//! **Must never know** what an object makes happen: no controller, no scheduler, no node's work. What is special
//! about a kind lives in `yunfan-objects`; there is no handler of one kind here.
//!
//! **Start reading** at [`Api`], then `door/mod.rs` (the way of a request), `registry/mod.rs` (the way of a
//! write), `cache/mod.rs` (the way of a read).
#![forbid(unsafe_code)]

mod accounts;
mod admission;
mod aggregation;
mod aside;
mod audit;
mod bootstrap;
mod bootstrap_token;
mod cache;
mod chain;
mod cleanup;
mod compaction;
mod config;
mod conversion;
mod door;
mod endpoints;
mod errors;
mod fairness;
mod handle;
mod impersonate;
mod keys;
mod kinds;
mod metrics;
mod proxy;
mod reach;
mod registry;
mod relations;
mod sender;
mod sessions;
mod signins;
mod warnings;
mod webhook;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::Request;
use yunfan_identity::pki::{Authority, ClientAuthority};
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::token::{AccountKey, TokenKey};
use yunfan_objects::ApiError;
use yunfan_store::Store;

pub use config::ApiConfig;
pub use handle::ApiHandle;
pub use proxy::NodeDialer;

use accounts::{Accounts, Audiences};
use admission::dynamic::Dynamic;
use aggregation::Aggregation;
use bootstrap_token::BootstrapTokens;
use cache::Cache;
use chain::Gate;
use fairness::Fairness;
use kinds::Kinds;
use metrics::Metrics;
use reach::Reach;
use registry::Registry;
use sender::Senders;
use sessions::Sessions;

/// The front desk; a clone is the same one. Its tasks end when the last clone is dropped.
#[derive(Clone)]
pub struct Api(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) registry: Arc<Registry>,
    pub(crate) gate: Gate,
    pub(crate) accounts: Accounts,
    pub(crate) aggregation: Arc<Aggregation>,
    pub(crate) dialer: NodeDialer,
    pub(crate) fairness: Arc<Fairness>,
    pub(crate) documents: door::Documents,
    pub(crate) metrics: Metrics,
    pub(crate) sessions: Arc<Sessions>,
    /// Of the checks of health.
    pub(crate) passed: door::Passed,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sessions.close();
    }
}

impl Api {
    /// Reads the store into the cache, feeds the authorizer from it, and starts the front desk's own tasks.
    /// `tokens` signs those of users, and `accounts` those of service accounts, which end with the objects that they name.
    /// `rbac` knows the roles; it is kept up to date from the RBAC objects in the store. Who decides beside it is configured.
    /// `authority` issues the certificate that nodes know this server by; extension servers know it by one of the authority's
    /// [front proxies](Authority::front_proxy).
    ///
    /// # Errors
    /// The store can't be read, or no client certificate can be made.
    pub async fn start(
        store: Arc<dyn Store>,
        tokens: TokenKey,
        accounts: AccountKey,
        rbac: Arc<RbacAuthorizer>,
        authority: &Authority,
        config: ApiConfig,
    ) -> Result<Self, ApiError> {
        let cache = Cache::start(store.clone()).await?;
        bootstrap::feed_rbac(&cache, &rbac);
        let judge = chain::judge(&cache, &rbac, &config.authorization)?;
        let kinds = Kinds::new(cache.clone());
        let fairness = Fairness::new(&cache, config.max_in_flight);
        let audiences = Audiences::new(&config.audiences);
        let accounts = Accounts { key: accounts, cache: cache.clone(), audiences };
        let clients = ClientAuthority::new(&[authority.certificate().clone()])
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let senders = Senders {
            accounts: accounts.clone(),
            tokens,
            bootstrap: BootstrapTokens::new(cache.clone()),
            clients,
            configured: config.authentication.clone(),
        };
        let dialer = NodeDialer::new(&cache, authority)?;
        let reach = Reach::new(cache.clone(), dialer.clone());
        let aggregation = Arc::new(Aggregation::new(&cache, reach.clone(), authority, config.max_in_flight)?);
        let webhooks = Arc::new(webhook::Webhooks::new(reach));
        let aside = Arc::new(aside::Aside::default());
        let registry = Arc::new(Registry {
            store,
            times: metrics::StoreTimes::default(),
            steps: metrics::Steps::default(),
            dynamic: Dynamic::new(cache.clone(), webhooks.clone(), judge.clone(), aside.clone()),
            aside,
            webhooks,
            cache,
            kinds,
            config,
            judge: judge.clone(),
            rbac,
        });
        let api = Self(Arc::new(Inner {
            registry: registry.clone(),
            gate: Gate { senders, judge },
            accounts,
            aggregation,
            dialer,
            fairness: fairness.clone(),
            sessions: Arc::default(),
            documents: door::Documents::default(),
            metrics: Metrics::new(&registry),
            passed: door::Passed::default(),
        }));
        if let Some(audit) = &registry.config.audit {
            api.add_metrics(|catalog| audit.register(catalog));
        }
        let collector = Box::new(api.0.aggregation.collector());
        api.add_metrics(|catalog| catalog.register_collector(collector));
        api.add_metrics(|catalog| fairness.register(catalog));
        tokio::spawn(compaction::run(Arc::downgrade(&registry)));
        tokio::spawn(cleanup::run(Arc::downgrade(&registry)));
        if registry.store.sealed().is_some() {
            tokio::spawn(registry::unreadable::run(Arc::downgrade(&registry)));
        }
        tokio::spawn(fairness.run(Arc::downgrade(&registry)));
        tokio::spawn(sessions::run(api.0.sessions.clone(), Arc::downgrade(&api.0)));
        Ok(api)
    }

    /// The whole kube door as a router: every path that no other door has taken. It authenticates,
    /// authorizes and limits by itself, and trusts a [`yunfan_identity::Caller`] extension.
    pub fn router(&self) -> Router {
        let api = self.clone();
        Router::new().fallback(move |request: Request<Body>| {
            let api = api.clone();
            async move { door::handle(&api, request).await }
        })
    }

    /// Another door, with what the audit log has of it: who signed in there, as a [`yunfan_identity::Caller`] in the extensions of its
    /// answers says, and whom it refused with 401.
    pub fn recorded(&self, door: Router) -> Router {
        signins::recorded(self, door)
    }

    /// The way in for components of the same process.
    pub fn handle(&self) -> ApiHandle {
        ApiHandle::new(self.clone())
    }

    /// Adds what others count to what `/metrics` tells.
    pub fn add_metrics(&self, register: impl FnOnce(&mut prometheus_client::registry::Registry)) {
        self.0.metrics.add(register);
    }

    /// The way to the nodes' own HTTPS API.
    pub fn nodes(&self) -> NodeDialer {
        self.0.dialer.clone()
    }

    /// Makes what every cloud has, and brings what is there of it up to date: namespaces, system definitions,
    /// roles, what extension servers look for. Fast when there is nothing to do; idempotent.
    ///
    /// # Errors
    /// The first write that the store refuses.
    pub async fn bootstrap(&self) -> Result<(), ApiError> {
        bootstrap::run(&self.0.registry).await?;
        self.0.fairness.settle(&self.0.registry).await?;
        self.0.aggregation.start(&self.0.registry).await
    }
}
