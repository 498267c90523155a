//! The parameters of a policy: objects that its bindings name.

use serde_json::Value;
use yunfan_objects::admission::to_cel;
use yunfan_objects::selector::LabelSelector;

use super::super::Dynamic;
use super::super::question::Question;
use super::scene::{Param, Scene};
use crate::cache::Entry;
use crate::keys;
use crate::kinds::{Kind, Kinds};

/// Which kind a policy's parameters are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admission::dynamic) struct ParamKind {
    api_version: String,
    kind: String,
}

/// Which objects of that kind a binding means.
#[derive(Debug)]
pub(in crate::admission::dynamic) struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<Result<LabelSelector, String>>,
    /// Whether requests are refused where there are none.
    needed: bool,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl ParamKind {
    pub(super) fn read(kind: &Value) -> Option<Self> {
        let new = || Self { api_version: text(&kind["apiVersion"]), kind: text(&kind["kind"]) };
        kind.is_object().then(new)
    }

    fn find(&self, kinds: &Kinds) -> Option<Kind> {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        let table = kinds.table();
        table.of_version(group, version)?.values().find(|kind| kind.descriptor.kind == self.kind).cloned()
    }
}

impl ParamRef {
    pub(super) fn read(reference: &Value) -> Option<Self> {
        let selector = &reference["selector"];
        reference.is_object().then(|| Self {
            name: text(&reference["name"]),
            namespace: text(&reference["namespace"]),
            selector: selector.is_object().then(|| LabelSelector::from_object(selector)),
            needed: reference["parameterNotFoundAction"] != "Allow",
        })
    }
}

impl Dynamic {
    /// The parameters of a policy by one of its bindings, each of which it is run with.
    ///
    /// # Errors
    /// Why there are none, though there must be.
    pub(super) async fn params(
        &self,
        scene: &mut Scene<'_>,
        question: &Question<'_>,
        kind: Option<&ParamKind>,
        reference: Option<&ParamRef>,
    ) -> Result<Vec<Param>, String> {
        let (Some(wanted), Some(reference)) = (kind, reference) else { return Ok(vec![Param::none()]) };
        let kind = wanted.find(scene.kinds).ok_or_else(|| {
            let ParamKind { api_version, kind } = wanted;
            format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'")
        })?;
        let namespace = match (kind.descriptor.namespaced, reference.namespace.as_str(), question.namespace) {
            (false, "", _) => "",
            (false, ..) => {
                return Err(
                    "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()
                );
            }
            (true, "", "") => {
                let why =
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(why.to_owned());
            }
            (true, "", own) => own,
            (true, given, _) => given,
        };
        let objects = &kind.resource.cache;
        let found = match &reference.selector {
            None => objects.get(&kind.key(namespace, &reference.name)).into_iter().collect(),
            Some(selector) => {
                let selector = selector.as_ref().map_err(Clone::clone)?;
                let mut all = objects.list(&keys::namespace_prefix(&kind.resource.prefix, namespace)).entries;
                all.retain(|entry| selector.matches(entry.labels()));
                all
            }
        };
        if found.is_empty() && reference.needed {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        let mut params = Vec::with_capacity(found.len());
        for entry in found {
            params.push(self.param(scene, wanted, &kind, &entry).await?);
        }
        Ok(params)
    }

    /// One parameter, in the version that the policy names.
    async fn param(
        &self,
        scene: &mut Scene<'_>,
        wanted: &ParamKind,
        kind: &Kind,
        entry: &Entry,
    ) -> Result<Param, String> {
        let key = (wanted.api_version.clone(), entry.key.clone());
        if let Some(known) = scene.params.get(&key) {
            return Ok(known.clone());
        }
        let mut object = entry.object();
        if object["apiVersion"] != wanted.api_version.as_str() {
            let shown = kind.resource.converted(&self.webhooks, object, &kind.descriptor).await;
            object = shown.map_err(|error| error.message().to_owned())?;
        }
        let (namespace, name) = keys::split_name(&kind.resource.prefix, &entry.key);
        let param = Param { place: (namespace.into(), name.into()), shown: to_cel(&object) };
        scene.params.insert(key, param.clone());
        Ok(param)
    }
}
