//! The scale of an object, whatever its kind.

use kube::Client;
use serde_json::{Value, json};

use crate::pod_writer::reason;
use crate::raw::{Failure, NO_RESOURCE, encoded, get};

/// How often a change is tried while others change the object too.
const TRIES: usize = 5;

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
