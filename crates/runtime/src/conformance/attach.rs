//! Attaching to running containers.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Cloud, script};
use crate::{ContainerConfig, ContainerState, ExecSession, LogOptions, RuntimeError};

async fn output_of(session: &mut ExecSession) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.read_to_string(&mut out).await.unwrap();
    if let Some(stderr) = &mut session.stderr {
        stderr.read_to_string(&mut err).await.unwrap();
    }
    (out, err)
}

pub(super) async fn all_clients_see_the_output_and_the_first_ones_input_counts(cloud: &Cloud) {
    let text = "while [ ! -e /tmp/go ]; do echo early; sleep 0.1; done & read first; touch /tmp/go; wait; \
                echo got $first; echo bad >&2; cat; exit 3";
    let config = ContainerConfig { stdin: true, stdin_once: true, ..script("main", text) };
    let id = cloud.start("at1", config).await;
    let mut one = cloud.runtime.attach(&id, true).await.unwrap();
    let mut two = cloud.runtime.attach(&id, false).await.unwrap();
    assert!(two.stdin.is_none() && one.resize.is_none());
    // Who has seen something is attached.
    let mut seen = [0; 1];
    for client in [&mut one, &mut two] {
        client.stdout.read_exact(&mut seen).await.unwrap();
    }
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

pub(super) async fn a_client_that_leaves_neither_ends_nor_blocks_the_container(cloud: &Cloud) {
    let text = "read go; head -c 1000000 /dev/zero; read more; echo $more";
    let config = ContainerConfig { stdin: true, ..script("main", text) };
    let id = cloud.start("at2", config).await;
    let mut first = cloud.runtime.attach(&id, true).await.unwrap();
    first.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    // It has taken nothing of a megabyte, which no pipe holds, and leaves.
    drop(first);
    assert_eq!(cloud.status(&id).await.state, ContainerState::Running);
    let mut second = cloud.runtime.attach(&id, true).await.unwrap();
    second.stdin.as_mut().unwrap().write_all(b"end\n").await.unwrap();
    let seen = output_of(&mut second).await.0;
    assert!(seen.ends_with("end\n"));
    assert_eq!(second.exit.await.unwrap(), 0);
}

pub(super) async fn input_that_ends_lets_its_client_go_where_the_containers_goes_on(cloud: &Cloud) {
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

pub(super) async fn without_stdin_there_is_nothing_to_write_to(cloud: &Cloud) {
    let text = "cat; while [ ! -e /tmp/go ]; do echo early; sleep 0.1; done; echo done";
    let id = cloud.start("at3", script("main", text)).await;
    let mut session = cloud.runtime.attach(&id, true).await.unwrap();
    assert!(session.stdin.is_none());
    session.stdout.read_exact(&mut [0; 1]).await.unwrap();
    cloud.sh(&id, "touch /tmp/go").await;
    let seen = tokio::time::timeout(Duration::from_secs(20), output_of(&mut session)).await.unwrap();
    assert!(seen.0.ends_with("arly\ndone\n"), "{seen:?}");
}

pub(super) async fn a_terminal_is_shared_and_resized(cloud: &Cloud) {
    let config = ContainerConfig { tty: true, stdin: true, ..script("main", "exec sh") };
    let id = cloud.start("at4", config).await;
    let mut session = cloud.runtime.attach(&id, true).await.unwrap();
    let mut watcher = cloud.runtime.attach(&id, false).await.unwrap();
    assert!(session.stderr.is_none() && watcher.resize.is_some());
    let stdin = session.stdin.as_mut().unwrap();
    // A shell answers each line with its prompt.
    for stdout in [&mut session.stdout, &mut watcher.stdout] {
        let mut seen = [0; 1];
        while tokio::time::timeout(Duration::from_millis(100), stdout.read_exact(&mut seen)).await.is_err() {
            stdin.write_all(b"\n").await.unwrap();
        }
    }
    session.resize.as_ref().unwrap().resize(101, 33).unwrap();
    session
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; stty size; exit 4\n")
        .await
        .unwrap();
    let (seen, watched) = tokio::join!(output_of(&mut session), output_of(&mut watcher));
    assert!(seen.0.contains("33 101\r\n") && watched.0.contains("33 101\r\n"), "{seen:?} {watched:?}");
    assert_eq!(session.exit.await.unwrap(), 4);
}
