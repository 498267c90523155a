//! What projects and users have in common: each is in a domain, has a name that is unique in it, and can be switched off.

use kube::api::Api;
use yunfan_resources::Identified;
use yunfan_resources::iam::{Project, User};

use super::name_matches;
use crate::auth::Session;
use crate::body::Params;
use crate::directory::DEFAULT_DOMAIN;
use crate::error::Fault;
use crate::ids::{self, Kind};

/// Something that is in a domain.
pub(super) trait InDomain: Kind + Identified {
    /// `metadata.name` of its Domain; none for the default one.
    fn domain(&self) -> Option<&str>;
    /// Whether it is switched on.
    fn enabled(&self) -> bool;
    /// What Keystone says when another has the name.
    fn taken(name: &str) -> String;
}

impl InDomain for Project {
    fn domain(&self) -> Option<&str> {
        self.spec.domain.as_deref()
    }

    fn enabled(&self) -> bool {
        self.spec.enabled
    }

    fn taken(name: &str) -> String {
        format!(
            "Conflict occurred attempting to store project - it is not permitted to have two projects with the same name \
             in the same domain : {name}."
        )
    }
}

impl InDomain for User {
    fn domain(&self) -> Option<&str> {
        self.spec.domain.as_deref()
    }

    fn enabled(&self) -> bool {
        self.spec.enabled
    }

    fn taken(name: &str) -> String {
        format!("Conflict occurred attempting to store user - Duplicate entry found with name {name}.")
    }
}

/// Those that pass the filters of a list: name, domain, and whether they are switched on.
pub(super) async fn filtered<K: InDomain>(
    session: &Session,
    params: &Params,
    api: &Api<K>,
) -> Result<Vec<K>, Fault> {
    let enabled = params.flag("enabled")?;
    let mut found = Vec::new();
    for object in ids::list(api).await? {
        if !name_matches(params, &object.display_name()) || enabled.is_some_and(|it| it != object.enabled()) {
            continue;
        }
        let domain = session.door.directory.domain_of(object.domain()).await?;
        if params.get("domain_id").is_none_or(|wanted| wanted == domain.id) {
            found.push(object);
        }
    }
    Ok(found)
}

/// Refuses a name that another (than the one with the id `except`) has in the domain.
pub(super) async fn refuse_taken<K: InDomain>(
    api: &Api<K>,
    name: &str,
    domain: Option<&str>,
    except: Option<&str>,
) -> Result<(), Fault> {
    let within = |domain: Option<&str>| domain.unwrap_or(DEFAULT_DOMAIN).to_owned();
    let taken = ids::list(api).await?.into_iter().any(|object| {
        object.display_name() == name
            && within(object.domain()) == within(domain)
            && Some(object.id().as_str()) != except
    });
    if taken { Err(Fault::conflict(K::taken(name))) } else { Ok(()) }
}
