//! A front desk over an embedded store in a directory of its own, called in process or over TLS.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use yunfan_api::{Api, ApiConfig};
use yunfan_identity::pki::{Authority, Identity};
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::token::{AccountKey, TokenKey};
use yunfan_identity::{Caller, PeerCertificate, UserInfo};
use yunfan_store::EmbeddedStore;

/// The front desk under test.
pub(crate) struct Desk {
    pub(crate) api: Api,
    pub(crate) authority: Authority,
    pub(crate) store: Arc<EmbeddedStore>,
    pub(crate) tokens: TokenKey,
    router: Router,
    dir: Option<tempfile::TempDir>,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Answer {
    async fn read(response: http::Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("the body is whole").to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status: parts.status, headers: parts.headers, text, body }
    }

    /// Fails the test unless the code is this one.
    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Value {
        assert_eq!(self.status.as_u16(), code, "{}", self.text);
        self.body
    }

    /// Fails the test unless nothing is known at that path.
    #[track_caller]
    pub(crate) fn expect_no_page(self) {
        assert_eq!((self.status.as_u16(), self.text.as_str()), (404, "404 page not found\n"));
        assert_eq!(self.headers["content-type"], "text/plain; charset=utf-8");
    }

    /// The answer as a whole, which has this code.
    #[track_caller]
    pub(crate) fn got(self, code: u16) -> Self {
        assert_eq!(self.status.as_u16(), code, "{}", self.text);
        self
    }

    /// The message of a refusal with this code.
    #[track_caller]
    pub(crate) fn refused(self, code: u16) -> String {
        assert_eq!(self.body["kind"], "Status", "{}", self.text);
        let body = self.expect(code);
        assert_eq!(body["code"], code);
        body["message"].as_str().expect("a refusal has a message").to_owned()
    }
}

impl Desk {
    /// A new one, bootstrapped.
    pub(crate) async fn new() -> Self {
        Self::with(ApiConfig::default()).await
    }

    /// A new one with these settings.
    pub(crate) async fn with(config: ApiConfig) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut desk = Self::open_with(dir.path(), config).await;
        desk.dir = Some(dir);
        desk
    }

    /// One over what is in a directory.
    pub(crate) async fn open(dir: &Path) -> Self {
        Self::open_with(dir, ApiConfig::default()).await
    }

    async fn open_with(dir: &Path, config: ApiConfig) -> Self {
        let store = yunfan_store::open_embedded(dir.join("store")).expect("the store opens");
        let authority = Authority::open_or_create(&dir.join("pki")).expect("an authority");
        let tokens = TokenKey::open_or_create(&dir.join("pki")).expect("a key");
        let rbac = Arc::new(RbacAuthorizer::new());
        let accounts = AccountKey::open_or_create(&dir.join("pki")).expect("a key");
        let api = Api::start(store.clone(), tokens.clone(), accounts, rbac, &authority, config)
            .await
            .expect("the front desk starts");
        api.bootstrap().await.expect("bootstrap");
        let desk = Self { router: api.router(), api, authority, store, tokens, dir: None };
        desk.account("default", "default").await;
        desk
    }

    /// Closes it, and gives back the directory.
    pub(crate) async fn close(mut self) -> tempfile::TempDir {
        let dir = self.dir.take().expect("the desk owns its directory");
        drop(self.router);
        drop(self.api);
        self.store.close().await;
        dir
    }

    /// Starts another one over what this one leaves.
    pub(crate) async fn again(self) -> Self {
        let dir = self.close().await;
        let mut desk = Self::open(dir.path()).await;
        desk.dir = Some(dir);
        desk
    }

    /// A request as cluster admin, with a JSON body where there is one.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        self.send(admin(), method, path, "application/json", &[], body).await
    }

    /// A patch of this kind as cluster admin.
    pub(crate) async fn patch(&self, kind: &str, path: &str, body: impl Into<String>) -> Answer {
        self.send(admin(), "PATCH", path, &format!("application/{kind}"), &[], body.into()).await
    }

    /// A GET with an Accept header.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(admin(), "GET", path, "", &[("accept", accept)], String::new()).await
    }

    /// Any request.
    pub(crate) async fn send(
        &self,
        user: Option<UserInfo>,
        method: &str,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        Answer::read(self.raw(user, method, path, content_type, headers, body).await).await
    }

    /// Any request, the answer's body not read.
    pub(crate) async fn raw(
        &self,
        user: Option<UserInfo>,
        method: &str,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> http::Response<Body> {
        self.ask(user, None, (method, path, content_type), headers, body).await
    }

    /// A POST over a connection whose client showed this certificate.
    pub(crate) async fn post_with(
        &self,
        certificate: &Identity,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let peer = PeerCertificate::new(&certificate.chain().expect("a chain"));
        let what = ("POST", path, "application/json");
        Answer::read(self.ask(None, peer, what, headers, body.to_owned()).await).await
    }

    async fn ask(
        &self,
        user: Option<UserInfo>,
        peer: Option<PeerCertificate>,
        (method, path, content_type): (&str, &str, &str),
        headers: &[(&str, &str)],
        body: String,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body)).expect("a request");
        if let Some(user) = user {
            request.extensions_mut().insert(Caller(user));
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        self.router.clone().oneshot(request).await.expect("the router never fails")
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    /// Opens a watch with an Accept header.
    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let response = self.raw(admin(), "GET", path, "", &[("accept", accept)], String::new()).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: String::new() }
    }

    /// Opens a watch with a token.
    pub(crate) async fn watch_with(&self, token: &str, path: &str) -> Watch {
        let bearer = format!("Bearer {token}");
        let response = self.raw(None, "GET", path, "", &[("authorization", &bearer)], String::new()).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: String::new() }
    }

    /// Makes a namespace.
    pub(crate) async fn namespace(&self, name: &str) {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.call("POST", "/api/v1/namespaces", Some(object)).await.expect(201);
        self.account(name, "default").await;
    }

    /// Makes a ServiceAccount, or finds it there: in a cloud a loop does this for each namespace.
    pub(crate) async fn account(&self, namespace: &str, name: &str) {
        let object =
            serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let answer = self.call("POST", &path, Some(object)).await;
        assert!(matches!(answer.status.as_u16(), 201 | 409), "{}", answer.text);
    }
}

/// Events of a watch.
pub(crate) struct Watch {
    body: Body,
    rest: String,
}

impl Watch {
    /// The next event; fails the test if none comes in 5 s, gives nothing at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.find('\n') {
                let line: String = self.rest.drain(..=end).collect();
                return Some(serde_json::from_str(&line).expect("an event is JSON"));
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(5), self.body.frame()).await;
            let bytes = frame.expect("an event in time")?.expect("a frame").into_data().expect("data");
            self.rest.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
    }

    /// The next piece of the stream; none at its end.
    pub(crate) async fn frame(&mut self) -> Option<String> {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(5), self.body.frame()).await;
        let bytes = frame.expect("a frame or the end in time")?.expect("a frame").into_data().expect("data");
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Type and name of the next event.
    pub(crate) async fn step(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

/// A certificate for a server with this name, signed with its own key, and by its form an authority's, as `openssl req -x509`
/// makes them.
pub(crate) fn self_signed(name: &str) -> Identity {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

/// A certificate that says of nobody that it is theirs.
pub(crate) fn nameless() -> Identity {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = params.self_signed(&key).expect("a certificate");
    Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

/// The cluster admin.
pub(crate) fn admin() -> Option<UserInfo> {
    Some(UserInfo::authenticated("admin", ["system:masters"]))
}

/// Someone without any role.
pub(crate) fn nobody() -> Option<UserInfo> {
    Some(UserInfo::authenticated("nobody", Vec::<String>::new()))
}
