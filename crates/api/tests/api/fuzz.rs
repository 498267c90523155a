//! Requests that make no sense: each is refused, none is a fault of the server. Each has a seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::support::{Desk, admin};

const CASES: u64 = 600;
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const PATHS: [&str; 10] = [
    "/api/v1/namespaces/default/configmaps",
    "/api/v1/namespaces/default/configmaps/a",
    "/api/v1/namespaces/default/pods",
    "/api/v1/namespaces/default/pods/p",
    "/api/v1/namespaces/default/pods/p/binding",
    "/api/v1/namespaces/default/pods/p/eviction",
    "/api/v1/namespaces/default/pods/p/status",
    "/apis/apps/v1/namespaces/default/deployments/d/scale",
    "/apis/apps/v1/namespaces/default/deployments/d",
    "/api/v1/nodes/n/status",
];
const TYPES: [&str; 8] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "text/plain",
];
const QUERIES: [&str; 12] = [
    "dryRun=All",
    "dryRun=x",
    "fieldManager=f",
    "fieldManager=%00",
    "fieldValidation=Strict",
    "force=true",
    "gracePeriodSeconds=-99999999999999999999",
    "gracePeriodSeconds=9223372036854775807",
    "labelSelector=%21%28a%2C",
    "fieldSelector=metadata.name%3D%3D%3D",
    "limit=18446744073709551615",
    "continue=AAAA",
];
/// Words that bodies are made of, so that some get past the reader.
const WORDS: [&str; 26] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "  ",
    "- ",
    "\"metadata\"",
    "\"name\"",
    "\"a\"",
    "\"p\"",
    "\"spec\"",
    "\"replicas\"",
    "null",
    "1e400",
    "-1",
    "99999999999999999999",
    "\"$patch\"",
    "\"replace\"",
    "\"$setElementOrder/containers\"",
    "\"containers\"",
    "\"op\"",
    "\"path\"",
    "&a *a",
];
const BODIES: [&str; 8] = [
    r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}"#,
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
    r#"{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d"},"spec":{"replicas":3}}"#,
    r#"{"metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#,
    r#"[{"op":"copy","from":"","path":"/metadata/x"},{"op":"move","from":"/a","path":"/a/b"}]"#,
    r#"{"kind":"DeleteOptions","preconditions":{"uid":"u"},"gracePeriodSeconds":-5}"#,
    r#"{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"c"},{"name":1}]}}}}"#,
    r#"{"metadata":{"managedFields":[{}],"ownerReferences":[{},{}],"finalizers":[1,null]}}"#,
];

fn pick<'a>(random: &mut StdRng, list: &[&'a str]) -> &'a str {
    list[random.random_range(0..list.len())]
}

fn body(random: &mut StdRng) -> String {
    let mut text: Vec<char> = match random.random_bool(0.3) {
        true => (0..random.random_range(0..40)).flat_map(|_| pick(random, &WORDS).chars()).collect(),
        false => pick(random, &BODIES).chars().collect(),
    };
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..=text.len());
        match random.random_range(0..3) {
            0 => text.truncate(at),
            1 => text.splice(at..at, pick(random, &WORDS).chars()).for_each(drop),
            _ => text.insert(at, char::from(random.random_range(0_u8..0x7f))),
        }
    }
    text.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_never_a_fault_of_the_server() {
    let desk = Desk::new().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    for seed in 0..CASES {
        let mut random = StdRng::seed_from_u64(seed);
        let (method, path) = (pick(&mut random, &METHODS), pick(&mut random, &PATHS));
        let path = format!("{path}?{}", pick(&mut random, &QUERIES));
        let kind = pick(&mut random, &TYPES);
        let body = body(&mut random);
        let answer = desk.send(admin(), method, &path, kind, &[], body.clone()).await;
        let code = answer.status.as_u16();
        // A few faults of a request have no class of their own in Kubernetes.
        let unclassified = code == 500 && !answer.text.contains("\"reason\"");
        assert!(
            code < 500 || code == 504 || unclassified,
            "seed {seed}: {method} {path} {kind} {body}: {}",
            answer.text
        );
    }
    // It still works.
    desk.call("PUT", "/api/v1/namespaces/default/configmaps/a?dryRun=All", Some(map.clone())).await;
    desk.call("DELETE", "/api/v1/namespaces/default/configmaps", None).await.expect(200);
    desk.call("POST", "/api/v1/namespaces/default/configmaps", Some(map)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_would_grow_are_cut_off() {
    let desk = Desk::new().await;
    let path = "/api/v1/namespaces/default/configmaps";
    desk.call("POST", path, Some(json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))).await.expect(201);
    let one = format!("{path}/a?fieldManager=f");
    let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..10 {
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(",")));
    }
    for kind in ["application/json", "application/yaml"] {
        desk.send(admin(), "POST", path, kind, &[], deep.clone()).await.refused(400);
    }
    for kind in ["merge-patch+json", "strategic-merge-patch+json", "json-patch+json", "apply-patch+yaml"] {
        desk.patch(kind, &one, deep.clone()).await.refused(400);
    }
    desk.send(admin(), "POST", path, "application/yaml", &[], bomb.clone()).await.refused(400);
    desk.patch("apply-patch+yaml", &one, bomb).await.refused(400);
    // A patch that doubles a text again and again.
    let mut steps = vec![json!({"op": "add", "path": "/data/x0", "value": "x".repeat(1000)})];
    let copy = |n: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/x{n}")});
    steps.extend((1..40).map(copy));
    desk.patch("json-patch+json", &one, json!(steps).to_string()).await.refused(413);
    let many = vec![json!({"op": "test", "path": "/data/k", "value": "v"}); 10_001];
    let message = desk.patch("json-patch+json", &one, json!(many).to_string()).await.refused(413);
    assert!(
        message.contains("The allowed maximum operations in a JSON patch is 10000, got 10001"),
        "{message}"
    );
    assert_eq!(desk.call("GET", &one, None).await.expect(200)["data"], json!({"k": "v"}));
}
