//! `serviceaccounts/NAME/token`: a token for a service account, and where others find what verifies it.

use axum::body::Body;
use http::header::{CACHE_CONTROL, HOST, HeaderValue};
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use yunfan_identity::token::{AccountClaims, AccountKey, Bond, Reference};
use yunfan_identity::{Attributes, node};
use yunfan_objects::{ApiError, FieldError, GroupResource, GroupVersionKind, builtin, meta};

use super::negotiate::Format;
use super::review::note_writer;
use super::write::{Verb, WriteOptions};
use super::{Call, body, respond, subresources};
use crate::Api;
use crate::accounts::Audiences;
use crate::kinds::Kind;

/// How long a token lasts where nothing is said of it, seconds.
const LIFETIME: u64 = 3600;
/// The shortest and the longest time that may be asked for, seconds.
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
/// How long relying parties may keep the keys; as kube-apiserver says where keys do not change by themselves.
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=3600");

fn gvk() -> GroupVersionKind {
    GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest")
}

/// POST serviceaccounts/NAME/token.
pub(super) async fn handle(
    api: &Api,
    call: &Call,
    accounts: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let options = WriteOptions::parse(&call.params, request.headers(), Verb::Create)?;
    let schema = builtin::definitions().reference("io.k8s.api.authentication.v1.TokenRequest");
    let (mut asked, warnings) = body::receive(request).await?.plain(&gvk(), &schema, options.mode)?;
    call.warnings.extend(warnings);
    if asked["spec"]["expirationSeconds"].is_null() {
        asked["spec"]["expirationSeconds"] = json!(LIFETIME);
    }
    note_writer(&mut asked, &options.manager, "token", &gvk(), &schema);
    same_place(&asked, namespace, name)?;
    asked = subresources::ask(api, call, accounts, &options, asked).await?;
    same_place(&asked, namespace, name)?;
    let account = api.0.registry.get(accounts, namespace, name, None).await?.decode_stored();
    let uid = &account["metadata"]["uid"];
    let given = asked["metadata"]["uid"].as_str().unwrap_or_default();
    if !given.is_empty() && given != uid {
        let why = format!(
            "the UID in the token request ({given}) does not match the UID of the service account ({})",
            uid.as_str().unwrap_or_default()
        );
        return Err(ApiError::conflict(&kind_resource(), name, &why));
    }
    let mut bond = Bond { namespace: namespace.to_owned(), ..Bond::default() };
    bond.serviceaccount = reference(&account);
    let now = Timestamp::now();
    for (key, value) in [("name", json!(name)), ("namespace", json!(namespace)), ("uid", uid.clone())] {
        asked["metadata"][key] = value;
    }
    asked["metadata"]["creationTimestamp"] = json!(meta::time(now));
    let seconds = lifetime(&asked["spec"]["expirationSeconds"])?;
    let bound = bind(api, &mut bond, &asked["spec"]["boundObjectRef"]).await?;
    if let Some(node) = node::of(&call.user) {
        let allowed = match of_its_pods(node, &asked["spec"], bound.as_ref()) {
            Ok(None) => Ok(()),
            Ok(Some(audience)) => of_an_audience(api, call, audience).await,
            Err(why) => Err(why),
        };
        allowed.map_err(|why| ApiError::forbidden(&accounts.descriptor.group_resource(), name, &why))?;
    }
    let audiences = audiences(&mut asked["spec"], &api.0.accounts.audiences);
    let claims = AccountClaims::new(bond, audiences, seconds);
    let token =
        api.0.accounts.key.issue(&claims).map_err(|error| ApiError::bad_request(error.to_string()))?;
    // At most 2^32 seconds ahead.
    let expires = now.saturating_add(SignedDuration::from_secs(seconds as i64)).unwrap_or(Timestamp::MAX);
    asked["status"] = json!({ "token": token, "expirationTimestamp": meta::time(expires) });
    Ok(respond::value(201, format.encoding, &asked))
}

/// TokenRequest in words about an object, which kube-apiserver takes the kind's name for.
fn kind_resource() -> GroupResource {
    GroupResource::new("authentication.k8s.io", "TokenRequest")
}

/// Refuses a body that names another account than the path.
fn same_place(asked: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    for (key, wanted) in [("name", name), ("namespace", namespace)] {
        let given = asked["metadata"][key].as_str().unwrap_or_default();
        if !given.is_empty() && given != wanted {
            let why = format!("must match the service account {key} if specified");
            let error = FieldError::invalid(format!("metadata.{key}"), given, why);
            return Err(ApiError::invalid(&gvk(), name, &[error]));
        }
    }
    Ok(())
}

fn lifetime(asked: &Value) -> Result<u64, ApiError> {
    let seconds = asked.as_i64().unwrap_or_default();
    let why = match seconds {
        ..SHORTEST => "may not specify a duration less than 10 minutes",
        SHORTEST..=LONGEST => return Ok(seconds.unsigned_abs()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
    Err(ApiError::invalid(&gvk(), "", &[error]))
}

/// Those asked for, or the API server; the request shows which.
fn audiences(spec: &mut Value, own: &Audiences) -> Vec<String> {
    let given = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut all: Vec<String> = given.map(str::to_owned).collect();
    if all.is_empty() {
        all.extend(own.all().into_iter().map(str::to_owned));
    }
    spec["audiences"] = json!(all);
    if spec["boundObjectRef"].is_null() {
        spec["boundObjectRef"] = Value::Null;
    }
    all
}

fn reference(object: &Value) -> Reference {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    Reference { name: text("name"), uid: text("uid") }
}

/// A node asks for tokens of the Pods that it runs, for an audience that those project, and for no others: else who took over one
/// node would be whoever it likes. (Kubernetes' admission plugin NodeRestriction.) Tells the audience that the Pod does not project.
fn of_its_pods<'a>(node: &str, asked: &'a Value, bound: Option<&Value>) -> Result<Option<&'a str>, String> {
    let pod = bound.filter(|_| asked["boundObjectRef"]["kind"] == "Pod");
    let pod = pod.ok_or("node requested token not bound to a pod")?;
    if asked["boundObjectRef"]["uid"].as_str().is_none_or(str::is_empty) {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    if pod["spec"]["nodeName"] != node {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let audience = match asked["audiences"].as_array().map(Vec::as_slice) {
        None | Some([]) => "",
        Some([one]) => one.as_str().unwrap_or_default(),
        Some(_) => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut sources =
        volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let projected = sources.any(|source| {
        let token = source.get("serviceAccountToken");
        token.is_some_and(|token| token["audience"].as_str().unwrap_or_default() == audience)
    });
    Ok((!projected).then_some(audience))
}

/// Whether a node may ask for tokens for an audience that no Pod of it projects, because somebody allowed it that.
async fn of_an_audience(api: &Api, call: &Call, audience: &str) -> Result<(), String> {
    let verb = "request-serviceaccounts-token-audience";
    let asked = Attributes {
        version: "v1",
        namespace: call.info.object_namespace(),
        name: &call.info.name,
        ..Attributes::resource(&call.user, verb, "", audience)
    };
    // Without a resource it would be a question about a path.
    if !audience.is_empty() && api.0.gate.judge.authorize(&asked).await.is_allowed() {
        return Ok(());
    }
    let user = &call.user.name;
    Err(format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    ))
}

/// Binds a token to the object that the request names, and returns that.
async fn bind(api: &Api, bond: &mut Bond, bound: &Value) -> Result<Option<Value>, ApiError> {
    if !bound.is_object() {
        return Ok(None);
    }
    let text = |key: &str| bound[key].as_str().unwrap_or_default();
    let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
    let plural = match (version, kind) {
        (version, "Pod" | "Secret" | "Node") if !version.contains('/') => format!("{}s", kind.to_lowercase()),
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(ApiError::bad_request(why));
        }
    };
    let found = find(api, &plural, if kind == "Node" { "" } else { &bond.namespace }, name).await?;
    let bound_to = reference(&found);
    match kind {
        "Pod" => {
            let account = &bond.serviceaccount.name;
            if found["spec"]["serviceAccountName"].as_str().unwrap_or("default") != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            if let Some(node) = found["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                // The token says where the Pod is, also where that node is not known any more.
                let known = find(api, "nodes", "", node).await.ok().map(|node| reference(&node));
                let unknown = || Reference { name: node.to_owned(), uid: String::new() };
                bond.node = Some(known.unwrap_or_else(unknown));
            }
            bond.pod = Some(bound_to.clone());
        }
        "Secret" => bond.secret = Some(bound_to.clone()),
        _ => bond.node = Some(bound_to.clone()),
    }
    let wanted = text("uid");
    if !wanted.is_empty() && wanted != bound_to.uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(&GroupResource::new("", kind), name, &why));
    }
    Ok(Some(found))
}

async fn find(api: &Api, plural: &str, namespace: &str, name: &str) -> Result<Value, ApiError> {
    let kind = api.0.registry.kinds.table().get("", "v1", plural).ok_or_else(ApiError::no_such_path)?;
    Ok(api.0.registry.get(&kind, namespace, name, None).await?.decode_stored())
}

/// `/.well-known/openid-configuration`
pub(super) fn configuration(request: &Request<Body>) -> Result<Response<Body>, ApiError> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().authority().map(|authority| authority.as_str()));
    // Where the client found this document, it finds the keys.
    let host = host.ok_or_else(|| ApiError::bad_request("the request has no Host header"))?;
    let document = AccountKey::openid_configuration(host).to_string();
    Ok(kept(respond::raw(200, "application/json", document)))
}

/// `/openid/v1/jwks`
pub(super) fn keys(api: &Api) -> Response<Body> {
    kept(respond::raw(200, "application/jwk-set+json", api.0.accounts.key.jwks().to_string()))
}

fn kept(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CACHE_CONTROL, KEPT);
    response
}
