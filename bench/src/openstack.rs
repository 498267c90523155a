//! `bench-openstack`: the OpenStack door as its clients see it, over TLS: tokens, networks, servers with the fake driver (so that what
//! is measured is our own time, and no guest's), lists, and the upload of an image beside a plain copy with fsync and SHA-512 on
//! the same disk. Each number stands beside its goal and, where there is one, OpenStack Zed's on such a machine.
//! Ends with 1 where a goal is missed.
//!
//! Use: `bench-openstack YUNFAN`, as root; `make bench` calls it.

#![expect(clippy::print_stdout, reason = "a benchmark speaks to whoever runs it")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use yunfan_bench::http::{Connection, Server, request};
use yunfan_bench::load::{as_admin, many};
use yunfan_bench::numbers::{Number, median, rate, time};
use yunfan_bench::process::{Cloud, LIMIT, pss};

const PORT: u16 = 17470;
/// Networks that are made one after another.
const NETWORKS: usize = 100;
/// Servers that are made one after another.
const ONE_BY_ONE: usize = 10;
/// Servers of one request.
const AT_ONCE: usize = 50;
/// Servers that are listed, and on how many networks they are: each is a bridge on the node, which has no more than 1,024 ports.
const LISTED: usize = 1000;
const PER_NETWORK: usize = 100;
const LISTS: usize = 9;
/// Bytes of the image.
const IMAGE: u64 = 1 << 30;
/// How often it is looked whether servers are there.
const LOOK: Duration = Duration::from_millis(5);

/// What must hold.
enum Goal {
    /// At most so much.
    Most(f64),
    /// At least so much.
    Least(f64),
}

/// A number that was measured, its goal, and the same of OpenStack Zed (Debian 12's packages, two cores, no KVM) where it is known.
struct Measured {
    number: Number,
    goal: Goal,
    peer: Option<f64>,
}

fn main() -> anyhow::Result<ExitCode> {
    let yunfan = std::env::args_os().nth(1).map(PathBuf::from).context("use: bench-openstack YUNFAN")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let scratch = tempfile::tempdir_in("/var/tmp")?;
    let dir = scratch.path().join("cloud");
    let measured = runtime.block_on(measure(&yunfan, &dir, scratch.path()));
    let _ = Command::new(&yunfan).args(["down", "--delete-data", "--data-dir"]).arg(&dir).output();
    Ok(if passes(&measured?) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows each number, and says whether all goals are kept.
fn passes(measured: &[Measured]) -> bool {
    let mut all = true;
    println!("{:<52} {:>12} {:>16} {:>12} {:>7}", "", "yunfan", "goal", "OpenStack", "ratio");
    for Measured { number: Number { what, value, unit }, goal, peer } in measured {
        let (kept, words) = match goal {
            Goal::Most(most) => (value <= most, format!("at most {most}")),
            Goal::Least(least) => (value >= least, format!("at least {least}")),
        };
        all &= kept;
        let other = peer.map_or("-".to_owned(), |peer| format!("{peer:.1}"));
        let ratio = peer.map_or("-".to_owned(), |peer| format!("{:.3}", value / peer));
        let own = format!("{value:.1} {unit}");
        let verdict = if kept { "pass" } else { "MISS" };
        println!("{verdict}: {what:<46} {own:>12} {words:>16} {other:>12} {ratio:>7}");
    }
    all
}

async fn measure(yunfan: &Path, dir: &Path, scratch: &Path) -> anyhow::Result<Vec<Measured>> {
    let flags = ["up", "--cluster-cidr", "10.231.0.0/16", "--accelerator", "fake"];
    let cloud = Cloud::start_with(yunfan, dir, PORT, &flags)?;
    let server = as_admin(&dir.join("pki"), PORT)?;
    let password = password(&dir.join("clouds.yaml"))?;
    let token = token(&server, dir, &password)?;
    let idle = pss(cloud.pid())?;
    let tokens = tokens(&server, &token).await.context("tokens")?;
    let gained = pss(cloud.pid())?.saturating_sub(idle);
    let memory = Number { what: "memory gained by that load", value: gained as f64, unit: "MiB" };
    let mut all = vec![
        Measured { number: tokens, goal: Goal::Least(5000.0), peer: Some(150.0) },
        Measured { number: memory, goal: Goal::Most(20.0), peer: None },
    ];
    let mut client = Client { server, token, connection: None };
    all.push(upload(&mut client, dir, scratch).await.context("the upload of an image")?);
    all.extend(servers(&mut client).await.context("networks and servers")?);
    Ok(all)
}

/// The admin's password, as `clouds.yaml` has it.
fn password(clouds: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(clouds)?;
    let password = text.lines().find_map(|line| line.trim().strip_prefix("password:"));
    Ok(password.context("no password in clouds.yaml")?.trim().trim_matches(['"', '\'']).to_owned())
}

/// A token for the project of the admin.
fn token(server: &Server, dir: &Path, password: &str) -> anyhow::Result<String> {
    let domain = json!({"name": "Default"});
    let body = json!({"auth": {
        "identity": {"methods": ["password"],
            "password": {"user": {"name": "admin", "domain": domain, "password": password}}},
        "scope": {"project": {"name": "admin", "domain": domain}},
    }});
    // The lean client keeps no headers.
    let answer = Command::new("curl")
        .args(["-fsS", "-D", "-", "-o", "/dev/null", "-H", "Content-Type: application/json"])
        .args(["-d", &body.to_string(), "--cacert"])
        .arg(dir.join("pki/ca.crt"))
        .arg(format!("https://{}/identity/v3/auth/tokens", server.address))
        .output()
        .context("curl is missing")?;
    let head = String::from_utf8_lossy(&answer.stdout).into_owned();
    let field = |line: &str| line.to_ascii_lowercase().starts_with("x-subject-token:");
    let token = head.lines().find(|line| field(line)).and_then(|line| line.split_once(':'));
    Ok(token.context("no token")?.1.trim().to_owned())
}

/// Tokens that are made from a token, a second.
async fn tokens(server: &Server, token: &str) -> anyhow::Result<Number> {
    let body = json!({"auth": {
        "identity": {"methods": ["token"], "token": {"id": token}},
        "scope": {"project": {"name": "admin", "domain": {"name": "Default"}}},
    }});
    let asked = request("POST", "/identity/v3/auth/tokens", JSON, body.to_string().as_bytes());
    Ok(rate("token from token, 32 clients", many(server, None, move |_| asked.clone()).await?))
}

const JSON: &str = "content-type: application/json\r\n";

/// Somebody with a token, on one connection.
struct Client {
    server: Server,
    token: String,
    connection: Option<Connection>,
}

impl Client {
    async fn raw(&mut self, method: &str, path: &str, body: &Value) -> anyhow::Result<Vec<u8>> {
        let headers = format!("{JSON}x-auth-token: {}\r\n", self.token);
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let asked = request(method, path, &headers, text.as_bytes());
        if self.connection.is_none() {
            self.connection = Some(self.server.connect().await?);
        }
        let connection = self.connection.as_mut().context("no connection")?;
        connection.call(&asked).await.with_context(|| format!("{method} {path}"))
    }

    async fn ask(&mut self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.raw(method, path, body).await?)?)
    }

    /// The id of what is made.
    async fn make(&mut self, path: &str, what: &str, fields: Value) -> anyhow::Result<String> {
        let made = self.ask("POST", path, &json!({what: fields})).await?;
        made[what]["id"].as_str().map(str::to_owned).with_context(|| format!("no id: {made}"))
    }

    /// Waits until so many servers are active; none may be in error.
    async fn active(&mut self, count: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let list = self.ask("GET", "/compute/v2.1/servers?status=ACTIVE", &Value::Null).await?;
            let there = list["servers"].as_array().map_or(0, Vec::len);
            if there >= count {
                return Ok(());
            }
            let lost = self.ask("GET", "/compute/v2.1/servers?status=ERROR", &Value::Null).await?;
            let lost = lost["servers"].as_array().map_or(0, Vec::len);
            ensure!(
                lost == 0,
                "{lost} servers are in error: the node has no room for them, or says why in its log"
            );
            ensure!(
                begun.elapsed() < LIMIT * 5,
                "{there} of {count} servers are active after {:?}",
                LIMIT * 5
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How long it takes to upload an image, in relation to a plain copy of its file with fsync and SHA-512.
async fn upload(client: &mut Client, dir: &Path, scratch: &Path) -> anyhow::Result<Measured> {
    let file = scratch.join("image.raw");
    let made = Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "iflag=fullblock", "status=none"])
        .arg(format!("count={}", IMAGE >> 20))
        .arg(format!("of={}", file.display()))
        .status()?;
    ensure!(made.success(), "dd made no file");
    // Once before, so that both read it from memory.
    let (mut plain, mut sent) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let begun = Instant::now();
        plain_copy(&file, &scratch.join("copy.raw"))?;
        plain.push(begun.elapsed());
        std::fs::remove_file(scratch.join("copy.raw"))?;
        let fields =
            json!({"name": format!("large-{round}"), "disk_format": "raw", "container_format": "bare"});
        let image = client.ask("POST", "/image/v2/images", &fields).await?;
        let id = image["id"].as_str().context("an image without an id")?.to_owned();
        let begun = Instant::now();
        let done = Command::new("curl")
            .args(["-fsS", "-X", "PUT", "-H", "Content-Type: application/octet-stream", "-H"])
            .arg(format!("X-Auth-Token: {}", client.token))
            .arg("--cacert")
            .arg(dir.join("pki/ca.crt"))
            .arg("-T")
            .arg(&file)
            .arg(format!("https://{}/image/v2/images/{id}/file", client.server.address))
            .output()?;
        sent.push(begun.elapsed());
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        // The connection was idle for longer than the server lets one be, on a slow disk.
        client.connection = None;
    }
    std::fs::remove_file(&file)?;
    let (plain, sent) = (median(&mut plain), median(&mut sent));
    println!("upload of 1 GiB: {:.2} s; plain copy {:.2} s", sent.as_secs_f64(), plain.as_secs_f64());
    let times = Number {
        what: "upload of 1 GiB, to a copy with fsync and sha512",
        value: sent.as_secs_f64() / plain.as_secs_f64(),
        unit: "times",
    };
    Ok(Measured { number: times, goal: Goal::Most(1.3), peer: None })
}

fn plain_copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copied = Command::new("dd")
        .args(["bs=1M", "conv=fsync", "status=none"])
        .arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()))
        .status()?;
    let digest = Command::new("sha512sum").arg(to).output()?;
    if !copied.success() || !digest.status.success() {
        bail!("dd or sha512sum failed");
    }
    Ok(())
}

/// A network with a subnet, and how long it took to make the network.
async fn network(client: &mut Client, number: usize) -> anyhow::Result<(String, Duration)> {
    let begun = Instant::now();
    let fields = json!({"name": format!("bench-{number}")});
    let id = client.make("/network/v2.0/networks", "network", fields).await?;
    Ok((id, begun.elapsed()))
}

async fn subnet(client: &mut Client, network: &str, number: usize) -> anyhow::Result<()> {
    let fields =
        json!({"network_id": network, "ip_version": 4, "cidr": format!("10.{}.0.0/24", 10 + number)});
    client.make("/network/v2.0/subnets", "subnet", fields).await.map(drop)
}

async fn servers(client: &mut Client) -> anyhow::Result<Vec<Measured>> {
    let (mut networks, mut times) = (Vec::new(), Vec::new());
    for number in 0..NETWORKS {
        let (id, took) = network(client, number).await?;
        networks.push(id);
        times.push(took);
    }
    let network_time = time("network create, p50", median(&mut times));
    let used = 1 + (LISTED / PER_NETWORK);
    for (number, network) in networks.iter().take(used).enumerate() {
        subnet(client, network, number).await?;
    }
    let flavor = json!({"name": "bench", "vcpus": 1, "ram": 64, "disk": 1});
    let flavor = client.make("/compute/v2.1/flavors", "flavor", flavor).await?;
    let image = small_image(client).await?;
    let wanted = |name: &str, count: usize, network: &str| {
        json!({"name": name, "flavorRef": flavor, "imageRef": image, "networks": [{"uuid": network}],
               "min_count": count, "max_count": count})
    };
    let mut times = Vec::new();
    for number in 0..ONE_BY_ONE {
        let begun = Instant::now();
        client
            .make("/compute/v2.1/servers", "server", wanted(&format!("one-{number}"), 1, &networks[0]))
            .await?;
        client.active(number + 1).await?;
        times.push(begun.elapsed());
    }
    let one = time("server create to ACTIVE, our own time, p50", median(&mut times));
    let begun = Instant::now();
    client.make("/compute/v2.1/servers", "server", wanted("many", AT_ONCE, &networks[0])).await?;
    client.active(ONE_BY_ONE + AT_ONCE).await?;
    let all = time("50 servers at once, all ACTIVE", begun.elapsed());
    let mut there = ONE_BY_ONE + AT_ONCE;
    for network in networks.get(1..used).unwrap_or_default() {
        let count = PER_NETWORK.min(LISTED - there);
        client.make("/compute/v2.1/servers", "server", wanted("list", count, network)).await?;
        there += count;
        client.active(there).await?;
    }
    let list = list(client).await?;
    Ok(vec![
        Measured { number: network_time, goal: Goal::Most(5.0), peer: Some(145.0) },
        Measured { number: one, goal: Goal::Most(400.0), peer: Some(2710.0) },
        Measured { number: all, goal: Goal::Most(2000.0), peer: Some(95_000.0) },
        Measured { number: list, goal: Goal::Most(50.0), peer: None },
    ])
}

/// An image that takes next to no room.
async fn small_image(client: &mut Client) -> anyhow::Result<String> {
    let fields = json!({"name": "small", "disk_format": "raw", "container_format": "bare"});
    let image = client.ask("POST", "/image/v2/images", &fields).await?;
    let id = image["id"].as_str().context("an image without an id")?.to_owned();
    let headers = format!("content-type: application/octet-stream\r\nx-auth-token: {}\r\n", client.token);
    let asked = request("PUT", &format!("/image/v2/images/{id}/file"), &headers, &[0; 4096]);
    client.server.connect().await?.done(&asked).await?;
    Ok(id)
}

/// How long the list of all servers with what is known of each takes.
async fn list(client: &mut Client) -> anyhow::Result<Number> {
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let begun = Instant::now();
        let body = client.raw("GET", "/compute/v2.1/servers/detail", &Value::Null).await?;
        times.push(begun.elapsed());
        let servers: Value = serde_json::from_slice(&body)?;
        ensure!(servers["servers"].as_array().map_or(0, Vec::len) == LISTED, "not all servers are listed");
    }
    Ok(time("list of 1,000 servers with details, p50", median(&mut times)))
}
