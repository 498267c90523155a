use serde_json::json;

use super::*;
use crate::bootstrap;

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo::authenticated(name, groups.iter().copied())
}

fn bootstrapped() -> RbacAuthorizer {
    let rbac = RbacAuthorizer::new();
    for object in bootstrap::objects() {
        rbac.apply(&object).unwrap();
    }
    rbac
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}, "rules": rules})
}

/// `role` is `Kind/name`, `subject` is `Kind/name` or `ServiceAccount/namespace/name`.
fn bind(namespace: &str, name: &str, role: &str, subjects: &[&str]) -> Value {
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let (role_kind, role_name) = role.split_once('/').unwrap();
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|subject| match subject.split('/').collect::<Vec<_>>()[..] {
            [kind, name] => json!({"kind": kind, "name": name}),
            [kind, namespace, name] => json!({"kind": kind, "namespace": namespace, "name": name}),
            _ => unreachable!(),
        })
        .collect();
    json!({
        "kind": kind, "metadata": {"namespace": namespace, "name": name},
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role_name}, "subjects": subjects,
    })
}

/// `verb group/resource[/subresource] [@namespace] [=name]`, or `verb /path`.
fn ask(rbac: &RbacAuthorizer, user: &UserInfo, question: &str) -> Decision {
    let mut words = question.split(' ');
    let (verb, what) = (words.next().unwrap(), words.next().unwrap());
    if what.starts_with('/') {
        return rbac.authorize(&Attributes::path(user, verb, what));
    }
    let mut what = what.splitn(3, '/');
    let group = what.next().unwrap().trim_start_matches("core");
    let mut request = Attributes::resource(user, verb, group, what.next().unwrap());
    request.subresource = what.next().unwrap_or_default();
    for word in words {
        match word.split_at(1) {
            ("@", namespace) => request.namespace = namespace,
            ("=", name) => request.name = name,
            _ => panic!("{word}"),
        }
    }
    rbac.authorize(&request)
}

#[track_caller]
fn check(rbac: &RbacAuthorizer, user: &UserInfo, table: &[(&str, bool)]) {
    for (question, allowed) in table {
        let decision = ask(rbac, user, question);
        assert_eq!(decision.is_allowed(), *allowed, "{} {question}: {decision:?}", user.name);
    }
}

#[test]
fn rules_match_verbs_groups_resources_subresources_names_and_paths() {
    let rbac = RbacAuthorizer::new();
    let rules = json!([
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
        {"verbs": ["update"], "apiGroups": ["apps"], "resources": ["*/status"]},
        {"verbs": ["*"], "apiGroups": ["batch"], "resources": ["*"]},
        {"verbs": ["get"], "apiGroups": ["*"], "resources": ["secrets"], "resourceNames": ["one"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]},
    ]);
    rbac.apply(&role("", "r", rules)).unwrap();
    rbac.apply(&bind("", "b", "ClusterRole/r", &["User/ann"])).unwrap();
    rbac.apply(&bind("demo", "b", "ClusterRole/r", &["User/bob"])).unwrap();
    let everywhere = [
        ("get core/pods @demo =x", true),
        ("list core/pods @demo", true),
        ("delete core/pods @demo =x", false),
        ("get core/pods/log @demo =x", true),
        ("get core/pods/exec @demo =x", false),
        ("get apps/pods @demo =x", false),
        ("update apps/deployments/status @demo =x", true),
        ("update apps/deployments @demo =x", false),
        ("patch batch/jobs/status @demo =x", true),
        ("get core/secrets @demo =one", true),
        ("get core/secrets @demo =two", false),
        ("get core/secrets @demo", false),
    ];
    check(&rbac, &user("ann", &[]), &everywhere);
    check(&rbac, &user("bob", &[]), &everywhere);
    check(
        &rbac,
        &user("ann", &[]),
        &[
            ("list core/pods", true),
            ("list core/pods @other", true),
            ("get /metrics", true),
            ("get /metrics/x", false),
            ("get /logs/a/b", true),
            ("post /metrics", false),
        ],
    );
    check(
        &rbac,
        &user("bob", &[]),
        &[("list core/pods", false), ("list core/pods @other", false), ("get /metrics", false)],
    );
    check(&rbac, &user("eve", &[]), &[("get core/pods @demo =x", false), ("get /metrics", false)]);
}

#[test]
fn subjects_are_users_groups_and_service_accounts() {
    let rbac = RbacAuthorizer::new();
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    rbac.apply(&role("demo", "r", rules)).unwrap();
    let subjects = ["Group/staff", "ServiceAccount/other/robot"];
    rbac.apply(&bind("demo", "b", "Role/r", &subjects)).unwrap();
    let question = "get core/pods @demo =x";
    check(&rbac, &user("ann", &["staff"]), &[(question, true), ("get core/pods @x =x", false)]);
    check(&rbac, &user("staff", &[]), &[(question, false)]);
    check(&rbac, &UserInfo::service_account("other", "robot", ""), &[(question, true)]);
    check(&rbac, &UserInfo::service_account("demo", "robot", ""), &[(question, false)]);
    assert_eq!(
        ask(&rbac, &user("ann", &["staff"]), question).reason(),
        r#"RBAC: allowed by RoleBinding "b/demo" of Role "r" to Group "staff""#
    );
}

#[test]
fn changes_and_removals_take_effect() {
    let rbac = RbacAuthorizer::new();
    let rules = |verb| json!([{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]);
    let (ann, bob) = (user("ann", &[]), user("bob", &[]));
    rbac.apply(&bind("demo", "b", "Role/r", &["User/ann"])).unwrap();
    assert_eq!(
        ask(&rbac, &ann, "get core/pods @demo").reason(),
        "RBAC: role.rbac.authorization.k8s.io \"r\" not found"
    );
    rbac.apply(&role("demo", "r", rules("get"))).unwrap();
    check(&rbac, &ann, &[("get core/pods @demo", true), ("list core/pods @demo", false)]);
    rbac.apply(&role("demo", "r", rules("list"))).unwrap();
    check(&rbac, &ann, &[("get core/pods @demo", false), ("list core/pods @demo", true)]);
    rbac.apply(&bind("demo", "b", "Role/r", &["User/bob"])).unwrap();
    check(&rbac, &ann, &[("list core/pods @demo", false)]);
    check(&rbac, &bob, &[("list core/pods @demo", true)]);
    rbac.remove("RoleBinding", "demo", "b");
    check(&rbac, &bob, &[("list core/pods @demo", false)]);
    rbac.remove("RoleBinding", "demo", "b");
    rbac.remove("Role", "demo", "r");
    assert!(rbac.apply(&json!({"kind": "Pod", "metadata": {"name": "x"}})).is_err());
}

#[test]
fn what_cannot_be_read_grants_nothing() {
    let rbac = RbacAuthorizer::new();
    rbac.apply(&role("", "r", json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]))).unwrap();
    rbac.apply(&bind("", "b", "ClusterRole/r", &["User/ann"])).unwrap();
    let ann = user("ann", &[]);
    check(&rbac, &ann, &[("get core/pods", true)]);
    let error = rbac.apply(&role("", "r", json!([{"verbs": "all"}]))).unwrap_err().to_string();
    assert!(error.starts_with("ClusterRole \"r\" cannot be used for authorization"), "{error}");
    check(&rbac, &ann, &[("get core/pods", false)]);
}

#[test]
fn labels_aggregate_roles_also_through_others_and_in_circles() {
    let rbac = bootstrapped();
    let (ann, vic) = (user("ann", &[]), user("vic", &[]));
    rbac.apply(&bind("demo", "e", "ClusterRole/edit", &["User/ann"])).unwrap();
    rbac.apply(&bind("demo", "v", "ClusterRole/view", &["User/vic"])).unwrap();
    let mut extra = role(
        "",
        "widgets",
        json!([{"verbs": ["get"], "apiGroups": ["example.org"], "resources": ["widgets"]}]),
    );
    check(&rbac, &ann, &[("get example.org/widgets @demo", false)]);
    extra["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    rbac.apply(&extra).unwrap();
    check(&rbac, &ann, &[("get example.org/widgets @demo", true)]);
    check(&rbac, &vic, &[("get example.org/widgets @demo", true)]);
    extra["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-edit": "true"});
    rbac.apply(&extra).unwrap();
    check(&rbac, &vic, &[("get example.org/widgets @demo", false)]);
    // A role that selects one that selects it.
    extra["aggregationRule"] = json!({"clusterRoleSelectors": [
        {"matchExpressions": [{"key": "rbac.authorization.k8s.io/aggregate-to-admin", "operator": "Exists"}]}]});
    rbac.apply(&extra).unwrap();
    check(&rbac, &ann, &[("get example.org/widgets @demo", false), ("create core/pods @demo", true)]);
    rbac.remove("ClusterRole", "", "system:aggregate-to-edit");
    check(&rbac, &ann, &[("create core/pods @demo", false), ("get core/pods @demo", true)]);
}

#[test]
fn the_bootstrap_roles_allow_what_they_should() {
    let rbac = bootstrapped();
    for (role, name) in [("admin", "adam"), ("edit", "ed"), ("view", "vic")] {
        rbac.apply(&bind("demo", name, &format!("ClusterRole/{role}"), &[&format!("User/{name}")])).unwrap();
    }
    let kinds = [
        "compute.yunfan.io/virtualmachines",
        "compute.yunfan.io/keypairs",
        "image.yunfan.io/images",
        "network.yunfan.io/networks",
        "network.yunfan.io/subnets",
        "network.yunfan.io/ports",
        "core/pods",
        "core/services",
        "core/configmaps",
        "apps/deployments",
    ];
    for kind in kinds {
        for (name, write) in [("adam", true), ("ed", true), ("vic", false)] {
            check(
                &rbac,
                &user(name, &[]),
                &[
                    (&format!("list {kind} @demo"), true),
                    (&format!("create {kind} @demo"), write),
                    (&format!("delete {kind} @demo =x"), write),
                    (&format!("list {kind} @other"), false),
                    (&format!("list {kind}"), false),
                ],
            );
        }
    }
    let status = "patch compute.yunfan.io/virtualmachines/status @demo =x";
    let (exec, secret) = ("create core/pods/exec @demo =x", "get core/secrets @demo =x");
    let (grant, quota) =
        ("create rbac.authorization.k8s.io/rolebindings @demo", "patch core/resourcequotas @demo =x");
    let rows = |exec_ok, grant_ok| {
        [(exec, exec_ok), (secret, exec_ok), (grant, grant_ok), (quota, false), (status, false)]
    };
    check(&rbac, &user("adam", &[]), &rows(true, true));
    check(&rbac, &user("ed", &[]), &rows(true, false));
    check(&rbac, &user("vic", &[]), &rows(false, false));
    let flavors = ("list compute.yunfan.io/flavors", true);
    let review = "create authorization.k8s.io/selfsubjectaccessreviews";
    check(
        &rbac,
        &user("new", &[]),
        &[
            flavors,
            (review, true),
            ("get /apis/apps/v1", true),
            ("get /version", true),
            ("list core/nodes", false),
        ],
    );
    check(
        &rbac,
        &UserInfo::anonymous(),
        &[
            ("get /version", true),
            ("get /readyz", true),
            ("get /api", false),
            (review, false),
            (flavors.0, false),
        ],
    );
    check(
        &rbac,
        // What a node may do, roles do not say: see `node.rs`.
        &user("system:node:n1", &["system:nodes"]),
        &[
            ("create core/nodes", false),
            ("watch core/secrets", false),
            ("get /version", true),
            ("get core/configmaps @kube-system =yunfan-settings", true),
            ("get core/configmaps @kube-system =other", false),
        ],
    );
    let all = [("delete core/nodes =n", true), ("get /anything", true), ("escalate any.group/things", true)];
    check(&rbac, &user("system:yunfan:scheduler", &["system:yunfan:components"]), &all);
    check(&RbacAuthorizer::new(), &user("root", &["system:masters"]), &all);
}

#[test]
fn the_rules_shown_for_aggregated_roles_are_those_in_force() {
    let rbac = bootstrapped();
    for name in ["admin", "edit", "view"] {
        let shown = bootstrap::roles().into_iter().find(|role| role["metadata"]["name"] == name).unwrap();
        let shown = rule::parse_rules(&shown).unwrap();
        let actual = rbac.read().rules_of_role("ClusterRole", "", name).unwrap();
        assert_eq!(shown.len(), actual.len(), "{name}");
        assert!(shown.iter().all(|rule| actual.contains(rule)), "{name}");
    }
}

#[test]
fn rules_are_listed_for_a_review() {
    let rbac = bootstrapped();
    rbac.apply(&bind("demo", "v", "ClusterRole/view", &["User/vic"])).unwrap();
    rbac.apply(&bind("demo", "w", "Role/gone", &["User/vic"])).unwrap();
    let vic = user("vic", &[]);
    let sees_pods = |rules: &Rules| {
        rules.resources.iter().any(|rule| rule.resources.iter().any(|resource| resource == "pods"))
    };
    let rules = rbac.rules_for(&vic, "demo");
    assert!(sees_pods(&rules) && !rules.non_resources.is_empty());
    assert_eq!(rules.missing, [r#"role.rbac.authorization.k8s.io "gone" not found"#]);
    assert!(!sees_pods(&rbac.rules_for(&vic, "other")));
    let root = rbac.rules_for(&user("root", &["system:masters"]), "demo");
    assert_eq!(root.resources[0].verbs, ["*"]);
    assert_eq!(root.non_resources[0].non_resource_urls, ["*"]);
}

#[test]
fn nobody_gives_what_they_do_not_have() {
    let rbac = bootstrapped();
    rbac.apply(&bind("demo", "a", "ClusterRole/admin", &["User/adam"])).unwrap();
    let adam = user("adam", &[]);
    let allowed = |object: &Value| rbac.check_escalation(&adam, object);
    let rules = |resource, verb| json!([{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]);
    for role_name in ["admin", "edit", "view"] {
        allowed(&bind("demo", "b", &format!("ClusterRole/{role_name}"), &["User/bob"])).unwrap();
    }
    allowed(&role("demo", "r", rules("pods", "create"))).unwrap();
    for object in [
        bind("demo", "b", "ClusterRole/cluster-admin", &["User/adam"]),
        bind("demo", "b", "ClusterRole/system:node", &["User/adam"]),
        bind("other", "b", "ClusterRole/view", &["User/adam"]),
        role("demo", "r", rules("resourcequotas", "delete")),
        role("demo", "r", rules("*", "get")),
        role("demo", "r", rules("pods", "*")),
        role("demo", "r", rules("*/status", "patch")),
        role("", "r", rules("pods", "get")),
    ] {
        let Err(Escalation::Forbidden(why)) = allowed(&object) else { panic!("{object} is let through") };
        assert!(why.contains("not currently held") && why.contains("adam"), "{why}");
    }
    let many: Vec<String> = (0..1_000).map(|each| each.to_string()).collect();
    let vast = json!([{"verbs": many, "apiGroups": many, "resources": many, "resourceNames": many}]);
    let why = "the rules grant 1000000000000 things one by one, more than 100000 cannot be compared";
    assert_eq!(allowed(&role("demo", "r", vast)), Err(Escalation::Forbidden(why.to_owned())));
    let wide = json!([{"verbs": many, "apiGroups": [""], "resources": many[..100]}]);
    let wide = role("demo", "r", wide);
    let Err(Escalation::Forbidden(why)) = allowed(&wide) else { panic!("is let through") };
    assert_eq!(why.lines().count(), 101);
    // Whoever has much can't have all of it compared with much.
    let much = json!([{"verbs": many, "apiGroups": [""], "resources": ["pods"]}]);
    rbac.apply(&role("demo", "much", much)).unwrap();
    rbac.apply(&bind("demo", "m", "Role/much", &["User/ann"])).unwrap();
    let Err(Escalation::Forbidden(why)) = rbac.check_escalation(&user("ann", &[]), &wide) else {
        panic!("is let through")
    };
    assert!(why.contains("too many to compare"), "{why}");
    let unknown = bind("demo", "b", "ClusterRole/not-there-yet", &["User/adam"]);
    assert_eq!(allowed(&unknown), Err(Escalation::NoRole("not-there-yet".to_owned())));
    rbac.check_escalation(&user("root", &["system:masters"]), &role("", "r", rules("*", "*"))).unwrap();
    let components = user("system:yunfan:x", &["system:yunfan:components"]);
    rbac.check_escalation(&components, &role("", "r", rules("*", "*"))).unwrap();
}

#[test]
fn a_limited_token_has_the_rights_of_its_roles_in_one_namespace_as_long_as_its_user_has_them() {
    let rbac = bootstrapped();
    rbac.apply(&bind("", "root", "ClusterRole/cluster-admin", &["User/ann"])).unwrap();
    rbac.apply(&bind("one", "own", "ClusterRole/edit", &["User/bob"])).unwrap();
    let limited = |name: &str, roles: &[&str]| {
        let mut user = user(name, &[]);
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        user.extra.insert(crate::user::EXTRA_LIMIT_NAMESPACE.to_owned(), vec!["one".to_owned()]);
        user.extra.insert(crate::user::EXTRA_LIMIT_ROLES.to_owned(), roles);
        user
    };
    let may = |user: &UserInfo, question: &str| ask(&rbac, user, question).is_allowed();
    let ann = limited("ann", &["view"]);
    assert!(may(&ann, "list core/pods @one") && may(&ann, "list compute.yunfan.io/flavors"));
    for beyond in
        ["create core/pods @one", "list core/pods @two", "list core/pods", "list core/nodes", "get /metrics"]
    {
        assert!(!may(&ann, beyond), "{beyond}");
    }
    // What its user has not, it has not either.
    assert!(may(&limited("bob", &["admin"]), "create core/pods @one"));
    assert!(!may(&limited("bob", &["admin"]), "create rbac.authorization.k8s.io/rolebindings @one"));
    assert!(!may(&limited("eve", &["admin"]), "list core/pods @one"));
    // Nor does it give what it has not.
    let binding = bind("one", "more", "ClusterRole/edit", &["User/eve"]);
    assert!(rbac.check_escalation(&ann, &binding).is_err());
    assert!(rbac.check_escalation(&user("ann", &[]), &binding).is_ok());
}

#[test]
fn keystones_own_roles_are_there() {
    let rbac = bootstrapped();
    rbac.apply(&bind("one", "m", "ClusterRole/system:yunfan:manager", &["User/ann"])).unwrap();
    rbac.apply(&bind("", "r", "ClusterRole/system:yunfan:system-reader", &["User/bob"])).unwrap();
    assert!(ask(&rbac, &user("ann", &[]), "create core/pods @one").is_allowed());
    assert!(!ask(&rbac, &user("ann", &[]), "create core/pods @two").is_allowed());
    let bob = user("bob", &[]);
    assert!(ask(&rbac, &bob, "list iam.yunfan.io/users").is_allowed());
    assert!(ask(&rbac, &bob, "list core/pods @two").is_allowed());
    assert!(!ask(&rbac, &bob, "list core/secrets @kube-system").is_allowed());
    assert!(!ask(&rbac, &bob, "create iam.yunfan.io/users").is_allowed());
}

#[test]
fn keystones_admins_are_it_of_the_whole_cloud_for_as_long_as_they_are_bound() {
    let rbac = bootstrapped();
    let (ann, robot) = (user("ann", &["ops"]), UserInfo::service_account("demo", "robot", ""));
    let may = |user: &UserInfo| {
        ask(&rbac, user, "delete core/nodes =n").is_allowed() && ask(&rbac, user, "get /metrics").is_allowed()
    };
    assert!(!may(&ann));
    let role = format!("ClusterRole/{CLOUD_ADMIN_ROLE}");
    for subject in ["User/ann", "Group/ops"] {
        let binding = bind("demo", "a", &role, &[subject, "ServiceAccount/demo/robot"]);
        rbac.apply(&binding).unwrap();
        assert!(may(&ann) && may(&robot), "{subject}");
        assert!(!may(&user("bob", &[])));
        // One of the same name elsewhere is another.
        rbac.apply(&bind("other", "a", "ClusterRole/view", &["User/bob"])).unwrap();
        rbac.apply(&bind("", "a", "ClusterRole/view", &["User/bob"])).unwrap();
        assert!(may(&ann));
        rbac.apply(&bind("demo", "a", "ClusterRole/admin", &[subject])).unwrap();
        assert!(!may(&ann) && !may(&robot), "what a namespace's admin may ends with it");
        assert!(ask(&rbac, &ann, "delete core/pods @demo =p").is_allowed());
        rbac.apply(&binding).unwrap();
        rbac.remove("RoleBinding", "demo", "a");
        assert!(!may(&ann));
    }
}

#[test]
fn nobody_becomes_keystones_admin_by_what_they_have_in_one_namespace() {
    let rbac = bootstrapped();
    let wanted = bind("demo", "more", &format!("ClusterRole/{CLOUD_ADMIN_ROLE}"), &["User/ann"]);
    for role in ["admin", "cluster-admin", "system:yunfan:manager"] {
        rbac.apply(&bind("demo", "own", &format!("ClusterRole/{role}"), &["User/ann"])).unwrap();
        assert!(rbac.check_escalation(&user("ann", &[]), &wanted).is_err(), "{role}");
    }
    rbac.apply(&bind("", "own", "ClusterRole/cluster-admin", &["User/ann"])).unwrap();
    assert!(rbac.check_escalation(&user("ann", &[]), &wanted).is_ok());
}
