//! The suite on the embedded runtime, which can do all of it. Needs root, `ip` and a static busybox.

mod common;

use yunfan_runtime::conformance;

#[tokio::test(flavor = "multi_thread")]
async fn embedded_runtime() {
    let instance = common::Instance::new().await;
    conformance::run(&instance, &[]).await;
    conformance::images(&instance, instance.runtime.images().as_ref()).await;
    // What is mounted for pods is not seen on the host, and what runs on is what shims are forked from.
    let left = common::traces(&instance.tag, instance.dir.path());
    let stays = |trace: &String| trace.starts_with("cgroup") || trace.contains(" --pods ");
    assert!(left.iter().all(stays), "{left:?}");
}
