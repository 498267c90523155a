//! What there is once, and roles of one's own on the system.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use super::{V3, auth, by_password, client, made, role, roles_of};
use crate::support::client::{Client, send, tenant, text};
use crate::support::{PASSWORD, start};

#[tokio::test]
async fn of_many_who_take_a_name_at_once_one_gets_it() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    for (path, key) in [
        ("users", "user"),
        ("groups", "group"),
        ("projects", "project"),
        ("domains", "domain"),
        ("roles", "role"),
    ] {
        let all = (0..6).map(|_| {
            let (admin, url) = (admin.clone(), format!("{V3}/{path}"));
            async move { admin.ask("POST", &url, json!({key: {"name": "Same / one"}})).await }
        });
        let answers = futures::future::join_all(all).await;
        let codes: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        let made = codes.iter().filter(|code| **code == 201).count();
        assert!(made == 1 && codes.iter().all(|code| matches!(code, 201 | 409)), "{path}: {codes:?}");
    }
    // Nor does anybody get one by another name, or by the other door.
    let other = made(&admin, "users", "user", json!({"name": "other"})).await;
    let taken = json!({"user": {"name": "Same / one"}});
    admin.must(409, "PATCH", &format!("{V3}/users/{other}"), taken).await;
    let kube = |path: &'static str, body: Value| {
        let admin = admin.clone();
        async move {
            let bearer = format!("Bearer {}", admin.token);
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            send(&admin.router, Method::POST, path, &headers, body.to_string().into_bytes()).await
        }
    };
    let user = json!({"apiVersion": "iam.yunfan.io/v1", "kind": "User", "metadata": {"name": "third"},
                      "spec": {"displayName": "Same / one"}});
    let refused = kube("/apis/iam.yunfan.io/v1/users", user.clone()).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    let mut elsewhere = user;
    elsewhere["spec"]["domain"] = json!("dept");
    assert_eq!(kube("/apis/iam.yunfan.io/v1/users", elsewhere).await.status, 201);
    // Whose name is free again is somebody else's.
    let listed = admin.get(&format!("{V3}/groups")).await;
    let group = text(&listed["groups"][0]["id"]).to_owned();
    admin.must(204, "DELETE", &format!("{V3}/groups/{group}"), Value::Null).await;
    made(&admin, "groups", "group", json!({"name": "Same / one"})).await;
    // Ids that are given, and access keys.
    let id = "0123456789abcdef0123456789abcdef";
    let all = ["one", "two", "three"].map(|name| {
        let admin = admin.clone();
        let body = json!({"domain": {"name": name, "explicit_domain_id": id}});
        async move { admin.ask("POST", &format!("{V3}/domains"), body).await.status }
    });
    let codes: BTreeSet<u16> = futures::future::join_all(all).await.into_iter().collect();
    assert_eq!(codes, [201, 409].into());
    let own = admin.get(&format!("{V3}/auth/projects")).await["projects"][0]["id"].clone();
    let credential = |access: &str| json!({"credential": {"type": "ec2", "blob": json!({"access": access, "secret": "s"}).to_string(), "user_id": other, "project_id": own}});
    let keys = ["aaaa", "bbbb"]
        .map(|access| made(&admin, "credentials", "credential", credential(access)["credential"].clone()));
    let keys = futures::future::join_all(keys).await;
    let all = keys.iter().map(|key| {
        let (admin, body) =
            (admin.clone(), json!({"credential": {"blob": credential("cccc")["credential"]["blob"]}}));
        async move { admin.ask("PATCH", &format!("{V3}/credentials/{key}"), body).await.status }
    });
    let mut codes = futures::future::join_all(all).await;
    codes.sort_unstable();
    assert_eq!(codes, [200, 409]);
}

#[tokio::test]
async fn an_application_credentials_name_is_its_users_once() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let own = demo.get(&format!("{V3}/auth/projects")).await;
    assert_eq!(own["projects"][0]["name"], "demo");
    let users = admin.get(&format!("{V3}/users?name=demo")).await;
    let url = format!("{V3}/users/{}/application_credentials", text(&users["users"][0]["id"]));
    let all = (0..4).map(|_| {
        let (demo, url) = (demo.clone(), url.clone());
        async move { demo.ask("POST", &url, json!({"application_credential": {"name": "ci"}})).await.status }
    });
    let mut codes = futures::future::join_all(all).await;
    codes.sort_unstable();
    assert_eq!(codes, [201, 409, 409, 409]);
}

#[tokio::test]
async fn a_grant_is_one_users_or_one_groups() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let bearer = format!("Bearer {}", admin.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    for (spec, status) in [
        (json!({"user": "a", "group": "b", "domain": "default"}), 422),
        (json!({"domain": "default"}), 422),
        (json!({"user": "a", "domain": "default", "project": "admin"}), 422),
        (json!({"user": "a"}), 422),
        (json!({"group": "b", "project": "admin"}), 201),
    ] {
        let mut grant = json!({"apiVersion": "iam.yunfan.io/v1", "kind": "RoleGrant", "metadata": {"name": "g"}, "spec": spec});
        grant["spec"]["clusterRole"] = json!("edit");
        let path = "/apis/iam.yunfan.io/v1/rolegrants";
        let answer = send(&admin.router, Method::POST, path, &headers, grant.to_string().into_bytes()).await;
        assert_eq!(answer.status, status, "{grant}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_role_of_ones_own_is_on_the_system_what_it_implies_there() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let user = made(&admin, "users", "user", json!({"name": "ops", "password": "pw"})).await;
    let operator = made(&admin, "roles", "role", json!({"name": "operator"})).await;
    let lesser = made(&admin, "roles", "role", json!({"name": "lesser"})).await;
    let (member, reader) = (role(&admin, "member").await, role(&admin, "reader").await);
    let imply = |prior: &str, implied: &str| format!("{V3}/roles/{prior}/implies/{implied}");
    admin.must(201, "PUT", &imply(&operator, &lesser), Value::Null).await;
    let given = format!("{V3}/system/users/{user}/roles/{operator}");
    admin.must(204, "PUT", &given, Value::Null).await;
    admin.must(204, "HEAD", &given, Value::Null).await;
    let sign_in = || async {
        let system = Some(json!({"system": {"all": true}}));
        auth(&cloud, by_password(&user, "pw"), system).await
    };
    let signed = sign_in().await;
    // They come in the order of their ids, which are by chance.
    let named = |signed: &_| {
        let mut names = roles_of(signed);
        names.sort();
        names
    };
    assert_eq!(named(&signed), ["lesser", "operator"]);
    let nobody = client(&cloud, &signed);
    assert_eq!(nobody.ask("GET", &format!("{V3}/users"), Value::Null).await.status, 403);
    // What is implied later counts as well, and is what it is on the system: no secrets of every namespace.
    admin.must(201, "PUT", &imply(&lesser, &reader), Value::Null).await;
    admin.must(201, "PUT", &imply(&operator, &member), Value::Null).await;
    let signed = sign_in().await;
    assert_eq!(named(&signed), ["lesser", "member", "operator", "reader"]);
    let operator_of = client(&cloud, &signed);
    operator_of.get(&format!("{V3}/users")).await;
    let bearer = format!("Bearer {}", operator_of.token);
    let headers = [("authorization", bearer.as_str())];
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(send(&cloud.router, Method::GET, secrets, &headers, Vec::new()).await.status, 403);
    assert_eq!(
        operator_of.ask("POST", &format!("{V3}/users"), json!({"user": {"name": "x"}})).await.status,
        403
    );
    for (prior, implied) in [(&operator, &member), (&lesser, &reader)] {
        admin.must(204, "DELETE", &imply(prior, implied), Value::Null).await;
    }
    assert_eq!(operator_of.ask("GET", &format!("{V3}/users"), Value::Null).await.status, 403);
    admin.must(204, "DELETE", &format!("{V3}/roles/{operator}"), Value::Null).await;
    assert_eq!(sign_in().await.status, 401);
    // A role of a domain is nothing outside of it.
    let domain = made(&admin, "domains", "domain", json!({"name": "dept"})).await;
    let of_dept = made(&admin, "roles", "role", json!({"name": "clerk", "domain_id": domain})).await;
    let refused = admin.ask("PUT", &format!("{V3}/system/users/{user}/roles/{of_dept}"), Value::Null).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
}
