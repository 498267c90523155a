//! What Pods ask of their node, with the real `kubectl`: containers of all kinds, volumes, hooks, refusals.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use yunfan_tests::{Cloud, seconds};

/// A container that runs a script in the test's image.
fn container(name: &str, script: &str, more: Value) -> Value {
    let mut made = json!({"name": name, "image": "demo/web:1", "command": ["sh", "-c", script]});
    for (key, value) in more.as_object().into_iter().flatten() {
        made[key] = value.clone();
    }
    made
}

fn apply(cloud: &Cloud, name: &str, spec: Value) {
    let mut spec = spec;
    if spec["restartPolicy"].is_null() {
        spec["restartPolicy"] = json!("Never");
    }
    spec["terminationGracePeriodSeconds"] = json!(3);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"of": "test"}}, "spec": spec,
    });
    cloud.apply(&pod.to_string());
}

/// Waits for the Pod's phase.
fn phase(cloud: &Cloud, name: &str, phase: &str) -> Value {
    cloud.until(&format!("pod {name} is {phase}"), seconds(60), || {
        let pod = cloud.get(&["pod", name]);
        if pod["status"]["phase"] == phase { Ok(pod) } else { Err(pod["status"].to_string()) }
    })
}

fn event(cloud: &Cloud, name: &str, reason: &str, words: &str) {
    cloud.until(&format!("pod {name} has the event {reason}"), seconds(60), || {
        let events = cloud.get(&["events", "--field-selector", &format!("involvedObject.name={name}")]);
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let found = all.iter().any(|event| {
            event["reason"] == reason && event["message"].as_str().is_some_and(|text| text.contains(words))
        });
        if found { Ok(()) } else { Err(events.to_string()) }
    });
}

fn logs(cloud: &Cloud, arguments: &[&str]) -> String {
    cloud.kubectl(&[&["logs"], arguments].concat()).ok()
}

#[test]
fn what_pods_ask_of_their_node() {
    let cloud = Cloud::start();
    cloud.import_web();
    std::thread::scope(|scope| {
        for check in [
            sidecars,
            volumes,
            hooks,
            last_words,
            refusals,
            in_order,
            shares,
            changed_objects,
            whole_pods,
            all_anew,
            variables_in_memory,
            secrets_in_memory,
            collected_logs,
        ] {
            let cloud = &cloud;
            scope.spawn(move || check(cloud));
        }
    });
}

/// Sidecars start in their turn, go on beside the others, and end after them, in the reverse order.
fn sidecars(cloud: &Cloud) {
    let shared = json!({"volumeMounts": [{"name": "log", "mountPath": "/log"}]});
    let stay = |name: &str| {
        format!(
            "trap 'echo {name} ends >> /log/x; exit 0' TERM; echo {name} >> /log/x; while :; do sleep 0.1; done"
        )
    };
    let mut first = container("first", &stay("first"), shared.clone());
    first["restartPolicy"] = json!("Always");
    first["startupProbe"] = json!({"exec": {"command": ["sh", "-c", "grep first /log/x && echo probed >> /log/x"]}, "periodSeconds": 1});
    let mut second = container("second", &stay("second"), shared.clone());
    second["restartPolicy"] = json!("Always");
    let init = container("init", "echo init >> /log/x", shared.clone());
    let main = container("main", "echo main >> /log/x", shared.clone());
    let host = cloud.work().join("sidecars");
    apply(
        cloud,
        "sidecars",
        json!({
            "initContainers": [first, init, second], "containers": [main],
            "volumes": [{"name": "log", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}],
        }),
    );
    let pod = phase(cloud, "sidecars", "Succeeded");
    let log = std::fs::read_to_string(host.join("x")).expect("the containers' log");
    assert_eq!(log, "first\nprobed\ninit\nsecond\nmain\nsecond ends\nfirst ends\n");
    let init = &pod["status"]["initContainerStatuses"];
    assert_eq!(init[0]["state"]["terminated"]["exitCode"], 0, "{init}");
    assert_eq!(init[1]["state"]["terminated"]["reason"], "Completed", "{init}");
}

fn volumes(cloud: &Cloud) {
    cloud.kubectl(&["create", "configmap", "settings", "--from-literal=a=1", "--from-literal=b=2"]).ok();
    cloud.kubectl(&["create", "secret", "generic", "key", "--from-literal=k=secret"]).ok();
    let text = "cat /config/in/a /sub/file /all/k /all/labels; ls -l /all/..data/k /memory -d; touch /config/x; \
                grep ' /all ' /proc/mounts; echo $(id -u) $(id -g)";
    let mounts = json!({
        "volumeMounts": [
            {"name": "config", "mountPath": "/config"},
            {"name": "config", "mountPath": "/sub/file", "subPath": "in/a"},
            {"name": "all", "mountPath": "/all"},
            {"name": "memory", "mountPath": "/memory"},
            {"name": "memory", "mountPath": "/part", "subPathExpr": "$(WHO)/deep"},
        ],
        "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    });
    apply(
        cloud,
        "volumes",
        json!({
            "securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000},
            "containers": [container("main", text, mounts)],
            "volumes": [
                {"name": "config", "configMap": {"name": "settings", "items": [{"key": "a", "path": "in/a"}]}},
                {"name": "all", "projected": {"defaultMode": 0o400, "sources": [
                    {"secret": {"name": "key"}},
                    {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                ]}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
            ],
        }),
    );
    phase(cloud, "volumes", "Succeeded");
    let log = logs(cloud, &["volumes"]);
    assert!(log.contains("11secretof=\"test\""), "{log}");
    assert!(log.contains("-r--r-----") && log.contains("drwxrwsrwx"), "{log}");
    assert!(log.contains("Read-only file system") && log.contains("1000 2000"), "{log}");
    assert!(log.contains("tmpfs /all tmpfs ro"), "what is secret is in memory: {log}");
    // What is missing is said, and waited for.
    apply(
        cloud,
        "waits",
        json!({
            "containers": [container("main", "true", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
            "volumes": [{"name": "v", "configMap": {"name": "later"}}],
        }),
    );
    event(
        cloud,
        "waits",
        "FailedMount",
        "MountVolume.SetUp failed for volume \"v\" : configmap \"later\" not found",
    );
    cloud.kubectl(&["create", "configmap", "later", "--from-literal=x=y"]).ok();
    phase(cloud, "waits", "Succeeded");
    apply(
        cloud,
        "wrong-kind",
        json!({
            "containers": [container("main", "true", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
            "volumes": [{"name": "v", "hostPath": {"path": "/etc/hosts", "type": "Directory"}}],
        }),
    );
    event(cloud, "wrong-kind", "FailedMount", "hostPath type check failed: /etc/hosts is not a directory");
}

/// What a Secret holds is nowhere in the node's files, whether containers have it in files, in their environment or in their words; and a Pod's
/// shim sees no mounts of other Pods. The node tells how full volumes are that are file systems.
fn secrets_in_memory(cloud: &Cloud) {
    const WORD: &str = "no-disk-is-to-have-this";
    cloud.kubectl(&["create", "secret", "generic", "hush", &format!("--from-literal=k={WORD}")]).ok();
    let more = json!({
        "args": ["$(WORD)"],
        "env": [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hush", "key": "k"}}}],
        "envFrom": [{"prefix": "ALL_", "secretRef": {"name": "hush"}}],
        "volumeMounts": [
            {"name": "hush", "mountPath": "/hush"},
            {"name": "hush", "mountPath": "/part", "subPath": "k"},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
    });
    for name in ["hush-one", "hush-two"] {
        let text = "head -c 1048576 /dev/zero > /scratch/file; sleep 100000";
        let spec = json!({
            "containers": [container("main", text, more.clone())],
            "volumes": [
                {"name": "hush", "secret": {"secretName": "hush"}},
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}},
            ],
        });
        apply(cloud, name, spec);
        phase(cloud, name, "Running");
    }
    let inside = "echo $WORD $ALL_k $(cat /hush/k) $(cat /part)";
    let said = cloud.kubectl(&["exec", "hush-one", "--", "sh", "-c", inside]).ok();
    assert_eq!(said.trim(), [WORD; 4].join(" "));
    let agent = cloud.data_dir().join("agent");
    let look = ["-xdev", "-type", "f", "-exec", "grep", "-l", "-F", WORD, "{}", "+"];
    let found = std::process::Command::new("find").arg(&agent).args(look).output().expect("find");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "these files have the Secret's value");
    for process in cloud.processes().iter().filter(|process| process.command.contains("--pod ")) {
        let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", process.pid)).unwrap_or_default();
        // Other clouds of this host may have theirs.
        let own = |line: &&str| line.contains("/scratch ") && line.contains(&*agent.to_string_lossy());
        let mounts = table.lines().filter(own).count();
        assert!(mounts <= 1, "a shim sees other Pods' mounts: {table}");
    }
    let node = cloud.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a node").to_owned();
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    cloud.until("the Pod's volume in memory and its containers are told of", seconds(120), || {
        let all: Value = serde_json::from_str(&cloud.kubectl(&["get", "--raw", &path]).ok()).expect("JSON");
        let pods = all["pods"].as_array().cloned().unwrap_or_default();
        let pod = pods.iter().find(|pod| pod["podRef"]["name"] == "hush-one").ok_or("not told of yet")?;
        let volume = &pod["volume"][0];
        let memory = &pod["containers"][0]["memory"];
        let told = volume["name"] == "scratch"
            && volume["capacityBytes"] == 4 << 20
            && volume["usedBytes"] == 1 << 20
            && memory["usageBytes"].as_u64() >= memory["workingSetBytes"].as_u64()
            && memory["rssBytes"].is_u64()
            && all["node"]["runtime"]["imageFs"]["capacityBytes"].is_u64();
        if told { Ok(()) } else { Err(all.to_string()) }
    });
    cloud.kubectl(&["delete", "pod", "hush-one", "hush-two", "--grace-period=1"]).ok();
}

/// Logs are where agents look that collect them, as kubelets lay them out, and go with their Pod.
fn collected_logs(cloud: &Cloud) {
    let spec = json!({"containers": [container("main", "echo to be collected; sleep 100000", json!({}))]});
    apply(cloud, "collected", spec);
    let pod = phase(cloud, "collected", "Running");
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let logs = cloud.data_dir().join("agent/logs");
    let log = logs.join(format!("pods/default_collected_{uid}/main/0.log"));
    let links = || {
        let all = std::fs::read_dir(logs.join("containers")).into_iter().flatten().flatten();
        let own = all.map(|entry| entry.path()).filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("collected_default_main-"))
        });
        own.collect::<Vec<_>>()
    };
    cloud.until("the log can be collected", seconds(60), || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let linked = links().first().and_then(|link| std::fs::read_to_string(link).ok()).unwrap_or_default();
        let said = text.trim_end().ends_with(" stdout F to be collected") && linked == text;
        if said { Ok(()) } else { Err(format!("{text:?}, {linked:?}")) }
    });
    cloud.kubectl(&["delete", "pod", "collected", "--grace-period=1"]).ok();
    cloud.until("the log is gone with its Pod", seconds(60), || {
        let left = log.exists() || !links().is_empty();
        if left { Err(format!("{:?}", links())) } else { Ok(()) }
    });
}

/// A container's end that restarts all of its Pod: init containers run again, what runs is killed, and the Pod stays the same.
fn all_anew(cloud: &Cloud) {
    let shared = json!({"volumeMounts": [{"name": "log", "mountPath": "/log"}]});
    let mut worker = container("worker", "echo worker >> /log/x; exec sleep 100000", shared.clone());
    worker["lifecycle"] = json!({"preStop": {"exec": {"command": ["sh", "-c", "echo asked >> /log/x"]}}});
    // Only after both others wrote: a container that is killed before its first line is no fault of the restart.
    let text = "[ -e /log/once ] && exec sleep 100000
        until grep -q worker /log/x && grep -q done /log/x; do sleep 0.1; done; touch /log/once; exit 42";
    let mut watcher = container("watcher", text, shared.clone());
    watcher["restartPolicy"] = json!("Never");
    watcher["restartPolicyRules"] =
        json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let done = container("done", "echo done >> /log/x", shared.clone());
    let host = cloud.work().join("anew");
    apply(
        cloud,
        "anew",
        json!({
            "initContainers": [container("init", "echo init >> /log/x", shared)],
            "containers": [worker, watcher, done],
            "volumes": [{"name": "log", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}],
        }),
    );
    let status = cloud.until("all containers have run twice", seconds(60), || {
        let status = cloud.get(&["pod", "anew"])["status"].clone();
        let (init, all) = (&status["initContainerStatuses"], &status["containerStatuses"]);
        let twice = |status: &Value| status["restartCount"] == 1;
        let ended = all[2]["state"]["terminated"]["exitCode"] == 0;
        let main = all.as_array().is_some_and(|all| all.iter().all(twice));
        let runs = ended && all[0]["ready"] == true && all[1]["ready"] == true;
        if main && runs && twice(&init[0]) { Ok(status) } else { Err(status.to_string()) }
    });
    let watcher = &status["containerStatuses"][1];
    assert_eq!(watcher["lastState"]["terminated"]["exitCode"], 42, "{status}");
    let killed = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(killed["exitCode"], 137, "{status}");
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let told = conditions.iter().find(|condition| condition["type"] == "AllContainersRestarting");
    assert_eq!(told.map(|told| &told["status"]), Some(&json!("False")), "{status}");
    let log = std::fs::read_to_string(host.join("x")).expect("the containers' log");
    let mut lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.iter().filter(|line| **line == "init").count(), 2, "{log}");
    lines.sort_unstable();
    assert_eq!(lines, ["done", "done", "init", "init", "worker", "worker"], "nobody was asked to end: {log}");
    assert_eq!(logs(cloud, &["anew", "-c", "done", "--previous"]), "");
}

/// Variables that an init container leaves in a file, in memory and on disk.
fn variables_in_memory(cloud: &Cloud) {
    for medium in ["Memory", ""] {
        let name = if medium.is_empty() { "told-on-disk" } else { "told-in-memory" };
        let mounts = json!({"volumeMounts": [{"name": "told", "mountPath": "/told"}]});
        let key = json!({"volumeName": "told", "path": "config.env", "key": "WORD"});
        let env = json!({"env": [{"name": "WORD", "valueFrom": {"fileKeyRef": key}}]});
        apply(
            cloud,
            name,
            json!({
                "initContainers": [container("init", "echo \"WORD='hush'\" > /told/config.env", mounts)],
                "containers": [container("main", "echo it is $WORD", env)],
                "volumes": [{"name": "told", "emptyDir": {"medium": medium}}],
            }),
        );
        phase(cloud, name, "Succeeded");
        assert_eq!(logs(cloud, &[name, "-c", "main"]).trim(), "it is hush");
    }
}

/// Resources of a Pod as a whole: what its containers see, are told and are counted as.
fn whole_pods(cloud: &Cloud) {
    let text = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max; \
                echo told $LIMIT; sleep 60";
    let told =
        json!({"env": [{"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}]});
    let (some, all) = (json!({"cpu": "50m", "memory": "32Mi"}), json!({"cpu": "100m", "memory": "64Mi"}));
    apply(
        cloud,
        "whole",
        json!({"resources": {"requests": some, "limits": all}, "containers": [container("main", text, told)]}),
    );
    let pod = phase(cloud, "whole", "Running");
    assert_eq!(pod["status"]["qosClass"], "Burstable", "{pod}");
    assert_eq!(pod["status"]["resources"]["limits"]["memory"], "64Mi", "{pod}");
    cloud.until("the container says what it has", seconds(30), || {
        let log = logs(cloud, &["whole"]);
        if log.trim_end() == "67108864\ntold 67108864" { Ok(()) } else { Err(log) }
    });
}

/// A changed label reaches a running container.
fn changed_objects(cloud: &Cloud) {
    let text = "until grep -q of=.changed /me/labels; do sleep 0.1; done";
    let mounts = json!({"volumeMounts": [{"name": "me", "mountPath": "/me"}]});
    apply(
        cloud,
        "changes",
        json!({
            "containers": [container("main", text, mounts)],
            "volumes": [{"name": "me", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
        }),
    );
    phase(cloud, "changes", "Running");
    cloud.kubectl(&["label", "--overwrite", "pod", "changes", "of=changed"]).ok();
    phase(cloud, "changes", "Succeeded");
}

fn hooks(cloud: &Cloud) {
    let host = cloud.work().join("hooks");
    let exec = |text: &str| json!({"exec": {"command": ["sh", "-c", text]}});
    let main = json!({
        "volumeMounts": [{"name": "log", "mountPath": "/log"}],
        "lifecycle": {"postStart": exec("echo after >> /log/x"), "preStop": exec("echo before >> /log/x")},
    });
    apply(
        cloud,
        "hooks",
        json!({
            "containers": [container("main", "trap 'echo end >> /log/x; exit 0' TERM; while :; do sleep 0.1; done", main)],
            "volumes": [{"name": "log", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}],
        }),
    );
    phase(cloud, "hooks", "Running");
    cloud.until("the hook after the start has run", seconds(30), || {
        std::fs::read_to_string(host.join("x")).map_err(|error| error.to_string())
    });
    cloud.kubectl(&["delete", "pod", "hooks"]).ok();
    assert_eq!(std::fs::read_to_string(host.join("x")).expect("a log"), "after\nbefore\nend\n");
    let bad = json!({"lifecycle": {"postStart": exec("exit 3")}});
    apply(cloud, "bad-hook", json!({"containers": [container("main", "sleep 60", bad)]}));
    event(cloud, "bad-hook", "FailedPostStartHook", "PostStartHook failed");
    phase(cloud, "bad-hook", "Failed");
}

fn last_words(cloud: &Cloud) {
    let words =
        |script: &str, policy: &str| container("main", script, json!({"terminationMessagePolicy": policy}));
    apply(
        cloud,
        "words",
        json!({
            "securityContext": {"runAsUser": 1000},
            "containers": [words("echo -n done > /dev/termination-log", "File")],
        }),
    );
    apply(
        cloud,
        "no-words",
        json!({"containers": [words("echo all is lost; exit 3", "FallbackToLogsOnError")]}),
    );
    apply(
        cloud,
        "late",
        json!({"activeDeadlineSeconds": 1, "containers": [container("main", "sleep 60", json!({}))]}),
    );
    apply(
        cloud,
        "no-program",
        json!({"containers": [
            {"name": "main", "image": "demo/web:1", "command": ["/bin/nothing"]},
        ]}),
    );
    apply(
        cloud,
        "greedy",
        json!({
            "containers": [container("main", "dd if=/dev/zero of=/v/x bs=1M count=4; sleep 600", json!({
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }))],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
        }),
    );
    let ended = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!(ended(&phase(cloud, "words", "Succeeded"))["message"], "done");
    let lost = ended(&phase(cloud, "no-words", "Failed"));
    assert_eq!((&lost["message"], &lost["exitCode"]), (&json!("all is lost\n"), &json!(3)));
    let greedy = phase(cloud, "greedy", "Failed");
    assert_eq!(greedy["status"]["reason"], "Evicted");
    let text = greedy["status"]["message"].as_str().unwrap_or_default();
    assert!(text.starts_with("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\""), "{text}");
    assert_eq!(phase(cloud, "late", "Failed")["status"]["reason"], "DeadlineExceeded");
    let wrong = ended(&phase(cloud, "no-program", "Failed"));
    assert_eq!((&wrong["reason"], &wrong["exitCode"]), (&json!("StartError"), &json!(128)));
}

fn refusals(cloud: &Cloud) {
    let main = || vec![container("main", "sleep 60", json!({}))];
    apply(
        cloud,
        "sysctl",
        json!({
            "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]}, "containers": main(),
        }),
    );
    let refused = phase(cloud, "sysctl", "Failed");
    assert_eq!(refused["status"]["reason"], "SysctlForbidden");
    event(cloud, "sysctl", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    let node = cloud.get(&["nodes"])["items"][0]["metadata"]["name"].clone();
    let bound = |name: &str, more: Value| {
        let mut spec = json!({"nodeName": node, "containers": main()});
        spec.as_object_mut().expect("a spec").extend(more.as_object().cloned().expect("fields"));
        apply(cloud, name, spec);
        phase(cloud, name, "Failed")["status"].take()
    };
    let large = container("main", "true", json!({"resources": {"requests": {"cpu": "1T"}}}));
    let large = bound("large", json!({"containers": [large]}));
    assert_eq!(large["reason"], "OutOfcpu");
    let said = large["message"].as_str().unwrap_or_default();
    let words =
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000000000000, used: ";
    assert!(said.starts_with(words), "{said}");
    let elsewhere = bound("elsewhere", json!({"nodeSelector": {"disk": "none"}}));
    let words =
        "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    assert_eq!((&elsewhere["reason"], &elsewhere["message"]), (&json!("NodeAffinity"), &json!(words)));
    apply(cloud, "users", json!({"hostUsers": false, "containers": main()}));
    event(cloud, "users", "FailedCreatePodSandBox", "does not support user namespaces");
    let root = container("main", "true", json!({"securityContext": {"runAsNonRoot": true}}));
    apply(cloud, "root", json!({"containers": [root]}));
    event(cloud, "root", "Failed", "Error: container has runAsNonRoot and image will run as root");
    let never = json!({"name": "main", "image": "nowhere/none:1", "imagePullPolicy": "Never"});
    apply(cloud, "never", json!({"containers": [never]}));
    event(cloud, "never", "ErrImageNeverPull", "is not present with pull policy of Never");
}

/// Containers are started one after the other, each behind the hook of the one before it; events tell which one they are about.
fn in_order(cloud: &Cloud) {
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "until [ -e /shared/go ]; do sleep 0.1; done"]}}}});
    let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
    let mut first = container("first", "touch /shared/first; sleep 1; touch /shared/go; sleep 1000", hook);
    let mut second = container("second", "ls /shared; sleep 1000", json!({}));
    (first["volumeMounts"], second["volumeMounts"]) = (mount.clone(), mount);
    apply(
        cloud,
        "in-order",
        json!({"volumes": [{"name": "shared", "emptyDir": {}}], "containers": [first, second]}),
    );
    phase(cloud, "in-order", "Running");
    cloud.until("the second one says what it found", seconds(30), || {
        let said = logs(cloud, &["in-order", "-c", "second"]);
        if said.lines().eq(["first", "go"]) { Ok(()) } else { Err(said) }
    });
    let told = cloud.until("each has an event", seconds(30), || {
        let events =
            cloud.get(&["events", "--field-selector", "involvedObject.name=in-order,reason=Started"]);
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let mut paths: Vec<_> = all.iter().map(|e| e["involvedObject"]["fieldPath"].clone()).collect();
        paths.sort_by_key(Value::to_string);
        if paths.len() == 2 { Ok(paths) } else { Err(events.to_string()) }
    });
    assert_eq!(told, ["spec.containers{first}", "spec.containers{second}"]);
}

/// Pods that ask for more CPU have more of it, whatever else is on their node.
fn shares(cloud: &Cloud) {
    let share = |name: &str, resources: Value| {
        apply(
            cloud,
            name,
            json!({"containers": [container("c", "sleep 1000", json!({"resources": resources}))]}),
        );
        let uid = phase(cloud, name, "Running")["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let group = format!("yunfan-{}/pod{uid}", cloud.tag());
        let read = |path: String| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let v1 = read(format!("/sys/fs/cgroup/cpu/{group}/cpu.shares"));
        v1.or_else(|| read(format!("/sys/fs/cgroup/{group}/cpu.weight"))).expect("a share of the CPU")
    };
    let (little, much) =
        (share("no-cpu", json!({})), share("some-cpu", json!({"requests": {"cpu": "100m"}})));
    assert!(little <= 2 && much > little, "{little} {much}");
}
