//! Key pairs: the public halves. They belong to a user, who finds them in every project. Each is an object in the project where
//! it was made, and a copy of it in every other project with a server that was given it.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use base64::Engine;
use kube::api::DeleteParams;
use md5::{Digest, Md5};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::compute::{KeyPair, KeyPairSpec};

use super::sshkey;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::{json_response, ok};
use crate::{directory, ids, stamp};

const PAGE: Limits = Limits { default: 1000, max: 1000 };
/// The longest public key, bytes: an RSA key of 16,384 bits has 2,800.
const MAX_KEY: usize = 16 * 1024;

/// The name that people read.
pub(super) fn display(pair: &KeyPair) -> String {
    match &pair.spec.display_name {
        Some(name) if !name.is_empty() => name.clone(),
        _ => ids::name(pair).to_owned(),
    }
}

fn view(version: Microversion, pair: &KeyPair) -> Value {
    let fingerprint = pair.spec.fingerprint.clone().or_else(|| fingerprint(&pair.spec.public_key).ok());
    let mut view = json!({
        "name": display(pair), "public_key": pair.spec.public_key, "fingerprint": fingerprint.unwrap_or_default(),
    });
    if version >= Microversion(2) {
        view["type"] = json!("ssh");
    }
    view
}

/// The MD5 fingerprint of a public key in OpenSSH's one-line format, after checking that it is one.
fn fingerprint(key: &str) -> Result<String, Fault> {
    let refuse = |why: &str| Fault::bad(format!("Keypair data is invalid: {why}"));
    if key.len() > MAX_KEY || key.trim().contains('\n') {
        return Err(refuse("a public key is one line of at most 16 KiB"));
    }
    let mut words = key.split_whitespace();
    let (Some(kind), Some(data)) = (words.next(), words.next()) else {
        return Err(refuse("expected \"TYPE BASE64 [COMMENT]\", as in an id_ed25519.pub file"));
    };
    let blob = base64::engine::general_purpose::STANDARD
        .decode(data)
        .map_err(|_| refuse("the key is not base64"))?;
    // The blob begins with the type once more: its length in four bytes, then its text.
    let length =
        blob.get(..4).map(|bytes| bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)));
    let named = length.and_then(|length| blob.get(4..4 + length.min(256)));
    if named != Some(kind.as_bytes()) {
        return Err(refuse("the key is not of the type that it says it is"));
    }
    Ok(Md5::digest(&blob).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

/// Whether a key pair was made by this user.
fn is_owned(pair: &KeyPair, user: &str) -> bool {
    pair.spec.user.as_deref() == Some(user)
}

/// The caller's key pairs in all projects that they can see.
async fn owned(session: &Session) -> Result<Vec<KeyPair>, Fault> {
    let user = &session.claims.sub;
    let mut pairs = match ids::list(&session.everywhere::<KeyPair>()).await {
        Ok(all) => all,
        Err(fault) if fault.status == StatusCode::FORBIDDEN => {
            let mut all = Vec::new();
            let projects = session.door.directory.projects_of(user).await?;
            for home in projects.iter().filter_map(directory::home) {
                all.extend(ids::list(&session.within::<KeyPair>(home)).await?);
            }
            all
        }
        Err(fault) => return Err(fault),
    };
    pairs.retain(|pair| is_owned(pair, user));
    Ok(pairs)
}

/// The key pairs that the caller can use, each name once: their own, a copy in the token's project before others, and those in
/// the token's project that are nobody's.
async fn mine(session: &Session) -> Result<Vec<KeyPair>, Fault> {
    let own = session.namespace()?;
    let mut pairs = owned(session).await?;
    let here = ids::list(&session.own::<KeyPair>()?).await?;
    pairs.extend(here.into_iter().filter(|pair| pair.spec.user.is_none()));
    pairs.sort_by_key(|pair| (display(pair), pair.spec.user.is_none(), ids::namespace(pair) != own));
    pairs.dedup_by_key(|pair| display(pair));
    Ok(pairs)
}

/// `metadata.name` of a key pair in a server's namespace, where the server can have it; one that is in others only is copied.
pub(super) async fn at_hand(session: &Session, namespace: &str, name: &str) -> Result<String, Fault> {
    let mut found: Vec<KeyPair> = mine(session).await?;
    found.retain(|pair| display(pair) == name);
    if let Some(here) = found.iter().find(|pair| ids::namespace(*pair) == namespace) {
        return Ok(ids::name(here).to_owned());
    }
    let pair = found.into_iter().next().ok_or_else(|| Fault::bad("Invalid key_name provided."))?;
    let copy = ids::create(&session.within::<KeyPair>(namespace), KeyPair::new("", pair.spec), name).await?;
    Ok(ids::name(&copy).to_owned())
}

async fn find(session: &Session, name: &str) -> Result<KeyPair, Fault> {
    let found = mine(session).await?.into_iter().find(|pair| display(pair) == name);
    found.ok_or_else(|| {
        Fault::new(StatusCode::NOT_FOUND, format!("Keypair {name} not found for user {}", session.claims.uid))
    })
}

/// Key pairs are their users' own, for administrators too: nobody is shown another's.
fn own_only(session: &Session, params: &Params) -> Result<(), Fault> {
    match params.get("user_id") {
        Some(user) if user != session.claims.uid => Err(Fault::forbidden(
            "Policy doesn't allow os_compute_api:os-keypairs:index to be performed: key pairs of others are not shown.",
        )),
        _ => Ok(()),
    }
}

/// `GET /os-keypairs`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    own_only(&session, &params)?;
    let (pairs, next) = page::cut(&params, PAGE, mine(&session).await?, display)?;
    let views: Vec<Value> = pairs.iter().map(|pair| json!({"keypair": view(version, pair)})).collect();
    let mut body = json!({"keypairs": views});
    let url = format!("{}/compute/v2.1/os-keypairs", session.door.endpoint);
    if let Some(links) = page::links(&url, &params, next.as_deref()).filter(|_| version >= Microversion(35)) {
        body["keypairs_links"] = links;
    }
    Ok(ok(&body))
}

/// `GET /os-keypairs/{name}`
pub(super) async fn show(session: Session, version: Microversion, Path(name): Path<String>) -> Answer {
    let pair = find(&session, &name).await?;
    let mut view = view(version, &pair);
    view["user_id"] = json!(session.claims.uid);
    view["id"] = json!(0);
    view["created_at"] = json!(stamp::micros_bare(stamp::created(&pair)));
    view["updated_at"] = Value::Null;
    view["deleted"] = json!(false);
    view["deleted_at"] = Value::Null;
    Ok(ok(&json!({"keypair": view})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    keypair: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default)]
    public_key: Option<String>,
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    user_id: Option<String>,
}

fn unexpected(field: &str) -> Fault {
    Fault::bad(format!(
        "Invalid input for field/attribute keypair. Additional properties are not allowed ('{field}' was unexpected)"
    ))
}

/// `POST /os-keypairs`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    let fields = body.keypair;
    ids::check_name("name", &fields.name, false)?;
    if fields.r#type.as_deref().is_some_and(|kind| kind != "ssh") {
        return Err(Fault::bad("Invalid input for field/attribute type. Only ssh keys are supported."));
    }
    if fields.user_id.as_ref().is_some_and(|user| *user != session.claims.uid) {
        return Err(Fault::bad("user_id is not supported: a key pair is made by the user whose it is."));
    }
    if fields.r#type.is_some() && version < Microversion(2) {
        return Err(unexpected("type"));
    }
    if fields.user_id.is_some() && version < Microversion(10) {
        return Err(unexpected("user_id"));
    }
    let letters = |c: char| c.is_ascii_alphanumeric() || " -_@.".contains(c);
    // Nova takes the last two of them since 2.92 only; a name that is refused before would be of no use to anybody.
    if !fields.name.chars().all(letters) {
        return Err(Fault::bad(
            "Invalid input for field/attribute name. It has letters, digits, spaces and -_@. only.",
        ));
    }
    let made = match &fields.public_key {
        Some(_) => None,
        None if version >= Microversion(92) => {
            return Err(Fault::bad(
                "Invalid input for field/attribute keypair. 'public_key' is a required property",
            ));
        }
        None => sshkey::make("Generated-by-Nova"),
    };
    let given = fields.public_key.as_deref().or(made.as_ref().map(|made| made.public.as_str()));
    // As it came: clients compare it with their file, which ends with a line feed.
    let public_key = given.unwrap_or_default().to_owned();
    let fingerprint = fingerprint(&public_key)?;
    if mine(&session).await?.iter().any(|pair| display(pair) == fields.name) {
        return Err(Fault::conflict(format!("Key pair '{}' already exists.", fields.name)));
    }
    let spec = KeyPairSpec {
        display_name: Some(fields.name.clone()),
        public_key,
        fingerprint: Some(fingerprint),
        user: Some(session.claims.sub.clone()),
    };
    let pair = ids::create(&session.own::<KeyPair>()?, KeyPair::new("", spec), &fields.name).await?;
    let mut view = view(version, &pair);
    view["user_id"] = json!(session.claims.uid);
    if let Some(made) = &made {
        // Told once, and kept nowhere.
        view["private_key"] = json!(made.private);
    }
    let status = if version >= Microversion(2) { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_response(status, &json!({"keypair": view})))
}

/// `DELETE /os-keypairs/{name}`, with all its copies.
pub(super) async fn delete(session: Session, version: Microversion, Path(name): Path<String>) -> Answer {
    let pair = find(&session, &name).await?;
    let copies = if is_owned(&pair, &session.claims.sub) {
        let mut all = owned(&session).await?;
        all.retain(|copy| display(copy) == name);
        all
    } else {
        vec![pair]
    };
    for copy in &copies {
        let pairs = session.within::<KeyPair>(ids::namespace(copy));
        match pairs.delete(ids::name(copy), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    let status = if version >= Microversion(2) { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok(status.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMl6ZsSz2nFJ7b1w2J8bQ7YkJpTbS4jvT8bFqv6xq1Yk me@host";

    #[test]
    fn keys_are_checked() {
        assert_eq!(fingerprint(KEY).unwrap().len(), 16 * 3 - 1);
        for bad in
            ["", "ssh-ed25519", "ssh-ed25519 !!!!", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIMl6", "ssh-rsa AA=="]
        {
            assert!(fingerprint(bad).is_err(), "{bad}");
        }
    }
}
