//! What has to do with a node: the Pods that are bound to it, and what of the API they name; what else is placed on it. It is looked up when a node asks, so
//! nothing is kept for it: of the node's Pods in the one namespace, only those are decoded whose bytes hold the name.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use yunfan_identity::node::{Related, Relations};
use yunfan_objects::builtin::{Named, names};

use crate::cache::{Cache, Demand, Entry, Fields, Term};
use crate::keys;

const NODE: &str = "spec.nodeName";
const COMPUTE: &str = "compute.yunfan.io";
const STORAGE: &str = "storage.yunfan.io";
/// The fields of Pods that the index of their nodes is made from.
static SELECTABLE: LazyLock<Fields> = LazyLock::new(|| [NODE.to_owned()].into());

/// Reads the cache.
pub(crate) struct Relate {
    cache: Arc<Cache>,
    /// Prefix of the keys of Pods.
    pods: String,
}

impl Relate {
    pub(crate) fn new(cache: Arc<Cache>) -> Self {
        Self { cache, pods: keys::kind_prefix("", "pods") }
    }

    /// The node's Pods in a namespace, and where there are few, others too.
    fn candidates(&self, node: &str, namespace: &str) -> Vec<Arc<Entry>> {
        let pods = self.cache.kind(&self.pods);
        let start = keys::namespace_prefix(&self.pods, namespace);
        let term = Term::Field(NODE.to_owned(), SELECTABLE.clone());
        let demand = Demand { term, values: vec![node.to_owned()] };
        match pods.indexed(&[demand], &start, &keys::prefix_end(&start)) {
            Some((found, _)) => found,
            None => pods.list(&start).entries,
        }
    }

    /// Whether an object says that it is on the node.
    fn is_placed(&self, kind: &str, node: &str, namespace: &str, name: &str) -> bool {
        let entry = self.cache.kind(kind).get(&keys::object_key(kind, namespace, name));
        entry.is_some_and(|entry| is_on(&entry.decode_stored(), node))
    }

    /// Whether a PersistentVolume is of a claim that a Pod of the node mounts.
    fn has_volume(&self, node: &str, name: &str) -> bool {
        let kind = keys::kind_prefix("", "persistentvolumes");
        let entry = self.cache.kind(&kind).get(&keys::object_key(&kind, "", name));
        entry.is_some_and(|entry| {
            let volume = entry.decode_stored();
            let claim = &volume["spec"]["claimRef"];
            let (namespace, name) = (claim["namespace"].as_str(), claim["name"].as_str());
            namespace
                .zip(name)
                .is_some_and(|(namespace, name)| self.are_related(node, Related::Claim, namespace, name))
        })
    }
}

impl Relations for Relate {
    fn are_related(&self, node: &str, kind: Related, namespace: &str, name: &str) -> bool {
        if namespace.is_empty() && kind != Related::PersistentVolume {
            return false;
        }
        let what = match kind {
            Related::Pod => return self.is_placed(&self.pods, node, namespace, name),
            Related::Machine => {
                return self.is_placed(&keys::kind_prefix(COMPUTE, "virtualmachines"), node, namespace, name);
            }
            Related::Volume => {
                return self.is_placed(&keys::kind_prefix(STORAGE, "volumes"), node, namespace, name);
            }
            Related::Snapshot => {
                return self.is_placed(&keys::kind_prefix(STORAGE, "volumesnapshots"), node, namespace, name);
            }
            Related::PodCertificate => {
                let kind = keys::kind_prefix("certificates.k8s.io", "podcertificaterequests");
                return self.is_placed(&kind, node, namespace, name);
            }
            Related::PersistentVolume => return self.has_volume(node, name),
            Related::ConfigMap => Named::ConfigMap,
            Related::Secret => Named::Secret,
            Related::ServiceAccount => Named::ServiceAccount,
            Related::Claim => Named::Claim,
        };
        // A name that can be an object's stands in JSON as it is; that of a Pod's own claim is made of two.
        let wanted = memchr::memmem::Finder::new(name);
        let of_two = memchr::memmem::Finder::new("\"ephemeral\"");
        let may_name = |bytes: &[u8]| {
            wanted.find(bytes).is_some() || kind == Related::Claim && of_two.find(bytes).is_some()
        };
        self.candidates(node, namespace).iter().any(|entry| {
            // A node writes the mirrors of its static Pods itself: they could name anything, and be many and large.
            !entry.is_mirror() && may_name(&entry.bytes) && {
                let pod = entry.decode_stored();
                is_on(&pod, node) && names(&pod, what, name)
            }
        })
    }
}

fn is_on(object: &Value, node: &str) -> bool {
    object["spec"]["nodeName"] == node
}
