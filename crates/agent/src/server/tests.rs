//! Who gets to which route, with certificates as they are made for nodes and components.

use axum::body::Body;
use axum::routing::any;
use k8s_openapi::api::core::v1::Node;
use tokio::net::TcpListener;
use tower::ServiceExt;
use yunfan_identity::pki::{Authority, Identity, LEAF_DAYS, client_config, server_config};
use yunfan_resources::names::{component_user, node_user};

use super::*;

/// The agent's API, but for what its handlers do, and who asks it.
struct Served {
    authority: Authority,
    node: Node,
    _dir: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let serving = authority.issue_server(&node_user("n1"), &["127.0.0.1"], LEAF_DAYS).unwrap();
        let tls = server_config(&serving, Some(authority.certificate())).unwrap();
        let app = app();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(yunfan_serve::serve_tls(listener, Arc::new(tls), app, std::future::pending()));
        let node = json!({"metadata": {"name": "n1"}, "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }});
        Self { authority, node: serde_json::from_value(node).unwrap(), _dir: dir }
    }

    fn client(&self, identity: Option<&Identity>) -> Client {
        Client::new(Arc::new(client_config(self.authority.certificate(), identity).unwrap()))
    }

    fn of(&self, user: &str, groups: &[&str]) -> Client {
        self.client(Some(&self.authority.issue_client(user, groups, LEAF_DAYS).unwrap()))
    }

    async fn status(&self, client: &Client, method: &Method, path: &str) -> u16 {
        let answer = client.request(&self.node, method.clone(), path, Body::empty()).await.unwrap();
        answer.status().as_u16()
    }
}

/// The routes, each with a handler that tells that it was reached.
fn app() -> Router {
    let reached = |route: Route<Api>| Route { path: route.path, handler: any(|| async { "reached" }) };
    guarded(routes().into_iter().map(reached).collect(), reviews())
}

/// Reviews by an API server that knows a scraper, who may have metrics, a keeper, who may have all of a node, and a stranger.
fn reviews() -> Reviews {
    let api = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
        let path = request.uri().path().to_owned();
        let mut asked: serde_json::Value =
            serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
        asked["status"] = if path.ends_with("/tokenreviews") {
            match asked["spec"]["token"].as_str().unwrap() {
                "wrong" => json!({"error": "unknown"}),
                name => json!({"authenticated": true, "user": {"username": name, "groups": ["scrapers"]}}),
            }
        } else {
            let (spec, of) = (&asked["spec"], &asked["spec"]["resourceAttributes"]);
            assert_eq!(
                (&of["resource"], &of["name"], &spec["groups"]),
                (&json!("nodes"), &json!("n1"), &json!(["scrapers"]))
            );
            let right = (
                spec["user"].as_str().unwrap(),
                of["verb"].as_str().unwrap(),
                of["subresource"].as_str().unwrap(),
            );
            json!({"allowed": matches!(
                right,
                ("scraper", "get", "metrics") | ("reader", "get", "log") | ("keeper", "get", "proxy")
            )})
        };
        Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(
            asked.to_string().into_bytes(),
        )))
    });
    Reviews::new(yunfan_client::Writer::new(kube::Client::new(api, "default"), "test"), "n1")
}

#[tokio::test]
async fn a_token_opens_what_its_user_has_a_right_to() {
    let ask = |path: String, token: &'static str| async move {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        app().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    };
    for (token, open) in [
        ("scraper", &["/metrics", "/metrics/cadvisor", "/metrics/probes", "/metrics/resource"][..]),
        ("keeper", &bearer::OPEN.map(|(path, _)| path)[..]),
        ("reader", &["/logs/", "/logs/{*path}"]),
        ("stranger", &[]),
    ] {
        for route in routes() {
            let path = path_of(route.path);
            let code = ask(path.clone(), token).await;
            let known = bearer::OPEN.iter().any(|(known, _)| *known == route.path);
            let wanted = if open.contains(&route.path) {
                200
            } else if known {
                403
            } else {
                401
            };
            assert_eq!(code, wanted, "{token} {path}");
            assert_eq!(ask(path, "wrong").await, 401);
        }
    }
}

const ALL: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// A path of a route's form.
fn path_of(route: &str) -> String {
    let words = route.split('/').map(|word| if word.starts_with('{') { "x" } else { word });
    words.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn other_nodes_get_the_bytes_of_disk_images_and_nothing_else() {
    let served = Served::start().await;
    let node = served.of(&node_user("n2"), &[NODES_GROUP]);
    let component = served.of(&component_user("api"), &[COMPONENTS_GROUP]);
    let (master, user) = (served.of("root", &[MASTERS_GROUP]), served.of("alice", &["people"]));
    let (nobody, mut open) = (served.client(None), Vec::new());
    for route in routes() {
        for method in &ALL {
            let path = path_of(route.path);
            for client in [&component, &master] {
                assert_eq!(served.status(client, method, &path).await, 200, "{method} {path}");
            }
            assert_eq!(served.status(&user, method, &path).await, 403, "{method} {path}");
            assert_eq!(served.status(&nobody, method, &path).await, 401, "{method} {path}");
            match served.status(&node, method, &path).await {
                200 => open.push(format!("{method} {}", route.path)),
                other => assert_eq!(other, 403, "{method} {path}"),
            }
        }
    }
    assert_eq!(open, ["GET /images/{id}"]);
    assert_eq!(served.status(&node, &Method::GET, "/nothing").await, 403);
}
