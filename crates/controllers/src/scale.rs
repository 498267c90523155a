//! The scale of an object, whatever its kind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use serde_json::{Value, json};

use crate::pod_writer::reason;
use crate::raw::{Failure, NO_RESOURCE, encoded, get};

/// How often a change is tried while others change the object too.
const TRIES: usize = 5;

/// How long it is believed where objects of a kind are, and that a kind is nowhere.
const FOUND_FOR: Duration = Duration::from_secs(300);
const MISSED_FOR: Duration = Duration::from_secs(5);
/// Kinds that are remembered: Pods name any that they like as their owner's.
const MOST_KINDS: usize = 256;

/// Where objects of a kind are.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    /// As `apis/apps/v1`.
    base: String,
    plural: String,
}

impl Found {
    /// The resource with its group, as `deployments.apps`.
    pub(crate) fn resource(&self) -> String {
        match self.base.split('/').collect::<Vec<_>>().as_slice() {
            ["apis", group, _] => format!("{}.{group}", self.plural),
            _ => self.plural.clone(),
        }
    }
}

/// Finds a kind: in the version that is named where that is served, else in another one of the group.
pub(crate) async fn find(client: &Client, api_version: &str, kind: &str) -> Result<Found, String> {
    let (group, named) = match api_version.split('/').collect::<Vec<_>>().as_slice() {
        [""] | ["v1"] => ("", "v1"),
        [group, version] if !group.is_empty() && !version.is_empty() => (*group, *version),
        _ => return Err(format!("unexpected GroupVersion string: {api_version}")),
    };
    let unknown = || match group {
        "" => format!("no matches for kind {kind:?} in group \"\""),
        _ => format!("no matches for kind {kind:?} in group {group:?}"),
    };
    let bases = if group.is_empty() {
        vec!["api/v1".to_owned()]
    } else {
        let about = get(client, &format!("/apis/{}", encoded(group))).await;
        let about = about.map_err(|why| if why.is_no_page() { unknown() } else { why.text })?;
        let versions = about["versions"].as_array().into_iter().flatten();
        let mut versions: Vec<&str> = versions.filter_map(|one| one["version"].as_str()).collect();
        versions.sort_by_key(|version| *version != named);
        versions.into_iter().map(|version| format!("apis/{group}/{version}")).collect()
    };
    // A version that does not answer says nothing of the others.
    let mut failed = None;
    for base in bases {
        let list = match get(client, &format!("/{base}")).await {
            Ok(list) => list,
            Err(why) => {
                failed = Some(why).filter(|why| !why.is_no_page()).map(String::from).or(failed);
                continue;
            }
        };
        let mut all = list["resources"].as_array().into_iter().flatten();
        let is = |one: &&Value| {
            one["kind"] == kind && one["name"].as_str().is_some_and(|name| !name.contains('/'))
        };
        if let Some(plural) = all.find(is).and_then(|one| one["name"].as_str()) {
            return Ok(Found { base, plural: plural.to_owned() });
        }
    }
    Err(failed.unwrap_or_else(unknown))
}

/// What was answered, and when, by group version and kind.
type Answers = HashMap<(String, String), (Instant, Result<Arc<Found>, String>)>;

/// What was found of kinds, remembered for a while: who looks at all objects of a kind would ask the same thing again and again.
#[derive(Default)]
pub(crate) struct Finder(Mutex<Answers>);

impl Finder {
    /// As [`find`], or what that said not long ago.
    pub(crate) async fn find(
        &self,
        client: &Client,
        api_version: &str,
        kind: &str,
    ) -> Result<Arc<Found>, String> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.known(&key, Instant::now()) {
            return known;
        }
        let found = find(client, api_version, kind).await.map(Arc::new);
        self.remember(key, found.clone(), Instant::now());
        found
    }

    /// The scale of an object of a kind, by the object's namespace and name, and where such objects are.
    pub(crate) async fn scale(
        &self,
        client: &Client,
        (api_version, kind): (&str, &str),
        (namespace, name): (&str, &str),
    ) -> Result<(Arc<Found>, Result<Target, Failure>), String> {
        let found = self.find(client, api_version, kind).await?;
        let read = Target::read(client, &found, namespace, name).await;
        if read.as_ref().is_err_and(Failure::is_no_page) {
            // The kind may have gone, or be served in another version now: it is asked for the next time.
            self.lock().remove(&(api_version.to_owned(), kind.to_owned()));
        }
        Ok((found, read))
    }

    fn known(&self, key: &(String, String), now: Instant) -> Option<Result<Arc<Found>, String>> {
        let known = self.lock();
        let (at, found) = known.get(key)?;
        (now.duration_since(*at) < lasts(found)).then(|| found.clone())
    }

    fn remember(&self, key: (String, String), found: Result<Arc<Found>, String>, now: Instant) {
        let mut known = self.lock();
        if known.len() >= MOST_KINDS {
            known.retain(|_, (at, found)| now.duration_since(*at) < lasts(found));
        }
        // Who names so many kinds that do not exist has each of them asked for.
        if known.len() < MOST_KINDS {
            known.insert(key, (now, found));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        // Only single insertions and removals happen under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long what was found is believed.
fn lasts(found: &Result<Arc<Found>, String>) -> Duration {
    if found.is_ok() { FOUND_FOR } else { MISSED_FOR }
}

/// The scale of one object.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    path: String,
    scale: Value,
}

impl Target {
    /// Reads an object's scale. Where the kind has none, [`Failure::is_no_page`] says so.
    pub(crate) async fn read(
        client: &Client,
        found: &Found,
        namespace: &str,
        name: &str,
    ) -> Result<Self, Failure> {
        let (base, plural, name) = (&found.base, &found.plural, encoded(name));
        let path = format!("/{base}/namespaces/{namespace}/{plural}/{name}/scale");
        let scale = get(client, &path).await;
        let scale =
            scale.map_err(|why| if why.is_no_page() { NO_RESOURCE.to_owned().into() } else { why })?;
        Ok(Self { path, scale })
    }

    /// The uid of the object.
    pub(crate) fn uid(&self) -> &str {
        self.scale["metadata"]["uid"].as_str().unwrap_or_default()
    }

    /// How many Pods are asked for.
    pub(crate) fn wanted(&self) -> i32 {
        number(&self.scale["spec"]["replicas"])
    }

    /// How many there are.
    pub(crate) fn there(&self) -> i32 {
        number(&self.scale["status"]["replicas"])
    }

    /// The selector of the Pods, as text; empty where there is none.
    pub(crate) fn selector(&self) -> &str {
        self.scale["status"]["selector"].as_str().unwrap_or_default()
    }

    /// Asks for another number of Pods.
    pub(crate) async fn set(&mut self, client: &Client, replicas: i32) -> Result<(), String> {
        for tries in 1.. {
            self.scale["spec"]["replicas"] = json!(replicas);
            let request = http::Request::put(&self.path).header("content-type", "application/json");
            let request =
                request.body(self.scale.to_string().into_bytes()).map_err(|error| error.to_string())?;
            match client.request::<Value>(request).await {
                Ok(_) => break,
                Err(error) if yunfan_client::is_conflict(&error) && tries < TRIES => {
                    self.scale = get(client, &self.path).await?;
                }
                Err(error) => return Err(reason(&error)),
            }
        }
        Ok(())
    }
}

fn number(value: &Value) -> i32 {
    value.as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_known_for_a_while_and_never_too_much_of_it() {
        let finder = Finder::default();
        let (now, key) = (Instant::now(), |kind: usize| ("a/v1".to_owned(), kind.to_string()));
        let found = Found { base: "apis/a/v1".to_owned(), plural: "things".to_owned() };
        finder.remember(key(0), Ok(Arc::new(found)), now);
        finder.remember(key(1), Err("none".to_owned()), now);
        assert_eq!(finder.known(&key(0), now).unwrap().unwrap().resource(), "things.a");
        assert_eq!(finder.known(&key(1), now).unwrap().unwrap_err(), "none");
        assert!(finder.known(&key(0), now + MISSED_FOR).is_some());
        assert!(finder.known(&key(1), now + MISSED_FOR).is_none(), "it may have come meanwhile");
        assert!(finder.known(&key(0), now + FOUND_FOR).is_none());
        (0..2 * MOST_KINDS).for_each(|kind| finder.remember(key(kind), Err(String::new()), now));
        assert_eq!(finder.lock().len(), MOST_KINDS);
        finder.remember(key(0), Err(String::new()), now + MISSED_FOR);
        assert_eq!(finder.lock().len(), 1, "what is old makes room");
    }
}
