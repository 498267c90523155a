//! `kill -9` of everything, again and again, while Pods come and go: none is lost, none runs twice, and nothing is left behind.
//! `YUNFAN_STORM` says how many Pods there are (60).
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rand::Rng;
use serde_json::{Value, json};
use yunfan_tests::host::{Process, difference, snapshot};
use yunfan_tests::{Cloud, run, seconds};

const ROUNDS: usize = 4;
/// What the Pods that end by themselves end with.
const CODE: i64 = 7;

fn how_many() -> usize {
    std::env::var("YUNFAN_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// A Pod that notes each of its starts.
fn pod(name: &str, ends: bool, notes: &Path) -> Value {
    let rest = if ends { format!("exit {CODE}") } else { "while :; do sleep 1; done".to_owned() };
    let script = format!("echo $N >>/notes/$U.starts; echo hello $N; {rest}");
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"storm": if ends { "short" } else { "long" }}},
        "spec": {"restartPolicy": if ends { "Never" } else { "Always" }, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "demo/web:1", "command": ["sh", "-c", script],
                "env": [field("U", "metadata.uid"), field("N", "metadata.name")],
                "volumeMounts": [{"name": "notes", "mountPath": "/notes"}]}],
            "volumes": [{"name": "notes", "hostPath": {"path": notes}}]}})
}

fn pods(cloud: &Cloud, label: &str) -> Vec<Value> {
    let mut list = cloud.get(&["pods", "-l", &format!("storm={label}")]);
    match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Every shim and container of these Pods, by chance.
fn kill_some(cloud: &Cloud, pods: &[Value]) {
    let mut random = rand::rng();
    for pod in pods {
        let all: Vec<Process> = cloud.processes_of("pod", text(pod, "/metadata/uid")).into_iter().collect();
        if !all.is_empty() && random.random_range(0..3) == 0 {
            let victim = &all[random.random_range(0..all.len())];
            // It may be gone already.
            let _ = run("kill", &["-9", &victim.pid.to_string()]);
        }
    }
    // Shims are in no Pod's cgroup.
    let shims = cloud.processes().into_iter().filter(|process| {
        pods.iter().any(|pod| process.command.contains(text(pod, "/metadata/uid")))
            && process.command.contains("shim")
    });
    for shim in shims.filter(|_| rand::rng().random_range(0..6) == 0) {
        let _ = run("kill", &["-9", &shim.pid.to_string()]);
    }
}

/// Looks again and again, until dropped, for Pods of which two containers run at one time: each has one.
struct Lookout {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<BTreeSet<String>>>,
}

impl Lookout {
    fn start(tag: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut found = BTreeSet::new();
            while !told.load(Ordering::Relaxed) {
                let seen = first_processes(&tag);
                // A look takes its time: what has ended before it was over, did not run beside what began meanwhile.
                let last = first_processes(&tag);
                let stayed: Vec<&First> = seen.iter().filter(|first| last.contains(first)).collect();
                let mut pods = BTreeSet::new();
                found.extend(
                    stayed.into_iter().filter(|first| !pods.insert(&first.pod)).map(|f| f.pod.clone()),
                );
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            found
        });
        Self { stop, thread: Some(thread) }
    }

    /// The Pods that were seen to run twice.
    fn end(mut self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().expect("its end")).unwrap_or_default()
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The first process of a container's process namespace, and its Pod.
#[derive(PartialEq, Eq)]
struct First {
    pod: String,
    pid: std::ffi::OsString,
}

/// The containers that run: each has one such process.
fn first_processes(tag: &str) -> Vec<First> {
    let needle = format!("/yunfan-{tag}/pod");
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let first = |path: std::path::PathBuf| {
        let cgroups = std::fs::read_to_string(path.join("cgroup")).ok()?;
        let pod = cgroups.split_once(&needle)?.1.split(['/', '\n']).next()?.to_owned();
        let status = std::fs::read_to_string(path.join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let numbers: Vec<&str> = field("NSpid:")?.split_whitespace().collect();
        let lives = !field("State:")?.trim_start().starts_with(['Z', 'X']);
        let pid = path.file_name()?.to_owned();
        (lives && numbers.len() > 1 && numbers.last() == Some(&"1")).then_some(First { pod, pid })
    };
    all.filter_map(|entry| first(entry.path())).collect()
}

/// What runs of the cloud, without numbers.
fn commands(cloud: &Cloud) -> Vec<String> {
    let mut all: Vec<String> = cloud.processes().into_iter().map(|process| process.command).collect();
    all.sort();
    all
}

#[test]
fn nothing_is_lost_doubled_or_left_when_everything_is_killed() {
    let notes = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let cloud = Cloud::builder().argument("--node-cidr-mask-size=22").start();
    cloud.import_web();
    // The cluster network is there from the first Pod on.
    cloud.apply(&pod("first", true, notes.path()).to_string());
    until_all(&cloud, "short", 1, |pod| text(pod, "/status/phase") == "Failed");
    delete_all(&cloud);
    let (before, running) = (snapshot(&cloud.tag()), commands(&cloud));
    let lookout = Lookout::start(cloud.tag());

    let each = how_many() / (2 * ROUNDS);
    let mut names: Vec<String> = Vec::new();
    let mut gone: BTreeSet<String> = BTreeSet::new();
    for round in 0..ROUNDS {
        let fresh: Vec<Value> = (0..each)
            .flat_map(|n| {
                [false, true].map(|ends| {
                    pod(&format!("{}-{round}-{n}", if ends { "short" } else { "long" }), ends, notes.path())
                })
            })
            .collect();
        names.extend(fresh.iter().map(|pod| text(pod, "/metadata/name").to_owned()));
        cloud.apply(&json!({"apiVersion": "v1", "kind": "List", "items": fresh}).to_string());
        // In the midst of what follows from that, at another moment each time.
        std::thread::sleep(std::time::Duration::from_millis(rand::rng().random_range(0..1500)));
        let long = pods(&cloud, "long");
        kill_some(&cloud, &long);
        if let Some(one) = long.first() {
            let name = text(one, "/metadata/name").to_owned();
            cloud.kubectl(&["delete", "pod", &name, "--wait=false"]).ok();
            gone.insert(name);
        }
        cloud.kill_9();
        kill_some(&cloud, &long);
        cloud.up_again();
    }

    let wanted: BTreeSet<&String> = names.iter().filter(|name| !gone.contains(*name)).collect();
    let (short, long): (Vec<&String>, Vec<&String>) =
        wanted.into_iter().partition(|name| name.starts_with("short"));
    let long = until_all(&cloud, "long", long.len(), |pod| {
        pod["status"]["containerStatuses"][0]["ready"] == true && text(pod, "/status/phase") == "Running"
    });
    let short = until_all(&cloud, "short", short.len(), |pod| text(pod, "/status/phase") == "Failed");
    for pod in &short {
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(ended["exitCode"], CODE, "{}", pod["status"]);
        let name = text(pod, "/metadata/name");
        assert_eq!(cloud.kubectl(&["logs", name]).ok(), format!("hello {name}"));
        assert_eq!(starts(notes.path(), pod), 1, "{name} ran more than once");
    }
    for pod in &long {
        assert!(starts(notes.path(), pod) >= 1, "{} never ran", text(pod, "/metadata/name"));
        let uid = text(pod, "/metadata/uid");
        let running = first_processes(&cloud.tag()).iter().filter(|first| first.pod == uid).count();
        assert_eq!(running, 1, "{}: {}", text(pod, "/metadata/name"), pod["status"]);
    }
    assert_eq!(lookout.end(), BTreeSet::new(), "two containers of these ran at one time");

    delete_all(&cloud);
    cloud.until("the host is what it was", seconds(60), || {
        let mut left = difference(&before, &snapshot(&cloud.tag()));
        let now = commands(&cloud);
        if now != running {
            left.push(format!("{now:#?} in place of {running:#?}"));
        }
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}

fn starts(notes: &Path, pod: &Value) -> usize {
    let file = notes.join(format!("{}.starts", text(pod, "/metadata/uid")));
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// Waits until there are as many Pods with a label as there should be, and all are as they should be.
fn until_all(cloud: &Cloud, label: &str, many: usize, is: impl Fn(&Value) -> bool) -> Vec<Value> {
    let limit = seconds(120 + how_many() as u64 / 2);
    cloud.until(&format!("all {many} Pods that are {label}"), limit, || {
        let all = pods(cloud, label);
        let other: Vec<_> =
            all.iter().filter(|pod| !is(pod)).map(|pod| (&pod["metadata"]["name"], &pod["status"])).collect();
        match other.first() {
            None if all.len() == many => Ok(all.clone()),
            first => Err(format!("{} Pods, {} otherwise: {first:?}", all.len(), other.len())),
        }
    })
}

fn delete_all(cloud: &Cloud) {
    cloud.kubectl(&["delete", "pods", "--all", "--timeout=120s"]).ok();
}
