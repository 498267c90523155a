//! Tokens of application credentials with access rules: they are good for the requests that these name, and for no others.

use axum::http::Uri;
use axum::http::request::Parts;
use yunfan_identity::token::Claims;
use yunfan_resources::iam::ApplicationCredential;

use crate::Ctx;
use crate::error::Fault;

/// A request's path as it came to the door: services see but a part of it.
#[derive(Clone, Debug)]
pub(crate) struct Whole(pub(crate) Uri);

/// The types of the service whose paths begin so, as catalogs have them.
fn types(service: &str) -> &'static [&'static str] {
    match service {
        "identity" => &["identity"],
        "compute" => &["compute"],
        "image" => &["image"],
        "network" => &["network"],
        "volume" => &["block-storage", "volumev3", "volume", "block-store"],
        "placement" => &["placement"],
        _ => &[],
    }
}

/// Refuses a request that the rules do not name by which the token's credential is limited.
pub(crate) async fn check(door: &Ctx, parts: &Parts, claims: &Claims) -> Result<(), Fault> {
    let Some(ruled) = claims.app_credential.as_ref().filter(|credential| credential.ruled) else {
        return Ok(());
    };
    let found = door.directory.with_id::<ApplicationCredential>(&ruled.id).await?;
    let path = parts.extensions.get::<Whole>().map(|whole| whole.0.path().trim_start_matches('/'));
    let (service, rest) = path.and_then(|path| path.split_once('/')).unwrap_or_default();
    let rest = format!("/{rest}");
    let allows = found
        .iter()
        .flat_map(|found| &found.spec.access_rules)
        .any(|rule| rule.allows(types(service), parts.method.as_str(), &rest));
    if allows { Ok(()) } else { Err(Fault::unauthorized()) }
}
