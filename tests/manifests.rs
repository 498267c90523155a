//! Manifests of the kinds that people find in public and apply unread (`tests/manifests`), with the real `kubectl`.
#![forbid(unsafe_code)]

use serde_json::Value;
use yunfan_tests::{Cloud, repository, run, seconds};

fn apply(cloud: &Cloud, name: &str) {
    let file = repository().join("tests/manifests").join(name).to_string_lossy().into_owned();
    cloud.kubectl(&["apply", "-f", &file]).ok();
    // Once more, as people do: nothing is in the way of that.
    cloud.kubectl(&["apply", "-f", &file]).ok();
}

fn rolled_out(cloud: &Cloud, words: &[&str]) {
    cloud.kubectl(&[&["rollout", "status", "--timeout=120s"], words].concat()).ok();
}

/// The log of a Pod, or of the first of a workload, once it has these words.
fn says(cloud: &Cloud, of: &[&str], words: &str) {
    cloud.until(&format!("{of:?} says {words:?}"), seconds(90), || {
        let log = cloud.kubectl(&[&["logs"], of].concat());
        if log.stdout.contains(words) { Ok(()) } else { Err(log.to_string()) }
    });
}

#[test]
fn public_manifests_run_unchanged() {
    let cloud = Cloud::start();
    cloud.import_web();
    for file in ["site.yaml", "guestbook.yaml", "blog.yaml", "agent.yaml"] {
        apply(&cloud, file);
    }
    std::thread::scope(|scope| {
        for check in [guestbook, blog, agent, site] {
            let cloud = &cloud;
            scope.spawn(move || check(cloud));
        }
    });
}

/// Tiers find each other by name, and the outermost is reached by a port of the node.
fn guestbook(cloud: &Cloud) {
    for name in ["cache-leader", "cache-follower", "guestbook"] {
        rolled_out(cloud, &[&format!("deployment/{name}")]);
    }
    let port = cloud.get(&["service", "guestbook"])["spec"]["ports"][0]["nodePort"].clone();
    cloud.until("the node's port answers", seconds(30), || {
        run("curl", &["-sSf", "--max-time", "5", &format!("http://127.0.0.1:{port}/")]).as_probe()
    });
    cloud.kubectl(&["scale", "deployment/guestbook", "--replicas=1"]).ok();
    rolled_out(cloud, &["deployment/guestbook"]);
    let ready = cloud.get(&["deployment", "guestbook"])["status"]["readyReplicas"].clone();
    assert_eq!(ready, 1);
}

/// The database's data outlive its Pod, and are made once.
fn blog(cloud: &Cloud) {
    rolled_out(cloud, &["statefulset/database"]);
    rolled_out(cloud, &["deployment/blog"]);
    cloud.kubectl(&["delete", "pod", "database-0"]).ok();
    rolled_out(cloud, &["statefulset/database"]);
    cloud.kubectl(&["wait", "--for=condition=Ready", "pod/database-0", "--timeout=60s"]).ok();
    let births = cloud.kubectl(&["exec", "database-0", "--", "cat", "/var/lib/sql/births"]).ok();
    assert_eq!(births.lines().count(), 1, "{births}");
    // The volume has one user at a time: the old Pod goes before the new one comes.
    cloud.kubectl(&["rollout", "restart", "deployment/blog"]).ok();
    rolled_out(cloud, &["deployment/blog"]);
    let seen = cloud.kubectl(&["exec", "deploy/blog", "-c", "php", "--", "ls", "/www/uploads"]).ok();
    assert!(seen.contains("here"), "{seen}");
    let claims = cloud.kubectl(&["get", "pvc", "--no-headers"]).ok();
    assert!(claims.lines().count() == 2 && claims.lines().all(|line| line.contains("Bound")), "{claims}");
}

/// One Pod on each node, which sees the node and what its account may.
fn agent(cloud: &Cloud) {
    rolled_out(cloud, &["-n", "logging", "daemonset/log-agent"]);
    let of = ["-n", "logging", "daemonset/log-agent"];
    let nodes = cloud.get(&["nodes"]);
    let node = nodes["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    for words in [
        format!("on {node}: "),
        "as logging".into(),
        "may ask the API server".into(),
        "changes nothing".into(),
    ] {
        says(cloud, &of, &words);
    }
    let account = ["--as=system:serviceaccount:logging:log-agent", "auth", "can-i"];
    cloud.kubectl(&[&account[..], &["list", "pods", "-A"]].concat()).ok();
    cloud.kubectl(&[&account[..], &["delete", "pods", "-A"]].concat()).refused_with(&[]);
    let status = cloud.get(&["-n", "logging", "daemonset", "log-agent"])["status"].clone();
    assert_eq!(
        (&status["desiredNumberScheduled"], &status["numberReady"]),
        (&1.into(), &1.into()),
        "{status}"
    );
}

/// A change reaches all Pods without a gap, and what is to be done every minute is done.
fn site(cloud: &Cloud) {
    rolled_out(cloud, &["deployment/site"]);
    cloud.until("the budget counts", seconds(30), || {
        let status = cloud.get(&["pdb", "site"])["status"].clone();
        if status["disruptionsAllowed"] == 1 && status["expectedPods"] == 2 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    let patch = r#"{"spec":{"template":{"metadata":{"annotations":{"checksum/config":"2"}}}}}"#;
    cloud.kubectl(&["patch", "deployment", "site", "-p", patch]).ok();
    rolled_out(cloud, &["deployment/site"]);
    cloud.kubectl(&["create", "job", "now", "--from=cronjob/look"]).ok();
    cloud.kubectl(&["wait", "--for=condition=Complete", "job/now", "--timeout=60s"]).ok();
    says(cloud, &["job/now"], "written in a ConfigMap");
    // The minute comes by itself.
    let job: Value = cloud.until("the minute's Job is done", seconds(150), || {
        let jobs = cloud.get(&["jobs"]);
        let all = jobs["items"].as_array().cloned().unwrap_or_default();
        let by_clock = |job: &&Value| {
            job["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("look-"))
                && job["status"]["succeeded"] == 1
        };
        all.iter().find(by_clock).cloned().ok_or_else(|| jobs.to_string())
    });
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "CronJob", "{job}");
}
