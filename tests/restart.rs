//! `kill -9` of the cloud's process at several moments, SIGTERM, and who holds a data directory or a port.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use yunfan_tests::host::Process;
use yunfan_tests::{Cloud, run, seconds};

/// Kinds whose objects are compared before and after.
const KINDS: &str = "namespaces,configmaps,secrets,services,deployments,replicasets,pods,resourcequotas,projects,users,flavors,\
                     networks,subnets,ports,images,virtualmachines,clusterroles,clusterrolebindings,nodes";

/// Uid and resourceVersion of every object, by kind, namespace and name.
fn objects(cloud: &Cloud) -> BTreeMap<String, (String, u64)> {
    let list = cloud.get(&[KINDS, "--all-namespaces"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().expect("a list");
    let entry = |item: &Value| {
        let meta = &item["metadata"];
        let key = format!("{} {}/{}", text(&item["kind"]), text(&meta["namespace"]), text(&meta["name"]));
        let revision = text(&meta["resourceVersion"]).parse().expect("a number");
        (key, (text(&meta["uid"]), revision))
    };
    items.iter().map(entry).collect()
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().expect("a uid")
}

/// Every process of these Pods and this machine.
fn workloads(cloud: &Cloud, pods: &[Value], vm: &Value) -> BTreeSet<Process> {
    let mut found: BTreeSet<Process> =
        pods.iter().flat_map(|pod| cloud.processes_of("pod", uid(pod))).collect();
    let machine = cloud.processes_of("vm", uid(vm));
    assert!(machine.iter().any(|process| process.command.contains("qemu")), "no QEMU: {machine:?}");
    found.extend(machine);
    assert!(found.iter().any(|process| process.command.contains("httpd")), "no web server: {found:?}");
    found
}

fn all_live(processes: &BTreeSet<Process>) {
    let ended: Vec<_> = processes.iter().filter(|process| !process.lives()).collect();
    assert!(ended.is_empty(), "ended: {ended:?}");
}

/// The Pod's page, asked from within its network namespace: no part of the cloud is needed for it.
fn page(cloud: &Cloud, pod: &Value, url: &str) -> String {
    let namespace = format!("yf-{}-pod-{}", cloud.tag(), uid(pod));
    run("ip", &["netns", "exec", &namespace, "curl", "-sS", "--max-time", "5", url]).ok()
}

#[test]
fn a_killed_cloud_carries_on() {
    let cloud = Cloud::start();
    cloud.import_web();
    cloud.machine_parts();

    // Before the Pods run: the Deployment was acknowledged, nothing more.
    cloud.web("default", "early", 2);
    cloud.kill_9();
    cloud.up_again();
    let pods = cloud.web_ready("default", "early");

    // While a machine is being built.
    cloud.machine("built");
    cloud.kill_9();
    cloud.up_again();
    let vm = cloud.vm_in_phase("admin", "built", "Active");

    // When all runs.
    let before = objects(&cloud);
    let running = workloads(&cloud, &pods, &vm);
    cloud.kill_9();
    all_live(&running);
    let said = page(&cloud, &pods[0], "http://127.0.0.1:8080/");
    assert!(said.contains("container early-"), "{said}");
    // From one Pod to the other, through the network that the dead process made; and by the Service's address.
    let other = format!("http://{}:8080/", pods[1]["status"]["podIP"].as_str().expect("an address"));
    assert!(page(&cloud, &pods[0], &other).contains("container early-"));
    cloud.up_again();
    let again = cloud.web_ready("default", "early");
    same_pods(&pods, &again);
    assert_eq!(uid(&cloud.vm_in_phase("admin", "built", "Active")), uid(&vm));
    all_live(&running);
    nothing_lost(&before, &objects(&cloud));
    assert_eq!(workloads(&cloud, &again, &vm), running, "other processes than before");
    still_obeys(&cloud);
}

fn same_pods(before: &[Value], after: &[Value]) {
    let facts = |pods: &[Value]| -> BTreeSet<String> {
        let fact = |pod: &Value| {
            let container = &pod["status"]["containerStatuses"][0];
            // Ready without a break: else the Service would have lost its targets.
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            format!(
                "{} at {} ready since {:?}, container {} started {} times",
                uid(pod),
                pod["status"]["podIP"],
                ready.map(|condition| &condition["lastTransitionTime"]),
                container["containerID"],
                container["restartCount"]
            )
        };
        pods.iter().map(fact).collect()
    };
    assert_eq!(facts(before), facts(after));
}

fn nothing_lost(before: &BTreeMap<String, (String, u64)>, after: &BTreeMap<String, (String, u64)>) {
    for (key, (uid, revision)) in before {
        let Some((now, then)) = after.get(key) else { panic!("{key} is lost") };
        assert_eq!(now, uid, "{key} is another object");
        assert!(then >= revision, "{key} went back from {revision} to {then}");
        // Nothing writes these but people: they are what they were to the revision.
        if [
            "ConfigMap default",
            "Service",
            "Deployment",
            "Flavor",
            "Network",
            "Subnet",
            "User",
            "ClusterRole ",
        ]
        .iter()
        .any(|kind| key.starts_with(kind))
        {
            assert_eq!(then, revision, "{key} was written again");
        }
    }
}

/// After a restart the cloud does what it is told, with what was there before too.
fn still_obeys(cloud: &Cloud) {
    cloud.kubectl(&["scale", "deployment/early", "--replicas=3"]).ok();
    let pods = cloud.web_ready("default", "early");
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let hostname = cloud.kubectl(&["exec", name, "--", "hostname"]).ok();
        assert_eq!(hostname, name);
        assert!(cloud.kubectl(&["logs", name]).ok().contains("serving on port 8080"));
    }
    let page = cloud.kubectl(&[
        "exec",
        "deploy/early",
        "--",
        "timeout",
        "5",
        "wget",
        "-q",
        "-O",
        "-",
        "http://early/",
    ]);
    assert!(page.ok().contains("container early-"), "{page}");
    // A container that dies now is started again: its shim is listened to.
    let name = pods[0]["metadata"]["name"].as_str().expect("a name");
    let server = cloud.processes_of("pod", uid(&pods[0]));
    let server = server.iter().find(|process| process.command.contains("httpd")).expect("the web server");
    run("kill", &["-9", &server.pid.to_string()]).ok();
    cloud.until("the container is started again", seconds(60), || {
        let pod = cloud.get(&["pod", name]);
        let container = &pod["status"]["containerStatuses"][0];
        if container["restartCount"] == 1 && container["ready"] == true {
            Ok(())
        } else {
            Err(container.to_string())
        }
    });
    cloud.kubectl(&["delete", "vm", "-n", "admin", "built", "--timeout=60s"]).ok();
    cloud.kubectl(&["delete", "deployment", "early"]).ok();
    cloud.until("the pods are gone", seconds(60), || {
        let pods = cloud.get(&["pods"]);
        if pods["items"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(pods.to_string()) }
    });
}

/// Clears a flag at its end.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn what_was_acknowledged_is_there() {
    let cloud = Cloud::start();
    let acknowledged = Mutex::new(Vec::new());
    let writing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (cloud, acknowledged, writing) = (&cloud, &acknowledged, &writing);
            scope.spawn(move || {
                for number in 0.. {
                    if !writing.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("note-{writer}-{number}");
                    let made = cloud.kubectl(&[
                        "create",
                        "configmap",
                        &name,
                        &format!("--from-literal=text={name}"),
                        "-o",
                        "json",
                    ]);
                    // Refused while the cloud is down, or cut off: then nothing was promised.
                    if made.succeeded() {
                        acknowledged.lock().expect("no panic").push((name, uid(&made.json()).to_owned()));
                    }
                }
            });
        }
        // Also when this thread fails: the writers end, and with them the test.
        let _end = OnDrop(&writing);
        for round in 0..5 {
            let goal = acknowledged.lock().expect("no panic").len() + 7;
            cloud.until("writes are acknowledged", seconds(30), || {
                let length = acknowledged.lock().expect("no panic").len();
                if length >= goal { Ok(()) } else { Err(format!("{length} in round {round}")) }
            });
            cloud.kill_9();
            cloud.up_again();
        }
    });
    let list = cloud.get(&["configmaps"]);
    let there: BTreeMap<&str, &Value> = list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| (item["metadata"]["name"].as_str().unwrap_or_default(), item))
        .collect();
    let acknowledged = acknowledged.into_inner().expect("no panic");
    assert!(acknowledged.len() >= 35);
    for (name, uid) in &acknowledged {
        let found = there.get(name.as_str()).unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
        assert_eq!(found["metadata"]["uid"], uid.as_str(), "{name}");
        assert_eq!(found["data"]["text"], name.as_str());
    }
}

#[test]
fn sigterm_leaves_workloads_and_holders_are_named() {
    let cloud = Cloud::start();
    cloud.import_web();
    cloud.machine_parts();
    cloud.web("default", "stays", 1);
    cloud.machine("stays");
    let pods = cloud.web_ready("default", "stays");
    let vm = cloud.vm_in_phase("admin", "stays", "Active");
    let running = workloads(&cloud, &pods, &vm);

    // Who holds the directory, who holds the port.
    let pid = cloud.pid().to_string();
    let data_dir = cloud.data_dir().to_string_lossy().into_owned();
    cloud.second_up(None).refused_with(&[&data_dir, "in use", &format!("process {pid}"), "yunfan down"]);
    let elsewhere = cloud.work().join("elsewhere");
    let port = format!("127.0.0.1:{}", cloud.slot().port(0));
    cloud.second_up(Some(&elsewhere)).refused_with(&[&port, "in use", &format!("process {pid}"), "--listen"]);
    cloud.kubectl(&["get", "--raw", "/readyz"]).ok();

    assert_eq!(cloud.terminate(), Some(0));
    all_live(&running);
    assert!(page(&cloud, &pods[0], "http://127.0.0.1:8080/").contains("container stays-"));
    cloud.up_again();
    same_pods(&pods, &cloud.web_ready("default", "stays"));
    cloud.vm_in_phase("admin", "stays", "Active");
    all_live(&running);

    // Down keeps the data; down twice is fine; up again makes the workloads anew.
    cloud.yunfan(&["down"]).ok();
    let left: Vec<_> = running.iter().filter(|process| process.lives()).collect();
    assert!(left.is_empty(), "still runs: {left:?}");
    cloud.yunfan(&["down"]).ok();
    cloud.up_again();
    cloud.until("the pods run anew", seconds(60), || {
        // What the status says may be from before, until the agent has looked.
        let again = cloud.web_ready("default", "stays");
        let processes = cloud.processes_of("pod", uid(&again[0]));
        if processes.iter().any(|process| process.command.contains("httpd")) {
            Ok(())
        } else {
            Err(format!("{again:?}"))
        }
    });
    let again = cloud.web_ready("default", "stays");
    assert!(page(&cloud, &again[0], "http://127.0.0.1:8080/").contains("container stays-"));
    assert_eq!(uid(&cloud.vm_in_phase("admin", "stays", "Active")), uid(&vm));
    assert_eq!(
        cloud.get(&["service", "stays"])["spec"]["clusterIP"].as_str().map(str::is_empty),
        Some(false)
    );
}

/// Makes a Deployment and a machine, and kills the cloud so many milliseconds later; then the same with deleting them. Whatever was
/// half done is finished by the next life, and nothing is done twice.
#[test]
fn killed_at_many_moments() {
    let cloud = Cloud::start();
    cloud.import_web();
    cloud.machine_parts();
    let moments = [0, 15, 40, 80, 150, 400];
    let pause = |milliseconds| std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    for moment in moments {
        let name = format!("at-{moment}");
        cloud.web("default", &name, 1);
        cloud.machine(&name);
        pause(moment);
        cloud.kill_9();
        cloud.up_again();
    }
    let mut workloads = Vec::new();
    for moment in moments {
        let name = format!("at-{moment}");
        let pods = cloud.web_ready("default", &name);
        let vm = cloud.vm_in_phase("admin", &name, "Active");
        let machines = cloud.processes_of("vm", uid(&vm));
        assert_eq!(machines.len(), 1, "{name}: {machines:?}");
        let servers = cloud.processes_of("pod", uid(&pods[0]));
        let servers = servers.iter().filter(|process| process.command.contains("httpd")).count();
        assert_eq!(servers, 1, "{name}");
        assert!(page(&cloud, &pods[0], "http://127.0.0.1:8080/").contains(&name));
        workloads.push((name, uid(&pods[0]).to_owned(), uid(&vm).to_owned()));
    }
    for ((name, ..), moment) in workloads.iter().zip(moments) {
        cloud.kubectl(&["delete", "deployment,service", name, "--wait=false"]).ok();
        cloud.kubectl(&["delete", "vm", "-n", "admin", name, "--wait=false"]).ok();
        pause(moment);
        cloud.kill_9();
        cloud.up_again();
    }
    for (name, pod, vm) in &workloads {
        cloud.until(&format!("{name} is gone, objects and processes"), seconds(60), || {
            let objects = cloud.kubectl(&["get", "deployments,replicasets,pods", "-o", "name"]).ok();
            let machines = cloud.kubectl(&["get", "vm,ports", "-n", "admin", "-o", "name"]).ok();
            let mut processes = cloud.processes_of("pod", pod);
            processes.extend(cloud.processes_of("vm", vm));
            let left = objects.contains(name.as_str()) || machines.contains(name.as_str());
            if left || !processes.is_empty() {
                Err(format!("{objects}\n{machines}\n{processes:?}"))
            } else {
                Ok(())
            }
        });
    }
    let namespaces = run("ip", &["netns", "list"]).ok();
    let left: Vec<&str> =
        namespaces.lines().filter(|line| line.contains(&format!("yf-{}-pod", cloud.tag()))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_killed_shim_is_told_of_and_its_containers_run_again() {
    let cloud = Cloud::start();
    cloud.import_web();
    cloud.web("default", "web", 1);
    let pod = cloud.web_ready("default", "web").remove(0);
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let of_pod = format!("/pods/{}", uid(&pod));
    let shim = cloud.processes().into_iter().find(|process| process.command.contains(&of_pod));
    let shim = shim.expect("no shim carries its pod's directory in its command line");
    let containers = cloud.processes_of("pod", uid(&pod));
    run("kill", &["-9", &shim.pid.to_string()]).ok();
    let container = cloud.until("the container runs again", seconds(60), || {
        let container = cloud.get(&["pod", name])["status"]["containerStatuses"][0].clone();
        let again = container["restartCount"] == 1 && container["ready"] == true;
        if again { Ok(container) } else { Err(container.to_string()) }
    });
    let last = &container["lastState"]["terminated"];
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&"ContainerStatusUnknown".into(), &137.into()),
        "{last}"
    );
    assert!(containers.iter().all(|process| !process.lives()), "the containers outlived their shim");
    assert!(cloud.kubectl(&["logs", name, "--previous"]).ok().contains("serving on port 8080"));
    assert!(cloud.kubectl(&["logs", name]).ok().contains("serving on port 8080"));
}
