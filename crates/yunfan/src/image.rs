//! `yunfan image`: container images of the cloud's nodes. They are no objects: each node's agent has its own store.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, bail};
use axum::body::Body;
use comfy_table::{Table, presets};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::ListParams;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use crate::cli::{ImageCommand, Output};
use crate::{remote, say};

/// What a query value of an image's name is written without: its own marks can stand there as they are (RFC 3986, section 3.4).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b':')
    .remove(b'@');

pub(crate) async fn run(command: &ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Import { archive, name, data } => {
            import(&data.data_dir, archive, name.as_deref()).await
        }
        ImageCommand::Export { images, output, node, data } => {
            let file = output.as_deref().filter(|file| *file != Path::new("-"));
            export(&data.data_dir, images, file, node.as_deref()).await
        }
        ImageCommand::List { data, output } => list(&data.data_dir, *output).await,
    }
}

async fn import(dir: &Path, archive: &Path, name: Option<&str>) -> anyhow::Result<()> {
    anyhow::ensure!(archive.is_file(), "{} is no file: give an OCI or docker archive", archive.display());
    let nodes = Nodes::connect(dir).await?;
    let query = name.map(|name| format!("?name={}", encoded(name))).unwrap_or_default();
    for node in nodes.ready().await? {
        let file = tokio::fs::File::open(archive)
            .await
            .with_context(|| format!("cannot read {}", archive.display()))?;
        let body = axum::body::Body::from_stream(ReaderStream::with_capacity(file, 256 * 1024));
        let images =
            nodes.request(&node, http::Method::POST, &format!("/containerImages{query}"), body).await?;
        for image in images.as_array().into_iter().flatten() {
            let names: Vec<&str> =
                image["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            say(&format!("imported {} on node {}", names.join(", "), node.name_any()));
        }
    }
    Ok(())
}

async fn export(
    dir: &Path,
    images: &[String],
    file: Option<&Path>,
    node: Option<&str>,
) -> anyhow::Result<()> {
    if let Some(image) = images.iter().find(|image| image.contains(',')) {
        bail!("{image:?} is no image: give several with blanks between");
    }
    anyhow::ensure!(
        file.is_some() || !std::io::stdout().is_terminal(),
        "an archive is nothing for a terminal: give a file with --output, or send it elsewhere"
    );
    let nodes = Nodes::connect(dir).await?;
    let mut ready = nodes.ready().await?;
    if let Some(name) = node {
        ready.retain(|node| node.name_any() == name);
        anyhow::ensure!(!ready.is_empty(), "node {name} is not ready, or not there: see `kubectl get nodes`");
    }
    let names: Vec<String> = images.iter().map(|image| encoded(image)).collect();
    let path = format!("/containerImages/archive?names={}", names.join(","));
    let mut missing = None;
    for node in &ready {
        let answer = nodes.ask(node, http::Method::GET, &path, axum::body::Body::empty()).await?;
        if answer.status() == http::StatusCode::NOT_FOUND {
            missing = Some(refusal(node, answer).await);
            continue;
        }
        if !answer.status().is_success() {
            return Err(refusal(node, answer).await);
        }
        let from = node.name_any();
        let Some(file) = file else { return copy(&from, answer, tokio::io::stdout()).await.map(drop) };
        let bytes = to_file(&from, answer, file).await?;
        let size = bytes as f64 / f64::from(1 << 20);
        say(&format!(
            "exported {} from node {from} to {} ({size:.1} MiB)",
            images.join(", "),
            file.display()
        ));
        return Ok(());
    }
    Err(missing.unwrap_or_else(|| anyhow::anyhow!("no node has these images")))
}

/// Writes an archive beside its place, into which it comes when it is whole.
async fn to_file(node: &str, answer: http::Response<Body>, file: &Path) -> anyhow::Result<u64> {
    let mut name = file.file_name().context("--output names no file")?.to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = file.with_file_name(name);
    let opened = tokio::fs::File::create(&part).await;
    let opened = opened.with_context(|| format!("cannot write {}", part.display()))?;
    let written = match copy(node, answer, opened).await {
        Ok(bytes) => std::fs::rename(&part, file)
            .with_context(|| format!("cannot write {}", file.display()))
            .map(|()| bytes),
        Err(error) => Err(error),
    };
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Copies an answer's body; returns how many bytes that was.
async fn copy(
    node: &str,
    answer: http::Response<Body>,
    mut out: impl AsyncWrite + Unpin,
) -> anyhow::Result<u64> {
    let (mut body, mut bytes) = (answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("node {node} broke off: see its log"))?;
        if let Ok(data) = frame.into_data() {
            out.write_all(&data).await.context("the archive could not be written")?;
            bytes += data.len() as u64;
        }
    }
    out.flush().await.context("the archive could not be written")?;
    Ok(bytes)
}

async fn list(dir: &Path, output: Output) -> anyhow::Result<()> {
    let nodes = Nodes::connect(dir).await?;
    let mut rows = Vec::new();
    for node in nodes.ready().await? {
        let images =
            nodes.request(&node, http::Method::GET, "/containerImages", axum::body::Body::empty()).await?;
        for image in images.as_array().into_iter().flatten() {
            rows.push(json!({"node": node.name_any(), "names": image["names"], "id": image["id"],
                             "sizeBytes": image["size_bytes"]}));
        }
    }
    match output {
        Output::Json => say(&serde_json::to_string_pretty(&rows)?),
        Output::Yaml => say(serde_saphyr::to_string(&rows)?.trim_end()),
        Output::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(["NODE", "NAME", "ID", "SIZE"]);
            for row in &rows {
                let names: Vec<&str> =
                    row["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let id: String = row["id"]
                    .as_str()
                    .unwrap_or_default()
                    .trim_start_matches("sha256:")
                    .chars()
                    .take(12)
                    .collect();
                let size = row["sizeBytes"].as_u64().unwrap_or(0);
                let size = format!("{:.1} MiB", size as f64 / f64::from(1 << 20));
                table.add_row([row["node"].as_str().unwrap_or_default(), &names.join(" "), &id, &size]);
            }
            say(&table.to_string());
        }
    }
    Ok(())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The nodes of a running cloud, reached as its admin.
struct Nodes {
    client: kube::Client,
    agents: yunfan_agent::Client,
}

impl Nodes {
    async fn connect(dir: &Path) -> anyhow::Result<Self> {
        use rustls::pki_types::pem::PemObject;
        let client = remote::client(dir).await?;
        let pki = dir.join("pki");
        let authority = rustls::pki_types::CertificateDer::from_pem_file(pki.join("ca.crt"))
            .with_context(|| format!("cannot read {}", pki.join("ca.crt").display()))?;
        let identity = yunfan_identity::pki::Identity::load(&pki.join("admin.crt"), &pki.join("admin.key"))?;
        let tls = yunfan_identity::pki::client_config(&authority, Some(&identity))?;
        Ok(Self { client, agents: yunfan_agent::Client::new(tls.into()) })
    }

    async fn ready(&self) -> anyhow::Result<Vec<Node>> {
        let nodes = kube::Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await;
        let nodes = nodes.context("the cloud does not answer: is it running?")?;
        let ready = |node: &Node| {
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let ready: Vec<Node> = nodes.into_iter().filter(ready).collect();
        if ready.is_empty() {
            bail!("no node of the cloud is ready: see `kubectl get nodes`");
        }
        Ok(ready)
    }

    async fn request(
        &self,
        node: &Node,
        method: http::Method,
        path: &str,
        body: axum::body::Body,
    ) -> anyhow::Result<Value> {
        let answer = self.ask(node, method, path, body).await?;
        if !answer.status().is_success() {
            return Err(refusal(node, answer).await);
        }
        let bytes = answer.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// The answer as it comes.
    async fn ask(
        &self,
        node: &Node,
        method: http::Method,
        path: &str,
        body: axum::body::Body,
    ) -> anyhow::Result<http::Response<Body>> {
        let answer = self.agents.request(node, method, path, body).await.map_err(anyhow::Error::msg);
        let answer =
            answer.with_context(|| format!("the agent of node {} does not answer", node.name_any()))?;
        Ok(answer.map(Body::new))
    }
}

/// What an agent has against a request.
async fn refusal(node: &Node, answer: http::Response<Body>) -> anyhow::Error {
    let bytes = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let said =
        value["message"].as_str().map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), str::to_owned);
    anyhow::anyhow!("node {}: {said}", node.name_any())
}
