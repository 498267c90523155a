//! Admission webhooks: who is asked again, who is not, and what is done with an answer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::hooks::{MAPS, PODS, Server, configure, mutating, validating};
use crate::support::{Answer, Desk};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn held() -> Value {
    json!({"objectSelector": {"matchLabels": {"app": "held"}}, "timeoutSeconds": 30})
}

/// Sends a creation whose hook holds it, does something meanwhile, and lets it go on.
async fn meanwhile<F: Future<Output = ()>>(
    desk: &Arc<Desk>,
    server: &Server,
    path: &'static str,
    object: Value,
    other: impl FnOnce(Value) -> F,
) -> Answer {
    let made = {
        let desk = desk.clone();
        tokio::spawn(async move { desk.call("POST", path, Some(object)).await })
    };
    tokio::time::timeout(Duration::from_secs(20), async {
        while server.count("hold") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is asked");
    let asked = server.take();
    other(asked.last().expect("a question").1["request"].clone()).await;
    // More than once, for those who ask again.
    server.released.add_permits(100);
    made.await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_lost_a_race_is_nobodys_business_again() {
    const PORTS: &str = "/apis/network.yunfan.io/v1/namespaces/default/ports";
    let desk = Arc::new(Desk::new().await);
    let server = Server::start(&desk).await;
    let of = |kind: &str, spec: Value| {
        json!({"apiVersion": "network.yunfan.io/v1", "kind": kind,
            "metadata": {"name": "n", "labels": {"app": "held"}}, "spec": spec})
    };
    desk.call("POST", &PORTS.replace("/ports", "/networks"), Some(of("Network", json!({}))))
        .await
        .expect(201);
    validating(&desk, server.hook("hold", &["ports"], held())).await;
    let patch = r#"{"metadata":{"labels":{"changed":"yes"}}}"#;
    let port = of("Port", json!({"network": "n"}));
    let made = meanwhile(&desk, &server, PORTS, port, async |request| {
        assert!(request["object"]["spec"]["macAddress"].is_string());
        desk.patch("merge-patch+json", "/api/v1/namespaces/default", patch).await.expect(200);
    })
    .await
    .expect(201);
    assert!(made["spec"]["macAddress"].is_string());
    assert_eq!(server.take().len(), 0, "the Port is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_lost_a_race_is_nobodys_business_again() {
    let desk = Arc::new(Desk::new().await);
    let server = Server::start(&desk).await;
    mutating(&desk, json!([server.hook("init", &["pods"], json!({}))])).await;
    validating(&desk, server.hook("hold", &["pods"], held())).await;
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "held"}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    let patch = r#"{"metadata":{"labels":{"changed":"yes"}}}"#;
    let made = meanwhile(&desk, &server, PODS, pod, async |_| {
        desk.patch("merge-patch+json", "/api/v1/namespaces/default", patch).await.expect(200);
    })
    .await
    .expect(201);
    let again: Vec<String> = server.take().into_iter().map(|(what, _)| what).collect();
    assert_eq!(again, [""; 0], "the Pod is the same");
    assert_eq!(made["spec"]["initContainers"][0]["name"], "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_name_that_is_taken_after_all_gives_way_to_another() {
    let desk = Arc::new(Desk::new().await);
    let server = Server::start(&desk).await;
    mutating(&desk, json!([server.hook("mutate", &["configmaps"], held())])).await;
    validating(&desk, server.hook("hold", &["configmaps"], held())).await;
    let map = json!({"metadata": {"generateName": "g-", "labels": {"app": "held"}}, "data": {"a": "b"}});
    let mut taken = String::new();
    let made = meanwhile(&desk, &server, MAPS, map, async |request| {
        taken = request["name"].as_str().expect("a name").to_owned();
        desk.call("POST", MAPS, Some(json!({"metadata": {"name": taken}}))).await.expect(201);
    })
    .await
    .expect(201);
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("g-") && name != taken, "{name}");
    assert_eq!(made["data"], json!({"a": "b", "mutated": "yes"}));
    // Who changes objects is not told the name, and has answered already; who refuses sees another object.
    let again: Vec<String> = server.take().into_iter().map(|(what, _)| what).collect();
    assert_eq!(again, ["hold"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_is_not_asked_again_about_its_own_change_alone() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    mutating(&desk, json!([server.hook("scale", &["deployments"], again.clone())])).await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let made = desk.call("POST", DEPLOYMENTS, Some(deployment)).await.expect(201);
    assert_eq!((&made["spec"]["replicas"], server.take().len()), (&json!(3), 1));
    // With the hook's change the spec is what it was: so is the generation, which the hook was shown raised.
    let patch = r#"{"metadata":{"labels":{"x":"y"}},"spec":{"replicas":5}}"#;
    let changed = desk.patch("merge-patch+json", &format!("{DEPLOYMENTS}/d"), patch).await.expect(200);
    assert_eq!((&changed["spec"]["replicas"], server.take().len()), (&json!(3), 1));
    assert_eq!(changed["metadata"]["generation"], made["metadata"]["generation"]);
    // What the chain adds to its change is a reason: here a token for the new container.
    mutating(&desk, json!([server.hook("init", &["pods"], again)])).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    desk.call("POST", PODS, Some(pod)).await.expect(201);
    assert_eq!(server.take().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_may_make_another_type_of_a_service() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    let service = |name: &str, kind: &str| {
        Some(json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}}))
    };
    mutating(&desk, json!([server.hook("inside", &["services"], json!({}))])).await;
    let made = desk.call("POST", SERVICES, service("a", "NodePort")).await.expect(201);
    assert_eq!(
        (&made["spec"]["type"], &made["spec"]["ports"][0]["nodePort"]),
        (&json!("ClusterIP"), &Value::Null)
    );
    assert!(made["spec"]["clusterIP"].is_string());
    let seen = server.take()[0].1["request"]["object"]["spec"].clone();
    assert_eq!((&seen["clusterIP"], &seen["ports"][0]["nodePort"]), (&Value::Null, &Value::Null));
    mutating(&desk, json!([server.hook("outside", &["services"], json!({}))])).await;
    let made = desk.call("POST", SERVICES, service("b", "ClusterIP")).await.expect(201);
    assert_eq!(
        (&made["spec"]["externalName"], &made["spec"]["clusterIP"]),
        (&json!("x.example"), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_says_404_does_not_mean_that_there_is_no_object() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    desk.call("POST", MAPS, Some(json!({"metadata": {"name": "a"}}))).await.expect(201);
    let rules = json!([{"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]);
    validating(&desk, server.hook("absent", &[], json!({"rules": rules}))).await;
    let applied = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":"y"}}"#;
    let path = format!("{MAPS}/a?fieldManager=m");
    let message = desk.patch("apply-patch+yaml", &path, applied).await.refused(404);
    assert!(message.ends_with("denied the request: who?"), "{message}");
    assert_eq!(server.take().len(), 1);
    desk.patch("apply-patch+yaml", &path.replace("/a?", "/b?"), &applied.replace(r#""a""#, r#""b""#))
        .await
        .expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_stored_is_checked_as_well() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    desk.call("POST", PODS, Some(pod)).await.expect(201);
    let eviction = json!({"metadata": {"name": "p"}});
    let binding = json!({"metadata": {"name": "p"}, "target": {"name": "n"}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/x", "verb": "get"}}});
    let all = [
        ("/api/v1/namespaces/default/serviceaccounts/default/token", json!({"spec": {"audiences": ["x"]}})),
        ("/api/v1/namespaces/default/pods/p/eviction", eviction.clone()),
        ("/api/v1/namespaces/default/pods/p/binding", binding.clone()),
        ("/api/v1/namespaces/default/bindings", binding),
        (reviews, review.clone()),
    ];
    for what in ["text", "textual"] {
        mutating(&desk, json!([server.hook(what, &["*/*"], json!({}))])).await;
        for (path, body) in &all {
            desk.call("POST", path, Some(body.clone())).await.refused(500);
        }
        desk.call("POST", "/api/v1/namespaces/default/pods/p/exec?command=ls", None).await;
    }
    // An older Eviction has the same fields.
    mutating(&desk, json!([server.hook("rename", &["*/*"], json!({}))])).await;
    let mut early = eviction.clone();
    early["apiVersion"] = json!("policy/v1beta1");
    early["kind"] = json!("Eviction");
    for (path, body) in [(all[1].0, early), (all[1].0, eviction), (all[2].0, all[2].1.clone())] {
        let message = desk.call("POST", path, Some(body)).await.refused(400);
        assert!(message.starts_with("name in URL does not match name in "), "{message}");
    }
    // What a hook takes away is missed, as where the client had left it out.
    mutating(&desk, json!([server.hook("odd-review", &["selfsubjectaccessreviews"], json!({}))])).await;
    desk.call("POST", reviews, Some(review)).await.refused(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_labels_are_not_the_labels_of_what_can_have_none() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    desk.call("POST", PODS, Some(pod)).await.expect(201);
    let exec = format!("{PODS}/p/exec?command=ls");
    let unless =
        json!({"objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}});
    let hook = server.hook("deny", &["*/*"], unless);
    configure(&desk, "ValidatingWebhookConfiguration", "v", json!([hook])).await;
    assert_ne!(desk.call("POST", &exec, None).await.status, 403);
    assert_eq!(server.count("deny"), 0);
    desk.call("POST", MAPS, Some(json!({"metadata": {"name": "a"}}))).await.refused(403);
    validating(&desk, server.hook("deny", &["*/*"], json!({}))).await;
    desk.call("POST", &exec, None).await.refused(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_a_hook_puts_in_twice_is_there_once() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    mutating(&desk, json!([server.hook("own", &["configmaps"], json!({}))])).await;
    let made = desk.call("POST", MAPS, Some(json!({"metadata": {"name": "a"}}))).await.got(201);
    assert_eq!(made.body["metadata"]["ownerReferences"].as_array().expect("owners").len(), 1);
    let warning = made.headers["warning"].to_str().expect("text");
    assert!(warning.contains("contains duplicate entries after mutating admission happens; "), "{warning}");
    assert!(warning.contains("duplicate UID(s) observed: u-1"), "{warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_another_code_of_success_counts() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    validating(&desk, server.hook("created", &["configmaps"], json!({}))).await;
    desk.call("POST", MAPS, Some(json!({"metadata": {"name": "a"}}))).await.expect(201);
    assert_eq!(server.count("created"), 1);
}
