//! Probes: startup, readiness and liveness of a container's run, by command, HTTP or TCP, from inside the Pod's network.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::mpsc;
use yunfan_network::{DialFrom, NodeNetworks};
use yunfan_runtime::{ContainerId, Runtime};

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 10 * 1024;

/// What a probe found out, when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Started,
    Ready(bool),
    Dead,
}

/// What a probe needs to reach a container.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) id: ContainerId,
    pub(crate) container: Container,
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) networks: NodeNetworks,
    /// What an agent before this one has found out about the same run.
    pub(crate) before: Before,
}

/// What is known about a run when its probes begin: nothing, but after a restart of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) started: bool,
    pub(crate) ready: bool,
}

/// Runs the probes of one run of a container until the returned future is dropped, and tells what changes. The startup probe
/// goes first; the others begin when it has succeeded.
pub(crate) async fn run(target: Target, verdicts: mpsc::Sender<Verdict>) {
    if let Some(probe) = target.container.startup_probe.as_ref().filter(|_| !target.before.started) {
        loop {
            match until_threshold(&target, probe).await {
                true => break,
                false => {
                    if verdicts.send(Verdict::Dead).await.is_err() {
                        return;
                    }
                }
            }
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
    delay(probe).await;
    let (mut good, mut bad) = (0, 0);
    loop {
        count(attempt(target, probe).await, &mut good, &mut bad);
        let next = match state {
            false => good >= probe.success_threshold.unwrap_or(1).max(1),
            true => bad < probe.failure_threshold.unwrap_or(3).max(1),
        };
        if next != state {
            state = next;
            if verdicts.send(Verdict::Ready(state)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(period(probe)).await;
    }
}

async fn liveness(target: &Target, verdicts: &mpsc::Sender<Verdict>) {
    let Some(probe) = &target.container.liveness_probe else { return };
    delay(probe).await;
    let (mut good, mut bad) = (0, 0);
    loop {
        count(attempt(target, probe).await, &mut good, &mut bad);
        if bad >= probe.failure_threshold.unwrap_or(3).max(1) {
            let _ = verdicts.send(Verdict::Dead).await;
            return;
        }
        tokio::time::sleep(period(probe)).await;
    }
}

/// Tries until the probe's success or failure threshold is reached.
async fn until_threshold(target: &Target, probe: &Probe) -> bool {
    delay(probe).await;
    let (mut good, mut bad) = (0, 0);
    loop {
        count(attempt(target, probe).await, &mut good, &mut bad);
        if good >= probe.success_threshold.unwrap_or(1).max(1) {
            return true;
        }
        if bad >= probe.failure_threshold.unwrap_or(3).max(1) {
            return false;
        }
        tokio::time::sleep(period(probe)).await;
    }
}

fn count(result: Result<(), String>, good: &mut i32, bad: &mut i32) {
    match result {
        Ok(()) => (*good, *bad) = (*good + 1, 0),
        Err(reason) => {
            tracing::debug!(reason, "probe failed");
            (*good, *bad) = (0, *bad + 1);
        }
    }
}

async fn delay(probe: &Probe) {
    let seconds = u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1))
}

async fn attempt(target: &Target, probe: &Probe) -> Result<(), String> {
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(action) = &probe.exec {
        let command = action.command.clone().unwrap_or_default();
        let result = target.runtime.exec_sync(&target.id, command, limit).await;
        return match result {
            Ok(result) if result.exit_code == 0 => Ok(()),
            Ok(result) => Err(format!("the command ended with {}", result.exit_code)),
            Err(error) => Err(error.to_string()),
        };
    }
    let attempt = async {
        if let Some(action) = &probe.http_get {
            http_get(target, action).await
        } else if let Some(action) = &probe.tcp_socket {
            dial(target, action.host.as_deref(), &action.port).await.map(drop)
        } else {
            Err("the probe has no action that is supported (exec, httpGet, tcpSocket)".to_owned())
        }
    };
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

async fn dial(
    target: &Target,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<tokio::net::TcpStream, String> {
    let port = number(&target.container, port)?;
    let ip = match host.filter(|host| !host.is_empty()) {
        Some(host) => host.parse().map_err(|_| format!("host {host} is no IP address"))?,
        None => target.pod_ip.ok_or("the Pod has no address")?,
    };
    let from = DialFrom::Pod(&target.id.pod_uid);
    target.networks.dial(from, SocketAddr::new(ip, port)).await.map_err(|error| error.to_string())
}

fn number(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| format!("port {port:?} is unknown"))
}

async fn http_get(target: &Target, action: &HTTPGetAction) -> Result<(), String> {
    if action.scheme.as_deref() == Some("HTTPS") {
        return Err("scheme HTTPS is not supported by probes here; use HTTP".to_owned());
    }
    let stream = dial(target, action.host.as_deref(), &action.port).await?;
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let driver = tokio::spawn(connection);
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let ip = target.pod_ip.map(|ip| ip.to_string()).unwrap_or_default();
    let mut request =
        http::Request::get(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
            .header(http::header::HOST, ip)
            .header(http::header::USER_AGENT, "kube-probe/1.37");
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status();
    let _ = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    driver.abort();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    }
}
