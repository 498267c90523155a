//! A client of the door, and what tests make with it.

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::Cloud;

/// A client with a token.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) router: Router,
    pub(crate) token: String,
}

/// What the door answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// Sends one request.
pub(crate) async fn send(
    router: &Router,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body =
        serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { status, headers, body }
}

fn password_body(user: &str, password: &str, project: Option<&str>) -> Value {
    let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": {
        "name": user, "domain": {"id": "default"}, "password": password,
    }}}});
    if let Some(project) = project {
        auth["scope"] = json!({"project": {"name": project, "domain": {"name": "Default"}}});
    }
    json!({"auth": auth})
}

/// Signs in with a password.
pub(crate) async fn sign_in(cloud: &Cloud, user: &str, password: &str, project: Option<&str>) -> Answer {
    let body = password_body(user, password, project).to_string().into_bytes();
    send(
        &cloud.router,
        Method::POST,
        "/identity/v3/auth/tokens",
        &[("content-type", "application/json")],
        body,
    )
    .await
}

impl Client {
    pub(crate) async fn new(cloud: &Cloud, user: &str, password: &str, project: &str) -> Self {
        let answer = sign_in(cloud, user, password, Some(project)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let token = answer.headers["x-subject-token"].to_str().unwrap().to_owned();
        Self { router: cloud.router.clone(), token }
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        self.ask_as("compute 2.79, volume 3.67", method, path, body).await
    }

    /// As `ask`, in a chosen dialect.
    pub(crate) async fn ask_as(&self, version: &str, method: &str, path: &str, body: Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let headers = [
            ("x-auth-token", self.token.as_str()),
            ("content-type", "application/json"),
            ("openstack-api-version", version),
        ];
        send(&self.router, method.parse().unwrap(), path, &headers, bytes).await
    }

    /// Asks, and insists on the status.
    pub(crate) async fn must(&self, status: u16, method: &str, path: &str, body: Value) -> Value {
        let answer = self.ask(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        answer.body
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.must(200, "GET", path, Value::Null).await
    }
}

/// A member that must be text.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A tenant with a member, and the member's client.
pub(crate) async fn tenant(cloud: &Cloud, admin: &Client, name: &str) -> (Client, String) {
    let project = admin.must(201, "POST", "/identity/v3/projects", json!({"project": {"name": name}})).await;
    let project = text(&project["project"]["id"]).to_owned();
    let body = json!({"user": {"name": name, "password": "secret", "default_project_id": project}});
    let user = admin.must(201, "POST", "/identity/v3/users", body).await;
    let user = text(&user["user"]["id"]).to_owned();
    let roles = admin.get("/identity/v3/roles?name=member").await;
    let role = text(&roles["roles"][0]["id"]);
    admin
        .must(204, "PUT", &format!("/identity/v3/projects/{project}/users/{user}/roles/{role}"), Value::Null)
        .await;
    (Client::new(cloud, name, "secret", name).await, project)
}

/// An image with bytes.
pub(crate) async fn image(client: &Client) -> String {
    let body = json!({"name": "tiny", "disk_format": "qcow2", "container_format": "bare"});
    let image = client.must(201, "POST", "/image/v2/images", body).await;
    let id = text(&image["id"]).to_owned();
    let headers = [("x-auth-token", client.token.as_str()), ("content-type", "application/octet-stream")];
    let path = format!("/image/v2/images/{id}/file");
    let answer = send(&client.router, Method::PUT, &path, &headers, b"QFI bytes".to_vec()).await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    id
}

/// A flavor of one virtual CPU and 256 MiB.
pub(crate) async fn flavor(admin: &Client) -> String {
    let body = json!({"flavor": {"name": "m1.tiny", "vcpus": 1, "ram": 256, "disk": 1}});
    text(&admin.must(200, "POST", "/compute/v2.1/flavors", body).await["flavor"]["id"]).to_owned()
}

/// Asks until the thing at `path` has this status, and returns it.
pub(crate) async fn wait_for(client: &Client, path: &str, key: &str, status: &str) -> Value {
    for _ in 0..300 {
        let answer = client.get(path).await;
        if answer[key]["status"] == status {
            return answer[key].clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path} is not {status}: {}", client.get(path).await);
}
