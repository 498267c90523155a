//! Every path of the door, asked for another project's things by who has no role at all and by another project's member: nothing is
//! told, and nothing changes.

use serde_json::{Value, json};

use super::{client, made};
use crate::support::client::{Client, flavor, image, sign_in, tenant, text};
use crate::support::{Cloud, PASSWORD, start};

/// Stands in all that is nobody else's business.
const SECRET: &str = "sesame";

const SERVICES: [&str; 5] = ["/identity", "/compute", "/network", "/volume", "/image"];

/// What a project has: where each thing is read, and the ids of all, each with the beginning of the paths that it may have a place in.
struct Things {
    places: Vec<String>,
    ids: Vec<(&'static str, String)>,
}

impl Things {
    /// Makes one, and knows it from then on.
    async fn add(&mut self, client: &Client, code: u16, place: &str, key: &str, body: Value) -> String {
        let made = client.must(code, "POST", place, json!({key: body})).await;
        let id = text(&made[key]["id"]).to_owned();
        self.places.push(format!("{place}/{id}"));
        self.knows(place, &id);
        id
    }

    fn knows(&mut self, place: &str, id: &str) {
        let service = SERVICES.into_iter().find(|service| place.starts_with(service)).expect("a service");
        self.ids.push((service, id.to_owned()));
    }

    fn fitting(&self, path: &str) -> Vec<&str> {
        self.ids.iter().filter(|(service, _)| path.starts_with(service)).map(|(_, id)| id.as_str()).collect()
    }
}

async fn things(admin: &Client, demo: &Client, project: String, user: String) -> Things {
    let (network, volume) = ("/network/v2.0", "/volume/v3");
    let mut all = Things { places: Vec::new(), ids: vec![("/", project), ("/", user.clone())] };
    let name = json!({"name": SECRET, "description": SECRET});
    let net = all.add(demo, 201, &format!("{network}/networks"), "network", name.clone()).await;
    let subnet = json!({"name": SECRET, "network_id": net, "cidr": "10.9.0.0/24", "ip_version": 4});
    all.add(demo, 201, &format!("{network}/subnets"), "subnet", subnet).await;
    let port = json!({"name": SECRET, "network_id": net});
    all.add(demo, 201, &format!("{network}/ports"), "port", port).await;
    all.add(demo, 201, &format!("{network}/routers"), "router", name.clone()).await;
    all.add(demo, 201, &format!("{network}/security-groups"), "security_group", name.clone()).await;
    let disk = json!({"name": SECRET, "description": SECRET, "size": 1, "metadata": {"key": SECRET}});
    all.add(demo, 202, &format!("{volume}/volumes"), "volume", disk).await;
    let picture = image(demo).await;
    let rename = json!([{"op": "replace", "path": "/name", "value": SECRET}]).to_string();
    let headers = [
        ("x-auth-token", demo.token.as_str()),
        ("content-type", "application/openstack-images-v2.1-json-patch"),
    ];
    let path = format!("/image/v2/images/{picture}");
    let renamed =
        crate::support::client::send(&demo.router, http::Method::PATCH, &path, &headers, rename.into()).await;
    assert_eq!(renamed.status, 200, "{}", renamed.body);
    all.knows(&path, &picture);
    all.places.push(path);
    let small = flavor(admin).await;
    let server = json!({"name": SECRET, "imageRef": picture, "flavorRef": small, "networks": [{"uuid": net}],
        "metadata": {"key": SECRET}, "description": SECRET});
    all.add(demo, 202, "/compute/v2.1/servers", "server", server).await;
    let group = json!({"name": SECRET, "policy": "affinity"});
    let group =
        demo.must(200, "POST", "/compute/v2.1/os-server-groups", json!({"server_group": group})).await;
    all.knows("/compute", text(&group["server_group"]["id"]));
    let key = json!({"keypair": {"name": SECRET}});
    demo.must(201, "POST", "/compute/v2.1/os-keypairs", key).await;
    all.places.push(format!("/compute/v2.1/os-keypairs/{SECRET}"));
    let own = format!("/identity/v3/users/{user}/application_credentials");
    all.add(demo, 201, &own, "application_credential", name).await;
    all
}

/// The path with these words in the places that it leaves open, one after the other; the last one again where there are more.
fn filled(path: &str, words: &[&str]) -> String {
    let mut at = 0;
    let parts = path.split('/').map(|part| {
        if !part.starts_with('{') {
            return part;
        }
        at += 1;
        words[(at - 1).min(words.len() - 1)]
    });
    parts.collect::<Vec<_>>().join("/")
}

fn blanks(path: &str) -> usize {
    path.split('/').filter(|part| part.starts_with('{')).count()
}

/// What the stranger is told or lets happen.
async fn walk(cloud: &Cloud, stranger: &Client, things: &Things) -> Vec<String> {
    let mut seen = Vec::new();
    for path in &cloud.paths {
        let mut asked = Vec::new();
        let ids = things.fitting(path);
        for id in &ids {
            asked.push(("GET", filled(path, &[id])));
            if blanks(path) > 1 {
                asked.extend(ids.iter().map(|other| ("GET", filled(path, &[id, other]))));
            }
            // What is nobody's own yet, everybody may make.
            if blanks(path) > 0 {
                asked.extend(["POST", "PUT", "PATCH", "DELETE"].map(|method| (method, filled(path, &[id]))));
            }
        }
        asked.sort();
        asked.dedup();
        for (method, path) in asked {
            let body = if method == "GET" { Value::Null } else { json!({}) };
            let answer = stranger.ask(method, &path, body).await;
            let changed = method != "GET" && answer.status < 300;
            if changed || answer.status >= 500 || answer.body.to_string().contains(SECRET) {
                seen.push(format!("{method} {path}: {} {}", answer.status, answer.body));
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_nothing_on_any_path() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    made(&admin, "users", "user", json!({"name": "lone", "password": "secret"})).await;
    let lone = client(&cloud, &sign_in(&cloud, "lone", "secret", None).await);
    let user = text(&admin.get("/identity/v3/users?name=demo").await["users"][0]["id"]).to_owned();
    let things = things(&admin, &demo, project, user).await;
    for place in &things.places {
        assert!(demo.get(place).await.to_string().contains(SECRET), "{place}");
    }
    for (who, stranger) in [("without a role", &lone), ("of another project", &other)] {
        let seen = walk(&cloud, stranger, &things).await;
        assert!(seen.is_empty(), "who is {who} got {seen:#?}");
    }
    for place in &things.places {
        assert!(demo.get(place).await.to_string().contains(SECRET), "{place}");
    }
    // Keystone's own rules: the catalog is everybody's, and what it is made from is not.
    for who in [&lone, &other] {
        for list in ["roles", "services", "endpoints", "role_inferences"] {
            assert_eq!(
                who.ask("GET", &format!("/identity/v3/{list}"), Value::Null).await.status,
                403,
                "{list}"
            );
        }
        who.get("/identity/v3/auth/catalog").await;
        who.get("/identity/v3/regions").await;
    }
}
