//! Who may act as somebody else, and as whom a request is judged then.

use serde_json::json;

use crate::support::{Answer, Desk, admin, nobody};

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn review(desk: &Desk, headers: &[(&str, &str)], as_admin: bool) -> Answer {
    let user = if as_admin { admin() } else { nobody() };
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    desk.send(user, "POST", REVIEW, "application/json", headers, body).await
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
    let why = "users \"ann\" is forbidden: User \"nobody\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope";
    assert_eq!(review(&desk, &ann, false).await.refused(403), why);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "actor"},
        "rules": [{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["ann"]}]});
    desk.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", Some(role)).await.expect(201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "actor"}, "subjects": [{"kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "actor"}});
    desk.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", Some(binding))
        .await
        .expect(201);
    assert_eq!(review(&desk, &ann, false).await.expect(201)["status"]["userInfo"]["username"], "ann");
    for more in
        [("impersonate-group", "system:masters"), ("impersonate-uid", "1"), ("impersonate-extra-a", "b")]
    {
        let said = review(&desk, &[ann[0], more], false).await.refused(403);
        assert!(said.contains("cannot impersonate resource"), "{said}");
    }
    assert!(review(&desk, &[("impersonate-user", "bob")], false).await.refused(403).contains("\"bob\""));
    let nobody_named = review(&desk, &[("impersonate-group", "dev")], true).await.refused(400);
    assert!(nobody_named.ends_with("without impersonating a user name"), "{nobody_named}");
}
