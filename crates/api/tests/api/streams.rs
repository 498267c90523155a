//! Log, exec and attach go to the node's agent and back; here the agent is a server that says what it was asked.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
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

/// A node with that agent, and a Pod on it.
async fn node(desk: &Desk) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let identity = desk.authority.issue_server("system:node:n1", &["127.0.0.1"], 1).expect("a certificate");
    let tls = pki::server_config(&identity, Some(desk.authority.certificate())).expect("a TLS configuration");
    tokio::spawn(yunfan_serve::serve_tls(
        listener,
        Arc::new(tls),
        Router::new().fallback(agent),
        std::future::pending(),
    ));
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
    assert!(desk.call("GET", &format!("{PODS}/lost/log"), None).await.refused(400).contains("host assigned"));
    let dark = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}});
    desk.patch("merge-patch+json", "/api/v1/nodes/n1/status", dark.to_string()).await.expect(200);
    let message = desk.call("GET", &format!("{PODS}/p/log?container=a"), None).await.refused(503);
    assert!(message.contains("node n1 at 127.0.0.1:1 cannot be reached"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_passed_through_both_ways() {
    let desk = Desk::new().await;
    node(&desk).await;
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
    let path = format!("{PODS}/p/exec?container=a&command=ls&command=-l%20x&stdin=true&stdout=true");
    let request =
        Request::get(path).header("host", "x").header("connection", "Upgrade").header("upgrade", "websocket");
    let answer =
        sender.send_request(request.body(Body::empty()).expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.expect("an upgrade"));
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
