//! The chain of authorizers: those that flags or a file name, in their order. The first that has an opinion decides.
//!
//! Most judge from memory. A webhook has to be asked, so that [`Judge::authorize`] may wait; where nobody may wait,
//! as within an expression, there is [`Judge::authorize_here`].

mod config;
mod file;
mod webhook;

use std::sync::{Arc, PoisonError, RwLock};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use yunfan_identity::abac::AbacAuthorizer;
use yunfan_identity::authz::{AlwaysAllow, AlwaysDeny};
use yunfan_identity::bootstrap::COMPONENTS_GROUP;
use yunfan_identity::rbac::{NonResourceRule, RbacAuthorizer, ResourceRule, Rules};
use yunfan_identity::user::MASTERS_GROUP;
use yunfan_identity::{Attributes, Authorizer, Decision, UserInfo, node};

pub use config::AuthorizationOptions;
use webhook::Webhook;

/// Questions to webhooks that each hold a thread, at one time: threads are there for other work, too.
const HERE: usize = 16;

/// One of the chain.
enum Link {
    Node,
    Rbac,
    Abac(AbacAuthorizer),
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Box<Webhook>),
}

type Links = Arc<[Link]>;

/// Which authorizers there are, as configured; a clone is the same, and changes with its file.
#[derive(Clone)]
pub struct Authorization(Arc<RwLock<Links>>);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} authorizers", self.links().len())
    }
}

impl Default for Authorization {
    /// Node, then RBAC.
    fn default() -> Self {
        Self::new(vec![Link::Node, Link::Rbac])
    }
}

impl Authorization {
    fn new(links: Vec<Link>) -> Self {
        Self(Arc::new(RwLock::new(links.into())))
    }

    fn links(&self) -> Links {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, links: Vec<Link>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = links.into();
    }
}

/// Decides who may do what. The cloud's own masters and control loops are not subject to what is configured: a mistake
/// there must not take the cloud from its operator, nor stop it.
pub struct Judge {
    nodes: Box<dyn Authorizer>,
    rbac: Arc<RbacAuthorizer>,
    configured: Authorization,
    /// Who may keep a thread of the server waiting.
    here: Semaphore,
}

/// Reasons of those that had no opinion, each once.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    /// The decision, unless there is none yet.
    fn decided(&mut self, decision: Decision) -> Option<Decision> {
        match decision {
            Decision::NoOpinion { reason } => {
                if !reason.is_empty() && !self.0.contains(&reason) {
                    self.0.push(reason);
                }
                None
            }
            decided => Some(decided),
        }
    }

    fn none(self) -> Decision {
        // A line for each, as Kubernetes has it.
        Decision::NoOpinion { reason: self.0.join("\n") }
    }
}

impl Judge {
    /// One with these authorizers of nodes and roles, where the configuration names them.
    pub fn new(nodes: impl Authorizer, rbac: Arc<RbacAuthorizer>, configured: Authorization) -> Self {
        Self { nodes: Box::new(nodes), rbac, configured, here: Semaphore::new(HERE) }
    }

    /// Whether the request may go on.
    pub async fn authorize(&self, request: &Attributes<'_>) -> Decision {
        let links = self.configured.links();
        match self.at_once(&links, request) {
            Some(decision) => decision,
            // On the heap: what waits here is on the way of every request.
            None => Box::pin(self.in_turn(&links, request)).await,
        }
    }

    /// The same, for a place that cannot wait: this thread does nothing else meanwhile.
    pub fn authorize_here(&self, request: &Attributes<'_>) -> Decision {
        let links = self.configured.links();
        if let Some(decision) = self.at_once(&links, request) {
            return decision;
        }
        let Ok(_place) = self.here.try_acquire() else {
            let reason =
                "too many questions to authorization webhooks are waiting; try again later".to_owned();
            return Decision::NoOpinion { reason };
        };
        match Handle::try_current() {
            Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(|| runtime.block_on(self.in_turn(&links, request)))
            }
            _ => Decision::NoOpinion { reason: "an authorization webhook cannot be asked here".to_owned() },
        }
    }

    /// The decision, where nobody needs to be asked for it.
    fn at_once(&self, links: &[Link], request: &Attributes<'_>) -> Option<Decision> {
        if request.user.in_group(MASTERS_GROUP) || request.user.in_group(COMPONENTS_GROUP) {
            let decision = self.rbac.authorize(request);
            if decision.is_allowed() {
                return Some(decision);
            }
        }
        // Whatever stands in the chain before RBAC, which says why.
        if self.rbac.is_beyond_limit(request) {
            return Some(self.rbac.authorize(request));
        }
        let mut reasons = Reasons::default();
        for link in links {
            let decision = self.known_of(link, request)?;
            if let Some(decided) = reasons.decided(decision) {
                return Some(decided);
            }
        }
        Some(reasons.none())
    }

    async fn in_turn(&self, links: &[Link], request: &Attributes<'_>) -> Decision {
        let mut reasons = Reasons::default();
        for link in links {
            let decision = match (self.known_of(link, request), link) {
                (Some(decision), _) => decision,
                (None, Link::Webhook(webhook)) => webhook.authorize(request).await,
                (None, _) => continue,
            };
            if let Some(decided) = reasons.decided(decision) {
                return decided;
            }
        }
        reasons.none()
    }

    /// `None` where somebody has to be asked.
    fn known_of(&self, link: &Link, request: &Attributes<'_>) -> Option<Decision> {
        Some(match link {
            Link::Node => self.nodes.authorize(request),
            Link::Rbac => self.rbac.authorize(request),
            Link::Abac(abac) => abac.authorize(request),
            Link::AlwaysAllow => AlwaysAllow.authorize(request),
            Link::AlwaysDeny => AlwaysDeny.authorize(request),
            Link::Webhook(webhook) => return webhook.remembered(request),
        })
    }

    /// All that is known of what `user` may do in `namespace`, and why more may be allowed or refused. Bindings to roles that are
    /// not there give nothing: they are among the rules as what is missing.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Rules, Vec<String>) {
        let (mut rules, mut errors) = (Rules::default(), Vec::new());
        for link in self.configured.links().iter() {
            match link {
                Link::Rbac => {
                    let more = self.rbac.rules_for(user, namespace);
                    rules.resources.extend(more.resources);
                    rules.non_resources.extend(more.non_resources);
                    rules.missing.extend(more.missing);
                }
                Link::Abac(abac) => abac.collect(user, namespace, &mut rules),
                Link::AlwaysAllow => everything(&mut rules),
                Link::AlwaysDeny => {}
                // What depends on Pods, or on somebody else, is no list of rules.
                Link::Node if node::of(user).is_some_and(|node| !node.is_empty()) => {
                    errors.push("node authorizer does not support user rule resolution".to_owned());
                }
                Link::Node => {}
                Link::Webhook(_) => {
                    errors.push("webhook authorizer does not support user rule resolution".to_owned());
                }
            }
        }
        (rules, errors)
    }
}

fn everything(rules: &mut Rules) {
    let all = || vec!["*".to_owned()];
    rules.resources.push(ResourceRule {
        verbs: all(),
        api_groups: all(),
        resources: all(),
        resource_names: Vec::new(),
    });
    rules.non_resources.push(NonResourceRule { verbs: all(), non_resource_urls: all() });
}

#[cfg(test)]
mod tests;
