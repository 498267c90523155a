//! Upstream's tables of cases, as facts: who has to leave which node.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, from_value, json};

use super::*;
use crate::engine::testing::node;

const NEGATIVE: i32 = -100;
const LOW: i32 = 0;
const MID: i32 = 100;
const HIGH: i32 = 1000;
const HIGHER: i32 = 10_000;
const SMALL: &str = "100m";
const MEDIUM: &str = "200m";
const LARGE: &str = "300m";
const WHOLE: &str = "500m";

/// Name, priority, CPU, and the nanosecond at which it began to run.
type Short = (&'static str, i32, &'static str, u32);

fn pod_value(name: &str, priority: i32, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "demo", "uid": name},
        "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    })
}

fn workload(pod: Value) -> Arc<Workload> {
    Arc::new(Workload::from_pod(&Arc::new(from_value(pod).unwrap())))
}

fn pod(name: &str, priority: i32, cpu: &str) -> Arc<Workload> {
    workload(pod_value(name, priority, cpu))
}

struct Scene {
    snapshot: Snapshot,
    budgets: Budgets,
    nominations: Nominations,
}

impl Scene {
    /// Nodes with 500m CPU each, named by what is on them: `n1`, `n2` …
    fn new(nodes: &[&[Short]]) -> Self {
        let mut scene = Self {
            snapshot: Snapshot::default(),
            budgets: Budgets::default(),
            nominations: Nominations::default(),
        };
        for (at, pods) in nodes.iter().enumerate() {
            let name = format!("n{}", at + 1);
            scene.snapshot.set_node(&node(&name, WHOLE, "8Gi"));
            for (pod, priority, cpu, start) in *pods {
                let mut pod = pod_value(pod, *priority, cpu);
                pod["metadata"]["labels"] = json!({"app": "foo"});
                pod["status"]["startTime"] = json!(format!("1970-01-01T00:00:00.{start:09}Z"));
                scene.put(pod, &name);
            }
        }
        scene
    }

    fn put(&mut self, mut pod: Value, node: &str) {
        pod["spec"]["nodeName"] = node.into();
        self.snapshot.place(workload(pod));
    }

    fn budget(&mut self, selector: &Value, allowed: i32, disrupted: &Value) {
        let budget: PodDisruptionBudget = from_value(json!({
            "metadata": {"name": "b", "namespace": "demo"},
            "spec": {"selector": selector},
            "status": {"disruptionsAllowed": allowed, "disruptedPods": disrupted, "currentHealthy": 0,
                       "desiredHealthy": 0, "expectedPods": 0},
        }))
        .unwrap();
        self.budgets.set(&Arc::new(budget), true);
    }

    fn search(&mut self, workload: &Workload) -> Result<Candidate, Unhelpful> {
        let before = (self.snapshot.cpu.used.clone(), self.snapshot.pods.used.clone());
        let engine = Engine::default();
        let found = search(&engine, &mut self.snapshot, workload, &self.nominations, &self.budgets);
        assert_eq!(
            before,
            (self.snapshot.cpu.used.clone(), self.snapshot.pods.used.clone()),
            "left as it was"
        );
        found
    }

    fn victims(&mut self, workload: &Workload) -> (String, Vec<String>, usize) {
        let found = self.search(workload).unwrap();
        let names = found.victims.iter().map(|pod| pod.uid.clone()).collect();
        (found.node, names, found.violations)
    }

    fn message(&mut self, workload: &Workload) -> String {
        self.search(workload).unwrap_err().message
    }
}

#[test]
fn the_best_node_is_chosen_by_what_is_lost_there() {
    let cases: &[(&str, i32, &[&[Short]], &str)] = &[
        (
            "the lowest highest priority",
            HIGH,
            &[
                &[("a", MID, MEDIUM, 0), ("b", MID, LARGE, 0)],
                &[("c", MID, MEDIUM, 0), ("d", LOW, MEDIUM, 0)],
                &[("e", LOW, MEDIUM, 0), ("f", LOW, MEDIUM, 0)],
            ],
            "n3",
        ),
        (
            "then the smallest sum",
            HIGH,
            &[
                &[("a", MID, MEDIUM, 0), ("b", MID, LARGE, 0)],
                &[("c", MID, LARGE, 0), ("d", LOW, MEDIUM, 0)],
                &[("e", MID, MEDIUM, 0), ("f", MID, MEDIUM, 0)],
            ],
            "n2",
        ),
        (
            "the fewest, also where priorities below zero make the sum of many small",
            HIGH,
            &[
                &[("a", MID, SMALL, 0), ("b", NEGATIVE, SMALL, 0), ("c", NEGATIVE, SMALL, 0)],
                &[("d", MID, LARGE, 0), ("e", NEGATIVE, MEDIUM, 0)],
                &[("f", MID, MEDIUM, 0), ("g", NEGATIVE, SMALL, 0), ("h", LOW, SMALL, 0)],
            ],
            "n2",
        ),
        (
            "all of these at once",
            HIGHER,
            &[
                &[("a", MID, SMALL, 0), ("b", LOW, SMALL, 0), ("c", LOW, SMALL, 0)],
                &[("d", HIGH, LARGE, 0)],
                &[("e", MID, MEDIUM, 0), ("f", LOW, SMALL, 0), ("g", LOW, SMALL, 0), ("h", LOW, SMALL, 0)],
                &[
                    ("i", MID, MEDIUM, 0),
                    ("j", MID, SMALL, 0),
                    ("k", MID, SMALL, 0),
                    ("l", NEGATIVE, SMALL, 0),
                ],
            ],
            "n1",
        ),
        (
            "the latest start",
            HIGH,
            &[
                &[("a", MID, MEDIUM, 2), ("b", MID, MEDIUM, 2)],
                &[("c", MID, MEDIUM, 3), ("d", MID, MEDIUM, 3)],
                &[("e", MID, MEDIUM, 1), ("f", MID, MEDIUM, 1)],
            ],
            "n2",
        ),
        (
            "of the one that runs longest on a node",
            HIGH,
            &[
                &[("a", MID, MEDIUM, 4), ("b", MID, MEDIUM, 2)],
                &[("c", MID, MEDIUM, 5), ("d", MID, MEDIUM, 1)],
                &[("e", MID, MEDIUM, 3), ("f", MID, MEDIUM, 6)],
            ],
            "n3",
        ),
        (
            "among the most important ones",
            HIGH,
            &[
                &[("a", LOW, MEDIUM, 4), ("b", MID, MEDIUM, 2)],
                &[("c", MID, MEDIUM, 6), ("d", LOW, MEDIUM, 1)],
                &[("e", LOW, MEDIUM, 3), ("f", MID, MEDIUM, 5)],
            ],
            "n2",
        ),
    ];
    for (what, priority, nodes, want) in cases {
        let (chosen, ..) = Scene::new(nodes).victims(&pod("p", *priority, WHOLE));
        assert_eq!(chosen, *want, "{what}");
    }
}

#[test]
fn as_many_as_possible_stay_the_more_important_ones_first() {
    let cases: &[(&str, &[Short], &[&str])] = &[
        (LARGE, &[("a", LOW, SMALL, 0), ("b", MID, LARGE, 0), ("c", LOW, SMALL, 0)], &["b"]),
        (MEDIUM, &[("a", MID, MEDIUM, 0), ("b", LOW, LARGE, 0)], &["b"]),
        (LARGE, &[("a", LOW, MEDIUM, 0), ("b", HIGH, MEDIUM, 0), ("c", MID, SMALL, 0)], &["c", "a"]),
        // Of the same priority, who runs longer stays.
        (SMALL, &[("a", LOW, SMALL, 9), ("b", LOW, MEDIUM, 5), ("c", LOW, MEDIUM, 7)], &["a"]),
    ];
    for (wish, pods, leave) in cases {
        let mut scene = Scene::new(&[pods]);
        let (_, victims, violations) = scene.victims(&pod("p", HIGH, wish));
        assert_eq!((victims.as_slice(), violations), (leave.map_strings().as_slice(), 0), "{wish} {pods:?}");
    }
}

/// Short names as strings.
trait Strings {
    fn map_strings(&self) -> Vec<String>;
}

impl Strings for [&str] {
    fn map_strings(&self) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn budgets_are_kept_where_they_can_be_and_their_breaches_counted() {
    let three: &[Short] = &[("a", MID, MEDIUM, 0), ("b", MID, SMALL, 1), ("c", MID, MEDIUM, 2)];
    let foo = json!({"matchLabels": {"app": "foo"}});
    for (selector, allowed, disrupted, breaches) in [
        (foo.clone(), 1, json!({}), 2),
        (foo.clone(), 3, json!({}), 0),
        // One that was paid for already.
        (foo.clone(), 1, json!({"c": "2026-01-01T00:00:00Z"}), 1),
        (json!({"matchLabels": {"app": "bar"}}), 0, json!({}), 0),
        // One that selects everything is about nothing.
        (json!({}), 0, json!({}), 0),
    ] {
        let mut scene = Scene::new(&[three]);
        scene.budget(&selector, allowed, &disrupted);
        let (_, victims, violations) = scene.victims(&pod("p", HIGH, WHOLE));
        assert_eq!((victims.len(), violations), (3, breaches), "{selector} {allowed} {disrupted}");
    }
    // The one that is protected stays, though the other is more important; and the node without a breach is chosen, though
    // more is lost there.
    let mut scene = Scene::new(&[&[("a", LOW, MEDIUM, 0)], &[]]);
    let mut other = pod_value("b", MID, MEDIUM);
    other["metadata"]["labels"] = json!({"app": "bar"});
    scene.put(other, "n1");
    let mut other = pod_value("c", MID, WHOLE);
    other["metadata"]["labels"] = json!({"app": "bar"});
    scene.put(other, "n2");
    scene.budget(&foo, 0, &json!({}));
    let (node, victims, violations) = scene.victims(&pod("p", HIGH, LARGE));
    assert_eq!((node.as_str(), victims, violations), ("n1", ["b"].map_strings(), 0));
    let (node, victims, violations) = scene.victims(&pod("p", HIGH, WHOLE));
    assert_eq!((node.as_str(), victims, violations), ("n2", ["c"].map_strings(), 0));
}

#[test]
fn why_nobody_has_to_leave_is_said_in_kubernetes_words() {
    let none = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let unhelpful = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let mut scene = Scene::new(&[&[("a", MID, LARGE, 0)]]);
    assert_eq!(scene.message(&pod("p", MID, LARGE)), none, "of the same priority");
    assert_eq!(scene.message(&pod("p", HIGH, "501m")), unhelpful, "more than the node has");
    let with = |change: fn(&mut Value)| {
        let mut pod = pod_value("p", HIGH, LARGE);
        change(&mut pod);
        workload(pod)
    };
    let elsewhere = with(|pod| pod["spec"]["nodeSelector"] = json!({"disk": "ssd"}));
    assert_eq!(scene.message(&elsewhere), unhelpful);
    let never = with(|pod| pod["spec"]["preemptionPolicy"] = "Never".into());
    let why = scene.search(&never).unwrap_err();
    let want = Unhelpful {
        message: "preemption: not eligible due to preemptionPolicy=Never.".to_owned(),
        hopeless: false,
    };
    assert_eq!(why, want);

    let mut scene =
        Scene::new(&[&[("a", HIGH, LARGE, 0), ("b", LOW, SMALL, 0)], &[("c", HIGH, WHOLE, 0)], &[]]);
    scene.snapshot.set_node(&{
        let mut node = node("n3", WHOLE, "8Gi");
        node.spec = from_value(json!({"unschedulable": true})).unwrap();
        node
    });
    assert_eq!(
        scene.message(&pod("p", HIGH, LARGE)),
        "preemption: 0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod, \
         1 Preemption is not helpful for scheduling."
    );
}

#[test]
fn ports_and_pods_that_keep_others_away_are_cleared_and_machines_stay() {
    let mut scene = Scene::new(&[&[]]);
    let port = json!([{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
    let mut low = pod_value("low", LOW, SMALL);
    low["spec"]["containers"] = port.clone();
    low["metadata"]["labels"] = json!({"app": "db"});
    scene.put(low, "n1");
    let mut wants = pod_value("p", HIGH, SMALL);
    wants["spec"]["containers"] = port;
    assert_eq!(scene.victims(&workload(wants)).1, ["low"]);
    let mut apart = pod_value("p", HIGH, SMALL);
    let term =
        json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"});
    apart["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!([term]);
    assert_eq!(scene.victims(&workload(apart)).1, ["low"]);

    let mut scene = Scene::new(&[&[]]);
    let vm = json!({
        "apiVersion": "compute.yunfan.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "vm", "namespace": "demo", "uid": "vm"},
        "spec": {"flavor": "f", "image": "i", "nodeName": "n1", "resources": {"vcpus": 8, "memoryMib": 1}},
    });
    let vm = Workload::from_vm(&Arc::new(from_value(vm).unwrap()), &crate::SchedulerConfig::default());
    scene.snapshot.place(Arc::new(vm));
    let none = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(scene.message(&pod("p", HIGH, SMALL)), none);
}

#[test]
fn who_was_told_to_leave_is_waited_for() {
    let mut scene = Scene::new(&[&[("a", LOW, WHOLE, 0)], &[("b", MID, WHOLE, 0)]]);
    let preemptor = pod("p", HIGH, WHOLE);
    let found = scene.search(&preemptor).unwrap();
    assert_eq!(found.node, "n1");
    scene.nominations.nominate(&preemptor, &found.node, &found.victims);
    let waits = Unhelpful {
        message: "preemption: not eligible due to a terminating pod on the nominated node.".to_owned(),
        hopeless: false,
    };
    assert_eq!(scene.search(&preemptor).unwrap_err(), waits);
    // It is so after a new start too: the objects say it.
    scene.nominations = Nominations::default();
    let mut nominated = pod_value("p", HIGH, WHOLE);
    nominated["status"]["nominatedNodeName"] = "n1".into();
    let nominated = workload(nominated);
    scene.nominations.observe(&nominated);
    assert!(scene.search(&nominated).is_ok(), "nobody leaves there");
    let mut leaving = pod_value("a", LOW, WHOLE);
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"});
    leaving["status"]["conditions"] = json!([condition]);
    scene.put(leaving, "n1");
    assert_eq!(scene.search(&nominated).unwrap_err(), waits);
    // The node is of no use any more.
    let mut cordoned = node("n1", WHOLE, "8Gi");
    cordoned.spec = from_value(json!({"unschedulable": true})).unwrap();
    scene.snapshot.set_node(&cordoned);
    assert_eq!(scene.victims(&nominated).0, "n2");
}

#[test]
fn room_that_was_made_is_kept_from_the_less_and_equally_important() {
    let mut scene = Scene::new(&[&[("a", NEGATIVE, SMALL, 0)]]);
    let owner = pod("owner", MID, LARGE);
    scene.nominations.nominate(&owner, "n1", &[]);
    let mut fits = |name: &str, priority| {
        let wish = pod(name, priority, MEDIUM);
        let expected = scene.nominations.expect(&mut scene.snapshot, &wish);
        let fits = Engine::default().place(&scene.snapshot, &wish).is_ok();
        expected.iter().for_each(|uid| scene.snapshot.dismiss(uid));
        assert_eq!(scene.snapshot.cpu.used, [100]);
        fits
    };
    assert_eq!(
        (fits("p", LOW), fits("p", MID), fits("p", HIGH), fits("owner", MID)),
        (false, false, true, true)
    );
    assert_eq!(scene.nominations.on("n1").len(), 1);
    // Its object is behind: it says nothing new. When it does, that counts.
    scene.nominations.observe(&owner);
    assert_eq!(scene.nominations.node_of("owner"), Some("n1"));
    let mut said = pod_value("owner", MID, LARGE);
    said["status"]["nominatedNodeName"] = "n1".into();
    scene.nominations.observe(&workload(said));
    scene.nominations.observe(&owner);
    assert_eq!(scene.nominations.node_of("owner"), None, "somebody took it back");
    assert!(!scene.nominations.clear("owner"));
}

#[test]
fn those_leave_that_keep_the_pod_away_or_that_it_keeps_away_from() {
    let labelled = |mut pod: Value, app: &str| {
        pod["metadata"]["labels"] = json!({"app": app});
        pod
    };
    let apart_from = |mut pod: Value, app: &str| {
        let term =
            json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"});
        pod["spec"]["affinity"] =
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        pod
    };
    let mut scene = Scene::new(&[&[]]);
    scene.put(labelled(pod_value("a", LOW, SMALL), "web"), "n1");
    scene.put(apart_from(labelled(pod_value("b", LOW, SMALL), "web"), "db"), "n1");
    scene.put(labelled(pod_value("c", LOW, SMALL), "cache"), "n1");
    let repelled = workload(labelled(pod_value("p", HIGH, SMALL), "db"));
    assert_eq!(scene.victims(&repelled), ("n1".to_owned(), vec!["b".to_owned()], 0));
    let apart = workload(apart_from(labelled(pod_value("p", HIGH, SMALL), "x"), "web"));
    assert_eq!(scene.victims(&apart).1, ["a", "b"]);
}
