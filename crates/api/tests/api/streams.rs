//! Log, exec and attach go to the node's agent and back; here the agent is a server that says what it was asked.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yunfan_identity::pki;

use crate::support::Desk;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Answers with what it was asked, and echoes an upgraded stream.
async fn agent(mut request: Request<Body>) -> Response<Body> {
    let known = request.extensions().get::<yunfan_identity::PeerCertificate>().and_then(|c| c.user().ok());
    assert_eq!(known.expect("the front desk shows a certificate").name, "system:yunfan:apiserver");
    assert!(request.headers().get("authorization").is_none(), "the caller's token stays behind");
    let asked = format!("{} {}", request.method(), request.uri());
    if request.headers().get("upgrade").is_some_and(|to| to == "yunfan-dial") {
        return dial(&asked, hyper::upgrade::on(&mut request));
    }
    if !request.headers().contains_key("upgrade") {
        return Response::new(Body::from(asked));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
        stream.write_all(asked.as_bytes()).await.expect("written");
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.expect("read");
        stream.write_all(&word).await.expect("written");
        stream.shutdown().await.expect("ended");
    });
    let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    switching
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(Body::empty())
        .expect("an answer")
}

/// Port 8080 of the Pod says what it was asked, and redirects from `/old`; nothing listens on others.
fn dial(asked: &str, upgrade: hyper::upgrade::OnUpgrade) -> Response<Body> {
    if asked != "GET /dial/default/p/8080" {
        let why = json!({"message": "connect to 10.0.0.9:81 from inside: Connection refused"}).to_string();
        return Response::builder().status(503).body(Body::from(why)).expect("an answer");
    }
    let answer = |request: Request<hyper::body::Incoming>| async move {
        let header =
            |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
        let text = format!("{} {} {}", request.method(), request.uri(), header("x-forwarded-uri"));
        assert_eq!(header("authorization"), "-", "the caller's token stays behind");
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let text = format!("{text} {}", String::from_utf8_lossy(&body));
        let mut response = Response::builder();
        if text.contains(" /old ") {
            response = response.status(302).header("location", "/new");
        }
        response.body(text)
    };
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.expect("an upgrade"));
        let service = hyper::service::service_fn(answer);
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    });
    let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let switching = switching.header("connection", "Upgrade").header("upgrade", "yunfan-dial");
    switching.body(Body::empty()).expect("an answer")
}

/// A node with that agent, and a Pod on it.
async fn node(desk: &Desk) {
    node_with(desk, Router::new().fallback(agent)).await;
}

/// A node with this agent, and a Pod on it.
pub(crate) async fn node_with(desk: &Desk, agent: Router) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let identity = desk.authority.issue_server("system:node:n1", &["127.0.0.1"], 1).expect("a certificate");
    let tls = pki::server_config(&identity, Some(desk.authority.certificate())).expect("a TLS configuration");
    tokio::spawn(yunfan_serve::serve_tls(listener, Arc::new(tls), agent, std::future::pending()));
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    desk.call("POST", "/api/v1/nodes", Some(node)).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    desk.patch("merge-patch+json", "/api/v1/nodes/n1/status", status.to_string()).await.expect(200);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}});
    desk.call("POST", PODS, Some(pod)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_asked_of_the_node() {
    let desk = Desk::new().await;
    node(&desk).await;
    let message = desk.call("GET", &format!("{PODS}/p/log"), None).await.refused(400);
    assert!(message.contains("choose one of: [a b]"), "{message}");
    desk.call("GET", &format!("{PODS}/p/log?container=c"), None).await.refused(400);
    let log =
        desk.call("GET", &format!("{PODS}/p/log?container=b&tailLines=5&follow=true&odd=1"), None).await;
    assert_eq!(log.text, "GET /containerLogs/default/p/b?follow=true&tailLines=5");

    let lost = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lost"},
        "spec": {"containers": [{"name": "a", "image": "i"}]}});
    desk.call("POST", PODS, Some(lost)).await.expect(201);
    assert_eq!(desk.call("GET", &format!("{PODS}/lost/log"), None).await.got(204).text, "");
    let upgrade = format!("{PODS}/lost/attach?stdout=true");
    assert!(desk.call("POST", &upgrade, None).await.refused(400).contains("does not have a host assigned"));
    let dark = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}});
    desk.patch("merge-patch+json", "/api/v1/nodes/n1/status", dark.to_string()).await.expect(200);
    let message = desk.call("GET", &format!("{PODS}/p/log?container=a"), None).await.refused(503);
    assert!(message.contains("node n1 at 127.0.0.1:1 cannot be reached"), "{message}");
}

/// A connection over TLS as cluster admin that the server behind this path has upgraded.
pub(crate) async fn upgraded(desk: &Desk, path: &str) -> TokioIo<Upgraded> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let identity = desk.authority.issue_server("server", &["127.0.0.1"], 1).expect("a certificate");
    let tls = pki::server_config(&identity, Some(desk.authority.certificate())).expect("a TLS configuration");
    tokio::spawn(yunfan_serve::serve_tls(listener, Arc::new(tls), desk.api.router(), std::future::pending()));

    let client = desk.authority.issue_client("admin", &["system:masters"], 1).expect("a certificate");
    let tls = pki::client_config(desk.authority.certificate(), Some(&client)).expect("a TLS configuration");
    let stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let name = "127.0.0.1".try_into().expect("a name");
    let stream =
        tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.expect("a handshake");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection.with_upgrades());
    let request =
        Request::get(path).header("host", "x").header("connection", "Upgrade").header("upgrade", "websocket");
    let answer =
        sender.send_request(request.body(Body::empty()).expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    TokioIo::new(hyper::upgrade::on(answer).await.expect("an upgrade"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_passed_through_both_ways() {
    let desk = Desk::new().await;
    node(&desk).await;
    let path = format!("{PODS}/p/exec?container=a&command=ls&command=-l%20x&stdin=true&stdout=true");
    let mut stream = upgraded(&desk, &path).await;
    stream.write_all(b"ping").await.expect("written");
    let mut all = String::new();
    stream.read_to_string(&mut all).await.expect("read");
    assert_eq!(all, "GET /exec/default/p/a?command=ls&command=-l%20x&input=1&output=1ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn doors_reach_a_node_by_its_name() {
    let desk = Desk::new().await;
    node(&desk).await;
    let request = || Request::get("https://ignored/yunfan/x?y=1").body(Body::empty()).expect("a request");
    let answer = desk.api.nodes().request("n1", request()).await.expect("an answer");
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(bytes, "GET /yunfan/x?y=1");
    let lost = desk.api.nodes().request("none", request()).await.expect_err("no such node");
    assert_eq!(lost.code(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_options_of_a_log_are_told_as_upstream_does() {
    let desk = Desk::new().await;
    node(&desk).await;
    for (query, code, text) in [
        ("tailLines=-1", 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ("limitBytes=0", 422, "limitBytes: Invalid value: 0: must be greater than 0"),
        ("sinceSeconds=0", 422, "sinceSeconds: Invalid value: 0: must be greater than 0"),
        (
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            422,
            "at most one of `sinceTime` or `sinceSeconds`",
        ),
        ("stream=Both", 422, "stream: Unsupported value: \"Both\""),
        ("stream=Stdout&tailLines=1", 422, "`tailLines` and specific `stream` are mutually exclusive"),
        ("sinceTime=yesterday", 400, "parsing time \"yesterday\""),
        ("tailLines=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
    ] {
        let message =
            desk.call("GET", &format!("{PODS}/p/log?container=a&{query}"), None).await.refused(code);
        assert!(message.contains(text), "{query}: {message}");
    }
    let path =
        format!("{PODS}/p/log?container=a&stream=Stderr&insecureSkipTLSVerifyBackend=true&previous=true");
    let log = desk.call("GET", &path, None).await;
    assert_eq!(log.text, "GET /containerLogs/default/p/a?previous=true&stream=Stderr");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_services_and_nodes_are_spoken_to_through_their_node() {
    let desk = Desk::new().await;
    node(&desk).await;
    let proxy = format!("{PODS}/http:p:8080/proxy");
    let message = desk.call("GET", &format!("{proxy}/"), None).await.refused(400);
    assert_eq!(message, "address not allowed");
    let status = json!({"status": {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}});
    desk.patch("merge-patch+json", &format!("{PODS}/p/status"), status.to_string()).await.expect(200);

    let said = desk.call("GET", &format!("{proxy}/a%2Fb//c?d=e&f"), None).await.got(200).text;
    assert_eq!(said, format!("GET /a%2Fb//c?d=e&f {proxy}/a%2Fb//c "));
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let said = desk.call(method, &format!("{proxy}/x"), Some(json!({"some": 1}))).await.got(200).text;
        assert_eq!(said, format!("{method} /x {proxy}/x {{\"some\":1}}"));
    }
    let head = desk.call("HEAD", &format!("{proxy}/x"), None).await;
    assert_eq!(head.status, 200, "{}", head.text);
    desk.call("HEAD", &format!("{PODS}/p"), None).await.got(405);
    let moved = desk.call("GET", &format!("{proxy}?a=b"), None).await.got(301);
    assert_eq!(moved.headers["location"], format!("{proxy}/?a=b"));
    let moved = desk.call("GET", &format!("{proxy}/old"), None).await.got(302);
    assert_eq!(moved.headers["location"], format!("{proxy}/new"));

    let message = desk.call("GET", &format!("{PODS}/p:81/proxy/"), None).await.refused(503);
    assert_eq!(
        message,
        "error trying to reach service: connect to 10.0.0.9:81 from inside: Connection refused"
    );
    let message = desk.call("GET", &format!("{PODS}/ftp:p:81/proxy/"), None).await.refused(400);
    assert_eq!(message, "invalid pod request \"ftp:p:81\"");
    desk.call("GET", &format!("{PODS}/none/proxy/"), None).await.refused(404);

    let agent = desk.call("GET", "/api/v1/nodes/n1/proxy/healthz?x=1", None).await.got(200).text;
    assert_eq!(agent, "GET /healthz?x=1");
    assert!(desk.call("GET", "/api/v1/nodes/n1:1/proxy/", None).await.refused(400).contains("only the port"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_any_of_its_ready_pods() {
    let desk = Desk::new().await;
    node(&desk).await;
    let status = json!({"status": {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}});
    desk.patch("merge-patch+json", &format!("{PODS}/p/status"), status.to_string()).await.expect(200);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080}]}});
    let services = "/api/v1/namespaces/default/services";
    desk.call("POST", services, Some(service)).await.expect(201);
    let get = async |id: &str| desk.call("GET", &format!("{services}/{id}/proxy/"), None).await;
    assert_eq!(get("s:80").await.refused(503), "no endpoints available for service \"s:80\"");
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
    "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
    "ports": [{"name": "web", "port": 8080}],
    "endpoints": [
        {"addresses": ["10.0.0.8"], "conditions": {"ready": true}},
        {"addresses": ["10.0.0.9"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "p"}},
    ]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    desk.call("POST", slices, Some(slice)).await.expect(201);
    for id in ["s:80", "s:web", "http:s:web"] {
        assert!(get(id).await.got(200).text.starts_with("GET / "), "{id}");
    }
    assert_eq!(get("s:81").await.refused(503), "no service port 81 found for service \"s\"");
    assert!(get("s").await.refused(503).contains("no endpoints available"));
}
