//! Whose client certificates other servers should trust, and under which headers a front proxy says whom it asks for: the
//! ConfigMap `extension-apiserver-authentication`, where Kubernetes' own programs and extension servers look for it.

use std::sync::Weak;

use serde_json::{Map, Value, json};
use yunfan_identity::UserInfo;
use yunfan_objects::{ApiError, Reason};

use super::Aggregation;
use super::local::{caught_up, pause};
use crate::cache::Topic;
use crate::keys;
use crate::kinds::Kind;
use crate::registry::{Part, Registry, Writer};
use crate::warnings::Warnings;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// What the ConfigMap says.
pub(super) struct Trust {
    data: Map<String, Value>,
}

impl Trust {
    /// With the certificates (PEM) of the authority of users and of that of front proxies, and the name that these have.
    pub(super) fn new(users: &str, proxies: &str, name: &str) -> Self {
        let list = |text: &str| json!(json!([text]).to_string());
        let data = [
            ("client-ca-file", json!(users)),
            ("requestheader-allowed-names", list(name)),
            ("requestheader-client-ca-file", json!(proxies)),
            ("requestheader-extra-headers-prefix", list("X-Remote-Extra-")),
            ("requestheader-group-headers", list("X-Remote-Group")),
            ("requestheader-uid-headers", list("X-Remote-Uid")),
            ("requestheader-username-headers", list("X-Remote-User")),
        ];
        Self { data: data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
    }

    /// Makes the ConfigMap, or puts right what is wrong in it; what others added stays.
    pub(super) async fn publish(&self, registry: &Registry) -> Result<(), ApiError> {
        let kind = kind(registry)?;
        let user = UserInfo::authenticated("system:apiserver", [yunfan_identity::user::MASTERS_GROUP]);
        let warnings = Warnings::default();
        let writer = Writer::system(&user, &warnings);
        let Some(entry) = kind.resource.cache.get(&kind.key(NAMESPACE, NAME)) else {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": self.data,
            });
            return match registry.create(&writer, &kind, NAMESPACE, object).await {
                // Another server was first.
                Err(error) if error.reason() == Reason::AlreadyExists => Ok(()),
                made => made.map(drop),
            };
        };
        if self.is_in(&entry.decode_stored()) {
            return Ok(());
        }
        let put = |old: &Value| {
            let mut new = old.clone();
            for (key, value) in &self.data {
                new["data"][key] = value.clone();
            }
            Ok(new)
        };
        registry.modify(&writer, &kind, NAMESPACE, NAME, Part::Main, put).await.map(drop)
    }

    fn is_in(&self, object: &Value) -> bool {
        self.data.iter().all(|(key, value)| object["data"][key] == *value)
    }
}

fn kind(registry: &Registry) -> Result<Kind, ApiError> {
    let kind = registry.kinds.table().get("", "v1", "configmaps");
    kind.ok_or_else(|| ApiError::internal("the kind configmaps is not served"))
}

/// Keeps the ConfigMap as it should be until the registry is gone.
pub(super) async fn keep(aggregation: Weak<Aggregation>, registry: Weak<Registry>) {
    let prefix = keys::kind_prefix("", "configmaps");
    let topic = Topic::Key(keys::object_key(&prefix, NAMESPACE, NAME));
    let Some(cache) = registry.upgrade().map(|registry| registry.cache.kind(&prefix)) else { return };
    let enter = || cache.cursor_at(topic.clone(), cache.view().next);
    let Ok(mut cursor) = enter() else { return };
    loop {
        if !caught_up(&mut cursor) {
            let Ok(anew) = enter() else { return };
            cursor = anew;
        }
        let pause = {
            let (Some(aggregation), Some(registry)) = (aggregation.upgrade(), registry.upgrade()) else {
                return;
            };
            pause(aggregation.publish(&registry).await, "publish whom extension servers should trust")
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cursor.changed() => {}
        }
    }
}
