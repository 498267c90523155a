//! Remote consoles: who gets an address of one, and whom it lets in. What comes over the WebSocket then is tried with Tempest.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{SERVERS, server, tell};
use crate::support::client::{Answer, Client, flavor, image, send, tenant, text};
use crate::support::{Cloud, PASSWORD, start};

const NEWEST: &str = "compute 2.96";

fn wanted(protocol: &str, kind: &str) -> Value {
    json!({"remote_console": {"protocol": protocol, "type": kind}})
}

async fn console(client: &Client, path: &str, protocol: &str, kind: &str) -> Answer {
    client.ask_as(NEWEST, "POST", &format!("{path}/remote-consoles"), wanted(protocol, kind)).await
}

/// The path and query of a console's WebSocket, by its address.
async fn socket(client: &Client, path: &str, protocol: &str, kind: &str) -> String {
    let answer = console(client, path, protocol, kind).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let told = &answer.body["remote_console"];
    assert_eq!((&told["protocol"], &told["type"]), (&json!(protocol), &json!(kind)));
    let address = text(&told["url"]).to_owned();
    match address.strip_prefix("https://cloud/console/vnc_auto.html?path=") {
        Some(encoded) => format!("/{}", encoded.replace("%2F", "/").replace("%3F", "?").replace("%3D", "=")),
        None => address.strip_prefix("wss://cloud").expect("the cloud's own address").to_owned(),
    }
}

/// What a browser is answered that opens a WebSocket. The pretended node is busy with whoever is let in.
async fn knock(cloud: &Cloud, path: &str) -> u16 {
    let headers = [
        ("host", "cloud"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "x3JJHMbDL1EzLkh9GBhXDw=="),
        ("sec-websocket-protocol", "binary"),
    ];
    let answer = send(&cloud.router, Method::GET, path, &headers, Vec::new()).await;
    assert_eq!((answer.body, &answer.headers["connection"]), (json!(""), &"close".parse().unwrap()));
    answer.status
}

/// What the pretended node says.
const LET_IN: u16 = 429;

#[tokio::test]
async fn consoles_have_addresses_while_a_server_runs() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let vnc = socket(&demo, &path, "vnc", "novnc").await;
    let serial = socket(&demo, &path, "serial", "serial").await;
    assert!(vnc.starts_with("/console/websockify?token=") && serial.starts_with("/console/serial?token="));
    for path in [&vnc, &serial] {
        assert_eq!(knock(&cloud, path).await, LET_IN, "{path}");
        assert_eq!(knock(&cloud, &path.replace("token=", "token=bad")).await, 403);
    }
    // Each opens its own.
    assert_eq!(knock(&cloud, &vnc.replace("websockify", "serial")).await, 403);
    assert_eq!(knock(&cloud, "/console/websockify").await, 403);
    let token = vnc.split_once("token=").unwrap().1;
    let as_token = [("x-auth-token", token)];
    assert_eq!(send(&cloud.router, Method::GET, SERVERS, &as_token, Vec::new()).await.status, 401);

    let page = send(&cloud.router, Method::GET, "/console/vnc_auto.html?path=x", &[], Vec::new()).await;
    let (text, rules) = (text(&page.body), page.headers["content-security-policy"].to_str().unwrap());
    assert!(text.contains("<html") && text.contains("noVNC") && text.contains("<script"), "{text}");
    assert!(rules.starts_with("default-src 'none'") && !text.contains("http"), "{rules}");

    for (protocol, kind, words) in [
        ("vnc", "xvpvnc", "Invalid console type xvpvnc"),
        ("serial", "novnc", "Invalid console type novnc"),
        ("spice", "spice-html5", "Unavailable console type spice-html5."),
        ("rdp", "rdp-html5", "Unavailable console type rdp-html5."),
        ("mks", "webmks", "Unavailable console type webmks."),
        ("vnc", "window", "'window' is not one of"),
        ("x11", "novnc", "'x11' is not one of"),
    ] {
        let answer = console(&demo, &path, protocol, kind).await;
        assert_eq!(answer.status, 400, "{protocol}");
        let message = answer.body["badRequest"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    let older = |version: &'static str, body: Value| {
        let (demo, path) = (demo.clone(), format!("{path}/remote-consoles"));
        async move { demo.ask_as(version, "POST", &path, body).await.status }
    };
    assert_eq!(older("compute 2.5", wanted("vnc", "novnc")).await, 404);
    assert_eq!(older("compute 2.7", wanted("mks", "webmks")).await, 400);
    tell(&demo, &path, json!({"pause": null}), "PAUSED").await;
    assert_eq!(knock(&cloud, &vnc).await, LET_IN, "what it shows can be seen all the same");
    tell(&demo, &path, json!({"unpause": null}), "ACTIVE").await;
    tell(&demo, &path, json!({"os-stop": null}), "SHUTOFF").await;
    let off = console(&demo, &path, "vnc", "novnc").await;
    assert_eq!(off.status, 409);
    assert!(off.body["conflictingRequest"]["message"].as_str().unwrap().ends_with("is not ready"));
    assert_eq!(knock(&cloud, &vnc).await, 409);
    let gone = format!("{SERVERS}/11111111-1111-4111-8111-111111111111");
    assert_eq!(console(&demo, &gone, "vnc", "novnc").await.status, 404);
}

#[tokio::test]
async fn older_clients_ask_by_actions() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let action = format!("{}/action", server(&demo, &os, &small, json!({})).await);
    for (word, kind, status) in [
        ("os-getVNCConsole", "novnc", 200),
        ("os-getSerialConsole", "serial", 200),
        ("os-getVNCConsole", "xvpvnc", 400),
        ("os-getVNCConsole", "serial", 400),
        ("os-getSPICEConsole", "spice-html5", 400),
        ("os-getRDPConsole", "rdp-html5", 400),
    ] {
        let body = || json!({word: {"type": kind}});
        let answer = demo.ask_as("compute 2.5", "POST", &action, body()).await;
        assert_eq!(answer.status, status, "{word} {kind}: {}", answer.body);
        if status == 200 {
            assert_eq!(answer.body["console"]["type"], kind);
        }
        assert_eq!(demo.ask_as("compute 2.6", "POST", &action, body()).await.status, 404);
    }
}

#[tokio::test]
async fn an_address_ends_with_what_gave_it() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let own = socket(&demo, &path, "vnc", "novnc").await;
    let admins = socket(&admin, &path, "vnc", "novnc").await;
    let token = own.split_once("token=").unwrap().1;

    // A proxy is told where the console is; others are told nothing.
    let details = format!("/compute/v2.1/os-console-auth-tokens/{token}");
    let told = admin.ask_as(NEWEST, "GET", &details, Value::Null).await;
    assert_eq!(told.status, 200, "{}", told.body);
    assert_eq!(told.body["console"]["instance_uuid"], path.rsplit('/').next().unwrap());
    assert!(text(&told.body["console"]["internal_access_path"]).ends_with("/vnc"));
    assert_eq!(admin.ask_as("compute 2.30", "GET", &details, Value::Null).await.status, 401);
    assert_eq!(demo.ask_as(NEWEST, "GET", &details, Value::Null).await.status, 403);
    let unknown = admin.ask_as(NEWEST, "GET", &format!("{details}x"), Value::Null).await;
    assert_eq!(unknown.status, 404);

    // Who may only look at servers does not get to their keyboards.
    let body = json!({"user": {"name": "eye", "password": "secret", "default_project_id": project}});
    let eye = admin.must(201, "POST", "/identity/v3/users", body).await;
    let roles = admin.get("/identity/v3/roles?name=reader").await;
    let (eye, role) = (text(&eye["user"]["id"]), text(&roles["roles"][0]["id"]));
    let assignment = format!("/identity/v3/projects/{project}/users/{eye}/roles/{role}");
    admin.must(204, "PUT", &assignment, Value::Null).await;
    let eye = Client::new(&cloud, "eye", "secret", "demo").await;
    eye.get(&path).await;
    assert_eq!(console(&eye, &path, "vnc", "novnc").await.status, 403);

    // One that signs out takes along what it gave out, and a project that is disabled all of its own.
    let second = Client::new(&cloud, "demo", "secret", "demo").await;
    let seconds = socket(&second, &path, "vnc", "novnc").await;
    let headers = [("x-auth-token", second.token.as_str()), ("x-subject-token", second.token.as_str())];
    let out = send(&cloud.router, Method::DELETE, "/identity/v3/auth/tokens", &headers, Vec::new()).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT.as_u16());
    assert_eq!((knock(&cloud, &seconds).await, knock(&cloud, &own).await), (403, LET_IN));
    let off = json!({"project": {"enabled": false}});
    admin.must(200, "PATCH", &format!("/identity/v3/projects/{project}"), off).await;
    for _ in 0..500 {
        if knock(&cloud, &own).await == 403 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((knock(&cloud, &own).await, knock(&cloud, &admins).await), (403, LET_IN));
    admin.must(204, "DELETE", &path, Value::Null).await;
    assert_eq!(knock(&cloud, &admins).await, 403);
}
