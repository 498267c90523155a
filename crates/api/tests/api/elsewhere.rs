//! What an extension server must not do to those who ask it, nor those who ask to all others.

use std::task::Poll;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use serde_json::json;
use yunfan_api::ApiConfig;

use crate::aggregated::{Extension, SERVICES, Said, THINGS, condition};
use crate::hooks::{MAPS, Server, validating};
use crate::support::{Desk, admin, self_signed};

const UPGRADE: [(&str, &str); 2] = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];

async fn registered(desk: &Desk) -> Extension {
    let server = Extension::start(desk).await;
    server.register(desk).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_nowhere() {
    let desk = Desk::new().await;
    let server = registered(&desk).await;
    let at = |name: &str| format!("{THINGS}/{name}");
    for code in [301, 302, 307, 308] {
        server.says(&at("away"), Said::Head(code, &[("location", "http://192.0.2.1/steal"), ("x-own", "1")]));
        let answer = desk.call("GET", &at("away"), None).await.got(502);
        assert_eq!(answer.text, "the backend attempted to redirect this request, which is not permitted");
        assert!(!answer.headers.contains_key("location") && !answer.headers.contains_key("x-own"));
        let upgraded = desk.send(admin(), "GET", &at("away"), "", &UPGRADE, String::new()).await.refused(503);
        let wanted = format!("error trying to reach service: invalid upgrade response: status code {code}");
        assert_eq!(upgraded, wanted);
    }
    // Who leads nowhere may say so; and what refuses an upgrade is its word.
    server.says(&at("known"), Said::Head(304, &[("etag", "\"x\"")]));
    assert_eq!(desk.call("GET", &at("known"), None).await.got(304).headers["etag"], "\"x\"");
    server.says(&at("no"), Said::Text(403, "text/plain", "no".to_owned()));
    let refused = desk.send(admin(), "GET", &at("no"), "", &UPGRADE, String::new()).await.got(403);
    assert_eq!(refused.text, "no");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_asks_for_another_protocol_gets_one() {
    let desk = Desk::new().await;
    let server = registered(&desk).await;
    let path = format!("{THINGS}/a");
    // Without the other header it means nothing.
    let answer = desk.send(admin(), "GET", &path, "", &UPGRADE[1..], String::new()).await.got(200);
    assert_eq!(answer.text, format!("GET {path} "));
    assert!(server.take().pop().expect("it was asked").1.get("upgrade").is_none());
    server.says(&path, Said::Head(101, &[("connection", "upgrade"), ("upgrade", "websocket")]));
    let message = desk.call("GET", &path, None).await.refused(503);
    assert_eq!(
        message,
        "error trying to reach service: backend tried to switch protocol though that was not requested"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_authorized_is_what_is_asked_for() {
    let desk = Desk::new().await;
    let server = registered(&desk).await;
    let space = THINGS.trim_end_matches("/things");
    for odd in [
        format!("{THINGS}/a%2Fsecret"),
        format!("{THINGS}/..%2F..%2Fkube-system%2Fthings%2Fx"),
        format!("{space}%2F..%2Fkube-system/things/x"),
        format!("{THINGS}/../../kube-system/things/x"),
        format!("{THINGS}/%2e%2E/x"),
        format!("{THINGS}/..;/x"),
        format!("{THINGS}/a%5Cb"),
        format!("{THINGS}/a%00"),
        format!("{THINGS}//a"),
    ] {
        desk.call("GET", &odd, None).await.refused(400);
        assert_eq!(server.take().len(), 0, "{odd}");
    }
    for (path, line) in [
        (format!("{THINGS}/a%20b"), format!("GET {THINGS}/a%20b ")),
        (format!("{THINGS}/"), format!("GET {THINGS}/ ")),
        // Authorization reads it so, too.
        (THINGS.replace("ext", "%65xt"), format!("GET {} ", THINGS.replace("ext", "%65xt"))),
    ] {
        server.says(&path, Said::Text(200, "text/plain", line.clone()));
        assert_eq!(desk.call("GET", &path, None).await.got(200).text, line);
        assert_eq!(server.take().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_one_server_leave_room_for_others() {
    let desk = Desk::with(ApiConfig { max_in_flight: 8, ..ApiConfig::default() }).await;
    let server = registered(&desk).await;
    server.says(THINGS, Said::Nothing);
    let watch = format!("{THINGS}?watch=1");
    let mut held: Vec<_> = (0..8).map(|_| Box::pin(desk.call("GET", &watch, None))).collect();
    for one in &mut held {
        assert!(futures::poll!(one.as_mut()).is_pending());
    }
    desk.call("GET", &watch, None).await.refused(429);
    desk.call("GET", &format!("{THINGS}/a"), None).await.got(200);
    desk.call("GET", "/api/v1/pods?watch=1&timeoutSeconds=1", None).await.got(200);
    drop(held);
    let mut others = desk.watch(&format!("{}?watch=1", THINGS.replace("/things", "/others"))).await;
    assert_eq!(others.step().await.0, "ADDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_keep_their_place() {
    let desk = Desk::with(ApiConfig { max_in_flight: 8, ..ApiConfig::default() }).await;
    let server = registered(&desk).await;
    let endless = format!("{THINGS}/endless");
    server.says(&endless, Said::Endless);
    let mut unread = Vec::new();
    for _ in 0..8 {
        let answer = desk.raw(admin(), "GET", &endless, "", &[], String::new()).await;
        assert_eq!(answer.status(), 200);
        unread.push(answer.into_body());
    }
    desk.call("GET", &format!("{THINGS}/a"), None).await.refused(429);
    desk.call("GET", "/livez", None).await.got(200);
    assert!(unread.pop().expect("one").frame().await.is_some(), "it was dropped, and its place is free");
    desk.call("GET", &format!("{THINGS}/a"), None).await.got(200);
}

/// One thread, whose clock goes on when all wait.
#[tokio::test]
async fn not_even_a_watch_waits_for_ever_for_an_answer() {
    let desk = Desk::new().await;
    let server = registered(&desk).await;
    server.says(THINGS, Said::Nothing);
    let path = format!("{THINGS}?watch=1");
    let mut watch = Box::pin(desk.call("GET", &path, None));
    while server.take().is_empty() {
        assert!(matches!(futures::poll!(watch.as_mut()), Poll::Pending));
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    let message = watch.await.refused(504);
    assert_eq!(message, "Timeout: request did not complete within the allotted timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_their_own_authority_are_trusted() {
    let desk = Desk::new().await;
    let identity = self_signed("ext.default.svc");
    let server = Extension::start_as(&desk, &identity).await;
    let bundle = |identity: &str| json!({"caBundle": STANDARD.encode(identity)});
    // Another one of the same name is not.
    let other = self_signed("ext.default.svc");
    desk.call("POST", SERVICES, Some(server.object(&desk, &bundle(&other.certificate_pem))))
        .await
        .expect(201);
    let why = condition(&desk, "FailedDiscoveryCheck").await;
    assert!(why.contains("tls: invalid peer certificate"), "{why}");
    let change = json!({"spec": bundle(&identity.certificate_pem)}).to_string();
    let one = format!("{SERVICES}/v1.ext.example.com");
    desk.patch("merge-patch+json", &one, change).await.expect(200);
    condition(&desk, "Passed").await;
    desk.call("GET", THINGS, None).await.got(200);

    // So are those of webhooks.
    let hook = Server::start_as(&self_signed("127.0.0.1")).await;
    validating(&desk, hook.hook("deny", &["configmaps"], json!({}))).await;
    let refused = desk.call("POST", MAPS, Some(json!({"metadata": {"name": "a"}}))).await.refused(403);
    assert!(refused.contains("not today"), "{refused}");
}
