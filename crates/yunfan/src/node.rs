//! `yunfan node add`: the credentials with which a node joins.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use yunfan_identity::pki::{Authority, Identity};
use yunfan_resources::names::{NODES_GROUP, node_user};

use crate::cli::NodeCommand;
use crate::credentials::kubeconfig;
use crate::instance::write_private;
use crate::{remote, say};

/// What a node needs to join: one file, which holds private keys.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Join {
    /// Name of the node.
    pub(crate) node: String,
    /// Address at which others reach it.
    pub(crate) address: IpAddr,
    /// Its kubeconfig.
    pub(crate) kubeconfig: Value,
    /// The cloud's authority, PEM.
    pub(crate) authority: String,
    /// Certificate and key of its own API, PEM.
    pub(crate) serving_certificate: String,
    /// See `serving_certificate`.
    pub(crate) serving_key: String,
    /// Certificate and key with which it asks the API server and other nodes, PEM.
    pub(crate) client_certificate: String,
    /// See `client_certificate`.
    pub(crate) client_key: String,
}

impl Join {
    /// What its own API shows.
    pub(crate) fn serving(&self) -> Identity {
        Identity { certificate_pem: self.serving_certificate.clone(), key_pem: self.serving_key.clone() }
    }

    /// What it shows to others.
    pub(crate) fn client(&self) -> Identity {
        Identity { certificate_pem: self.client_certificate.clone(), key_pem: self.client_key.clone() }
    }

    /// Has another serving certificate from now on.
    pub(crate) fn renew_serving(&mut self, identity: Identity) {
        self.serving_certificate = identity.certificate_pem;
        self.serving_key = identity.key_pem;
    }

    /// Has another client certificate from now on, also towards the API server.
    pub(crate) fn renew_client(&mut self, identity: Identity) {
        if let Some(server) = self.kubeconfig.pointer("/clusters/0/cluster/server").and_then(Value::as_str) {
            self.kubeconfig = kubeconfig(server, &self.authority, &node_user(&self.node), &identity);
        }
        self.client_certificate = identity.certificate_pem;
        self.client_key = identity.key_pem;
    }
}

pub(crate) fn run(command: &NodeCommand) -> anyhow::Result<()> {
    let NodeCommand::Add { name, data, address, server, days, output } = command;
    let dir = &data.data_dir;
    let server = match server {
        Some(server) => server.clone(),
        None => remote::server(dir)?,
    };
    let authority = Authority::open_or_create(&existing(dir)?)?;
    let user = node_user(name);
    let serving = authority.issue_server(&user, &[name.clone(), address.to_string()], *days)?;
    let client = authority.issue_client(&user, &[NODES_GROUP], *days)?;
    let join = Join {
        node: name.clone(),
        address: *address,
        kubeconfig: kubeconfig(&server, authority.certificate_pem(), &user, &client),
        authority: authority.certificate_pem().to_owned(),
        serving_certificate: serving.certificate_pem.clone(),
        serving_key: serving.key_pem.clone(),
        client_certificate: client.certificate_pem.clone(),
        client_key: client.key_pem.clone(),
    };
    write_private(output, &serde_json::to_vec_pretty(&join)?)?;
    say(&format!("wrote {}; on the node run: yunfan agent --join {}", output.display(), output.display()));
    Ok(())
}

fn existing(dir: &Path) -> anyhow::Result<std::path::PathBuf> {
    let pki = dir.join("pki");
    anyhow::ensure!(
        pki.is_dir(),
        "{} is no cloud's data directory: start the server first with `yunfan server --data-dir {}`",
        dir.display(),
        dir.display()
    );
    Ok(pki)
}

/// Reads the file that `yunfan node add` wrote.
pub(crate) fn read(path: &Path) -> anyhow::Result<Join> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} was not written by `yunfan node add`, or is damaged", path.display()))
}
