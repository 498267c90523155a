//! API aggregation, with an extension server over TLS that knows only who shows the front proxy's certificate, and keeps what
//! it was asked.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yunfan_identity::pki::Identity;
use yunfan_identity::{PeerCertificate, UserInfo, pki};

use crate::streams::upgraded;
use crate::support::{Desk, nobody};

pub(crate) const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1.ext.example.com";
pub(crate) const GROUP: &str = "/apis/ext.example.com";
pub(crate) const THINGS: &str = "/apis/ext.example.com/v1/namespaces/default/things";

/// What an extension server is asked, and what it does then.
#[derive(Clone, Default)]
pub(crate) struct Extension {
    asked: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    /// Answers by path, in place of its usual ones.
    pub(crate) answers: Arc<Mutex<Vec<(String, Said)>>>,
    port: u16,
}

/// An answer that is not the usual one.
#[derive(Clone)]
pub(crate) enum Said {
    /// This code with this text.
    Text(u16, &'static str, String),
    /// This code with these headers, and no text.
    Head(u16, &'static [(&'static str, &'static str)]),
    /// None, ever.
    Nothing,
    /// A body that never ends.
    Endless,
}

impl Extension {
    /// One that listens, with a Service (in the namespace default) that leads to it.
    pub(crate) async fn start(desk: &Desk) -> Self {
        let identity = desk.authority.issue_server("ext", &["ext.default.svc"], 1).expect("a certificate");
        Self::start_as(desk, &identity).await
    }

    /// The same, which shows this certificate.
    pub(crate) async fn start_as(desk: &Desk, identity: &Identity) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Self { port, ..Self::default() };
        let front = desk.authority.front_proxy().expect("an authority");
        let tls = pki::server_config(identity, Some(front.certificate())).expect("a TLS configuration");
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(yunfan_serve::serve_tls(listener, Arc::new(tls), router, std::future::pending()));
        let service = json!({"metadata": {"name": "ext"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
        desk.call("POST", "/api/v1/namespaces/default/services", Some(service)).await.expect(201);
        server
    }

    /// The APIService of it, changed by this.
    pub(crate) fn object(&self, desk: &Desk, change: &Value) -> Value {
        use base64::Engine;
        let bundle = base64::engine::general_purpose::STANDARD.encode(desk.authority.certificate_pem());
        let mut object = json!({"metadata": {"name": NAME}, "spec": {
            "group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 20,
            "caBundle": bundle, "service": {"namespace": "default", "name": "ext", "port": self.port}}});
        for (key, value) in change.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        object
    }

    /// Registers it, and waits until it is available.
    pub(crate) async fn register(&self, desk: &Desk) {
        desk.call("POST", SERVICES, Some(self.object(desk, &json!({})))).await.expect(201);
        condition(desk, "Passed").await;
        self.take();
    }

    /// What it was asked since the last time, with the headers.
    pub(crate) fn take(&self) -> Vec<(String, HeaderMap)> {
        std::mem::take(&mut *self.asked.lock().expect("nobody panics"))
    }

    /// Has it answer so from now on.
    pub(crate) fn says(&self, path: &str, said: Said) {
        self.answers.lock().expect("nobody panics").push((path.to_owned(), said));
    }
}

async fn answer(State(server): State<Extension>, mut request: Request) -> Response {
    let Some(peer) = request.extensions().get::<PeerCertificate>().cloned() else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    assert_eq!(peer.user().expect("a user").name, "front-proxy-client");
    let path = request.uri().path().to_owned();
    let line = format!("{} {}", request.method(), request.uri());
    server.asked.lock().expect("nobody panics").push((line.clone(), request.headers().clone()));
    let said =
        server.answers.lock().expect("nobody panics").iter().rev().find(|(at, _)| *at == path).cloned();
    if let Some((_, said)) = said {
        return match said {
            Said::Text(code, media, text) => {
                let code = StatusCode::from_u16(code).expect("a code");
                (code, [("content-type", media)], text).into_response()
            }
            Said::Head(code, headers) => {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = StatusCode::from_u16(code).expect("a code");
                for (name, value) in headers {
                    answer.headers_mut().insert(*name, value.parse().expect("a value"));
                }
                answer
            }
            Said::Nothing => std::future::pending().await,
            Said::Endless => {
                let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
                ([("content-type", "application/json")], Body::from_stream(chunks)).into_response()
            }
        };
    }
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
            stream.write_all(line.as_bytes()).await.expect("written");
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::io::copy(&mut read, &mut write).await.expect("copied");
        });
        let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
        return (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    }
    if path == "/apis/ext.example.com/v1" {
        return axum::Json(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "ext.example.com/v1",
            "resources": [{"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing",
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"], "shortNames": ["th"]},
                {"name": "things/status", "singularName": "", "namespaced": true, "kind": "Thing", "verbs": ["get"]}]}))
        .into_response();
    }
    if line.contains("watch=") {
        // One event, and no end.
        let event = futures::stream::iter([Ok::<_, std::io::Error>(
            "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\"}}}\n",
        )]);
        return Body::from_stream(futures::StreamExt::chain(event, futures::stream::pending()))
            .into_response();
    }
    if path.starts_with("/apis/ext.example.com/v1/") {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&body);
        return ([("access-control-allow-origin", "*")], format!("{line} {text}")).into_response();
    }
    StatusCode::NOT_FOUND.into_response()
}

/// Waits until the condition of the APIService has this reason; its message.
pub(crate) async fn condition(desk: &Desk, reason: &str) -> String {
    let at = format!("{SERVICES}?watch=1&fieldSelector=metadata.name%3D{NAME}");
    let mut watch = desk.watch(&at).await;
    loop {
        let event = watch.next().await.expect("the condition comes");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(found) = conditions.iter().find(|one| one["reason"] == reason) {
            let wanted = if matches!(reason, "Passed" | "Local") { "True" } else { "False" };
            assert_eq!(found["status"], wanted);
            return found["message"].as_str().expect("a message").to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_in_the_name_of_their_user() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    server.register(&desk).await;
    let mut user = UserInfo::authenticated("ann", ["system:masters"]);
    user.uid = "7".to_owned();
    user.extra.insert("example.com/team".to_owned(), vec!["red".to_owned()]);
    let headers = [
        ("x-remote-user", "root"),
        ("x-remote-extra-x", "y"),
        ("x_remote_user", "root"),
        ("authorization", "Bearer a.b.c"),
        ("x-own", "1"),
    ];
    let path = format!("{THINGS}/a?fieldManager=me%20too");
    let answer = desk
        .send(Some(user), "PATCH", &path, "application/json", &headers, "{\"a\":1}".to_owned())
        .await
        .got(200);
    assert_eq!(answer.text, format!("PATCH {path} {{\"a\":1}}"));
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let (_, told) = server.take().pop().expect("it was asked");
    let all =
        |name: &str| told.get_all(name).iter().map(|value| value.to_str().expect("text")).collect::<Vec<_>>();
    assert_eq!(all("x-remote-user"), ["ann"]);
    assert_eq!(all("x-remote-uid"), ["7"]);
    assert_eq!(all("x-remote-group"), ["system:masters", "system:authenticated"]);
    assert_eq!(all("x-remote-extra-example.com%2fteam"), ["red"]);
    assert_eq!((all("x-own"), all("content-type")), (vec!["1"], vec!["application/json"]));
    for gone in ["x-remote-extra-x", "x_remote_user", "authorization"] {
        assert!(told.get(gone).is_none(), "{gone}");
    }
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let said = desk.call(method, THINGS, Some(json!({}))).await.got(200).text;
        assert_eq!(said, format!("{method} {THINGS} {{}}"));
    }
    // What the other server refuses is its own word, also to who may not ask here it does not come.
    server.says(&format!("{THINGS}/b"), Said::Text(418, "text/plain", "short and stout".to_owned()));
    let refused = desk.call("GET", &format!("{THINGS}/b"), None).await.got(418);
    assert_eq!(
        (refused.text.as_str(), &refused.headers["content-type"]),
        ("short and stout", &"text/plain".parse().unwrap())
    );
    server.take();
    desk.send(nobody(), "GET", THINGS, "", &[], String::new()).await.refused(403);
    assert_eq!(server.take().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_and_upgrades_last() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    server.register(&desk).await;
    let mut watch = desk.watch(&format!("{THINGS}?watch=1")).await;
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "a".to_owned()));
    let path = format!("{THINGS}/a/console?x=y");
    let mut stream = upgraded(&desk, &path).await;
    stream.write_all(b" ping").await.expect("written");
    let wanted = format!("GET {path} ping");
    let mut said = vec![0; wanted.len()];
    stream.read_exact(&mut said).await.expect("read");
    assert_eq!(String::from_utf8_lossy(&said), wanted);
    let (_, told) = server.take().pop().expect("it was asked");
    assert_eq!(told["x-remote-user"], "admin");
    assert_eq!(told["x-forwarded-for"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_asked_is_unavailable_and_says_why() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    let url = format!("https://ext.default.svc:{}{GROUP}/v1", server.port);
    let cluster = json!({"metadata": {"name": "own"}, "spec": {"ports": [{"port": 443, "name": "web"}]}});
    desk.call("POST", "/api/v1/namespaces/default/services", Some(cluster)).await.expect(201);
    let own = |port: u16| json!({"service": {"namespace": "default", "name": "own", "port": port}});
    let none = json!({"service": {"namespace": "default", "name": "none", "port": 443}});
    let one = format!("{SERVICES}/{NAME}");
    for (change, reason, why) in [
        (none, "ServiceNotFound", "service/none in \"default\" is not present".to_owned()),
        (own(80), "ServicePortError", "service/own in \"default\" is not listening on port 80".to_owned()),
        (
            own(443),
            "EndpointsNotFound",
            "cannot find endpointslices for service/own in \"default\"".to_owned(),
        ),
        // Nobody's certificates are those of the system's authorities.
        (
            json!({"caBundle": null}),
            "FailedDiscoveryCheck",
            format!("failing or missing response from {url}: Get \"{url}\": tls: "),
        ),
    ] {
        desk.call("POST", SERVICES, Some(server.object(&desk, &change))).await.expect(201);
        let said = condition(&desk, reason).await;
        assert!(said.starts_with(&why), "{said}");
        assert_eq!(desk.call("GET", THINGS, None).await.refused(503), "service unavailable");
        desk.call("DELETE", &one, None).await.expect(200);
    }
    assert_eq!(server.take().len(), 0, "who is not trusted is asked nothing");
    desk.call("GET", THINGS, None).await.expect_no_page();

    server.register(&desk).await;
    server.says("/apis/ext.example.com/v1", Said::Text(404, "text/plain", String::new()));
    // A change of the Service has it looked at again.
    let touched = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    desk.patch("merge-patch+json", "/api/v1/namespaces/default/services/ext", touched).await.expect(200);
    let said = condition(&desk, "FailedDiscoveryCheck").await;
    assert_eq!(said, format!("failing or missing response from {url}: bad status from {url}: 404"));
    let metrics = desk.call("GET", "/metrics", None).await.text;
    for line in [
        "aggregator_unavailable_apiservice{name=\"v1.ext.example.com\"} 1",
        "aggregator_unavailable_apiservice{name=\"v1.apps\"} 0",
        "aggregator_unavailable_apiservice_total{name=\"v1.ext.example.com\",reason=\"FailedDiscoveryCheck\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    let open = desk.get_as("/metrics", "application/openmetrics-text").await.got(200).text;
    let described = open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut names: Vec<&str> = described.collect();
    assert!(names.contains(&"aggregator_unavailable_apiservice"), "{names:?}");
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "each family has a name of its own");
    // Whoever it is.
    server.answers.lock().expect("nobody panics").clear();
    let other = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}}).to_string();
    desk.patch("merge-patch+json", &one, other).await.expect(200);
    condition(&desk, "Passed").await;
    desk.call("GET", THINGS, None).await.got(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_here_has_apiservices_of_its_own() {
    let desk = Desk::new().await;
    let apps = desk.call("GET", &format!("{SERVICES}/v1.apps"), None).await.expect(200);
    assert_eq!(
        apps["spec"],
        json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15})
    );
    assert_eq!(apps["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    assert_eq!(apps["status"]["conditions"][0]["reason"], "Local");
    let mut watch =
        desk.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name%3Dv1.shop.example.com")).await;
    let definition = json!({"metadata": {"name": "carts.shop.example.com"}, "spec": {"group": "shop.example.com", "scope": "Namespaced",
        "names": {"plural": "carts", "kind": "Cart"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    desk.call("POST", definitions, Some(definition)).await.expect(201);
    let made = watch.next().await.expect("it is made");
    let spec = json!({"group": "shop.example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100});
    assert_eq!((&made["type"], &made["object"]["spec"]), (&json!("ADDED"), &spec));
    // What is wrong is put right; what is gone is made again.
    let one = format!("{SERVICES}/v1.shop.example.com");
    desk.patch("merge-patch+json", &one, r#"{"spec":{"versionPriority":7}}"#).await.expect(200);
    assert_eq!(watch.next().await.expect("the change")["object"]["spec"]["versionPriority"], 7);
    assert_eq!(watch.next().await.expect("the way back")["object"]["spec"], spec);
    desk.call("DELETE", &one, None).await.expect(200);
    assert_eq!(watch.step().await.0, "DELETED");
    assert_eq!(watch.step().await.0, "ADDED");
    desk.call("DELETE", &format!("{definitions}/carts.shop.example.com"), None).await.expect(200);
    assert_eq!(watch.step().await.0, "DELETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apiservice_may_become_a_local_one_and_back() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    let none = json!({"service": {"namespace": "default", "name": "none"}, "caBundle": null});
    desk.call("POST", SERVICES, Some(server.object(&desk, &none))).await.expect(201);
    condition(&desk, "ServiceNotFound").await;
    let one = format!("{SERVICES}/{NAME}");
    let change = json!({"spec": {"service": null}}).to_string();
    desk.patch("merge-patch+json", &one, change).await.expect(200);
    assert_eq!(condition(&desk, "Local").await, "Local APIServices are always available");
    let metrics = desk.call("GET", "/metrics", None).await.text;
    assert!(
        metrics.contains("aggregator_unavailable_apiservice{name=\"v1.ext.example.com\"} 0"),
        "{metrics}"
    );
    let change = json!({"spec": server.object(&desk, &json!({}))["spec"]}).to_string();
    let changed = desk.patch("merge-patch+json", &one, change).await.expect(200);
    let conditions = changed["status"]["conditions"].as_array();
    assert!(conditions.is_none_or(Vec::is_empty), "nobody has looked yet: {changed}");
    condition(&desk, "Passed").await;
    desk.call("GET", THINGS, None).await.got(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_servers_learn_whom_to_believe() {
    let desk = Desk::new().await;
    let at = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let data = desk.call("GET", at, None).await.expect(200)["data"].clone();
    assert_eq!(data["client-ca-file"], desk.authority.certificate_pem());
    assert_eq!(
        data["requestheader-client-ca-file"],
        desk.authority.front_proxy().expect("one").certificate_pem()
    );
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(data["requestheader-username-headers"], "[\"X-Remote-User\"]");
    let maps = "/api/v1/namespaces/kube-system/configmaps?watch=1&fieldSelector=metadata.name%3Dextension-apiserver-authentication";
    let mut watch = desk.watch(maps).await;
    assert_eq!(watch.step().await.0, "ADDED");
    desk.patch("merge-patch+json", at, r#"{"data":{"client-ca-file":"x","mine":"y"}}"#).await.expect(200);
    watch.step().await;
    let mut wanted = data.clone();
    wanted["mine"] = json!("y");
    assert_eq!(watch.next().await.expect("the way back")["object"]["data"], wanted);
    desk.call("DELETE", at, None).await.expect(200);
    assert_eq!(watch.step().await.0, "DELETED");
    assert_eq!(watch.next().await.expect("it comes back")["object"]["data"], data);
}
