//! Containers from image to removal.

use std::time::{Duration, Instant};

use super::{Cloud, IMAGE, script};
use crate::{
    ContainerConfig, ContainerId, ContainerState, LogOptions, Mount, Resources, RuntimeError, RuntimeEvent,
};

pub(super) async fn a_web_server_from_image_to_removal(cloud: &Cloud) {
    let mut events = cloud.runtime.events();
    let web = ContainerConfig {
        name: "web".to_owned(),
        image: IMAGE.to_owned(),
        env: vec![("FROM".to_owned(), "pod".to_owned())],
        ..ContainerConfig::default()
    };
    let id = cloud.start("p1", web.clone()).await;
    // Asking again changes nothing.
    assert_eq!(cloud.start("p1", web).await, id);
    let event = events.recv().await.unwrap();
    assert!(matches!(&event, RuntimeEvent::Container(s) if s.state == ContainerState::Running));

    // It takes connections a moment after it was started.
    let mut page = String::new();
    for _ in 0..100 {
        let got = std::process::Command::new("ip")
            .args(["netns", "exec", &cloud.netns, "busybox", "wget", "-qO-", "http://127.0.0.1/"])
            .output()
            .unwrap();
        page = String::from_utf8_lossy(&got.stdout).into_owned();
        if got.status.success() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(page, "hello from a container\n");

    assert_eq!(cloud.sh(&id, "hostname").await, "p1-host\n");
    assert_eq!(cloud.sh(&id, "echo $FROM; pwd").await, "pod\n/www\n");
    assert!(cloud.sh(&id, "cat /etc/hosts").await.contains("10.0.0.9\tp1-host"));
    assert_eq!(
        cloud.sh(&id, "cat /etc/resolv.conf").await,
        "nameserver 10.0.0.10\nsearch demo.svc.cluster.local\noptions ndots:5\n"
    );
    assert_eq!(cloud.sh(&id, "ls /etc/hidden 2>&1 | head -c 2; cat /proc/1/comm").await, "lshttpd\n");
    assert_eq!(cloud.sh(&id, "ls /replaced").await, "high\n");
    let caps = cloud.sh(&id, "cat /proc/self/status").await;
    let line = |name: &str| caps.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert_eq!(line("NoNewPrivs"), "NoNewPrivs:\t1");
    assert_eq!(line("CapBnd"), line("CapEff").replace("CapEff", "CapBnd"));
    assert_ne!(line("CapBnd"), "CapBnd:\t000001ffffffffff");
    let refused = cloud.sh(&id, "echo 1 > /proc/sys/kernel/panic; echo x > /sys/x").await;
    assert_eq!(refused.matches("Read-only file system").count(), 2, "{refused}");
    assert!(cloud.runtime.stats(&id).await.unwrap().memory_bytes > 0);

    let before = Instant::now();
    let status = cloud.runtime.stop_container(&id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(status.state, ContainerState::Exited);
    // As pid 1 without a handler it ignores SIGTERM, so that the grace passes and it is killed.
    assert!(before.elapsed() >= Duration::from_secs(5));
    assert_eq!(status.exit_code, Some(137));
    cloud.runtime.remove_container(&id).await.unwrap();
    cloud.runtime.remove_container(&id).await.unwrap();
    cloud.runtime.remove_sandbox("p1").await.unwrap();
    cloud.runtime.remove_sandbox("p1").await.unwrap();
    assert!(cloud.runtime.list().await.unwrap().is_empty());
    assert!(!cloud.dir.join("agent/pods/p1").exists());
}

pub(super) async fn exit_codes_logs_restarts_and_mounts(cloud: &Cloud) {
    let volume = cloud.dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("key"), "value\n").unwrap();
    let text = "cat /config/key; touch /config/x; echo two >&2; printf three; id -u; exit 7";
    let mount =
        Mount { host_path: volume, container_path: "/config".into(), read_only: true, ..Mount::default() };
    let run = ContainerConfig {
        mounts: vec![mount],
        run_as_user: Some(33),
        read_only_root: true,
        ..script("job", text)
    };
    let id = cloud.start("p2", run).await;
    let status = cloud.exited(&id).await;
    assert_eq!(status.exit_code, Some(7));
    assert!(!status.oom_killed);
    assert!(status.finished_at >= status.started_at);
    let log = cloud.log(&id, LogOptions::default()).await;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines[0], "three33");
    assert_eq!(lines[1], "touch: /config/x: Read-only file system");
    assert_eq!(lines[2..], ["two", "value"]);

    let again = ContainerConfig { attempt: 1, ..script("job", "echo second; kill -9 $$; sleep 9") };
    let second = cloud.start("p2", again).await;
    let options = LogOptions { previous: true, tail_lines: Some(1), ..LogOptions::default() };
    assert_eq!(cloud.log(&second, options.clone()).await.lines().count(), 1);
    let missing = cloud.runtime.logs(&id, options).await;
    assert!(matches!(missing, Err(RuntimeError::ContainerNotFound(_))));
    let wrong = script("bad", "true");
    let wrong = ContainerConfig { command: vec!["/bin/nothing".to_owned()], ..wrong };
    let error = cloud.runtime.create_and_start("p2", wrong.clone()).await.unwrap_err();
    assert!(error.to_string().contains("/bin/nothing"), "{error}");
    let name = "unknown".to_owned();
    let unknown = ContainerConfig { name, image: "nowhere/nothing:1".to_owned(), ..wrong };
    let error = cloud.runtime.create_and_start("p2", unknown).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageNotFound(_)));
    let sandbox = cloud.runtime.sandbox("p2").await.unwrap().unwrap();
    assert_eq!(sandbox.containers.len(), 3, "what has no image leaves nothing");
    let failed = sandbox.containers.iter().find(|run| run.id.name == "bad").unwrap();
    assert_eq!(
        (failed.state, failed.exit_code, failed.started_at),
        (ContainerState::Exited, Some(128), None)
    );
    assert!(failed.message.contains("/bin/nothing"), "{}", failed.message);
}

pub(super) async fn following_a_log_ends_with_the_container(cloud: &Cloud) {
    let text = "for i in 1 2 3; do echo $i; sleep 0.2; done";
    let id = cloud.start("p3", script("count", text)).await;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let log = tokio::time::timeout(Duration::from_secs(10), cloud.log(&id, options)).await;
    assert_eq!(log.unwrap(), "1\n2\n3\n");
}

pub(super) async fn memory_limit_and_oom(cloud: &Cloud) {
    let run = ContainerConfig {
        resources: Resources {
            memory_limit_bytes: Some(32 << 20),
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            ..Resources::default()
        },
        ..script("hog", "sleep 0.3; tail /dev/zero")
    };
    let id = cloud.start("p4", run).await;
    // Whoever runs it, it is in a cgroup below its pod's.
    let any = |controller: &str, v1: &str, v2: &str, fits: &dyn Fn(&str) -> bool| {
        let group = format!("yunfan-{}/podp4", cloud.tag);
        let roots = [format!("/sys/fs/cgroup/{controller}/{group}"), format!("/sys/fs/cgroup/{group}")];
        let below = roots.iter().filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
        let found: Vec<String> = below
            .filter_map(|dir| {
                let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).ok();
                read(v1).or_else(|| read(v2))
            })
            .collect();
        assert!(found.iter().any(|text| fits(text.trim())), "{controller}: {found:?}");
    };
    any("memory", "memory.limit_in_bytes", "memory.max", &|text| text == (32 << 20).to_string());
    any("cpu", "cpu.cfs_quota_us", "cpu.max", &|text| text.starts_with("50000"));
    any("pids", "pids.max", "pids.max", &|text| text == "4096");
    if std::path::Path::new("/sys/fs/cgroup/devices").exists() {
        let fits = |text: &str| text.contains("c 1:3 rwm") && !text.contains("a *:*");
        any("devices", "devices.list", "", &fits);
    }
    let status = cloud.exited(&id).await;
    assert!(status.oom_killed, "{status:?}");
    assert_ne!(status.exit_code, Some(0));
}

pub(super) async fn bad_configurations_name_the_field(cloud: &Cloud) {
    let mut sandbox = cloud.sandbox("p8");
    sandbox.uid = "../x".to_owned();
    assert!(cloud.runtime.run_sandbox(sandbox).await.unwrap_err().to_string().starts_with("uid"));
    let mut sandbox = cloud.sandbox("p8");
    sandbox.netns = Some("/run/netns/yf-none".into());
    let error = cloud.runtime.run_sandbox(sandbox).await.unwrap_err().to_string();
    assert!(error.contains("network namespace /run/netns/yf-none"), "{error}");
    let missing = cloud.runtime.create_and_start("p9", script("a", "true")).await.unwrap_err();
    assert!(matches!(missing, RuntimeError::SandboxNotFound(_)));
    cloud.runtime.run_sandbox(cloud.sandbox("p8")).await.unwrap();
    for (change, field) in [
        (script("A/b", "true"), "name"),
        (ContainerConfig { working_dir: Some("x".to_owned()), ..script("a", "true") }, "workingDir"),
        (ContainerConfig { run_as_non_root: true, ..script("a", "true") }, "runAsNonRoot"),
    ] {
        let error = cloud.runtime.create_and_start("p8", change).await.unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    // A directory that its image does not have is made.
    let elsewhere = ContainerConfig { working_dir: Some("/not/there".to_owned()), ..script("b", "pwd") };
    let id = cloud.runtime.create_and_start("p8", elsewhere).await.unwrap();
    assert_eq!(cloud.exited(&id).await.exit_code, Some(0));
    assert_eq!(cloud.log(&id, LogOptions::default()).await, "/not/there\n");
    let nobody = ContainerId::new("p8", "nobody", 0);
    let error = cloud.runtime.exec_sync(&nobody, vec!["x".to_owned()], Duration::from_secs(1)).await;
    assert!(matches!(error, Err(RuntimeError::ContainerNotFound(_))));
}

pub(super) async fn what_a_stopped_sandbox_wrote_can_be_discarded(cloud: &Cloud) {
    const MIB: u64 = 1 << 20;
    let write = "dd if=/dev/zero of=/big bs=1048576 count=8 2>/dev/null; echo wrote";
    let done = cloud.start("p10", script("done", &format!("{write}; exit 3"))).await;
    let etc = "dd if=/dev/zero of=/etc/hosts bs=1048576 count=2 2>/dev/null";
    let goes_on = cloud.start("p10", script("loop", &format!("{etc}; {write}; sleep 1000"))).await;
    cloud.exited(&done).await;
    let of_sandbox = || cloud.runtime.sandbox_disk_usage("p10");
    for id in [&done, &goes_on] {
        let name = id.to_string();
        cloud.until_used(&name, || cloud.runtime.disk_usage(id), |bytes| bytes >= 8 * MIB).await;
    }
    cloud.until_used("the sandbox", of_sandbox, |bytes| bytes >= 2 * MIB).await;
    let stats = cloud.runtime.sandbox_stats("p10").await.unwrap();
    assert!(stats.memory_bytes > 0 && stats.pids > 0, "{stats:?}");
    // Of one that runs nothing is lost.
    cloud.runtime.discard_layers("p10").await.unwrap();
    assert_eq!(cloud.sh(&goes_on, "stat -c %s /big /etc/hosts").await, "8388608\n2097152\n");
    assert!(cloud.runtime.sandbox("p10").await.unwrap().unwrap().ready);

    for _ in 0..2 {
        cloud.runtime.stop_sandbox("p10").await.unwrap();
        assert!(!cloud.runtime.sandbox("p10").await.unwrap().unwrap().ready);
    }
    let before: Vec<_> = [cloud.status(&done).await, cloud.status(&goes_on).await].into();
    let codes: Vec<_> = before.iter().map(|run| (run.state, run.exit_code)).collect();
    assert_eq!(codes, [(ContainerState::Exited, Some(3)), (ContainerState::Exited, Some(137))]);
    assert_eq!(cloud.runtime.sandbox_stats("p10").await.unwrap().pids, 0);
    let again = cloud.runtime.create_and_start("p10", script("late", "true")).await;
    assert!(matches!(again, Err(RuntimeError::SandboxDead(_))), "{again:?}");
    for _ in 0..2 {
        cloud.runtime.discard_layers("p10").await.unwrap();
        for (id, before) in [&done, &goes_on].into_iter().zip(&before) {
            let name = id.to_string();
            cloud.until_used(&name, || cloud.runtime.disk_usage(id), |bytes| bytes < MIB).await;
            assert_eq!(format!("{:?}", cloud.status(id).await), format!("{before:?}"));
            assert_eq!(cloud.log(id, LogOptions::default()).await, "wrote\n");
        }
        cloud.until_used("the sandbox", of_sandbox, |bytes| bytes < MIB).await;
    }
}

pub(super) async fn all_is_found_again_and_a_cleared_sandbox_keeps_its_last_logs(cloud: &Cloud) {
    let labels = [("k".to_owned(), "v".to_owned())];
    let config = ContainerConfig { labels: labels.clone().into(), ..script("loop", "echo tick; sleep 1000") };
    let id = cloud.start("p7", config).await;
    let done = cloud.start("p7", script("done", "exit 3")).await;
    cloud.exited(&done).await;
    let found = cloud.runtime.list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].config.hostname.as_str(), found[0].ready), ("p7-host", true));
    let states: Vec<_> = found[0].containers.iter().map(|c| (c.state, c.exit_code)).collect();
    assert_eq!(states, [(ContainerState::Exited, Some(3)), (ContainerState::Running, None)]);
    let running = &found[0].containers[1];
    assert_eq!((running.id.clone(), running.image.as_str()), (id.clone(), IMAGE));
    assert_eq!(running.labels, labels.into());
    assert!(running.image_id.starts_with("sha256:") && running.pid.is_some(), "{running:?}");
    cloud.runtime.stop_sandbox("p7").await.unwrap();
    let stopped = cloud.status(&id).await;
    assert_eq!((stopped.state, stopped.exit_code), (ContainerState::Exited, Some(137)));
    cloud.runtime.clear_sandbox("p7").await.unwrap();
    assert!(cloud.runtime.list().await.unwrap().is_empty());
    let again = ContainerConfig { attempt: 1, ..script("loop", "sleep 1000") };
    let again = cloud.start("p7", again).await;
    let options = LogOptions { previous: true, ..LogOptions::default() };
    assert_eq!(cloud.log(&again, options).await, "tick\n");
}
