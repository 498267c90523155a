//! The filter by where the volumes of a Pod's claims can be reached, or made.

use super::Filter;
use crate::engine::{Cycle, Reason, Reasons};

/// Refuses nodes that do not reach a Pod's persistent volumes, or on which none can be had for its claims.
pub struct VolumeBinding;

impl VolumeBinding {
    /// Its name: a claim or volume that changes may help what it refused.
    pub const NAME: &'static str = "VolumeBinding";
}

impl Filter for VolumeBinding {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let Ok(Some(needs)) = &cycle.needs else { return true };
        match needs.fit(cycle.snapshot, row) {
            Ok(_) => true,
            Err(why) => {
                reasons.add(Reason::Text(why));
                false
            }
        }
    }

    fn may_be_cleared(&self, cycle: &Cycle<'_>, _row: usize) -> bool {
        matches!(&cycle.needs, Ok(Some(needs)) if needs.is_taken())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, from_value, json};

    use crate::claims::{Needs, Step};
    use crate::engine::Engine;
    use crate::engine::testing::{node, pod_with};
    use crate::snapshot::Snapshot;
    use crate::workload::{Object, Workload};

    fn cloud() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for name in ["n1", "n2"] {
            snapshot.set_node(&node(name, "4", "8Gi"));
        }
        for (name, mode, provisioner) in [
            ("late", "WaitForFirstConsumer", "volume.yunfan.io"),
            ("hand", "WaitForFirstConsumer", "kubernetes.io/no-provisioner"),
            ("soon", "Immediate", "volume.yunfan.io"),
        ] {
            let class =
                json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
            snapshot.claims_mut().set_class(&Arc::new(from_value(class).unwrap()), true);
        }
        snapshot
    }

    fn claim(snapshot: &mut Snapshot, name: &str, class: &str, annotations: Value, more: Value) {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let metadata = json!({"name": name, "namespace": "demo", "uid": name, "annotations": annotations});
        let claim = from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        snapshot.claims_mut().set_claim(&Arc::new(claim), true);
    }

    fn volume(snapshot: &mut Snapshot, name: &str, class: &str, node: &str) {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
        let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}});
        let volume = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
        snapshot.claims_mut().set_volume(&Arc::new(from_value(volume).unwrap()), true);
    }

    fn pod(claims: &[&str]) -> Arc<Workload> {
        let volume = |name: &&str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        let volumes: Vec<_> = claims.iter().map(volume).collect();
        pod_with("p", json!({"containers": [{"name": "c"}], "volumes": volumes}))
    }

    fn refused(snapshot: &Snapshot, claims: &[&str]) -> String {
        let mut engine = Engine::default();
        let refusal = engine.place(snapshot, &pod(claims)).unwrap_err();
        assert_eq!(refusal.filters, engine.bit("VolumeBinding"));
        refusal.message
    }

    fn steps(snapshot: &Snapshot, claims: &[&str], row: usize) -> Vec<String> {
        let workload = pod(claims);
        let Object::Pod(pod) = &workload.object else { panic!("a Pod") };
        let needs = Needs::of(snapshot, pod).unwrap().unwrap();
        let name = |step: &Step| match step {
            Step::Bind(volume, claim) => format!(
                "{}={}",
                volume.metadata.name.as_deref().unwrap_or_default(),
                claim.metadata.name.as_deref().unwrap_or_default()
            ),
            Step::Select(claim) => claim.metadata.name.clone().unwrap_or_default(),
        };
        needs.fit(snapshot, row).unwrap().iter().map(name).collect()
    }

    #[test]
    fn claims_that_can_not_be_had_keep_a_pod_from_all_nodes() {
        let mut snapshot = cloud();
        let all = |why: &str| format!("0/2 nodes are available: {why}.");
        assert_eq!(refused(&snapshot, &["none"]), all("persistentvolumeclaim \"none\" not found"));
        claim(&mut snapshot, "now", "soon", json!({}), json!({}));
        assert_eq!(refused(&snapshot, &["now"]), all("pod has unbound immediate PersistentVolumeClaims"));
        claim(&mut snapshot, "plain", "", json!({}), json!({}));
        assert_eq!(refused(&snapshot, &["plain"]), all("pod has unbound immediate PersistentVolumeClaims"));
        let bound = json!({"pv.kubernetes.io/bind-completed": "yes"});
        claim(&mut snapshot, "gone", "soon", bound, json!({"volumeName": "pv"}));
        let why = "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        assert_eq!(refused(&snapshot, &["gone"]), all(why));
    }

    #[test]
    fn a_pod_goes_where_its_volumes_are() {
        let mut snapshot = cloud();
        volume(&mut snapshot, "pv1", "soon", "n1");
        volume(&mut snapshot, "pv2", "soon", "n2");
        let bound = json!({"pv.kubernetes.io/bind-completed": "yes"});
        claim(&mut snapshot, "a", "soon", bound.clone(), json!({"volumeName": "pv2"}));
        claim(&mut snapshot, "b", "soon", bound, json!({"volumeName": "pv1"}));
        let mut engine = Engine::default();
        for _ in 0..3 {
            let row = engine.place(&snapshot, &pod(&["a"])).unwrap();
            assert_eq!(snapshot.names[row], "n2");
        }
        assert!(
            refused(&snapshot, &["a", "b"])
                .contains("2 node(s) didn't match PersistentVolume's node affinity")
        );
    }

    #[test]
    fn waiting_claims_get_what_the_node_has_or_can_make() {
        let mut snapshot = cloud();
        volume(&mut snapshot, "disk1", "hand", "n2");
        volume(&mut snapshot, "disk2", "hand", "n2");
        for name in ["a", "b", "c"] {
            claim(&mut snapshot, name, "hand", json!({}), json!({}));
        }
        claim(&mut snapshot, "made", "late", json!({}), json!({}));
        let row = Engine::default().place(&snapshot, &pod(&["a", "b", "made"])).unwrap();
        assert_eq!(snapshot.names[row], "n2");
        assert_eq!(steps(&snapshot, &["a", "b", "made"], row), ["disk1=a", "disk2=b", "made"]);
        let why = "2 node(s) didn't find available persistent volumes to bind";
        assert!(refused(&snapshot, &["a", "b", "c"]).contains(why));
        // Where a volume is being made already, the Pod waits for it.
        let selected = json!({"volume.kubernetes.io/selected-node": "n1"});
        claim(&mut snapshot, "made", "late", selected, json!({}));
        let row = Engine::default().place(&snapshot, &pod(&["made"])).unwrap();
        assert_eq!((snapshot.names[row].as_str(), steps(&snapshot, &["made"], row).len()), ("n1", 0));
    }

    #[test]
    fn a_claim_for_one_pod_is_for_one_pod() {
        let mut snapshot = cloud();
        volume(&mut snapshot, "pv1", "soon", "n1");
        let bound = json!({"pv.kubernetes.io/bind-completed": "yes"});
        let alone = json!({"volumeName": "pv1", "accessModes": ["ReadWriteOncePod"]});
        claim(&mut snapshot, "a", "soon", bound, alone);
        let first = pod(&["a"]);
        let row = Engine::default().place(&snapshot, &first).unwrap();
        let mut other = (*first).clone();
        other.uid = "other".into();
        snapshot.assume(Arc::new(other), row);
        assert!(refused(&snapshot, &["a"]).contains("already in-use by another pod"));
    }

    #[test]
    fn there_must_be_room_for_what_is_made() {
        let mut snapshot = cloud();
        for (name, room) in [("n1", "1Gi"), ("n2", "9Gi")] {
            let mut node = node(name, "4", "8Gi");
            let there = node.status.as_mut().unwrap().allocatable.as_mut().unwrap();
            there.insert("ephemeral-storage".into(), from_value(json!(room)).unwrap());
            snapshot.set_node(&node);
        }
        let size = |size: &str| json!({"resources": {"requests": {"storage": size}}});
        claim(&mut snapshot, "fits", "late", json!({}), size("5Gi"));
        claim(&mut snapshot, "large", "late", json!({}), size("20Gi"));
        let row = Engine::default().place(&snapshot, &pod(&["fits"])).unwrap();
        assert_eq!(snapshot.names[row], "n2");
        assert!(refused(&snapshot, &["large"]).contains("2 node(s) did not have enough free storage"));
    }
}
