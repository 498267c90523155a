//! Certificates follow one another while everything runs: those of the cloud are issued again by its own authority, those of a
//! node that joined are asked for by requests, as Kubernetes' nodes do it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use tokio::signal::unix::{Signal, SignalKind, signal};
use yunfan_client::Renewable;
use yunfan_identity::pki::{Authority, CertificateUser, Identity, Shown, ask};
use yunfan_resources::names::{MASTERS_GROUP, NODES_GROUP, node_user};

use crate::credentials;
use crate::instance::write_private;
use crate::node::{self, Join};

/// How often it is looked whether a certificate ends. They are renewed two months before.
const LOOK: Duration = Duration::from_secs(12 * 60 * 60);
/// The same after one could not be renewed.
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);
/// How long a request may stay undecided before it is told of, and how often it is looked at until then.
const DECIDE: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// When to look: every so often, and at SIGHUP. From a terminal that signal means that the terminal is gone, and ends the process.
struct Times {
    hangup: Option<Signal>,
}

impl Times {
    fn new() -> anyhow::Result<Self> {
        let hangup = if std::io::stdin().is_terminal() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { hangup })
    }

    async fn next(&mut self, within: Duration) {
        let told = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        // An error means that the time is over.
        let _ = tokio::time::timeout(within, told).await;
    }
}

/// Who reaches a cloud with which files.
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
    pub(crate) endpoint: String,
    pub(crate) password: String,
}

impl Files {
    /// Writes kubeconfig and clouds.yaml.
    pub(crate) fn write(&self, authority: &Authority) -> anyhow::Result<Identity> {
        let admin = authority.client("admin", "admin", &[MASTERS_GROUP])?;
        credentials::write(&self.dir, &self.endpoint, authority, &admin, &self.password)?;
        Ok(admin)
    }
}

/// Looks after the certificates of a cloud, for ever. `admin` is what stands in the files.
pub(crate) async fn of_cloud(
    authority: Arc<Authority>,
    files: Files,
    mut admin: Identity,
) -> anyhow::Result<()> {
    let mut times = Times::new()?;
    loop {
        times.next(LOOK).await;
        match authority.renew() {
            Ok(renewed) if renewed.is_empty() => {}
            Ok(renewed) => tracing::info!("issued certificates again: {}", renewed.join(", ")),
            Err(error) => tracing::error!(%error, "a certificate can't be issued again"),
        }
        if let Err(error) = renew_admin(&authority, &files, &mut admin) {
            tracing::error!("the administrator's files can't be written again: {error:#}");
        }
    }
}

fn renew_admin(authority: &Authority, files: &Files, admin: &mut Identity) -> anyhow::Result<()> {
    let now = authority.client("admin", "admin", &[MASTERS_GROUP])?;
    if now.certificate_pem != admin.certificate_pem {
        *admin = files.write(authority)?;
    }
    Ok(())
}

/// What a node that joined shows, and how others come to know when it changes.
pub(crate) struct Credentials {
    /// What stands in the file.
    pub(crate) join: Join,
    /// Where the latest is kept.
    file: PathBuf,
    kubeconfig: PathBuf,
    client: Renewable,
    serving: Arc<Shown>,
    own: Arc<Shown>,
    /// Requests that nobody has decided on, by the part that they are for: their names and keys (PEM).
    pending: BTreeMap<&'static str, (String, String)>,
}

impl Credentials {
    /// Those that the join file gave, or newer ones that followed them; `dir` is the data directory.
    pub(crate) async fn open(join: Join, dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join("join.json");
        let join = newer(join, &file)?;
        let kubeconfig = dir.join("kubeconfig");
        write_private(&kubeconfig, serde_json::to_string_pretty(&join.kubeconfig)?.as_bytes())?;
        let client = Renewable::new(yunfan_client::connect(&kubeconfig).await?);
        let (serving, own) = (Shown::new(&join.serving())?, Shown::new(&join.client())?);
        Ok(Self { join, file, kubeconfig, client, serving, own, pending: BTreeMap::new() })
    }

    /// The way to the API server.
    pub(crate) fn client(&self) -> kube::Client {
        self.client.client()
    }

    /// What is shown to those who reach the node.
    pub(crate) fn serving(&self) -> Arc<Shown> {
        self.serving.clone()
    }

    /// What the node shows to others.
    pub(crate) fn own(&self) -> Arc<Shown> {
        self.own.clone()
    }

    /// Looks after them, for ever.
    pub(crate) async fn keep(mut self) -> anyhow::Result<()> {
        let mut times = Times::new()?;
        loop {
            let mut pause = LOOK;
            if let Err(error) = self.renew().await {
                tracing::error!("the node's certificates can't be renewed: {error:#}");
                // Somebody may decide by and by.
                pause = if self.pending.is_empty() { LOOK_AGAIN } else { DECIDE };
            }
            times.next(pause).await;
        }
    }

    async fn renew(&mut self) -> anyhow::Result<()> {
        if self.join.client().is_ending()? {
            let identity = self.ask("client", &[] as &[&str]).await?;
            self.join.renew_client(identity);
            self.write()?;
            self.client.renew(yunfan_client::connect(&self.kubeconfig).await?);
            self.own.show(&self.join.client())?;
            tracing::info!("the node has a new client certificate");
        }
        if self.join.serving().is_ending()? {
            let names = [self.join.node.clone(), self.join.address.to_string()];
            let identity = self.ask("serving", &names).await?;
            self.join.renew_serving(identity);
            self.write()?;
            self.serving.show(&self.join.serving())?;
            tracing::info!("the node has a new serving certificate");
        }
        Ok(())
    }

    fn write(&self) -> anyhow::Result<()> {
        write_private(&self.file, &serde_json::to_vec_pretty(&self.join)?)?;
        write_private(&self.kubeconfig, serde_json::to_string_pretty(&self.join.kubeconfig)?.as_bytes())?;
        Ok(())
    }

    /// Asks for a certificate with these names, and waits for it. A request that was made before, and is still there, is waited for
    /// again.
    async fn ask<S: AsRef<str>>(&mut self, part: &'static str, names: &[S]) -> anyhow::Result<Identity> {
        let requests: Api<CertificateSigningRequest> = Api::all(self.client());
        let (name, key_pem) = match self.pending.remove(part) {
            Some((name, key)) if requests.get_opt(&name).await?.is_some() => (name, key),
            _ => self.request(&requests, part, names).await?,
        };
        match tokio::time::timeout(DECIDE, issued(&requests, &name)).await {
            Ok(certificate) => Ok(Identity { certificate_pem: String::from_utf8(certificate?)?, key_pem }),
            Err(_) => {
                self.pending.insert(part, (name.clone(), key_pem));
                anyhow::bail!(
                    "nobody has decided on {name} yet: see `kubectl describe csr {name}` and `kubectl certificate approve {name}`"
                )
            }
        }
    }

    /// A new request: its name and its key.
    async fn request<S: AsRef<str>>(
        &self,
        requests: &Api<CertificateSigningRequest>,
        part: &str,
        names: &[S],
    ) -> anyhow::Result<(String, String)> {
        let (signer, usage) = match part {
            "serving" => ("kubernetes.io/kubelet-serving", "server auth"),
            _ => ("kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
        };
        let (asked, key_pem) = ask(&node_user(&self.join.node), &[NODES_GROUP], names)?;
        let request = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-{part}-", self.join.node)),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(asked.into_bytes()),
                signer_name: signer.to_owned(),
                usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let made = requests.create(&PostParams::default(), &request).await.context("asking for it")?;
        Ok((made.metadata.name.unwrap_or_default(), key_pem))
    }
}

/// The certificate of a request, once there is one.
async fn issued(requests: &Api<CertificateSigningRequest>, name: &str) -> anyhow::Result<Vec<u8>> {
    let one = ListParams::default().fields(&format!("metadata.name={name}"));
    loop {
        let found = requests.list(&one).await?.items.pop().context("the request was deleted")?;
        let status = found.status.unwrap_or_default();
        if let Some(certificate) = status.certificate.filter(|certificate| !certificate.0.is_empty()) {
            return Ok(certificate.0);
        }
        let refused =
            |condition: &&k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition| {
                matches!(condition.type_.as_str(), "Denied" | "Failed")
            };
        if let Some(no) = status.conditions.iter().flatten().find(refused) {
            anyhow::bail!("{name}: {} ({})", no.type_, no.message.as_deref().unwrap_or_default());
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What was kept since the node joined, unless the join file is another cloud's or node's; of each certificate the one that ends later.
fn newer(join: Join, file: &Path) -> anyhow::Result<Join> {
    if !file.exists() {
        return Ok(join);
    }
    let kept = node::read(file)?;
    let same = kept.node == join.node && kept.address == join.address && kept.authority == join.authority;
    if !same {
        return Ok(join);
    }
    let ends = |identity: &Identity| CertificateUser::pem_ends(identity.certificate_pem.as_bytes());
    let mut latest = join;
    if ends(&kept.client()) > ends(&latest.client()) {
        latest.renew_client(kept.client());
    }
    if ends(&kept.serving()) > ends(&latest.serving()) {
        latest.renew_serving(kept.serving());
    }
    Ok(latest)
}
