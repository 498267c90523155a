//! `bench-auth`: what it costs to know who asks and whether they may: how much longer a read takes with a service account's token,
//! which is verified and found among 5,000 bindings, than with the administrator's certificate, who may do all; how many
//! tokens a second are checked for others, as Keystone does it; and what a flood of one account does to another. With `KUBE_APISERVER=PATH` the same client drives that program over
//! an etcd in the same run (`ETCD=PATH` where Debian's is older than 3.5).
//! Ends with 1 where a threshold is missed.
//!
//! Use: `bench-auth YUNFAN`, as root; `make bench` calls it.

#![expect(clippy::print_stdout, reason = "a benchmark speaks to whoever runs it")]

mod flood;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use yunfan_bench::http::{Connection, Server, request};
use yunfan_bench::load::{as_admin, as_nobody, many};
use yunfan_bench::numbers::{Number, median, rate, show};
use yunfan_bench::process::{ApiServer, Cloud, peer_pki};

/// Bindings in all; one in ten is of the whole cluster.
const BINDINGS: usize = 5_000;
/// Namespaces that the others are in.
const NAMESPACES: usize = 50;
/// Reads of each kind, one of each in turn, so that both see the same machine.
const READS: usize = 4_000;
const MAP: &str = "/api/v1/namespaces/bench-0/configmaps/map";
/// Accounts that may read it.
const ACCOUNTS: [&str; 2] = ["reader", "flood"];
const JSON: &str = "content-type: application/json\r\n";
/// Tokens that Keystone checked a second on such a machine (token from token, 32 clients).
const KEYSTONE: f64 = 150.0;
/// What token and roles add to a read.
const ADDED: &str = "added by token and roles, p50";
/// What must hold: a number, and the most that it may be, in its unit.
const MOST: [(&str, f64); 2] = [(ADDED, 50.0), (flood::TIMES, 2.0)];

fn main() -> anyhow::Result<ExitCode> {
    let yunfan = std::env::args_os().nth(1).map(PathBuf::from).context("use: bench-auth YUNFAN")?;
    if yunfan == Path::new(flood::ARGUMENT) {
        // One thread: several would take more of the machine from who is measured than the server's work for them does.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(flooding()).map(|()| ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let scratch = tempfile::tempdir_in("/var/tmp")?;
    let peer = match std::env::var_os("KUBE_APISERVER") {
        Some(path) => Some(runtime.block_on(peer(Path::new(&path), scratch.path()))?),
        None => None,
    };
    let dir = scratch.path().join("cloud");
    let own = runtime.block_on(own(&yunfan, &dir));
    let _ = Command::new(&yunfan).args(["down", "--delete-data", "--data-dir"]).arg(&dir).output();
    let (numbers, keystone) = own?;
    show(&numbers, peer.as_deref());
    println!(
        "Keystone tokens checked, 32 connections: {keystone:.0}/s ({:.0} of the {KEYSTONE}/s that Keystone itself checks)",
        keystone / KEYSTONE
    );
    Ok(if passes(&numbers, keystone) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says of each threshold whether it is kept.
fn passes(numbers: &[Number], keystone: f64) -> bool {
    let verdict = |kept: bool| if kept { "pass" } else { "MISS" };
    let mut all = true;
    for (what, most) in MOST {
        // One that is not there is not kept.
        let found = numbers.iter().find(|number| number.what == what);
        let (value, unit) = found.map_or((f64::INFINITY, ""), |number| (number.value, number.unit));
        all &= value <= most;
        println!("{}: {what}: {value:.1} {unit}, at most {most}", verdict(value <= most));
    }
    let faster = keystone >= KEYSTONE;
    println!("{}: Keystone tokens checked: {keystone:.0} /s, at least {KEYSTONE}", verdict(faster));
    all && faster
}

/// The flood's own process: `bench-auth --flood PKI PORT`.
async fn flooding() -> anyhow::Result<()> {
    let pki = std::env::args_os().nth(2).map(PathBuf::from).context("the directory of the certificates")?;
    let port = std::env::args_os().nth(3).context("the port")?.to_string_lossy().parse()?;
    flood::send(&as_nobody(&pki, port)?).await
}

async fn own(yunfan: &Path, dir: &Path) -> anyhow::Result<(Vec<Number>, f64)> {
    let _cloud = Cloud::start(yunfan, dir, 17455)?;
    let pki = dir.join("pki");
    let server = as_admin(&pki, 17455)?;
    let numbers = measure(&server, &as_nobody(&pki, 17455)?, &pki).await.context("yunfan")?;
    let keystone = keystone(&server, &dir.join("clouds.yaml")).await.context("the OpenStack door")?;
    Ok((numbers, keystone))
}

async fn peer(path: &Path, scratch: &Path) -> anyhow::Result<Vec<Number>> {
    let pki = peer_pki(scratch)?;
    let _peer = ApiServer::start(path, &scratch.join("peer"), &pki, 17460)?;
    measure(&as_admin(&pki, 17460)?, &as_nobody(&pki, 17460)?, &pki).await.context("kube-apiserver")
}

/// `server` is asked as the administrator, `open` with tokens.
async fn measure(server: &Server, open: &Server, pki: &Path) -> anyhow::Result<Vec<Number>> {
    let mut admin = server.connect().await?;
    for number in 0..NAMESPACES {
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("bench-{number}")}});
        post(&mut admin, "/api/v1/namespaces", &body).await?;
    }
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"a": "b"}});
    post(&mut admin, "/api/v1/namespaces/bench-0/configmaps", &map).await?;
    bind(server, &mut admin).await?;
    let token = token(&mut admin, "reader").await?;

    let mut own = open.connect().await?;
    let plain = request("GET", MAP, "", b"");
    let with_token = request("GET", MAP, &format!("authorization: Bearer {token}\r\n"), b"");
    let (mut certificate, mut account) = (Vec::new(), Vec::new());
    for _ in 0..READS {
        certificate.push(timed(&mut admin, &plain).await?);
        account.push(timed(&mut own, &with_token).await?);
    }
    let (certificate, account) = (median(&mut certificate), median(&mut account));
    let micros = |what, time: Duration| Number { what, value: time.as_secs_f64() * 1e6, unit: "µs" };
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let review =
        request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", JSON, review.to_string().as_bytes());
    let reviewed = many(server, None, move |_| review.clone()).await?;
    let wild =
        format!("authorization: Bearer {}\r\n", self::token(&mut server.connect().await?, "flood").await?);
    let flood = flood::measure(open, pki, &with_token, &request("GET", MAP, &wild, b"")).await?;
    let mut numbers = vec![
        micros("read one as the administrator, p50", certificate),
        micros("read one with a token, 5,000 bindings, p50", account),
        micros(ADDED, account.saturating_sub(certificate)),
        rate("TokenReviews, 32 connections", reviewed),
    ];
    numbers.extend(flood);
    Ok(numbers)
}

/// One binding for the accounts that are measured, and all the others for others.
async fn bind(server: &Server, admin: &mut Connection) -> anyhow::Result<()> {
    let group = "rbac.authorization.k8s.io";
    let subject =
        move |number: usize| json!([{"kind": "User", "apiGroup": group, "name": format!("user-{number}")}]);
    let role = json!({"kind": "ClusterRole", "apiGroup": group, "name": "view"});
    many(server, Some(BINDINGS), move |number| {
        let mut body = json!({"apiVersion": format!("{group}/v1"), "metadata": {"name": format!("bench-{number}")},
            "roleRef": role, "subjects": subject(number)});
        let path = if number % 10 == 0 {
            body["kind"] = json!("ClusterRoleBinding");
            format!("/apis/{group}/v1/clusterrolebindings")
        } else {
            body["kind"] = json!("RoleBinding");
            format!("/apis/{group}/v1/namespaces/bench-{}/rolebindings", number % NAMESPACES)
        };
        request("POST", &path, JSON, body.to_string().as_bytes())
    })
    .await?;
    let own = json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "own"},
        "roleRef": {"kind": "ClusterRole", "apiGroup": group, "name": "view"},
        "subjects": ACCOUNTS.map(|name| json!({"kind": "ServiceAccount", "namespace": "bench-0", "name": name}))});
    post(admin, &format!("/apis/{group}/v1/namespaces/bench-0/rolebindings"), &own).await?;
    Ok(())
}

/// A token of a new account of this name.
async fn token(admin: &mut Connection, name: &str) -> anyhow::Result<String> {
    let accounts = "/api/v1/namespaces/bench-0/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    post(admin, accounts, &account).await?;
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = post(admin, &format!("{accounts}/{name}/token"), &asked).await?;
    made["status"]["token"].as_str().map(str::to_owned).context("no token")
}

async fn post(connection: &mut Connection, path: &str, body: &Value) -> anyhow::Result<Value> {
    let answer = connection.call(&request("POST", path, JSON, body.to_string().as_bytes())).await?;
    Ok(serde_json::from_slice(&answer)?)
}

async fn timed(connection: &mut Connection, request: &[u8]) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    connection.call(request).await?;
    Ok(begun.elapsed())
}

/// Tokens of the OpenStack door that are checked a second.
async fn keystone(server: &Server, clouds: &Path) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(clouds)?;
    let password = text.lines().find_map(|line| line.trim().strip_prefix("password:"));
    let password = password.context("no password in clouds.yaml")?.trim().trim_matches(['"', '\'']);
    let domain = json!({"name": "Default"});
    let body = json!({"auth": {
        "identity": {"methods": ["password"],
            "password": {"user": {"name": "admin", "domain": domain, "password": password}}},
        "scope": {"project": {"name": "admin", "domain": domain}},
    }});
    let authority = clouds.with_file_name("pki").join("ca.crt");
    // The lean client keeps no headers.
    let answer = Command::new("curl")
        .args([
            "-fsS",
            "-D",
            "-",
            "-o",
            "/dev/null",
            "-H",
            "Content-Type: application/json",
            "-d",
            &body.to_string(),
        ])
        .arg("--cacert")
        .arg(authority)
        .arg(format!("https://{}/identity/v3/auth/tokens", server.address))
        .output()
        .context("curl is missing")?;
    let head = String::from_utf8_lossy(&answer.stdout).into_owned();
    let field = |line: &str| line.to_ascii_lowercase().starts_with("x-subject-token:");
    let token = head.lines().find(|line| field(line)).and_then(|line| line.split_once(':'));
    let token = token.map(|(_, token)| token.trim()).context("no token")?;
    let headers = format!("x-auth-token: {token}\r\nx-subject-token: {token}\r\n");
    many(server, None, move |_| request("GET", "/identity/v3/auth/tokens", &headers, b"")).await
}
