//! What is so by now, whatever a token that was got before says.

use http::Method;
use serde_json::{Value, json};

use super::{V3, made, role};
use crate::support::client::{Client, send, tenant, text};
use crate::support::{PASSWORD, start};

#[tokio::test]
async fn an_application_credential_has_roles_that_came_after_the_token() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let user = text(&admin.get(&format!("{V3}/users?name=demo")).await["users"][0]["id"]).to_owned();
    let path = format!("{V3}/users/{user}/application_credentials");
    let late = made(&admin, "roles", "role", json!({"name": "late"})).await;
    let body = |name: &str| json!({"application_credential": {"name": name, "roles": [{"id": late}]}});
    assert_eq!(demo.ask("POST", &path, body("early")).await.status, 400);
    let member = role(&admin, "member").await;
    let least =
        json!({"application_credential": {"name": "less", "unrestricted": true, "roles": [{"id": member}]}});
    let least = demo.must(201, "POST", &path, least).await["application_credential"].clone();
    let grant = format!("{V3}/projects/{project}/users/{user}/roles/{late}");
    admin.must(204, "PUT", &grant, Value::Null).await;
    let given = demo.must(201, "POST", &path, body("late")).await;
    assert_eq!(given["application_credential"]["roles"][0]["id"], late.as_str());
    // Who has a part of a user's roles gets no more by this.
    let identity = json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": {
        "id": least["id"], "secret": least["secret"]}}}});
    let headers = [("content-type", "application/json")];
    let tokens = "/identity/v3/auth/tokens";
    let signed = send(&cloud.router, Method::POST, tokens, &headers, identity.to_string().into_bytes()).await;
    let token = signed.headers["x-subject-token"].to_str().expect("a token").to_owned();
    let part = Client { router: cloud.router.clone(), token };
    assert_eq!(part.ask("POST", &path, body("more")).await.status, 400);
}

#[tokio::test]
async fn the_domains_that_one_can_sign_in_to_are_those_of_the_groups_one_is_in_now() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let user = text(&admin.get(&format!("{V3}/users?name=demo")).await["users"][0]["id"]).to_owned();
    let domain = made(&admin, "domains", "domain", json!({"name": "dept"})).await;
    let group = made(&admin, "groups", "group", json!({"name": "team", "domain_id": domain})).await;
    let reader = role(&admin, "reader").await;
    admin
        .must(204, "PUT", &format!("{V3}/domains/{domain}/groups/{group}/roles/{reader}"), Value::Null)
        .await;
    assert_eq!(demo.get(&format!("{V3}/auth/domains")).await["domains"], json!([]));
    admin.must(204, "PUT", &format!("{V3}/groups/{group}/users/{user}"), Value::Null).await;
    assert_eq!(demo.get(&format!("{V3}/auth/domains")).await["domains"][0]["id"], domain.as_str());
}

#[tokio::test]
async fn a_domains_role_implies_those_of_others_and_of_none() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let mut roles = Vec::new();
    for name in ["one", "two"] {
        let domain = made(&admin, "domains", "domain", json!({"name": name})).await;
        roles.push(made(&admin, "roles", "role", json!({"name": name, "domain_id": domain})).await);
    }
    roles.push(made(&admin, "roles", "role", json!({"name": "all"})).await);
    let imply =
        |prior: usize, implied: usize| format!("{V3}/roles/{}/implies/{}", roles[prior], roles[implied]);
    admin.must(201, "PUT", &imply(0, 1), Value::Null).await;
    admin.must(201, "PUT", &imply(0, 2), Value::Null).await;
    admin.must(403, "PUT", &imply(2, 1), Value::Null).await;
}

#[tokio::test]
async fn a_projects_tag_is_added_without_a_word() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let project = made(&admin, "projects", "project", json!({"name": "top"})).await;
    let added = admin.ask("PUT", &format!("{V3}/projects/{project}/tags/a"), Value::Null).await;
    assert_eq!((added.status, added.body), (201, json!("")), "as Keystone answers: clients read no body");
}

#[tokio::test]
async fn policies_are_kept_as_they_come() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let policies = "/identity/v3/policies";
    let body = json!({"policy": {"blob": "text", "type": "application/json"}});
    demo.must(403, "POST", policies, body.clone()).await;
    admin.must(400, "POST", policies, json!({"policy": {"blob": "text"}})).await;
    let made = admin.must(201, "POST", policies, body).await["policy"].clone();
    let path = format!("{policies}/{}", text(&made["id"]));
    for (filter, found) in [
        ("type=application/json", true),
        ("type__contains=json", true),
        ("type__icontains=JSON", true),
        ("type__endswith=json", true),
        ("type__iendswith=/xml", false),
        ("type__startswith=json", false),
    ] {
        let expected = if found { json!([made]) } else { json!([]) };
        assert_eq!(admin.get(&format!("{policies}?{filter}")).await["policies"], expected, "{filter}");
    }
    let changed = admin.must(200, "PATCH", &path, json!({"policy": {"type": "other"}})).await;
    assert_eq!((&changed["policy"]["type"], &changed["policy"]["blob"]), (&json!("other"), &json!("text")));
    demo.must(403, "GET", &path, Value::Null).await;
    admin.must(204, "DELETE", &path, Value::Null).await;
    admin.must(404, "GET", &path, Value::Null).await;
}

#[tokio::test]
async fn what_clients_say_beside_is_kept_with_everything() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let service =
        made(&admin, "services", "service", json!({"name": "s", "type": "t", "email": "a@b"})).await;
    let endpoint = json!({"service_id": service, "interface": "public", "url": "http://x/", "description": "d", "email": "a@b"});
    let endpoint = made(&admin, "endpoints", "endpoint", endpoint).await;
    let region = made(&admin, "regions", "region", json!({"id": "r", "name": "n", "email": "a@b"})).await;
    let role = made(&admin, "roles", "role", json!({"name": "r", "email": "a@b"})).await;
    let policy = json!({"blob": "b", "type": "t", "email": "a@b", "a key/of any sort": {"b": 1}});
    let policy = made(&admin, "policies", "policy", policy).await;
    for (path, key, id) in [
        ("services", "service", service),
        ("endpoints", "endpoint", endpoint),
        ("regions", "region", region),
        ("roles", "role", role),
        ("policies", "policy", policy),
    ] {
        let at = format!("{V3}/{path}/{id}");
        assert_eq!(admin.get(&at).await[key]["email"], "a@b", "{path}");
        let changed = admin.must(200, "PATCH", &at, json!({key: {"email": "c@d", "more": [1]}})).await;
        assert_eq!((&changed[key]["email"], &changed[key]["more"]), (&json!("c@d"), &json!([1])), "{path}");
        let gone = admin.must(200, "PATCH", &at, json!({key: {"email": null}})).await;
        assert!(gone[key].get("email").is_none() && gone[key]["more"] == json!([1]), "{path}: {gone}");
    }
}

#[tokio::test]
async fn a_domain_is_above_its_projects_in_lists_of_assignments() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (_, project) = tenant(&cloud, &admin, "demo").await;
    let user = text(&admin.get(&format!("{V3}/users?name=demo")).await["users"][0]["id"]).to_owned();
    let query = format!("user.id={user}&scope.project.id=default&include_subtree=true");
    let all = admin.get(&format!("{V3}/role_assignments?{query}")).await["role_assignments"].clone();
    assert_eq!(all[0]["scope"]["project"]["id"], project.as_str(), "{all}");
    let none = admin.get(&format!("{V3}/role_assignments?user.id={user}&scope.project.id=default")).await;
    assert_eq!(none["role_assignments"], json!([]));
}
