//! Keystone: who there is, who has which role where, and what users let others do in their name.

mod catalogs;
mod later;
mod ruled;
mod strangers;
mod unique;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::support::client::{Answer, Client, send, sign_in, tenant, text};
use crate::support::{Cloud, PASSWORD, start};

const V3: &str = "/identity/v3";

async fn auth(cloud: &Cloud, identity: Value, scope: Option<Value>) -> Answer {
    let mut body = json!({"auth": {"identity": identity}});
    if let Some(scope) = scope {
        body["auth"]["scope"] = scope;
    }
    let headers = [("content-type", "application/json")];
    send(&cloud.router, Method::POST, "/identity/v3/auth/tokens", &headers, body.to_string().into_bytes())
        .await
}

fn by_password(user: &str, password: &str) -> Value {
    json!({"methods": ["password"], "password": {"user": {"id": user, "password": password}}})
}

/// A client of what a sign-in gave.
fn client(cloud: &Cloud, answer: &Answer) -> Client {
    assert_eq!(answer.status, 201, "{}", answer.body);
    let token = answer.headers["x-subject-token"].to_str().expect("a token").to_owned();
    Client { router: cloud.router.clone(), token }
}

async fn role(admin: &Client, name: &str) -> String {
    let found = admin.get(&format!("{V3}/roles?name={name}")).await;
    text(&found["roles"][0]["id"]).to_owned()
}

async fn made(admin: &Client, path: &str, key: &str, fields: Value) -> String {
    let made = admin.must(201, "POST", &format!("{V3}/{path}"), json!({key: fields})).await;
    text(&made[key]["id"]).to_owned()
}

/// The names of a token's roles.
fn roles_of(answer: &Answer) -> Vec<String> {
    let roles = answer.body["token"]["roles"].as_array().cloned().unwrap_or_default();
    roles.iter().map(|role| text(&role["name"]).to_owned()).collect()
}

#[tokio::test]
async fn domains_have_users_groups_and_projects_of_their_own() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let domain =
        made(&admin, "domains", "domain", json!({"name": "dept", "description": "d", "colour": "red"})).await;
    let path = format!("{V3}/domains/{domain}");
    assert_eq!(admin.get(&path).await["domain"]["colour"], "red");
    let twice = admin.ask("POST", &format!("{V3}/domains"), json!({"domain": {"name": "dept"}})).await;
    assert_eq!(twice.status, 409);
    // The same name as in the default domain is another user.
    let user =
        made(&admin, "users", "user", json!({"name": "admin", "domain_id": domain, "password": "pw"})).await;
    let project = made(&admin, "projects", "project", json!({"name": "admin", "domain_id": domain})).await;
    assert_eq!(admin.get(&format!("{V3}/projects/{project}")).await["project"]["parent_id"], domain.as_str());
    let member = role(&admin, "member").await;
    admin
        .must(204, "PUT", &format!("{V3}/projects/{project}/users/{user}/roles/{member}"), Value::Null)
        .await;
    let by_name = json!({"methods": ["password"], "password": {"user": {
        "name": "admin", "domain": {"name": "dept"}, "password": "pw",
    }}});
    let scope = json!({"project": {"name": "admin", "domain": {"id": domain}}});
    let signed = auth(&cloud, by_name, Some(scope.clone())).await;
    assert_eq!(signed.body["token"]["project"]["id"], project.as_str(), "{}", signed.body);
    assert_eq!(signed.body["token"]["user"]["domain"]["name"], "dept");
    let in_dept = client(&cloud, &signed);
    in_dept.get("/compute/v2.1/servers").await;

    // A domain token needs a role on the domain.
    let on_domain = json!({"domain": {"id": domain}});
    assert_eq!(auth(&cloud, by_password(&user, "pw"), Some(on_domain.clone())).await.status, 401);
    admin.must(204, "PUT", &format!("{path}/users/{user}/roles/{member}"), Value::Null).await;
    let scoped = auth(&cloud, by_password(&user, "pw"), Some(on_domain)).await;
    assert_eq!(scoped.body["token"]["domain"]["name"], "dept", "{}", scoped.body);
    assert_eq!(roles_of(&scoped), ["member", "reader"]);
    let own = client(&cloud, &scoped).get(&format!("{V3}/auth/domains")).await;
    assert_eq!(own["domains"][0]["id"], domain.as_str());

    // Disabled, nobody of it comes in; and only then it can go, with all that is in it.
    assert_eq!(admin.ask("DELETE", &path, Value::Null).await.status, 403);
    admin.must(200, "PATCH", &path, json!({"domain": {"enabled": false}})).await;
    assert_eq!(in_dept.ask("GET", "/compute/v2.1/servers", Value::Null).await.status, 401);
    assert_eq!(auth(&cloud, by_password(&user, "pw"), Some(scope)).await.status, 401);
    admin.must(204, "DELETE", &path, Value::Null).await;
    admin.must(404, "GET", &path, Value::Null).await;
    admin.must(404, "GET", &format!("{V3}/users/{user}"), Value::Null).await;
    admin.must(404, "GET", &format!("{V3}/projects/{project}"), Value::Null).await;
}

#[tokio::test]
async fn projects_are_below_others_and_inherit_roles() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let top = made(&admin, "projects", "project", json!({"name": "top", "tags": ["a", "b"]})).await;
    let mid = made(&admin, "projects", "project", json!({"name": "mid", "parent_id": top})).await;
    let low = made(&admin, "projects", "project", json!({"name": "low", "parent_id": mid})).await;
    let user = made(&admin, "users", "user", json!({"name": "eve", "password": "pw", "shoe": 42})).await;
    assert_eq!(admin.get(&format!("{V3}/users/{user}")).await["user"]["shoe"], 42);
    let shown = admin.get(&format!("{V3}/projects/{low}?parents_as_ids")).await;
    assert_eq!(shown["project"]["parents"], json!({mid.clone(): {top.clone(): {"default": null}}}));
    let shown = admin.get(&format!("{V3}/projects/{top}?subtree_as_ids")).await;
    assert_eq!(shown["project"]["subtree"], json!({mid.clone(): {low.clone(): null}}));
    let tagged = admin.get(&format!("{V3}/projects?tags=a,b")).await;
    assert_eq!(tagged["projects"].as_array().map(Vec::len), Some(1));
    admin.must(201, "PUT", &format!("{V3}/projects/{top}/tags/c"), Value::Null).await;
    assert_eq!(admin.get(&format!("{V3}/projects/{top}/tags")).await["tags"], json!(["a", "b", "c"]));
    assert_eq!(admin.ask("DELETE", &format!("{V3}/projects/{mid}"), Value::Null).await.status, 403);

    // What is granted for all below holds there, in RBAC too, and not on the project itself.
    let member = role(&admin, "member").await;
    let path = format!("{V3}/OS-INHERIT/projects/{top}/users/{user}/roles/{member}/inherited_to_projects");
    admin.must(204, "PUT", &path, Value::Null).await;
    admin.must(204, "HEAD", &path, Value::Null).await;
    let on = |id: &str| Some(json!({"project": {"id": id}}));
    assert_eq!(auth(&cloud, by_password(&user, "pw"), on(&top)).await.status, 401);
    let inherited = auth(&cloud, by_password(&user, "pw"), on(&low)).await;
    assert_eq!(roles_of(&inherited), ["member", "reader"]);
    let eve = client(&cloud, &inherited);
    eve.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "own"}})).await;
    let later = made(&admin, "projects", "project", json!({"name": "later", "parent_id": low})).await;
    let eve = client(&cloud, &auth(&cloud, by_password(&user, "pw"), on(&later)).await);
    eve.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "own"}})).await;

    let list = admin.get(&format!("{V3}/role_assignments?user.id={user}")).await;
    assert_eq!(list["role_assignments"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list["role_assignments"][0]["scope"]["OS-INHERIT:inherited_to"], "projects");
    let effective =
        admin.get(&format!("{V3}/role_assignments?user.id={user}&effective&role.id={member}")).await;
    assert_eq!(effective["role_assignments"].as_array().map(Vec::len), Some(3), "{effective}");
    let below = format!(
        "{V3}/role_assignments?scope.project.id={top}&include_subtree=true&effective&role.id={member}"
    );
    assert_eq!(admin.get(&below).await["role_assignments"].as_array().map(Vec::len), Some(3));

    admin.must(204, "DELETE", &path, Value::Null).await;
    admin.must(404, "HEAD", &path, Value::Null).await;
    assert_eq!(auth(&cloud, by_password(&user, "pw"), on(&low)).await.status, 401);
}

#[tokio::test]
async fn groups_have_roles_that_their_members_have() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let project = made(&admin, "projects", "project", json!({"name": "team"})).await;
    let user = made(&admin, "users", "user", json!({"name": "joe", "password": "pw"})).await;
    let group = made(&admin, "groups", "group", json!({"name": "devs"})).await;
    let member = role(&admin, "member").await;
    let place = format!("{V3}/projects/{project}/groups/{group}/roles");
    admin.must(204, "PUT", &format!("{place}/{member}"), Value::Null).await;
    assert_eq!(admin.get(&place).await["roles"][0]["name"], "member");
    let on = Some(json!({"project": {"id": project}}));
    assert_eq!(auth(&cloud, by_password(&user, "pw"), on.clone()).await.status, 401);
    let membership = format!("{V3}/groups/{group}/users/{user}");
    admin.must(404, "HEAD", &membership, Value::Null).await;
    admin.must(204, "PUT", &membership, Value::Null).await;
    admin.must(204, "HEAD", &membership, Value::Null).await;
    assert_eq!(admin.get(&format!("{V3}/groups/{group}/users")).await["users"][0]["id"], user.as_str());
    let signed = auth(&cloud, by_password(&user, "pw"), on.clone()).await;
    let joe = client(&cloud, &signed);
    joe.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "own"}})).await;
    assert_eq!(joe.get(&format!("{V3}/users/{user}/groups")).await["groups"][0]["name"], "devs");
    let effective =
        admin.get(&format!("{V3}/role_assignments?effective=true&user.id={user}&include_names=1")).await;
    assert!(text(&effective["role_assignments"][0]["links"]["membership"]).contains(&group), "{effective}");
    // Out of the group, out of the project, with the tokens of before.
    admin.must(204, "DELETE", &membership, Value::Null).await;
    assert_eq!(joe.ask("GET", "/network/v2.0/networks", Value::Null).await.status, 401);
    assert_eq!(auth(&cloud, by_password(&user, "pw"), on).await.status, 401);
    admin.must(204, "DELETE", &format!("{V3}/groups/{group}"), Value::Null).await;
}

#[tokio::test]
async fn roles_mean_what_they_imply() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let project = made(&admin, "projects", "project", json!({"name": "lab"})).await;
    let user = made(&admin, "users", "user", json!({"name": "kim", "password": "pw"})).await;
    let own = made(&admin, "roles", "role", json!({"name": "operator", "description": "runs it"})).await;
    let (builtin_admin, member) = (role(&admin, "admin").await, role(&admin, "member").await);
    assert_eq!(admin.ask("DELETE", &format!("{V3}/roles/{member}"), Value::Null).await.status, 403);
    admin.must(204, "PUT", &format!("{V3}/projects/{project}/users/{user}/roles/{own}"), Value::Null).await;
    let on = Some(json!({"project": {"id": project}}));
    let before = auth(&cloud, by_password(&user, "pw"), on.clone()).await;
    assert_eq!(roles_of(&before), ["operator"]);
    let net = json!({"network": {"name": "n"}});
    client(&cloud, &before).must(403, "POST", "/network/v2.0/networks", net.clone()).await;

    let rule = format!("{V3}/roles/{own}/implies/{member}");
    let inference = admin.must(201, "PUT", &rule, Value::Null).await;
    assert_eq!(inference["role_inference"]["implies"]["name"], "member");
    admin.must(204, "HEAD", &rule, Value::Null).await;
    assert_eq!(
        admin.ask("PUT", &format!("{V3}/roles/{member}/implies/{own}"), Value::Null).await.status,
        403
    );
    let up = format!("{V3}/roles/{own}/implies/{builtin_admin}");
    assert_eq!(admin.ask("PUT", &up, Value::Null).await.status, 403);
    let after = auth(&cloud, by_password(&user, "pw"), on).await;
    assert_eq!(roles_of(&after), ["member", "reader", "operator"]);
    client(&cloud, &after).must(201, "POST", "/network/v2.0/networks", net).await;
    admin.must(204, "DELETE", &rule, Value::Null).await;
    admin.must(204, "DELETE", &format!("{V3}/roles/{own}"), Value::Null).await;
    let left = admin.get(&format!("{V3}/role_assignments?user.id={user}")).await;
    assert_eq!(left["role_assignments"], json!([]));
}

#[tokio::test]
async fn the_whole_cloud_is_a_scope() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let user = made(&admin, "users", "user", json!({"name": "aud", "password": "pw"})).await;
    let all = Some(json!({"system": {"all": true}}));
    assert_eq!(auth(&cloud, by_password(&user, "pw"), all.clone()).await.status, 401);
    let reader = role(&admin, "reader").await;
    let path = format!("{V3}/system/users/{user}/roles/{reader}");
    admin.must(204, "PUT", &path, Value::Null).await;
    let signed = auth(&cloud, by_password(&user, "pw"), all).await;
    assert_eq!(signed.body["token"]["system"], json!({"all": true}), "{}", signed.body);
    let auditor = client(&cloud, &signed);
    auditor.get(&format!("{V3}/users")).await;
    assert_eq!(auditor.ask("POST", &format!("{V3}/users"), json!({"user": {"name": "x"}})).await.status, 403);
    assert_eq!(auditor.get(&format!("{V3}/auth/system")).await["system"], json!([{"all": true}]));
    let list = admin.get(&format!("{V3}/role_assignments?scope.system=all&user.id={user}")).await;
    assert_eq!(list["role_assignments"][0]["scope"]["system"]["all"], true);
    admin.must(204, "DELETE", &path, Value::Null).await;
    auditor.must(401, "GET", &format!("{V3}/users"), Value::Null).await;
}

#[tokio::test]
async fn an_application_credential_is_a_part_of_its_user() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let user = text(&admin.get(&format!("{V3}/users?name=demo")).await["users"][0]["id"]).to_owned();
    let path = format!("{V3}/users/{user}/application_credentials");
    let wanted = |more: Value| {
        let mut fields = json!({"name": "ci", "roles": [{"name": "reader"}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            fields[key] = value.clone();
        }
        json!({"application_credential": fields})
    };
    let made = demo.must(201, "POST", &path, wanted(json!({}))).await;
    let credential = &made["application_credential"];
    assert_eq!((&credential["unrestricted"], &credential["project_id"]), (&json!(false), &json!(project)));
    assert_eq!(demo.ask("POST", &path, wanted(json!({}))).await.status, 409);
    assert_eq!(
        demo.ask("POST", &path, wanted(json!({"name": "x", "roles": [{"name": "admin"}]}))).await.status,
        400
    );
    assert_eq!(demo.ask("POST", &path, wanted(json!({"name": "x", "access_rules": [{}]}))).await.status, 400);
    assert_eq!(other.ask("POST", &path, wanted(json!({"name": "x"}))).await.status, 403);
    assert_eq!(other.ask("GET", &path, Value::Null).await.status, 403);

    let identity = |secret: &Value| json!({"methods": ["application_credential"], "application_credential": {"id": credential["id"], "secret": secret}});
    assert_eq!(auth(&cloud, identity(&json!("wrong")), None).await.status, 401);
    let signed = auth(&cloud, identity(&credential["secret"]), None).await;
    assert_eq!(roles_of(&signed), ["reader"]);
    assert_eq!(signed.body["token"]["project"]["id"], project.as_str());
    let program = client(&cloud, &signed);
    program.get("/network/v2.0/networks").await;
    // A member's credential with the reader's role reads, through either door.
    let net = json!({"network": {"name": "n"}});
    program.must(403, "POST", "/network/v2.0/networks", net.clone()).await;
    demo.must(201, "POST", "/network/v2.0/networks", net).await;
    let bearer = format!("Bearer {}", program.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let pods = "/api/v1/namespaces/demo/configmaps";
    assert_eq!(send(&cloud.router, Method::GET, pods, &headers, vec![]).await.status, 200);
    let map = json!({"metadata": {"name": "x"}}).to_string().into_bytes();
    assert_eq!(send(&cloud.router, Method::POST, pods, &headers, map).await.status, 403);
    // Neither does it become more than it is.
    program.must(403, "POST", &path, wanted(json!({"name": "more"}))).await;
    let again = json!({"methods": ["token"], "token": {"id": program.token}});
    assert_eq!(auth(&cloud, again, Some(json!("unscoped"))).await.status, 403);
    let scope = Some(json!({"project": {"id": project}}));
    assert_eq!(auth(&cloud, identity(&credential["secret"]), scope).await.status, 401);

    let own = format!("{path}/{}", text(&credential["id"]));
    assert!(demo.get(&own).await["application_credential"].get("secret").is_none());
    demo.must(204, "DELETE", &own, Value::Null).await;
    program.must(401, "GET", "/network/v2.0/networks", Value::Null).await;
    assert_eq!(auth(&cloud, identity(&credential["secret"]), None).await.status, 401);
}

#[tokio::test]
async fn a_trust_lets_one_act_as_another() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (friend, _) = tenant(&cloud, &admin, "friend").await;
    let id = async |name: &str| {
        text(&admin.get(&format!("{V3}/users?name={name}")).await["users"][0]["id"]).to_owned()
    };
    let (trustor, trustee) = (id("demo").await, id("friend").await);
    let wanted = |more: Value| {
        let mut fields = json!({
            "trustor_user_id": trustor, "trustee_user_id": trustee, "impersonation": true, "project_id": project,
            "roles": [{"name": "member"}], "remaining_uses": 2,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            fields[key] = value.clone();
        }
        json!({"trust": fields})
    };
    let trusts = format!("{V3}/OS-TRUST/trusts");
    assert_eq!(friend.ask("POST", &trusts, wanted(json!({}))).await.status, 403);
    assert_eq!(demo.ask("POST", &trusts, wanted(json!({"roles": [{"name": "admin"}]}))).await.status, 403);
    // On a project that the token is not for, where the trustor has the roles.
    let second = made(&admin, "projects", "project", json!({"name": "second"})).await;
    let elsewhere = wanted(json!({"project_id": second}));
    demo.must(403, "POST", &trusts, elsewhere.clone()).await;
    let member = text(&admin.get(&format!("{V3}/roles?name=member")).await["roles"][0]["id"]).to_owned();
    let grant = format!("{V3}/projects/{second}/users/{trustor}/roles/{member}");
    admin.must(204, "PUT", &grant, Value::Null).await;
    let there = demo.must(201, "POST", &trusts, elsewhere).await["trust"].clone();
    assert_eq!(there["project_id"], second.as_str());
    let there = format!("{trusts}/{}", text(&there["id"]));
    demo.must(204, "DELETE", &there, Value::Null).await;

    let made = demo.must(201, "POST", &trusts, wanted(json!({}))).await;
    let trust = text(&made["trust"]["id"]).to_owned();
    assert_eq!(made["trust"]["roles"][0]["name"], "member");

    let scope = Some(json!({"OS-TRUST:trust": {"id": trust}}));
    assert_eq!(auth(&cloud, by_password(&trustor, "secret"), scope.clone()).await.status, 403);
    let signed = auth(&cloud, by_password(&trustee, "secret"), scope.clone()).await;
    assert_eq!(signed.body["token"]["user"]["id"], trustor.as_str(), "{}", signed.body);
    assert_eq!(signed.body["token"]["OS-TRUST:trust"]["trustee_user"]["id"], trustee.as_str());
    let acting = client(&cloud, &signed);
    acting.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "n"}})).await;
    acting.must(403, "POST", &trusts, wanted(json!({}))).await;
    assert_eq!(auth(&cloud, by_password(&trustee, "secret"), scope.clone()).await.status, 201);
    assert_eq!(auth(&cloud, by_password(&trustee, "secret"), scope).await.status, 401, "it was used up");
    demo.must(204, "DELETE", &format!("{trusts}/{trust}"), Value::Null).await;
    acting.must(401, "GET", "/network/v2.0/networks", Value::Null).await;
    // Without impersonation the token is the trustee's, with what the trustor lets them.
    let plain =
        demo.must(201, "POST", &trusts, wanted(json!({"impersonation": false}))).await["trust"].clone();
    assert_eq!(plain["impersonation"], false);
    let by_it = Some(json!({"OS-TRUST:trust": {"id": plain["id"]}}));
    let signed = auth(&cloud, by_password(&trustee, "secret"), by_it).await;
    let told = &signed.body["token"];
    assert_eq!((&told["user"]["id"], &told["user"]["name"]), (&json!(trustee), &json!("friend")), "{told}");
    assert_eq!(told["OS-TRUST:trust"]["impersonation"], false);
    let acting = client(&cloud, &signed);
    acting.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "m"}})).await;
    acting.must(403, "POST", &trusts, wanted(json!({}))).await;
    demo.must(204, "DELETE", &format!("{trusts}/{}", text(&plain["id"])), Value::Null).await;
    acting.must(401, "GET", "/network/v2.0/networks", Value::Null).await;
    // Without the role, the trust is worth nothing.
    let more = demo.must(201, "POST", &trusts, wanted(json!({"remaining_uses": null}))).await;
    let scope = Some(json!({"OS-TRUST:trust": {"id": more["trust"]["id"]}}));
    let acting = client(&cloud, &auth(&cloud, by_password(&trustee, "secret"), scope.clone()).await);
    let seen = acting.get(&format!("{V3}/users/{trustor}/projects")).await;
    assert_eq!(seen["projects"].as_array().map(Vec::len), Some(1));
    acting.must(403, "GET", &format!("{V3}/users/{trustor}/groups"), Value::Null).await;
    // Nor when who is trusted may no longer come in.
    let enabled = |enabled: bool| json!({"user": {"enabled": enabled}});
    admin.must(200, "PATCH", &format!("{V3}/users/{trustee}"), enabled(false)).await;
    acting.must(401, "GET", "/network/v2.0/networks", Value::Null).await;
    admin.must(200, "PATCH", &format!("{V3}/users/{trustee}"), enabled(true)).await;
    let acting = client(&cloud, &auth(&cloud, by_password(&trustee, "secret"), scope.clone()).await);
    let member = role(&admin, "member").await;
    admin
        .must(204, "DELETE", &format!("{V3}/projects/{project}/users/{trustor}/roles/{member}"), Value::Null)
        .await;
    acting.must(401, "GET", "/network/v2.0/networks", Value::Null).await;
    demo.must(401, "GET", "/network/v2.0/networks", Value::Null).await;
    assert_eq!(auth(&cloud, by_password(&trustee, "secret"), scope).await.status, 403);
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let user = text(&admin.get(&format!("{V3}/users?name=demo")).await["users"][0]["id"]).to_owned();
    let twice = json!({
        "methods": ["password", "password"], "password": {"user": {"id": user, "password": "secret"}},
    });
    assert_eq!(auth(&cloud, twice, None).await.status, 400);
    let path = format!("{V3}/users/{user}/password");
    let change = |old: &str, new: &str| json!({"user": {"original_password": old, "password": new}});
    assert_eq!(demo.ask("POST", &path, change("wrong", "next")).await.status, 401);
    let lock = |value: Value| json!({"user": {"options": {"lock_password": value}}});
    admin.must(200, "PATCH", &format!("{V3}/users/{user}"), lock(json!(true))).await;
    assert_eq!(demo.ask("POST", &path, change("secret", "next")).await.status, 400);
    admin.must(200, "PATCH", &format!("{V3}/users/{user}"), lock(Value::Null)).await;
    demo.must(204, "POST", &path, change("secret", "next")).await;
    demo.must(401, "GET", "/compute/v2.1/servers", Value::Null).await;
    let old = json!({"methods": ["token"], "token": {"id": demo.token}});
    assert_eq!(auth(&cloud, old, None).await.status, 404);
    assert_eq!(sign_in(&cloud, "demo", "next", None).await.status, 201);
    // The old password is the proof, whoever asks: nobody's token is asked for.
    let headers = [("content-type", "application/json")];
    let unsigned = |body: Value| {
        let (router, path) = (cloud.router.clone(), path.clone());
        async move { send(&router, Method::POST, &path, &headers, body.to_string().into_bytes()).await.status }
    };
    assert_eq!(unsigned(change("secret", "third")).await, 401);
    assert_eq!(unsigned(change("next", "third")).await, 204);
    assert_eq!(sign_in(&cloud, "demo", "third", None).await.status, 201);
    admin.must(200, "PATCH", &format!("{V3}/users/{user}"), json!({"user": {"enabled": false}})).await;
    assert_eq!(unsigned(change("third", "next")).await, 401, "disabled");
}

#[tokio::test]
async fn credentials_are_kept_secret_and_sign_requests() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let user = text(&admin.get(&format!("{V3}/users?name=demo")).await["users"][0]["id"]).to_owned();
    let path = format!("{V3}/users/{user}/credentials/OS-EC2");
    let made = demo.must(201, "POST", &path, json!({"tenant_id": project})).await;
    let access = text(&made["credential"]["access"]).to_owned();
    assert_eq!(demo.get(&path).await["credentials"][0]["access"], access.as_str());
    assert_eq!(other.ask("GET", &path, Value::Null).await.status, 403);
    assert_eq!(other.get(&format!("{V3}/credentials")).await["credentials"], json!([]));
    let blob = json!({"access": "AK", "secret": "SK"}).to_string();
    let body = json!({"credential": {"type": "ec2", "blob": blob, "project_id": project}});
    let own = demo.must(201, "POST", &format!("{V3}/credentials"), body.clone()).await;
    let id = text(&own["credential"]["id"]).to_owned();
    assert_eq!(demo.ask("POST", &format!("{V3}/credentials"), body).await.status, 409);
    assert_eq!(other.ask("GET", &format!("{V3}/credentials/{id}"), Value::Null).await.status, 403);
    let bad = json!({"credential": {"type": "ec2", "blob": "{}", "project_id": project}});
    assert_eq!(demo.ask("POST", &format!("{V3}/credentials"), bad).await.status, 400);

    // Whoever may ask whose a signature is gets a token of theirs: the cloud's admin alone.
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let text_to_sign =
        format!("AWS4-HMAC-SHA256\n{now}\n{}/r/s3/aws4_request\n{}", &now[..8], "0".repeat(64));
    let secret = text(&made["credential"]["secret"]);
    let signature = yunfan_identity::signature::sign_string(secret, &text_to_sign).expect("a signature");
    let encoded = STANDARD.encode(&text_to_sign);
    let ask = |signature: &str| json!({"credentials": {"access": access, "signature": signature, "token": encoded}});
    demo.must(403, "POST", &format!("{V3}/s3tokens"), ask(&signature)).await;
    assert_eq!(admin.ask("POST", &format!("{V3}/s3tokens"), ask(&"0".repeat(64))).await.status, 401);
    let token = admin.must(200, "POST", &format!("{V3}/s3tokens"), ask(&signature)).await;
    assert_eq!(token["token"]["user"]["id"], user.as_str());
    assert_eq!(token["token"]["project"]["id"], project.as_str());
    // As with Keystone, a signature is good again while it is young enough: what it is for is with whoever asks, who has to look.
    admin.must(200, "POST", &format!("{V3}/s3tokens"), ask(&signature)).await;
    demo.must(204, "DELETE", &format!("{path}/{access}"), Value::Null).await;
    assert_eq!(admin.ask("POST", &format!("{V3}/s3tokens"), ask(&signature)).await.status, 401);
}

#[tokio::test]
async fn operators_add_services_to_the_catalog() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let region = made(&admin, "regions", "region", json!({"id": "North", "description": "up there"})).await;
    let service = made(&admin, "services", "service", json!({"type": "object-store", "name": "swift"})).await;
    let fields =
        json!({"service_id": service, "interface": "public", "url": "https://swift/v1", "region_id": region});
    let endpoint = made(&admin, "endpoints", "endpoint", fields.clone()).await;
    assert_eq!(demo.ask("POST", &format!("{V3}/endpoints"), json!({"endpoint": fields})).await.status, 403);
    let catalog = demo.get(&format!("{V3}/auth/catalog")).await;
    let shown = catalog["catalog"].as_array().and_then(|all| all.last()).cloned().expect("services");
    assert_eq!(
        (&shown["type"], &shown["endpoints"][0]["url"]),
        (&json!("object-store"), &json!("https://swift/v1"))
    );
    assert_eq!(admin.ask("DELETE", &format!("{V3}/regions/{region}"), Value::Null).await.status, 403);
    let off = json!({"service": {"enabled": false}});
    admin.must(200, "PATCH", &format!("{V3}/services/{service}"), off).await;
    let catalog = demo.get(&format!("{V3}/auth/catalog")).await;
    assert_eq!(catalog["catalog"].as_array().map(Vec::len), Some(7));
    admin.must(204, "DELETE", &format!("{V3}/services/{service}"), Value::Null).await;
    admin.must(404, "GET", &format!("{V3}/endpoints/{endpoint}"), Value::Null).await;
    admin.must(204, "DELETE", &format!("{V3}/regions/{region}"), Value::Null).await;
    let identity = admin.get(&format!("{V3}/services?type=identity")).await;
    let own = format!("{V3}/services/{}", text(&identity["services"][0]["id"]));
    assert_eq!(admin.ask("DELETE", &own, Value::Null).await.status, 403);
}

#[tokio::test]
async fn what_was_a_users_is_not_the_next_ones_of_that_name() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let user = text(&admin.get(&format!("{V3}/users?name=demo")).await["users"][0]["id"]).to_owned();
    // A binding that somebody made with kubectl, for two.
    let bearer = format!("Bearer {}", admin.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let subject = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "both"}, "subjects": [subject("demo"), subject("admin")],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/demo/rolebindings";
    let both = send(&cloud.router, Method::POST, bindings, &headers, binding.to_string().into_bytes()).await;
    assert_eq!(both.status, 201, "{}", both.body);
    admin.must(204, "DELETE", &format!("{V3}/users/{user}"), Value::Null).await;
    demo.must(401, "GET", "/network/v2.0/networks", Value::Null).await;
    let left = send(&cloud.router, Method::GET, &format!("{bindings}/both"), &headers, vec![]).await;
    assert_eq!(left.body["subjects"], json!([subject("admin")]), "{}", left.body);
    let next = made(&admin, "users", "user", json!({"name": "demo"})).await;
    assert_eq!(auth(&cloud, by_password(&next, "secret"), None).await.status, 401, "the old password");
    let password = json!({"user": {"password": "new"}});
    admin.must(200, "PATCH", &format!("{V3}/users/{next}"), password).await;
    let on = Some(json!({"project": {"id": project}}));
    assert_eq!(auth(&cloud, by_password(&next, "new"), on).await.status, 401, "the old roles");
}
