//! Persistent volumes and their claims, through the API. The test itself is the scheduler and the node.

mod support;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::{Cloud, SPACE, start};
use yunfan_resources::storage::Volume;

type Claim = PersistentVolumeClaim;

fn claim(name: &str, size: &str, more: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})
}

async fn volume(cloud: &Cloud, name: &str, size: &str, more: Value) {
    let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/x"}});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let object =
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec});
    let volume = serde_json::from_value(object).expect("a volume");
    volumes(cloud).create(&PostParams::default(), &volume).await.expect("a created volume");
}

fn volumes(cloud: &Cloud) -> Api<PersistentVolume> {
    Api::all(cloud.client.clone())
}

/// Waits until a volume is as asked for; none for gone.
async fn until_volume(cloud: &Cloud, name: &str, is: impl Fn(Option<&Value>) -> bool) -> Value {
    let mut last = None;
    for _ in 0..1500 {
        last = volumes(cloud).get_opt(name).await.expect("an answer").map(|volume| json!(volume));
        if is(last.as_ref()) {
            return last.unwrap_or_default();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("volume {name} did not become as expected: {last:#?}");
}

async fn until_phase(cloud: &Cloud, name: &str, phase: &str) -> Value {
    until_volume(cloud, name, |volume| volume.is_some_and(|volume| volume["status"]["phase"] == phase)).await
}

async fn bound(cloud: &Cloud, name: &str) -> Value {
    cloud.until::<Claim>(name, |claim| claim["status"]["phase"] == "Bound").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_volumes_find_each_other_and_part() {
    let cloud = start(&["n1"]).await;
    let none = json!({"storageClassName": ""});
    volume(&cloud, "large", "9Gi", json!({})).await;
    volume(&cloud, "small", "2Gi", json!({})).await;
    let meant =
        json!({"claimRef": {"namespace": SPACE, "name": "kept"}, "persistentVolumeReclaimPolicy": "Recycle"});
    volume(&cloud, "meant", "1Gi", meant).await;
    until_phase(&cloud, "small", "Available").await;
    cloud.create::<Claim>(claim("one", "1Gi", none.clone())).await;
    let one = bound(&cloud, "one").await;
    assert_eq!(
        (&one["spec"]["volumeName"], &one["status"]["capacity"]["storage"]),
        (&json!("small"), &json!("2Gi"))
    );
    assert_eq!(one["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"], "yes");
    assert_eq!(one["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let small = until_phase(&cloud, "small", "Bound").await;
    assert_eq!(small["spec"]["claimRef"]["uid"], one["metadata"]["uid"]);
    assert_eq!(small["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"], "yes");
    assert_eq!(small["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    // What a volume is like is told with the claim that gets it.
    let driver = json!({"hostPath": null, "csi": {"driver": "d", "volumeHandle": "h"}, "volumeAttributesClassName": "gold"});
    volume(&cloud, "golden", "1Gi", driver).await;
    cloud
        .create::<Claim>(claim(
            "golden",
            "1Gi",
            json!({"storageClassName": "", "volumeAttributesClassName": "gold"}),
        ))
        .await;
    assert_eq!(bound(&cloud, "golden").await["status"]["currentVolumeAttributesClassName"], "gold");
    // One that names its volume, and one that a volume names.
    let mut named = none.clone();
    named["volumeName"] = json!("large");
    cloud.create::<Claim>(claim("named", "1Gi", named.clone())).await;
    bound(&cloud, "named").await;
    cloud.create::<Claim>(claim("kept", "1Gi", none.clone())).await;
    assert_eq!(bound(&cloud, "kept").await["spec"]["volumeName"], "meant");
    // What another has can't be had; there is nothing left.
    cloud.create::<Claim>(claim("late", "1Gi", named)).await;
    cloud.until_event("late", "FailedBinding").await;
    cloud.create::<Claim>(claim("more", "1Gi", none)).await;
    cloud.until_event("more", "FailedBinding").await;
    // A volume that is bound stays though it is deleted, and a claim that is gone leaves its volume with the data.
    volumes(&cloud).delete("large", &DeleteParams::default()).await.expect("marked");
    cloud.of::<Claim>().delete("one", &DeleteParams::default()).await.expect("deleted");
    until_phase(&cloud, "small", "Released").await;
    assert!(volumes(&cloud).get_opt("large").await.expect("an answer").is_some());
    cloud.of::<Claim>().delete("named", &DeleteParams::default()).await.expect("deleted");
    until_volume(&cloud, "large", |volume| volume.is_none()).await;
    cloud.of::<Claim>().delete("kept", &DeleteParams::default()).await.expect("deleted");
    let failed = until_phase(&cloud, "meant", "Failed").await;
    assert_eq!(failed["status"]["message"], "No recycler plugin found for the volume!");
    // Freed by hand, it is taken by who waits.
    let freed = Patch::Merge(json!({"spec": {"claimRef": null}}));
    volumes(&cloud).patch("small", &PatchParams::default(), &freed).await.expect("freed");
    assert_eq!(bound(&cloud, "more").await["spec"]["volumeName"], "small");
    // A claim whose volume vanishes has lost it.
    let bare = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes(&cloud).delete("small", &DeleteParams::default()).await.expect("marked");
    volumes(&cloud).patch("small", &PatchParams::default(), &bare).await.expect("gone by force");
    cloud.until::<Claim>("more", |claim| claim["status"]["phase"] == "Lost").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_stay_while_a_claim_or_a_volume_has_them() {
    let cloud = start(&["n1"]).await;
    let classes: Api<VolumeAttributesClass> = Api::all(cloud.client.clone());
    for name in ["gold", "silver"] {
        let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
            "metadata": {"name": name}, "driverName": "d", "parameters": {"iops": "1"}});
        let class = serde_json::from_value(class).expect("a class");
        let made = classes.create(&PostParams::default(), &class).await.expect("a created class");
        assert_eq!(made.metadata.finalizers, Some(vec!["kubernetes.io/vac-protection".to_owned()]));
    }
    let asks = json!({"storageClassName": "", "volumeAttributesClassName": "gold"});
    cloud.create::<Claim>(claim("one", "1Gi", asks)).await;
    for name in ["gold", "silver"] {
        classes.delete(name, &DeleteParams::default()).await.expect("marked");
    }
    until_gone(&classes, "silver").await;
    assert!(classes.get_opt("gold").await.expect("an answer").is_some(), "a claim asks for it");
    cloud.of::<Claim>().delete("one", &DeleteParams::default()).await.expect("deleted");
    until_gone(&classes, "gold").await;
}

async fn until_gone(classes: &Api<VolumeAttributesClass>, name: &str) {
    for _ in 0..1500 {
        if classes.get_opt(name).await.expect("an answer").is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the class {name} stays");
}

/// What the node says of a Volume that it has made, or made larger.
async fn made(cloud: &Cloud, name: &str) {
    let behind = cloud.until::<Volume>(name, |_| true).await;
    let status = json!({"status": {"phase": "Available", "sizeGib": behind["spec"]["sizeGib"]}});
    let params = PatchParams::default();
    cloud.of::<Volume>().patch_status(name, &params, &Patch::Merge(status)).await.expect("a status");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_made_grow_and_go_with_their_claims() {
    let cloud = start(&["n1"]).await;
    // Without a word of it, it gets the default class, which waits for a Pod.
    cloud.create::<Claim>(claim("data", "1500Mi", json!({}))).await;
    let waits = cloud.until::<Claim>("data", |claim| claim["spec"]["storageClassName"] == "yunfan").await;
    cloud.until_event("data", "WaitForFirstConsumer").await;
    let select =
        |node: &str| json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
    cloud.patch::<Claim>("data", select("nowhere")).await;
    let forgotten =
        |claim: &Value| claim["metadata"]["annotations"].get("volume.kubernetes.io/selected-node").is_none();
    cloud.until::<Claim>("data", forgotten).await;
    cloud.patch::<Claim>("data", select("n1")).await;
    let name = format!("pvc-{}", waits["metadata"]["uid"].as_str().expect("a uid"));
    let behind = cloud.until::<Volume>(&name, |_| true).await;
    assert_eq!(
        (&behind["spec"]["displayName"], &behind["spec"]["sizeGib"], &behind["spec"]["nodeName"]),
        (&json!("data"), &json!(2), &json!("n1"))
    );
    made(&cloud, &name).await;
    let data = bound(&cloud, "data").await;
    assert_eq!(
        (&data["spec"]["volumeName"], &data["status"]["capacity"]["storage"]),
        (&json!(name), &json!("2Gi"))
    );
    cloud.until_event("data", "ProvisioningSucceeded").await;
    let volume = until_phase(&cloud, &name, "Bound").await;
    assert_eq!(volume["spec"]["csi"]["volumeHandle"], format!("{SPACE}/{name}"));
    let term = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!((&term["key"], &term["values"]), (&json!("kubernetes.io/hostname"), &json!(["n1"])));
    // Behind it is a disk that nobody takes away.
    let refused = cloud.of::<Volume>().delete(&name, &DeleteParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("delete its claim first"), "{refused}");
    cloud.patch::<Claim>("data", json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}})).await;
    cloud.until::<Volume>(&name, |behind| behind["spec"]["sizeGib"] == 5).await;
    made(&cloud, &name).await;
    until_volume(&cloud, &name, |volume| volume.is_some_and(|v| v["spec"]["capacity"]["storage"] == "5Gi"))
        .await;
    let pending = |claim: &Value| claim["status"]["conditions"][0]["type"] == "FileSystemResizePending";
    assert_eq!(cloud.until::<Claim>("data", pending).await["status"]["capacity"]["storage"], "2Gi");
    // While a Pod has it, it stays.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    cloud.create::<Pod>(pod).await;
    cloud.until::<Pod>("p", |pod| pod["spec"]["nodeName"] == "n1").await;
    cloud.of::<Claim>().delete("data", &DeleteParams::default()).await.expect("marked");
    cloud.create::<Claim>(claim("other", "1", json!({"storageClassName": "none"}))).await;
    cloud.until_event("other", "ProvisioningFailed").await;
    assert!(cloud.of::<Claim>().get_opt("data").await.expect("an answer").is_some());
    cloud.of::<Pod>().delete("p", &DeleteParams::default()).await.expect("deleted");
    cloud.until_gone::<Claim>("data").await;
    until_volume(&cloud, &name, |volume| volume.is_none()).await;
    cloud.until_gone::<Volume>(&name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_a_template_comes_and_goes_with_its_pod() {
    let cloud = start(&["n1"]).await;
    cloud.create::<Claim>(claim("p-taken", "1Gi", json!({}))).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": claim("x", "1Gi", json!({}))["spec"]});
    let volume = |name: &str| json!({"name": name, "ephemeral": {"volumeClaimTemplate": template}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i"}], "volumes": [volume("taken"), volume("own")]}});
    cloud.create::<Pod>(pod).await;
    let own = cloud.until::<Claim>("p-own", |_| true).await;
    assert_eq!(
        (&own["metadata"]["labels"]["a"], &own["metadata"]["ownerReferences"][0]["kind"]),
        (&json!("b"), &json!("Pod"))
    );
    cloud.until_event("p", "FailedBinding").await;
    cloud.of::<Pod>().delete("p", &DeleteParams::default()).await.expect("deleted");
    cloud.until_gone::<Claim>("p-own").await;
    assert!(cloud.of::<Claim>().get_opt("p-taken").await.expect("an answer").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_force_takes_data_that_a_claim_or_a_person_may_want() {
    let cloud = start(&["n1"]).await;
    let select = json!({"volume.kubernetes.io/selected-node": "n1"});
    let new = async |name: &str| {
        let mut claim = claim(name, "1Gi", json!({"storageClassName": "yunfan"}));
        claim["metadata"]["annotations"] = select.clone();
        cloud.create::<Claim>(claim).await;
        let claim = cloud.until::<Claim>(name, |_| true).await;
        let behind = format!("pvc-{}", claim["metadata"]["uid"].as_str().expect("a uid"));
        cloud.until::<Volume>(&behind, |_| true).await;
        behind
    };
    // What was begun for a claim that went before it had its volume goes too.
    let begun = new("begun").await;
    cloud.of::<Claim>().delete("begun", &DeleteParams::default()).await.expect("deleted");
    cloud.until_gone::<Volume>(&begun).await;
    // The protection of a bound volume is taken away: it stays until its claim goes.
    let kept = new("kept").await;
    made(&cloud, &kept).await;
    bound(&cloud, "kept").await;
    until_phase(&cloud, &kept, "Bound").await;
    volumes(&cloud).delete(&kept, &DeleteParams::default()).await.expect("marked");
    let bare = Patch::Merge(json!({"metadata": {"finalizers": ["storage.yunfan.io/volume"]}}));
    volumes(&cloud).patch(&kept, &PatchParams::default(), &bare).await.expect("bared");
    // All finalizers of another one are taken away: it is gone, and its data are the project's.
    let freed = new("freed").await;
    made(&cloud, &freed).await;
    bound(&cloud, "freed").await;
    volumes(&cloud).delete(&freed, &DeleteParams::default()).await.expect("marked");
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes(&cloud).patch(&freed, &PatchParams::default(), &none).await.expect("gone by force");
    cloud.until::<Claim>("freed", |claim| claim["status"]["phase"] == "Lost").await;
    cloud.of::<Claim>().delete("freed", &DeleteParams::default()).await.expect("deleted");
    cloud.until::<Volume>(&freed, |volume| volume["metadata"].get("labels").is_none()).await;
    let behind = cloud.until::<Volume>(&kept, |_| true).await;
    assert!(behind["metadata"].get("deletionTimestamp").is_none(), "{behind}");
    cloud.of::<Claim>().delete("kept", &DeleteParams::default()).await.expect("deleted");
    cloud.until_gone::<Volume>(&kept).await;
    cloud.until::<Volume>(&freed, |volume| volume["metadata"].get("deletionTimestamp").is_none()).await;
}
