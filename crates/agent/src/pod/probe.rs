//! Probes: startup, readiness and liveness of a container's run, by command, HTTP, TCP or gRPC, from inside the Pod's network.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use tokio::sync::mpsc;
use yunfan_runtime::{ContainerId, Runtime};

use super::grpc;
use super::http::{self, Reach};

/// What probes say who they are.
pub(crate) const AGENT: &str = "kube-probe/1.36";
/// Redirects that are followed, as long as they stay with the Pod.
const MOST_REDIRECTS: usize = 10;
/// Most characters of what a probe's command says that go into an event.
const LONGEST_OUTPUT: usize = 1024;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Startup,
    Readiness,
    Liveness,
}

impl Which {
    /// As events call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a probe found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Started,
    Ready(bool),
    /// One try failed.
    Failed(Which, String),
    Dead(Which),
}

/// What a probe needs to reach a container.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) id: ContainerId,
    pub(crate) container: Container,
    pub(crate) reach: Reach,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// What an agent before this one has found out about the same run.
    pub(crate) before: Before,
}

/// What is known about a run when its probes begin: nothing, but after a restart of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) started: bool,
    pub(crate) ready: bool,
}

/// One probe of a container, and how its last tries went.
struct Prober<'a> {
    which: Which,
    probe: &'a Probe,
    target: &'a Target,
    verdicts: &'a mpsc::Sender<Verdict>,
    good: i32,
    bad: i32,
}

impl<'a> Prober<'a> {
    async fn new(
        which: Which,
        probe: &'a Probe,
        target: &'a Target,
        verdicts: &'a mpsc::Sender<Verdict>,
    ) -> Self {
        let seconds = u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Self { which, probe, target, verdicts, good: 0, bad: 0 }
    }

    /// Tries once and counts. Returns false when nobody listens any more.
    async fn attempt(&mut self) -> bool {
        match attempt(self.target, self.probe).await {
            Ok(()) => (self.good, self.bad) = (self.good + 1, 0),
            Err(reason) => {
                (self.good, self.bad) = (0, self.bad + 1);
                return self.verdicts.send(Verdict::Failed(self.which, reason)).await.is_ok();
            }
        }
        true
    }

    fn succeeds(&self) -> bool {
        self.good >= self.probe.success_threshold.unwrap_or(1).max(1)
    }

    fn fails(&self) -> bool {
        self.bad >= self.probe.failure_threshold.unwrap_or(3).max(1)
    }

    async fn pause(&self) {
        let seconds = u64::try_from(self.probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

/// Runs the probes of one run of a container until the returned future is dropped, and tells what they find. The startup probe
/// goes first; the others begin when it has succeeded.
pub(crate) async fn run(target: Target, verdicts: mpsc::Sender<Verdict>) {
    if let Some(probe) = target.container.startup_probe.as_ref().filter(|_| !target.before.started) {
        let mut prober = Prober::new(Which::Startup, probe, &target, &verdicts).await;
        loop {
            if !prober.attempt().await {
                return;
            }
            if prober.succeeds() {
                break;
            }
            if prober.fails() {
                let _ = verdicts.send(Verdict::Dead(Which::Startup)).await;
                return;
            }
            prober.pause().await;
        }
    }
    if verdicts.send(Verdict::Started).await.is_err() {
        return;
    }
    tokio::join!(readiness(&target, &verdicts), liveness(&target, &verdicts));
}

async fn readiness(target: &Target, verdicts: &mpsc::Sender<Verdict>) {
    let Some(probe) = &target.container.readiness_probe else { return };
    let mut state = target.before.ready;
    let mut prober = Prober::new(Which::Readiness, probe, target, verdicts).await;
    while prober.attempt().await {
        let next = if state { !prober.fails() } else { prober.succeeds() };
        if next != state {
            state = next;
            if verdicts.send(Verdict::Ready(state)).await.is_err() {
                return;
            }
        }
        prober.pause().await;
    }
}

async fn liveness(target: &Target, verdicts: &mpsc::Sender<Verdict>) {
    let Some(probe) = &target.container.liveness_probe else { return };
    let mut prober = Prober::new(Which::Liveness, probe, target, verdicts).await;
    while prober.attempt().await {
        if prober.fails() {
            let _ = verdicts.send(Verdict::Dead(Which::Liveness)).await;
            return;
        }
        prober.pause().await;
    }
}

async fn attempt(target: &Target, probe: &Probe) -> Result<(), String> {
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(action) = &probe.exec {
        return exec(target, action.command.clone().unwrap_or_default(), limit).await;
    }
    let attempt = async {
        if let Some(action) = &probe.http_get {
            http_get(target, action).await
        } else if let Some(action) = &probe.tcp_socket {
            let port = http::port(&target.container, &action.port)?;
            target.reach.dial(action.host.as_deref(), port).await.map(drop)
        } else if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).map_err(|_| format!("port {} is unknown", action.port))?;
            let stream = target.reach.dial(None, port).await?;
            grpc::check(stream, action.service.as_deref().unwrap_or_default()).await
        } else {
            Err("the probe has no action that is supported (exec, httpGet, tcpSocket, grpc)".to_owned())
        }
    };
    let late = |_| Err(format!("no answer within {limit:?} (context deadline exceeded)"));
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(late)
}

async fn exec(target: &Target, command: Vec<String>, limit: Duration) -> Result<(), String> {
    let words = command.join(" ");
    match target.runtime.exec_sync(&target.id, command, limit).await {
        Ok(result) if result.exit_code == 0 => Ok(()),
        Ok(result) => {
            let said = [result.stdout, result.stderr].concat();
            let said = String::from_utf8_lossy(&said[..said.len().min(LONGEST_OUTPUT)]).into_owned();
            Err(if said.is_empty() { format!("the command ended with {}", result.exit_code) } else { said })
        }
        Err(yunfan_runtime::RuntimeError::ExecTimeout(_)) => {
            Err(format!("command timed out: {words:?} timed out after {limit:?}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn http_get(target: &Target, action: &HTTPGetAction) -> Result<(), String> {
    let mut action = action.clone();
    for _ in 0..MOST_REDIRECTS {
        let answer = http::get(&target.reach, &target.container, &action, AGENT).await?;
        let code = answer.status.as_u16();
        match answer.location.filter(|_| answer.status.is_redirection()) {
            // To elsewhere: it is up, and where it sends others is not asked.
            Some(place) if !place.starts_with('/') || place.starts_with("//") => return Ok(()),
            Some(place) => action.path = Some(place),
            None if (200..400).contains(&code) => return Ok(()),
            None => return Err(format!("HTTP probe failed with statuscode: {code}")),
        }
    }
    Err(format!("stopped after {MOST_REDIRECTS} redirects"))
}
