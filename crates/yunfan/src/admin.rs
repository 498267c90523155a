//! The first user of a new cloud: `admin`, with a project of the same name.

use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde_json::json;
use yunfan_client::{Writer, is_exists, is_not_found};
use yunfan_resources::iam::{Domain, DomainSpec, Project, ProjectSpec, User, UserSpec};
use yunfan_resources::names::{ADMIN, PASSWORD_SECRET_TYPE, SYSTEM_NAMESPACE, password_secret};

use crate::instance::write_private;

/// Deletes an object that can't be read.
const UNREAD: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// Makes the admin and what belongs to it where they are missing; returns the admin's password.
///
/// The password is made once and kept in the data directory. Where its file is gone, or the Secret is, both are made anew.
pub(crate) async fn ensure(writer: &Writer, dir: &Path) -> anyhow::Result<String> {
    let domain = Domain::new(
        "default",
        DomainSpec {
            id: Some("default".into()),
            display_name: Some("Default".into()),
            enabled: true,
            ..DomainSpec::default()
        },
    );
    let project = Project::new(
        ADMIN,
        ProjectSpec {
            display_name: Some(ADMIN.into()),
            domain: Some("default".into()),
            enabled: true,
            ..ProjectSpec::default()
        },
    );
    let user = User::new(
        ADMIN,
        UserSpec {
            display_name: Some(ADMIN.into()),
            domain: Some("default".into()),
            default_project: Some(ADMIN.into()),
            enabled: true,
            ..UserSpec::default()
        },
    );
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "yunfan:admin"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": ADMIN}],
    }))?;
    let made = tokio::join!(
        writer.create(&domain),
        writer.create(&project),
        writer.create(&user),
        writer.create(&binding),
        password(writer, dir),
    );
    there(made.0).context("the domain `default`")?;
    there(made.1).context("the project `admin`")?;
    there(made.2).context("the user `admin`")?;
    there(made.3).context("the role binding of `admin`")?;
    made.4.context("the password of `admin`")
}

fn there<K>(result: kube::Result<K>) -> kube::Result<()> {
    match result {
        Err(error) if !is_exists(&error) => Err(error),
        _ => Ok(()),
    }
}

async fn password(writer: &Writer, dir: &Path) -> anyhow::Result<String> {
    let file = dir.join("pki").join("admin-password");
    let name = password_secret(ADMIN);
    let kept = std::fs::read_to_string(&file).ok().map(|text| text.trim().to_owned());
    let mut secret = writer.get::<Secret>(Some(SYSTEM_NAMESPACE), &name).await;
    if let Err(kube::Error::Api(status)) = &secret
        && status.code == 500
    {
        if let Some(password) = kept.as_ref().filter(|_| yunfan_encryption::is_of_plug_in(&status.message)) {
            // Whoever keeps the key may be back in a moment: nothing is lost, and all but this password works.
            tracing::error!(
                why = status.message,
                "nobody signs in as `admin` by password until its Secret can be read"
            );
            return Ok(password.clone());
        }
        // It can't be decrypted (its key is gone). What it holds can be made anew, and one object must not end the cloud.
        tracing::error!(why = status.message, "the Secret with the password of `admin` is made anew");
        let path = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets/{name}?{UNREAD}=true");
        writer.client().request::<serde_json::Value>(http::Request::delete(path).body(Vec::new())?).await?;
        secret = writer.get::<Secret>(Some(SYSTEM_NAMESPACE), &name).await;
    }
    if let (Some(password), Ok(_)) = (&kept, &secret) {
        return Ok(password.clone());
    }
    let password = kept.unwrap_or_else(|| (0..24).map(|_| random_character()).collect());
    write_private(&file, password.as_bytes())?;
    let hash = STANDARD.encode(yunfan_identity::password::hash(&password).await?);
    match secret {
        Ok(_) => {
            let patch = json!({"data": {"hash": hash}});
            writer.merge::<Secret>(Some(SYSTEM_NAMESPACE), &name, &patch).await?;
        }
        Err(error) if is_not_found(&error) => {
            let secret: Secret = serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE},
                "type": PASSWORD_SECRET_TYPE,
                "data": {"hash": hash},
            }))?;
            there(writer.create(&secret).await)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(password)
}

fn random_character() -> char {
    // No characters that are taken for one another, or that a shell would mind.
    const ALPHABET: &[u8; 54] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ234567";
    char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])
}
