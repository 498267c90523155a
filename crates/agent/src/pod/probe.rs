//! Probes: startup, readiness and liveness of a container's run, by command, HTTP, TCP or gRPC, from inside the Pod's network.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::mpsc;
use url::Url;
use yunfan_runtime::{ContainerId, Runtime};

use super::grpc;
use super::http::{self, Reach};
use super::tries::Tries;

/// What probes say who they are.
pub(crate) const AGENT: &str = "kube-probe/1.36";
/// Redirects that are followed, as long as they stay with the Pod.
const MOST_REDIRECTS: usize = 10;
/// Most characters of what a probe's command says that go into an event.
const LONGEST_OUTPUT: usize = 1024;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// One try was good, but not all is as it should be.
    Doubtful(Which, String),
    Dead(Which),
}

/// What a probe needs to reach a container.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) id: ContainerId,
    pub(crate) container: Container,
    pub(crate) reach: Reach,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// When the run began.
    pub(crate) started_at: Option<SystemTime>,
    /// What an agent before this one has found out about the same run.
    pub(crate) before: Before,
    /// Where the tries are counted.
    pub(crate) tries: Arc<Tries>,
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
        let delay = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        // Since the container's start, also for one that waited for another probe, or for another agent.
        let since = target.started_at.and_then(|at| SystemTime::now().duration_since(at).ok());
        tokio::time::sleep(delay.saturating_sub(since.unwrap_or_default())).await;
        Self { which, probe, target, verdicts, good: 0, bad: 0 }
    }

    /// Tries once and counts. Returns false when nobody listens any more.
    async fn attempt(&mut self) -> bool {
        let began = Instant::now();
        let result = attempt(self.target, self.probe).await;
        let name = &self.target.container.name;
        self.target.tries.note(name, self.which, result.is_ok(), began.elapsed());
        match result {
            Ok(None) => (self.good, self.bad) = (self.good + 1, 0),
            Ok(Some(doubt)) => {
                (self.good, self.bad) = (self.good + 1, 0);
                return self.verdicts.send(Verdict::Doubtful(self.which, doubt)).await.is_ok();
            }
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
        pause(self.probe).await;
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

/// As [`run`] for a run that has been asked to end: only whether it is ready is asked on, beginning when it would be its turn.
pub(crate) async fn while_ending(target: Target, verdicts: mpsc::Sender<Verdict>) {
    let Some(probe) = &target.container.readiness_probe else { return };
    pause(probe).await;
    readiness(&target, &verdicts).await;
}

async fn pause(probe: &Probe) {
    let seconds = u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
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

/// Tries once. One that is good may have something to say nevertheless.
async fn attempt(target: &Target, probe: &Probe) -> Result<Option<String>, String> {
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(action) = &probe.exec {
        return exec(target, action.command.clone().unwrap_or_default(), limit).await.map(|()| None);
    }
    let attempt = async {
        if let Some(action) = &probe.http_get {
            http_get(target, action).await
        } else if let Some(action) = &probe.tcp_socket {
            let port = http::port(&target.container, &action.port)?;
            target.reach.dial(action.host.as_deref(), port).await.map(|_| None)
        } else if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).map_err(|_| format!("port {} is unknown", action.port))?;
            let stream = tokio::time::timeout(limit, target.reach.dial(None, port)).await;
            let lost = || {
                let address = SocketAddr::new(target.reach.ip, port);
                format!(
                    "timeout: failed to connect service {:?} within {limit:?}: context deadline exceeded",
                    address.to_string()
                )
            };
            let stream = stream.ok().and_then(Result::ok).ok_or_else(lost)?;
            grpc::check(stream, action.service.as_deref().unwrap_or_default()).await.map(|()| None)
        } else {
            Err("the probe has no action that is supported (exec, httpGet, tcpSocket, grpc)".to_owned())
        }
    };
    let late = |_| Err(late(target.reach.ip, &target.container, probe, limit));
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(late)
}

/// What is told of a probe that took too long.
fn late(ip: IpAddr, container: &Container, probe: &Probe, limit: Duration) -> String {
    const LATE: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    if let Some(action) = &probe.http_get {
        return http::place(ip, container, action).map_or_else(|why| why, |at| format!("Get {at:?}: {LATE}"));
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_string());
        return http::port(container, &action.port)
            .map_or_else(|why| why, |port| format!("dial tcp {host}:{port}: i/o timeout"));
    }
    format!("timeout: health rpc did not complete within {limit:?}")
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

/// Follows redirects within the host, as kubelets do. Where one leads elsewhere, the container is up, and others are not asked; people
/// are told.
async fn http_get(target: &Target, action: &HTTPGetAction) -> Result<Option<String>, String> {
    let mut action = action.clone();
    for _ in 0..MOST_REDIRECTS {
        let place = http::place(target.reach.ip, &target.container, &action)?;
        let at: Url = place.parse().map_err(|error| format!("{place} is no address: {error}"))?;
        let answer = http::get(&target.reach, &target.container, &action, AGENT).await;
        let answer = answer.map_err(|why| format!("Get {place:?}: {why}"))?;
        match answer.status.as_u16() {
            200..300 => return Ok(None),
            300..400 => match answer.location.and_then(|location| within(&at, &location)) {
                Some(next) => redirect(&mut action, &next),
                None => {
                    return Ok(Some(format!("Probe terminated redirects, Response body: {}", answer.said)));
                }
            },
            code => return Err(format!("HTTP probe failed with statuscode: {code}")),
        }
    }
    Err(format!("stopped after {MOST_REDIRECTS} redirects"))
}

/// Where a redirect leads, if that is the same host.
fn within(at: &Url, location: &str) -> Option<Redirect> {
    let next = at.join(location).ok()?;
    let is_web = matches!(next.scheme(), "http" | "https");
    let absolute = Url::parse(location).is_ok();
    (is_web && next.host_str() == at.host_str()).then_some(Redirect { next, absolute })
}

/// A redirect within a host.
struct Redirect {
    next: Url,
    /// It names the host, so that a name of the first request's own counts no more.
    absolute: bool,
}

fn redirect(action: &mut HTTPGetAction, Redirect { next, absolute }: &Redirect) {
    action.scheme = Some(next.scheme().to_uppercase());
    action.port = IntOrString::Int(next.port_or_known_default().unwrap_or_default().into());
    let query = next.query().map(|query| format!("?{query}")).unwrap_or_default();
    action.path = Some(format!("{}{query}", next.path()));
    if *absolute {
        action.http_headers.iter_mut().for_each(|all| all.retain(|h| !h.name.eq_ignore_ascii_case("host")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_takes_too_long_is_told_with_its_place() {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 80}]}))
                .unwrap();
        let said = |probe| {
            let probe: Probe = serde_json::from_value(probe).unwrap();
            late("10.0.0.7".parse().unwrap(), &container, &probe, Duration::from_secs(2))
        };
        let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
        let got = said(json!({"httpGet": {"port": "web", "path": "/up"}}));
        assert_eq!(got, format!("Get \"http://10.0.0.7:80/up\": {late}"));
        let got = said(json!({"httpGet": {"port": 443, "scheme": "HTTPS", "host": "10.0.0.8"}}));
        assert_eq!(got, format!("Get \"https://10.0.0.8:443/\": {late}"));
        assert_eq!(said(json!({"tcpSocket": {"port": "web"}})), "dial tcp 10.0.0.7:80: i/o timeout");
        let got = said(json!({"grpc": {"port": 1}}));
        assert_eq!(got, "timeout: health rpc did not complete within 2s");
    }

    #[test]
    fn redirects_are_followed_within_the_host() {
        let at: Url = "http://10.0.0.7:8080/a/b?x=1".parse().unwrap();
        let follow = |location: &str| {
            let headers = json!([{"name": "host", "value": "web"}]);
            let mut action: HTTPGetAction =
                serde_json::from_value(json!({"port": "web", "httpHeaders": headers})).unwrap();
            redirect(&mut action, &within(&at, location)?);
            let own_host = action.http_headers.is_some_and(|headers| !headers.is_empty());
            Some((action.scheme?, json!(action.port), action.path?, own_host))
        };
        let to = |scheme: &str, port: u16, path: &str, own_host| {
            Some((scheme.to_owned(), json!(port), path.to_owned(), own_host))
        };
        assert_eq!(follow("/c?y=2"), to("HTTP", 8080, "/c?y=2", true));
        assert_eq!(follow("c"), to("HTTP", 8080, "/a/c", true));
        assert_eq!(follow("https://10.0.0.7/c"), to("HTTPS", 443, "/c", false));
        assert_eq!(follow("http://10.0.0.7:81/"), to("HTTP", 81, "/", false));
        for elsewhere in ["http://10.0.0.8:8080/", "//web.example/", "ftp://10.0.0.7/", "http://"] {
            assert_eq!(follow(elsewhere), None, "{elsewhere}");
        }
    }
}
