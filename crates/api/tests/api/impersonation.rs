//! Who may act as somebody else, and as whom a request is judged then.

use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use crate::support::{Answer, Desk, admin, nobody};

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn review(desk: &Desk, headers: &[(&str, &str)], as_admin: bool) -> Answer {
    let user = if as_admin { admin() } else { nobody() };
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    desk.send(user, "POST", REVIEW, "application/json", headers, body).await
}

/// Lets a user do this in the whole cloud.
async fn allow(desk: &Desk, user: &str, rules: Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let role = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": {"name": "actor"}, "rules": rules});
    desk.call("POST", &format!("/apis/{GROUP}/v1/clusterroles"), Some(role)).await.expect(201);
    let binding = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "actor"},
        "subjects": [{"kind": "User", "name": user, "apiGroup": GROUP}],
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "actor"}});
    desk.call("POST", &format!("/apis/{GROUP}/v1/clusterrolebindings"), Some(binding)).await.expect(201);
}

/// A rule about what is put on in a constrained way.
fn worn(resource: &str, mode: &str, names: Value) -> Value {
    json!({"apiGroups": ["authentication.k8s.io"], "resources": [resource], "verbs": [format!("impersonate:{mode}")],
        "resourceNames": names})
}

#[tokio::test]
async fn who_acts_as_somebody_may_be_bound_to_what_they_do() {
    let desk = Desk::new().await;
    let on = |verb: &str, group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [format!("impersonate-on:{verb}")]});
    let rules = json!([
        worn("users", "user-info", json!(["ann"])),
        worn("groups", "user-info", json!(["dev"])),
        worn("userextras/example.com/scope", "user-info", json!(["view"])),
        on("user-info:list", "", "pods"),
        on("user-info:create", "authentication.k8s.io", "selfsubjectreviews"),
        worn("serviceaccounts", "serviceaccount", json!(["web"])),
        on("serviceaccount:create", "authentication.k8s.io", "selfsubjectreviews"),
        worn("nodes", "arbitrary-node", json!(["n1"])),
        on("arbitrary-node:create", "authentication.k8s.io", "selfsubjectreviews"),
    ]);
    allow(&desk, "nobody", rules).await;
    let as_ann = [("impersonate-user", "ann"), ("impersonate-group", "dev")];
    let ask = |path: &'static str, headers: &'static [(&'static str, &'static str)]| {
        desk.send(nobody(), "GET", path, "", headers, String::new())
    };
    const ANN: &[(&str, &str)] = &[("impersonate-user", "ann")];
    // Let through as ann, who may not; and not let through.
    let said = ask("/api/v1/pods", ANN).await.refused(403);
    assert!(said.contains("User \"ann\" cannot list resource \"pods\""), "{said}");
    let said = ask("/api/v1/configmaps", ANN).await.refused(403);
    assert!(
        said.contains("User \"nobody\" cannot impersonate-on:user-info:list resource \"configmaps\""),
        "{said}"
    );
    let seen = review(&desk, &as_ann, false).await.expect(201);
    assert_eq!(seen["status"]["userInfo"]["groups"], json!(["dev", "system:authenticated"]));
    let scoped = [as_ann[0], ("impersonate-extra-example.com%2fscope", "view")];
    let seen = review(&desk, &scoped, false).await.expect(201);
    assert_eq!(seen["status"]["userInfo"]["extra"], json!({"example.com/scope": ["view"]}));
    for (more, why) in [
        (("impersonate-group", "ops"), "resource \"groups\""),
        (("impersonate-group", "system:masters"), "impersonating the system:masters group is not allowed"),
        (
            ("impersonate-group", "system:yunfan:components"),
            "impersonating the system:yunfan:components group is not allowed",
        ),
        (("impersonate-extra-scope", "view"), "an invalid key in extra"),
        (("impersonate-uid", "7"), "resource \"uids\""),
    ] {
        let said = review(&desk, &[as_ann[0], more], false).await.refused(403);
        assert!(said.contains(why), "{said}");
    }
    let said = review(&desk, &[("impersonate-user", "bob")], false).await.refused(403);
    assert!(said.contains("cannot impersonate:user-info resource \"users\""), "{said}");

    let web = [("impersonate-user", "system:serviceaccount:default:web")];
    let seen = review(&desk, &web, false).await.expect(201);
    assert_eq!(seen["status"]["userInfo"]["groups"][1], "system:serviceaccounts:default");
    let node = [("impersonate-user", "system:node:n1")];
    let seen = review(&desk, &node, false).await.expect(201);
    assert_eq!(seen["status"]["userInfo"]["groups"], json!(["system:nodes", "system:authenticated"]));
    review(&desk, &[("impersonate-user", "system:node:n2")], false).await.refused(403);
}

#[tokio::test]
async fn an_account_acts_as_the_node_that_it_is_on() {
    let desk = Desk::new().await;
    let verbs = ["impersonate-on:associated-node:create"];
    let on =
        json!({"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": verbs});
    let account = "system:serviceaccount:default:agent";
    allow(&desk, account, json!([worn("nodes", "associated-node", json!(["*"])), on])).await;
    let on_node = |node: &str| {
        let mut user = UserInfo::service_account("default", "agent", "7");
        user.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]);
        Some(user)
    };
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    for (own, code) in [("n1", 201), ("n2", 403)] {
        let as_n1 = [("impersonate-user", "system:node:n1")];
        let answer =
            desk.send(on_node(own), "POST", REVIEW, "application/json", &as_n1, body.clone()).await.got(code);
        if code == 201 {
            assert_eq!(answer.body["status"]["userInfo"]["username"], "system:node:n1");
        }
    }
}

#[tokio::test]
async fn a_request_is_judged_as_the_user_whom_it_names() {
    let desk = Desk::new().await;
    let ann = [("impersonate-user", "ann"), ("impersonate-group", "dev")];
    let seen = review(&desk, &ann, true).await.expect(201);
    let expected = json!({"username": "ann", "groups": ["dev", "system:authenticated"]});
    assert_eq!(seen["status"]["userInfo"], expected);
    let pods = desk.send(admin(), "GET", "/api/v1/pods", "", &ann, String::new()).await;
    assert!(pods.refused(403).contains("User \"ann\" cannot list resource \"pods\""));
}

#[tokio::test]
async fn each_thing_that_is_put_on_needs_its_own_permission() {
    let desk = Desk::new().await;
    let ann = [("impersonate-user", "ann")];
    // Of the ways that there are, the first one says why.
    let why = "selfsubjectreviews.authentication.k8s.io is forbidden: User \"nobody\" cannot impersonate-on:user-info:create resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope";
    assert_eq!(review(&desk, &ann, false).await.refused(403), why);
    let rule = json!({"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["ann"]});
    allow(&desk, "nobody", json!([rule])).await;
    assert_eq!(review(&desk, &ann, false).await.expect(201)["status"]["userInfo"]["username"], "ann");
    for more in
        [("impersonate-group", "system:masters"), ("impersonate-uid", "1"), ("impersonate-extra-a", "b")]
    {
        let said = review(&desk, &[ann[0], more], false).await.refused(403);
        assert!(said.contains("cannot impersonate"), "{said}");
    }
    review(&desk, &[("impersonate-user", "bob")], false).await.refused(403);
    let nobody_named = review(&desk, &[("impersonate-group", "dev")], true).await.refused(400);
    assert!(nobody_named.ends_with("without impersonating a user name"), "{nobody_named}");
}
