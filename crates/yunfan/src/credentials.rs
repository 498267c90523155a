//! The files with which people reach the cloud: kubeconfig and clouds.yaml.

use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use yunfan_identity::pki::{Authority, Identity};

use crate::instance::write_private;

/// A kubeconfig for one server and one client certificate.
pub(crate) fn kubeconfig(server: &str, authority_pem: &str, user: &str, identity: &Identity) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "yunfan", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority_pem),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&identity.certificate_pem),
            "client-key-data": STANDARD.encode(&identity.key_pem),
        }}],
        "contexts": [{"name": "yunfan", "context": {"cluster": "yunfan", "user": user}}],
        "current-context": "yunfan",
    })
}

/// Writes the admin's kubeconfig and clouds.yaml into the data directory.
pub(crate) fn write(
    dir: &Path,
    server: &str,
    authority: &Authority,
    admin: &Identity,
    password: &str,
) -> anyhow::Result<()> {
    let config = kubeconfig(server, authority.certificate_pem(), "admin", admin);
    write_yaml(&dir.join("kubeconfig"), &config)?;
    let clouds = json!({"clouds": {"yunfan": {
        "auth": {
            "auth_url": format!("{server}/identity/v3"),
            "username": "admin",
            "password": password,
            "project_name": "admin",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        "region_name": "RegionOne",
        "identity_api_version": 3,
        "interface": "public",
        "cacert": dir.join("pki").join("ca.crt"),
    }}});
    write_yaml(&dir.join("clouds.yaml"), &clouds)
}

fn write_yaml(path: &Path, value: &Value) -> anyhow::Result<()> {
    let text = serde_saphyr::to_string(value).with_context(|| format!("cannot write {}", path.display()))?;
    write_private(path, text.as_bytes())
}
