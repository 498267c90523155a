//! What containers may do and share.

use super::{Cloud, script};
use crate::{ContainerConfig, ContainerId, ContainerState, Resources, RuntimeError, SandboxConfig, Seccomp};

/// A container that stays until it is told to go.
fn sleeper(name: &str) -> ContainerConfig {
    script(name, "trap 'exit 0' TERM; while :; do sleep 0.1; done")
}

fn words(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

fn line<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or_default()
}

pub(super) async fn a_privileged_container_has_all_rights_and_devices(cloud: &Cloud) {
    cloud.runtime.run_sandbox(SandboxConfig { privileged: true, ..cloud.sandbox("r1") }).await.unwrap();
    let config = ContainerConfig { privileged: true, ..sleeper("free") };
    let id = cloud.runtime.create_and_start("r1", config).await.unwrap();
    let status = cloud.sh(&id, "cat /proc/self/status").await;
    assert_eq!(line(&status, "NoNewPrivs"), "0");
    // All that whoever runs the node has.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(line(&status, "CapEff"), line(&own, "CapPrm"));
    // It may write to what is read-only for others, here without an effect.
    let text = "cat /proc/sys/kernel/panic > /proc/sys/kernel/panic && echo ok; ls /dev | head -c 4096";
    let said = cloud.sh(&id, text).await;
    assert!(said.starts_with("ok\n"), "{said}");
    assert!(said.lines().count() > 12, "{said}");
    cloud.runtime.remove_sandbox("r1").await.unwrap();
}

pub(super) async fn groups_and_users_are_as_asked_for(cloud: &Cloud) {
    let config = ContainerConfig { run_as_user: Some(33), supplemental_groups: vec![777], ..sleeper("who") };
    let id = cloud.start("r2", config).await;
    assert_eq!(cloud.sh(&id, "id").await, "uid=33(web) gid=34 groups=34,777\n");
    let user = cloud.status(&id).await.user;
    assert_eq!((user.uid, user.gid, user.groups), (33, 34, vec![34, 777]));
    let config = ContainerConfig { run_as_non_root: true, ..script("root", "true") };
    let refused = cloud.runtime.create_and_start("r2", config).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::NonRoot(_)), "{refused}");
    // A signal of its own choice ends it at once.
    let config = ContainerConfig { stop_signal: Some("SIGUSR1".to_owned()), ..sleeper("usr") };
    let config =
        ContainerConfig { command: words("trap 'exit 7' USR1; while :; do sleep 0.1; done"), ..config };
    let id = cloud.runtime.create_and_start("r2", config).await.unwrap();
    cloud.sh(&id, "true").await;
    let ended = cloud.runtime.stop_container(&id, std::time::Duration::from_secs(20)).await.unwrap();
    assert_eq!(ended.exit_code, Some(7));
}

pub(super) async fn whoever_runs_can_open_its_output_again(cloud: &Cloud) {
    // Images of servers that log to files have these lead to `/dev/stdout`, and their programs are not root.
    let text = "echo out > /dev/stdout && echo err > /dev/stderr";
    for tty in [false, true] {
        let name = if tty { "terminal" } else { "pipes" };
        // A terminal may be given to its user a moment after the start.
        let said = format!("sleep 1; {text}");
        let config = ContainerConfig { run_as_user: Some(33), tty, ..script(name, &said) };
        let id = cloud.start("r6", config).await;
        assert_eq!(cloud.exited(&id).await.exit_code, Some(0), "{name}");
        let log = cloud.log(&id, Default::default()).await;
        assert!(log.contains("out") && log.contains("err"), "{name}: {log}");
    }
    let id = cloud.start("r6", ContainerConfig { run_as_user: Some(33), ..sleeper("c") }).await;
    assert_eq!(cloud.sh(&id, text).await, "out\nerr\n");
    // What is everybody's stays that.
    assert!(cloud.sh(&id, "ls -l /dev/null").await.contains("root"));
    cloud.runtime.remove_sandbox("r6").await.unwrap();
}

pub(super) async fn containers_share_processes_when_their_pod_says_so(cloud: &Cloud) {
    let sandbox = SandboxConfig { share_processes: true, ..cloud.sandbox("r3") };
    cloud.runtime.run_sandbox(sandbox).await.unwrap();
    let one = script("one", "sleep 4242 & wait");
    let one = cloud.runtime.create_and_start("r3", one).await.unwrap();
    let two = cloud.runtime.create_and_start("r3", sleeper("two")).await.unwrap();
    let seen = cloud.sh(&two, "ps").await;
    assert!(seen.contains("sleep 4242"), "{seen}");
    // All of it ends with its first process, although that is not the first of the namespace.
    let ended = cloud.runtime.stop_container(&one, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(ended.state, ContainerState::Exited);
    assert!(!cloud.sh(&two, "ps").await.contains("sleep 4242"));
    assert_eq!(cloud.status(&two).await.state, ContainerState::Running);
    cloud.runtime.remove_sandbox("r3").await.unwrap();
}

pub(super) async fn a_container_joins_the_processes_of_another(cloud: &Cloud) {
    let main = cloud.start("r4", script("main", "sleep 4243 & wait")).await;
    let debug = ContainerConfig { processes_of: Some(main.clone()), ..sleeper("debug") };
    let debug = cloud.runtime.create_and_start("r4", debug).await.unwrap();
    assert!(cloud.sh(&debug, "ps").await.contains("sleep 4243"));
    let nobody =
        ContainerConfig { processes_of: Some(ContainerId::new("r4", "nobody", 0)), ..sleeper("lost") };
    let refused = cloud.runtime.create_and_start("r4", nobody).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::ContainerNotFound(_)), "{refused}");
}

pub(super) async fn the_pod_s_kernel_parameters_and_the_host_s_processes(cloud: &Cloud) {
    let sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_unprivileged_port_start", "79")];
    let sandbox = SandboxConfig {
        sysctls: sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        host_pid: true,
        ..cloud.sandbox("r5")
    };
    cloud.runtime.run_sandbox(sandbox).await.unwrap();
    let id = cloud.runtime.create_and_start("r5", sleeper("c")).await.unwrap();
    let read = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(cloud.sh(&id, read).await, "1\n79\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap(), "1024\n");
    // This very test is among what it sees.
    let test = format!("ls -d /proc/{}", std::process::id());
    assert_eq!(cloud.sh(&id, &test).await, format!("/proc/{}\n", std::process::id()));
    cloud.runtime.remove_sandbox("r5").await.unwrap();
}

pub(super) async fn calls_that_are_not_in_the_profile_fail(cloud: &Cloud) {
    let config = ContainerConfig {
        seccomp: Seccomp::RuntimeDefault,
        allow_privilege_escalation: true,
        add_capabilities: vec!["SYS_TIME".to_owned()],
        ..sleeper("default")
    };
    let id = cloud.start("r6", config).await;
    let status = cloud.sh(&id, "cat /proc/self/status").await;
    assert_eq!((line(&status, "Seccomp"), line(&status, "NoNewPrivs")), ("2", "0"), "setuid programs work");
    assert!(cloud.sh(&id, "mount -t tmpfs x /tmp").await.contains("ermission denied"));
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let config = ContainerConfig { seccomp: Seccomp::Profile(profile.to_owned()), ..sleeper("own") };
    let id = cloud.runtime.create_and_start("r6", config).await.unwrap();
    let said = cloud.sh(&id, "touch /tmp/a && echo fine; busybox mkdir /tmp/b").await;
    assert!(said.starts_with("fine\n") && said.contains("not permitted"), "{said}");
    // What its process is lent to put the filter on is gone when its program runs, whoever that runs as.
    for user in [0, 1000] {
        let all = |name: &str, seccomp, allow| ContainerConfig {
            seccomp,
            allow_privilege_escalation: allow,
            run_as_user: Some(user),
            drop_capabilities: vec!["SETPCAP".to_owned()],
            ..sleeper(&format!("{name}-{user}"))
        };
        let mut found = Vec::new();
        for config in [
            all("filtered", Seccomp::RuntimeDefault, true),
            all("unfiltered", Seccomp::Unconfined, true),
            all("bound", Seccomp::RuntimeDefault, false),
        ] {
            let id = cloud.runtime.create_and_start("r6", config).await.unwrap();
            let both = cloud.sh(&id, "grep ^Cap /proc/1/status; grep ^Cap /proc/self/status").await;
            assert_eq!(both.lines().count(), 10, "{both}");
            found.push(both);
        }
        assert_eq!(found[0], found[1], "as without a filter");
        assert_eq!(found[0], found[2], "as without new privileges");
    }
    let plain = cloud.runtime.create_and_start("r6", sleeper("plain")).await.unwrap();
    assert_eq!(line(&cloud.sh(&plain, "cat /proc/self/status").await, "Seccomp"), "0");
}

/// Whether a pod has this share of the CPU: shares of cgroup v1, or what that is as a weight of v2.
fn has_share(cloud: &Cloud, uid: &str, (shares, weight): (u64, u64)) -> bool {
    let group = format!("yunfan-{}/pod{uid}", cloud.tag);
    let read = |path: String| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    match read(format!("/sys/fs/cgroup/cpu/{group}/cpu.shares")) {
        Ok(found) => found == shares.to_string(),
        Err(_) => read(format!("/sys/fs/cgroup/{group}/cpu.weight")).unwrap() == weight.to_string(),
    }
}

pub(super) async fn limits_change_while_a_container_runs(cloud: &Cloud) {
    // A score that not everyone may give is no hindrance.
    let resources =
        Resources { memory_limit_bytes: Some(40 << 20), oom_score_adj: Some(-997), ..Resources::default() };
    cloud.runtime.run_sandbox(cloud.sandbox("r7")).await.unwrap();
    let share = Resources { cpu_shares: Some(2048), ..Resources::default() };
    cloud.runtime.update_sandbox("r7", share).await.unwrap();
    let id =
        cloud.runtime.create_and_start("r7", ContainerConfig { resources, ..sleeper("c") }).await.unwrap();
    assert!(has_share(cloud, "r7", (2048, 174)), "it has that before anything runs, and keeps it");
    let less = Resources { memory_limit_bytes: Some(1 << 20), ..Resources::default() };
    let text = "dd if=/dev/zero of=/dev/shm/x bs=1M count=24 2>/dev/null && echo held";
    assert_eq!(cloud.sh(&id, text).await, "held\n");
    let more = Resources {
        memory_limit_bytes: Some(128 << 20),
        cpu_quota_us: Some(50_000),
        cpu_shares: Some(512),
        ..Resources::default()
    };
    cloud.runtime.update_container(&id, more).await.unwrap();
    let text = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    assert_eq!(cloud.sh(&id, text).await, "134217728\n", "it sees its own cgroup");
    let text = "cd /sys/fs/cgroup; for at in . *; do [ -e $at/cgroup.procs ] && mkdir $at/x 2>/dev/null && echo $at; done; true";
    assert_eq!(cloud.sh(&id, text).await, "", "and can't change it");
    let text = "dd if=/dev/zero of=/dev/shm/y bs=1M count=32 2>/dev/null && echo held";
    assert_eq!(cloud.sh(&id, text).await, "held\n");
    // All containers of the pod together have limits of their own.
    let together =
        Resources { memory_limit_bytes: Some(256 << 20), cpu_shares: Some(256), ..Resources::default() };
    cloud.runtime.update_sandbox("r7", together).await.unwrap();
    let group = format!("yunfan-{}/podr7", cloud.tag);
    let limit = std::fs::read_to_string(format!("/sys/fs/cgroup/memory/{group}/memory.limit_in_bytes"))
        .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup/{group}/memory.max")));
    assert_eq!(limit.unwrap().trim(), (256 << 20).to_string());
    assert!(has_share(cloud, "r7", (256, 35)));
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    // The unified hierarchy takes any limit, and kills.
    assert!(unified || cloud.runtime.update_container(&id, less).await.is_err(), "it holds more than that");
    cloud.runtime.stop_container(&id, std::time::Duration::ZERO).await.unwrap();
    let late = cloud.runtime.update_container(&id, Resources::default()).await.unwrap_err();
    assert!(matches!(late, RuntimeError::NotRunning(_)), "{late}");
}
