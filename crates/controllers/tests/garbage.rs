//! What goes with its owners, through the API.

mod support;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cloud, start};

fn config(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

/// Makes objects own another.
async fn owned(cloud: &Cloud, name: &str, owners: &[(&str, bool)]) {
    let mut references = Vec::new();
    for (owner, blocks) in owners {
        let uid = cloud.of::<ConfigMap>().get(owner).await.unwrap().uid();
        references.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid, "blockOwnerDeletion": blocks}));
    }
    cloud.patch::<ConfigMap>(name, json!({"metadata": {"ownerReferences": references}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_wait_for_what_they_own_go_after_it() {
    let cloud = start(&[]).await;
    let ours = |all: &[ConfigMap], name: &str| all.iter().any(|each| each.name_any() == name);
    let foreground = DeleteParams::foreground();

    // A circle holds nobody up.
    for name in ["a", "b", "c"] {
        cloud.create::<ConfigMap>(config(name)).await;
    }
    for (name, owner) in [("a", "c"), ("b", "a"), ("c", "b")] {
        owned(&cloud, name, &[(owner, true)]).await;
    }
    cloud.of::<ConfigMap>().delete("a", &foreground).await.unwrap();
    let all_gone = |all: &[ConfigMap]| ["a", "b", "c"].iter().all(|name| !ours(all, name));
    cloud.until_all("the circle is gone", all_gone).await;

    // What another owns as well stays, and is nothing to the one that goes.
    for name in ["goes", "stays", "shared", "alone", "below"] {
        cloud.create::<ConfigMap>(config(name)).await;
    }
    owned(&cloud, "shared", &[("goes", true), ("stays", true)]).await;
    owned(&cloud, "alone", &[("goes", true)]).await;
    owned(&cloud, "below", &[("alone", false)]).await;
    cloud.of::<ConfigMap>().delete("goes", &foreground).await.unwrap();
    let gone = |all: &[ConfigMap]| ["goes", "alone", "below"].iter().all(|name| !ours(all, name));
    cloud.until_all("the owner and what it alone owned are gone", gone).await;
    let shared = cloud.of::<ConfigMap>().get("shared").await.unwrap();
    let owners: Vec<_> = shared.owner_references().iter().map(|owner| owner.name.as_str()).collect();
    assert_eq!(owners, ["stays"]);
}

/// What changes all the time is not seen as it is; what was left behind is not taken away for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_meanwhile_is_left_behind_too() {
    let cloud = start(&[]).await;
    let configs = cloud.of::<ConfigMap>();
    let names: Vec<String> = (0..10).map(|n| format!("part{n}")).collect();
    cloud.create::<ConfigMap>(config("owner")).await;
    for name in &names {
        cloud.create::<ConfigMap>(config(name)).await;
        owned(&cloud, name, &[("owner", true)]).await;
    }
    let writer = tokio::spawn({
        let (configs, names) = (configs.clone(), names.clone());
        async move {
            for round in 0.. {
                for name in &names {
                    let patch = Patch::Merge(json!({"data": {"round": format!("{round}")}}));
                    // One that is gone is told of below.
                    let _ = configs.patch(name, &PatchParams::default(), &patch).await;
                }
            }
        }
    });
    configs.delete("owner", &DeleteParams::orphan()).await.unwrap();
    cloud.until_gone::<ConfigMap>("owner").await;
    // Whatever was still to be done about the owner's end is done before this.
    cloud.create::<ConfigMap>(config("next")).await;
    cloud.create::<ConfigMap>(config("last")).await;
    owned(&cloud, "last", &[("next", true)]).await;
    configs.delete("next", &DeleteParams::background()).await.unwrap();
    cloud.until_gone::<ConfigMap>("last").await;
    writer.abort();
    for name in &names {
        let left = configs.get_opt(name).await.unwrap().unwrap_or_else(|| panic!("{name} is gone"));
        assert!(left.owner_references().is_empty(), "{name} still has its owner");
    }
}
