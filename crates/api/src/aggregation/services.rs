//! The APIServices as a table: who answers for which group version.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use yunfan_identity::pki::Shown;
use yunfan_objects::ApiError;
use yunfan_store::Revision;

use super::GROUP;
use super::places::Place;
use super::priorities::Priority;
use super::server::{Address, Server};
use crate::cache::Listing;

/// A group version that another server answers for.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Of the APIService.
    pub(super) name: String,
    pub(super) group: String,
    pub(super) version: String,
    /// Whether the last check went well.
    pub(super) available: bool,
    pub(super) server: Arc<Server>,
}

impl Remote {
    /// A place for one more request, which may last.
    ///
    /// # Errors
    /// 429 where all are taken.
    pub(crate) fn enter(&self, lasts: bool) -> Result<Place, ApiError> {
        self.server.places.enter(lasts)
    }

    /// Where it serves what its group version has.
    pub(super) fn path(&self) -> String {
        match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }
}

/// The table, at one moment.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) revision: Revision,
    /// By group and version.
    pub(super) remotes: BTreeMap<(String, String), Arc<Remote>>,
    /// What the APIServices say of priorities, those of local ones, too.
    pub(super) priorities: HashMap<(String, String), Priority>,
}

impl Services {
    /// What the objects say, with so many requests of each server at one time. Servers that `before` knows under the same
    /// address are kept, with their connections.
    pub(super) fn new(listing: &Listing, before: &Self, shown: &Arc<Shown>, most: usize) -> Self {
        let mut new = Self { revision: listing.last, ..Self::default() };
        for entry in &listing.entries {
            let object = entry.decode_stored();
            let (group, version) = (text(&object["spec"]["group"]), text(&object["spec"]["version"]));
            let number = |key: &str| object["spec"][key].as_i64().unwrap_or_default();
            let priority =
                Priority { group: number("groupPriorityMinimum"), version: number("versionPriority") };
            new.priorities.insert((group.clone(), version.clone()), priority);
            let Some(address) = address(&object["spec"]).filter(|_| group != GROUP) else { continue };
            let server = before.servers().chain(new.servers()).find(|server| server.address == address);
            let server = server.cloned().unwrap_or_else(|| Arc::new(Server::new(address, shown, most)));
            let remote = Remote {
                name: text(&object["metadata"]["name"]),
                group: group.clone(),
                version: version.clone(),
                available: is_available(&object),
                server,
            };
            new.remotes.insert((group, version), Arc::new(remote));
        }
        new
    }

    fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.remotes.values().map(|remote| &remote.server)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Whether an APIService is marked as available.
pub(super) fn is_available(object: &Value) -> bool {
    condition(object).is_some_and(|one| one["status"] == "True")
}

/// What an APIService says of that.
pub(super) fn condition(object: &Value) -> Option<&Value> {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == "Available")
}

/// Where the server of an APIService is; none for a local one.
pub(super) fn address(spec: &Value) -> Option<Address> {
    let service = &spec["service"];
    service.is_object().then(|| Address {
        namespace: text(&service["namespace"]),
        name: text(&service["name"]),
        port: service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
        bundle: STANDARD.decode(text(&spec["caBundle"])).unwrap_or_default(),
        insecure: spec["insecureSkipTLSVerify"] == true,
    })
}
