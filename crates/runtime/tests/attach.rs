//! Attaching to running containers. Needs root, `ip` and a static busybox.

mod common;

use std::time::Duration;

use common::{Instance, script};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yunfan_runtime::{ContainerConfig, ContainerId, ContainerState, LogOptions, Runtime, RuntimeError};

async fn output_of(session: &mut yunfan_runtime::ExecSession) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.read_to_string(&mut out).await.unwrap();
    if let Some(stderr) = &mut session.stderr {
        stderr.read_to_string(&mut err).await.unwrap();
    }
    (out, err)
}

async fn state(cloud: &Instance, id: &ContainerId) -> ContainerState {
    let sandbox = cloud.runtime.sandbox(&id.pod_uid).await.unwrap().unwrap();
    sandbox.containers.iter().find(|status| status.id == *id).unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clients_see_the_output_and_the_first_ones_input_counts() {
    let cloud = Instance::new().await;
    let text = "echo early; read first; echo got $first; echo bad >&2; cat; exit 3";
    let config = ContainerConfig { stdin: true, stdin_once: true, ..script("main", text) };
    let id = cloud.start("at1", config).await;
    let mut one = cloud.runtime.attach(&id, true).await.unwrap();
    let mut two = cloud.runtime.attach(&id, false).await.unwrap();
    assert!(two.stdin.is_none() && one.resize.is_none());
    let mut stdin = one.stdin.take().unwrap();
    stdin.write_all(b"this\nrest").await.unwrap();
    let (one, two) = tokio::join!(
        async {
            stdin.shutdown().await.unwrap();
            drop(stdin);
            let exit = tokio::spawn(one.exit);
            let (mut out, mut err) = (String::new(), String::new());
            one.stdout.read_to_string(&mut out).await.unwrap();
            one.stderr.unwrap().read_to_string(&mut err).await.unwrap();
            (out, err, exit.await.unwrap().unwrap())
        },
        async {
            let seen = output_of(&mut two).await;
            (seen.0, seen.1, two.exit.await.unwrap())
        }
    );
    assert_eq!(two.2, 3);
    for (out, err, code) in [one, two] {
        assert!(out.ends_with("got this\nrest"), "{out:?}");
        assert_eq!((err.as_str(), code), ("bad\n", 3));
    }
    let log = cloud.log(&id, LogOptions::default()).await;
    assert!(log.starts_with("early\n") && log.contains("got this\n"), "{log:?}");
    assert!(matches!(cloud.runtime.attach(&id, true).await, Err(RuntimeError::NotRunning(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_neither_ends_nor_blocks_the_container() {
    let cloud = Instance::new().await;
    let text = "read go; head -c 1000000 /dev/zero; read more; echo $more";
    let config = ContainerConfig { stdin: true, ..script("main", text) };
    let id = cloud.start("at2", config).await;
    let mut first = cloud.runtime.attach(&id, true).await.unwrap();
    first.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    // It has taken nothing of a megabyte, which no pipe holds, and leaves.
    drop(first);
    assert_eq!(state(&cloud, &id).await, ContainerState::Running);
    let mut second = cloud.runtime.attach(&id, true).await.unwrap();
    second.stdin.as_mut().unwrap().write_all(b"end\n").await.unwrap();
    let seen = output_of(&mut second).await.0;
    assert!(seen.ends_with("end\n"));
    assert_eq!(second.exit.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_ends_lets_its_client_go_where_the_containers_goes_on() {
    let cloud = Instance::new().await;
    let config = ContainerConfig { stdin: true, ..script("main", "read a; read b; echo $a $b; exit 5") };
    let id = cloud.start("at5", config).await;
    let mut watcher = cloud.runtime.attach(&id, false).await.unwrap();
    for line in ["one\n", "two\n"] {
        let mut session = cloud.runtime.attach(&id, true).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(line.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
        let exit = tokio::time::timeout(Duration::from_secs(20), session.exit).await.unwrap().unwrap();
        // The second may see the container's own end.
        assert!(exit == 0 || (line == "two\n" && exit == 5), "{line:?}: {exit}");
    }
    assert_eq!(output_of(&mut watcher).await.0, "one two\n");
    assert_eq!(watcher.exit.await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stdin_there_is_nothing_to_write_to() {
    let cloud = Instance::new().await;
    let id = cloud.start("at3", script("main", "cat; sleep 1; echo done")).await;
    let mut session = cloud.runtime.attach(&id, true).await.unwrap();
    assert!(session.stdin.is_none());
    let seen = tokio::time::timeout(Duration::from_secs(20), output_of(&mut session)).await.unwrap();
    assert_eq!(seen.0, "done\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_shared_and_resized() {
    let cloud = Instance::new().await;
    let config = ContainerConfig { tty: true, stdin: true, ..script("main", "exec sh") };
    let id = cloud.start("at4", config).await;
    let mut session = cloud.runtime.attach(&id, true).await.unwrap();
    let mut watcher = cloud.runtime.attach(&id, false).await.unwrap();
    assert!(session.stderr.is_none() && watcher.resize.is_some());
    session.resize.as_ref().unwrap().resize(101, 33).unwrap();
    session.stdin.as_mut().unwrap().write_all(b"stty size; exit 4\n").await.unwrap();
    let (seen, watched) = tokio::join!(output_of(&mut session), output_of(&mut watcher));
    assert!(seen.0.contains("33 101\r\n") && watched.0.contains("33 101\r\n"), "{seen:?} {watched:?}");
    assert_eq!(session.exit.await.unwrap(), 4);
}
