//! Who and what there is to sign in to: users, groups, projects, domains, roles and who has which, read with the cloud's own client.
//!
//! Only sign-in, and what a caller may always know of themselves, goes through here; everything else is read as
//! the caller. What is read is kept up to date by watches (informers), so that signing in asks nobody; what this door writes
//! is waited for ([`Directory::saw`]), so that whoever wrote it is not told of a moment before.

mod grants;
mod roles;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use tokio::time::{Instant, sleep, timeout};
use yunfan_client::{Informer, Informers, Watched};
use yunfan_resources::iam::{Domain, Group, Project, User};
use yunfan_resources::{Identified, names};

use crate::error::Fault;
use crate::ids;
use crate::places::Places;

pub(crate) use grants::{Place, Principal, role_of, system_role_of};
pub(crate) use roles::{
    DESCRIPTION, DOMAIN, EXTRA, IMMUTABLE, NAME, Role, implied_label, implied_system_label, with_implied,
};

/// Id of the first domain, in which everything is that names no other.
pub(crate) const DEFAULT_DOMAIN: &str = "default";
/// How long a first look at all objects of a kind, or one's own write, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many projects there may be one above the other: Keystone's own limit.
pub(crate) const MAX_DEPTH: usize = 5;

/// Reads users, projects and role assignments.
pub(crate) struct Directory {
    system: Client,
    places: Places,
    informers: Informers,
}

/// Something with an id and a name that people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) name: String,
}

impl Named {
    /// `{"id", "name"}`
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({"id": self.id, "name": self.name})
    }
}

/// How a request names a user, a project or a domain: by id, or by name within a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Id(String),
    Name { name: String, domain: Named },
}

/// What users, groups and projects are found by.
fn by_id<K: Identified>(object: &K) -> Vec<String> {
    vec![object.id()]
}

fn by_name<K: Identified>(object: &K) -> Vec<String> {
    vec![object.display_name()]
}

impl Directory {
    /// A directory that reads through `system`.
    pub(crate) fn new(system: Client) -> Self {
        Self { informers: Informers::new(system.clone()), system, places: Places::default() }
    }

    /// Where objects of all kinds are.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// All objects of a kind, as they are now.
    pub(crate) async fn all<K: Watched>(&self) -> Result<Informer<K>, Fault> {
        let informer = self.informers.of::<K>();
        if !informer.is_synced() {
            timeout(PATIENCE, informer.synced()).await.map_err(|_| late::<K>())?;
        }
        Ok(informer)
    }

    /// Waits until what was just written is what sign-ins see.
    pub(crate) async fn saw<K: Watched>(&self, written: &K) -> Result<(), Fault> {
        let revision = written.meta().resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
        let Some(revision) = revision else { return Ok(()) };
        self.until::<K>(|all| all.revision() >= revision).await
    }

    /// Waits until what was just deleted is gone.
    pub(crate) async fn saw_gone<K: Watched>(&self, deleted: &K) -> Result<(), Fault> {
        let meta = deleted.meta();
        let name = meta.name.as_deref().unwrap_or_default();
        self.until::<K>(|all| {
            // Also where finalizers keep it for a while.
            all.get(meta.namespace.as_deref(), name)
                .is_none_or(|there| there.meta().uid != meta.uid || there.meta().deletion_timestamp.is_some())
        })
        .await
    }

    async fn until<K: Watched>(&self, seen: impl Fn(&Informer<K>) -> bool) -> Result<(), Fault> {
        let all = self.all::<K>().await?;
        let (started, mut pause) = (Instant::now(), Duration::from_micros(200));
        while !seen(&all) {
            if started.elapsed() > PATIENCE {
                return Err(late::<K>());
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Every domain, with whether it is enabled. The default one is there even where no object stands for it.
    pub(crate) async fn domains(&self) -> Result<Vec<(Named, bool)>, Fault> {
        let all = self.all::<Domain>().await?.list();
        let mut domains: Vec<(Named, bool)> =
            all.iter().map(|domain| (domain_named(domain), domain.spec.enabled)).collect();
        if !domains.iter().any(|(domain, _)| domain.id == DEFAULT_DOMAIN) {
            domains.push((default_domain(), true));
        }
        Ok(domains)
    }

    /// The domain that an object's `spec.domain` (a `metadata.name`) means.
    pub(crate) async fn domain_of(&self, domain: Option<&str>) -> Result<Named, Fault> {
        Ok(self.domain_state(domain).await?.0)
    }

    /// The same, with whether it is enabled.
    pub(crate) async fn domain_state(&self, domain: Option<&str>) -> Result<(Named, bool), Fault> {
        let wanted = domain.unwrap_or(DEFAULT_DOMAIN);
        let found = self.all::<Domain>().await?.get(None, wanted);
        Ok(match found {
            Some(found) => (domain_named(&found), found.spec.enabled),
            None if wanted == DEFAULT_DOMAIN => (default_domain(), true),
            None => (Named { id: wanted.to_owned(), name: wanted.to_owned() }, false),
        })
    }

    /// The `metadata.name` of the domain with this id.
    pub(crate) async fn domain_object(&self, id: &str) -> Result<String, Fault> {
        let all = self.all::<Domain>().await?.list();
        let found = all.iter().find(|domain| domain_named(domain).id == id);
        Ok(found.map_or(id, |domain| ids::name(&**domain)).to_owned())
    }

    /// The user that a request names.
    pub(crate) async fn user(&self, wanted: &Reference) -> Result<Option<Arc<User>>, Fault> {
        self.referred(wanted, |user: &User| user.spec.domain.as_deref()).await
    }

    /// The user with this `metadata.name`.
    pub(crate) async fn user_named(&self, name: &str) -> Result<Option<Arc<User>>, Fault> {
        Ok(self.all::<User>().await?.get(None, name))
    }

    /// The project that a request names.
    pub(crate) async fn project(&self, wanted: &Reference) -> Result<Option<Arc<Project>>, Fault> {
        self.referred(wanted, |project: &Project| project.spec.domain.as_deref()).await
    }

    /// The project with this `metadata.name`.
    pub(crate) async fn project_named(&self, name: &str) -> Result<Option<Arc<Project>>, Fault> {
        Ok(self.all::<Project>().await?.get(None, name))
    }

    /// The object with this id.
    pub(crate) async fn with_id<K: Watched + Identified>(&self, id: &str) -> Result<Option<Arc<K>>, Fault> {
        let found = self.all::<K>().await?.index("id", by_id::<K>).get(id);
        Ok(found.into_iter().next())
    }

    async fn referred<K: Watched + Identified>(
        &self,
        wanted: &Reference,
        domain: fn(&K) -> Option<&str>,
    ) -> Result<Option<Arc<K>>, Fault> {
        let (name, within) = match wanted {
            Reference::Id(id) => return self.with_id(id).await,
            Reference::Name { name, domain } => (name, domain),
        };
        for object in self.all::<K>().await?.index("name", by_name::<K>).get(name) {
            if self.domain_of(domain(&object)).await?.id == within.id {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// The projects above one, the nearest first.
    pub(crate) async fn above(&self, project: &Project) -> Result<Vec<Arc<Project>>, Fault> {
        let all = self.all::<Project>().await?;
        let mut above: Vec<Arc<Project>> = Vec::new();
        let mut next = project.spec.parent.clone();
        // What stands in a circle ends as well.
        while let Some(parent) =
            next.and_then(|name| all.get(None, &name)).filter(|_| above.len() < 4 * MAX_DEPTH)
        {
            next = parent.spec.parent.clone();
            above.push(parent);
        }
        Ok(above)
    }

    /// The home namespace of the project with this id and `metadata.name`, if it has one already.
    pub(crate) async fn namespace(&self, id: &str, name: &str) -> Result<Option<String>, Fault> {
        let project = self.project_named(name).await?.filter(|project| project.id() == id);
        Ok(project.and_then(|project| home(&project).map(str::to_owned)))
    }

    /// The groups that a user (`metadata.name`) is in.
    pub(crate) async fn groups_of(&self, user: &str) -> Result<Vec<Arc<Group>>, Fault> {
        let groups = self.all::<Group>().await?;
        Ok(groups.index("member", |group: &Group| group.spec.members.clone()).get(user))
    }

    /// The stored password hash of a user.
    pub(crate) async fn password_hash(&self, user: &User) -> Result<Option<String>, Fault> {
        self.hash_in(&names::password_secret(ids::name(user)), names::PASSWORD_SECRET_TYPE).await
    }

    /// The hash in a Secret of this name, if it is of this type.
    pub(crate) async fn hash_in(&self, name: &str, kind: &str) -> Result<Option<String>, Fault> {
        let secrets = Api::<Secret>::namespaced(self.system.clone(), names::SYSTEM_NAMESPACE);
        let secret = secrets.get_opt(name).await?.filter(|secret| secret.type_.as_deref() == Some(kind));
        let hash = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove("hash"));
        Ok(hash.and_then(|hash| String::from_utf8(hash.0).ok()))
    }
}

fn late<K: Watched>() -> Fault {
    let why = format!("Objects of the kind {} do not arrive; try again.", K::kind(&()));
    Fault::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, why)
}

fn default_domain() -> Named {
    Named { id: DEFAULT_DOMAIN.to_owned(), name: "Default".to_owned() }
}

/// A domain's id and name.
pub(crate) fn domain_named(domain: &Domain) -> Named {
    let name = domain.display_name();
    let id = match &domain.spec.id {
        None if ids::name(domain) == DEFAULT_DOMAIN => DEFAULT_DOMAIN.to_owned(),
        _ => domain.id(),
    };
    let name = if id == DEFAULT_DOMAIN && name == DEFAULT_DOMAIN { "Default".to_owned() } else { name };
    Named { id, name }
}

/// A project's home namespace, once its loop has made it.
pub(crate) fn home(project: &Project) -> Option<&str> {
    project.status.as_ref().and_then(|status| status.namespace.as_deref())
}
