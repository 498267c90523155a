//! Commands in running containers: streams, terminal, timeouts.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Cloud, script};
use crate::{ContainerConfig, ExecConfig, LogOptions, RuntimeError};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(super) async fn streams_exit_codes_and_timeouts(cloud: &Cloud) {
    let id = cloud.start("e1", script("main", "sleep 1000")).await;
    let config =
        ExecConfig { command: words(&["sh", "-c", "cat; echo bad >&2; exit 5"]), tty: false, stdin: true };
    let mut session = cloud.runtime.exec(&id, config).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    // More than pipes hold, to see that both directions flow.
    let sent = vec![b'x'; 1 << 20];
    let expected = sent.len();
    let writing = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
        drop(stdin);
    });
    let mut out = Vec::new();
    session.stdout.read_to_end(&mut out).await.unwrap();
    assert_eq!(out.len(), expected);
    let mut err = String::new();
    session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!(err, "bad\n");
    assert_eq!(session.exit.await.unwrap(), 5);
    writing.await.unwrap();

    let slow = words(&["sh", "-c", "sleep 77"]);
    let slow = cloud.runtime.exec_sync(&id, slow, Duration::from_secs(1)).await;
    assert!(matches!(slow, Err(RuntimeError::ExecTimeout(_))), "{slow:?}");
    let mut left = cloud.sh(&id, "ps").await;
    for _ in 0..100 {
        if !left.contains("sleep 77") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        left = cloud.sh(&id, "ps").await;
    }
    assert!(!left.contains("sleep 77"), "it was killed: {left}");

    let wrong = cloud.runtime.exec_sync(&id, words(&["nothing"]), Duration::from_secs(5)).await;
    assert!(matches!(&wrong, Err(RuntimeError::Start { reason, .. }) if reason.contains("nothing")));
    let killed = words(&["sh", "-c", "kill -9 $$"]);
    let killed = cloud.runtime.exec_sync(&id, killed, Duration::from_secs(5)).await.unwrap();
    assert_eq!(killed.exit_code, 137);
}

pub(super) async fn a_child_that_keeps_the_output_open_holds_up_nobody(cloud: &Cloud) {
    let id = cloud.start("e4", script("main", "sleep 1000")).await;
    let behind = words(&["sh", "-c", "sleep 55 & echo now"]);
    let behind = cloud.runtime.exec_sync(&id, behind, Duration::from_secs(5)).await.unwrap();
    assert_eq!(behind.stdout, b"now\n");
}

pub(super) async fn a_terminal_can_be_resized_and_ends(cloud: &Cloud) {
    let id = cloud.start("e2", script("main", "sleep 1000")).await;
    let config = ExecConfig { command: words(&["sh"]), tty: true, stdin: true };
    let mut session = cloud.runtime.exec(&id, config).await.unwrap();
    assert!(session.stderr.is_none());
    session.resize.as_ref().unwrap().resize(101, 33).unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin
        .write_all(
            b"until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; stty size; echo bad >&2; exit 4\n",
        )
        .await
        .unwrap();
    let mut shown = String::new();
    session.stdout.read_to_string(&mut shown).await.unwrap();
    assert!(shown.contains("33 101\r\n"), "{shown:?}");
    assert!(shown.contains("bad\r\n"), "{shown:?}");
    assert_eq!(session.exit.await.unwrap(), 4);
}

pub(super) async fn a_container_with_a_terminal_logs_what_it_shows(cloud: &Cloud) {
    let config = ContainerConfig { tty: true, ..script("tty", "[ -t 0 ] && [ -t 1 ] && echo a terminal") };
    let id = cloud.start("e3", config).await;
    assert_eq!(cloud.exited(&id).await.exit_code, Some(0));
    let log = cloud.log(&id, LogOptions::default()).await;
    // Not all who write logs keep the carriage return of a terminal's line.
    assert_eq!(log.replace("\r\n", "\n"), "a terminal\n");
}
