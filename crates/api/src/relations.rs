//! What has to do with a node: the Pods that are bound to it, and what of the API they name. It is looked up when a node asks, so
//! nothing is kept for it: of the node's Pods in the one namespace, only those are decoded whose bytes hold the name.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use yunfan_identity::node::{Related, Relations};
use yunfan_objects::builtin::{Named, names};

use crate::cache::{Cache, Demand, Entry, Fields, Term};
use crate::keys;

const NODE: &str = "spec.nodeName";
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
}

impl Relations for Relate {
    fn are_related(&self, node: &str, kind: Related, namespace: &str, name: &str) -> bool {
        if namespace.is_empty() {
            return false;
        }
        let bound = |pod: &Value| pod["spec"]["nodeName"] == node;
        let what = match kind {
            Related::Pod => {
                let key = keys::object_key(&self.pods, namespace, name);
                return self.cache.kind(&self.pods).get(&key).is_some_and(|pod| bound(&pod.decode_stored()));
            }
            Related::ConfigMap => Named::ConfigMap,
            Related::Secret => Named::Secret,
            Related::ServiceAccount => Named::ServiceAccount,
        };
        // A name that can be an object's stands in JSON as it is.
        let wanted = memchr::memmem::Finder::new(name);
        self.candidates(node, namespace).iter().any(|entry| {
            // A node writes the mirrors of its static Pods itself: they could name anything, and be many and large.
            !entry.is_mirror() && wanted.find(&entry.bytes).is_some() && {
                let pod = entry.decode_stored();
                bound(&pod) && names(&pod, what, name)
            }
        })
    }
}
