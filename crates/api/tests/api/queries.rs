//! Queries that make no sense, tables of everything, and rules of definitions: whatever they ask, the server is not at
//! fault. And pages of a list while others write as fast as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::{Desk, admin};

const CASES: u64 = 500;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PATHS: [&str; 6] = [
    MAPS,
    "/api/v1/configmaps",
    "/api/v1/pods",
    "/apis/apps/v1/namespaces/default/deployments",
    "/apis/compute.yunfan.io/v1/flavors",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
];
const PIECES: [&str; 30] = [
    "a",
    "x/y",
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "status.phase",
    "=",
    "==",
    "===",
    "!=",
    "!",
    " in ",
    " notin ",
    "(",
    ")",
    ",",
    ">",
    "<",
    "\\",
    "\\,",
    " ",
    "-1",
    "9999999999999999999",
    "é",
    "\u{0}",
    "\n",
    "/",
    ".",
    "\"",
    "in",
];
const ACCEPTS: [&str; 10] = [
    "application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
    "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf",
    "application/yaml",
    "application/json;as=;q=x;=",
    ";;,,*/*;q=0",
    "text/html;q=0.9, */*;q=0.1",
];
const NAMES: [&str; 9] = [
    "labelSelector",
    "fieldSelector",
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "includeObject",
    "timeoutSeconds",
    "sendInitialEvents",
];
const VALUES: [&str; 12] = [
    "",
    "0",
    "1",
    "-1",
    "2",
    "18446744073709551615",
    "Exact",
    "NotOlderThan",
    "Object",
    "None",
    "true",
    "AAAA",
];

fn pick<'a>(random: &mut StdRng, list: &[&'a str]) -> &'a str {
    list[random.random_range(0..list.len())]
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A token with some of its letters changed.
fn token(random: &mut StdRng, good: &str) -> String {
    let mut letters: Vec<char> = good.chars().collect();
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..letters.len());
        letters[at] = char::from(random.random_range(b'A'..=b'z'));
    }
    letters.into_iter().collect()
}

fn query(random: &mut StdRng, good: &str) -> String {
    let parts = (0..random.random_range(0..4)).map(|_| {
        let name = pick(random, &NAMES);
        let value = match name {
            "labelSelector" | "fieldSelector" => {
                (0..random.random_range(0..7)).map(|_| pick(random, &PIECES)).collect::<String>()
            }
            "continue" if random.random_bool(0.7) => token(random, good),
            _ => pick(random, &VALUES).to_owned(),
        };
        format!("{name}={}", encoded(&value))
    });
    parts.collect::<Vec<_>>().join("&")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_list_or_a_watch_is_asked_the_server_is_not_at_fault() {
    let desk = Desk::new().await;
    for name in ["a", "b", "c"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"a": name}}});
        desk.call("POST", MAPS, Some(map)).await.expect(201);
    }
    let page = desk.call("GET", &format!("{MAPS}?limit=1"), None).await.expect(200);
    let good = page["metadata"]["continue"].as_str().expect("a token");
    for seed in 0..CASES {
        let mut random = StdRng::seed_from_u64(seed);
        let (path, accept) = (pick(&mut random, &PATHS), pick(&mut random, &ACCEPTS));
        let watch = if random.random_bool(0.3) { "watch=1&" } else { "" };
        let path = format!("{path}?{watch}{}", query(&mut random, good));
        let response = desk.raw(admin(), "GET", &path, "", &[("accept", accept)], String::new()).await;
        let code = response.status().as_u16();
        // 504: the revision is not reached yet; 500 is what Kubernetes has for one that is no number.
        let unread = code == 500 && path.contains("resourceVersion=");
        assert!(code < 500 || code == 504 || unread, "seed {seed}: {code} {path} {accept}");
        drop(response);
        if watch.is_empty() && code == 200 {
            let answer = desk.send(admin(), "GET", &path, "", &[("accept", accept)], String::new()).await;
            assert!(answer.text.len() < 4 << 20, "seed {seed}: {path}");
        }
    }
    assert_eq!(
        desk.call("GET", &format!("{MAPS}?labelSelector=a%3Db"), None).await.expect(200)["items"][0]["metadata"]
            ["name"],
        "b"
    );
}

/// Words of rules: some of what comes out is one.
const WORDS: [&str; 34] = [
    "self",
    ".n",
    ".s",
    ".l",
    ".m",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    "+",
    "-",
    "!",
    "&&",
    "||",
    "==",
    "<",
    " in ",
    "1",
    "'a'",
    "x",
    ".all(x, ",
    ".map(x, ",
    "has(",
    "size(",
    ".matches('a*')",
    "oldSelf",
    "format.dns1123Label()",
    "quantity('1Gi')",
    "\\",
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_rule_says_it_is_taken_or_refused() {
    let desk = Desk::new().await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";
    let mut taken = 0;
    for seed in 0..CASES {
        let mut random = StdRng::seed_from_u64(seed);
        let rule: String = match seed % 5 {
            0 => format!(
                "self.n {} {}",
                pick(&mut random, &["==", "<", "+", "in"]),
                pick(&mut random, &["1", "size(self.s)", "'a'"])
            ),
            _ => (0..random.random_range(1..14)).map(|_| pick(&mut random, &WORDS)).collect(),
        };
        let properties = json!({
            "n": {"type": "integer"}, "s": {"type": "string", "maxLength": 10},
            "l": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 5}},
            "m": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer"}},
        });
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object", "properties": properties, "x-kubernetes-validations": [{"rule": rule}]}}});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "odds.example.com"},
            "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "odds", "kind": "Odd"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        let answer = desk.call("POST", crds, Some(definition)).await;
        let code = answer.status.as_u16();
        assert!(matches!(code, 201 | 422), "seed {seed}: {code} {rule}: {}", answer.text);
        taken += usize::from(code == 201);
    }
    assert!(taken > 10, "too few are rules to say anything: {taken}");
}

fn map(number: u32) -> String {
    // Later ones come first in a list, so that pages of different moments would have a hole between them.
    format!("m-{:05}", 99_999 - number)
}

/// The numbers of a page's objects.
fn numbers(page: &Value) -> Vec<u32> {
    let items = page["items"].as_array().expect("items");
    let names = items.iter().filter_map(|item| item["metadata"]["name"].as_str()?.strip_prefix("m-"));
    names.map(|digits| 99_999 - digits.parse::<u32>().expect("digits")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_one_moment_while_others_write() {
    const ALIVE: u32 = 20;
    const LISTS: usize = 15;
    let desk = Arc::new(Desk::new().await);
    let (done, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let make =
        |number: u32| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": map(number)}});
    for number in 0..ALIVE {
        desk.call("POST", MAPS, Some(make(number))).await.expect(201);
    }
    let writer = {
        let (desk, done, written) = (desk.clone(), done.clone(), written.clone());
        tokio::spawn(async move {
            let mut number = ALIVE;
            while !done.load(Ordering::Relaxed) {
                desk.call("POST", MAPS, Some(make(number))).await.expect(201);
                desk.call("DELETE", &format!("{MAPS}/{}", map(number - ALIVE)), None).await.expect(200);
                number += 1;
                written.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut lists = 0;
    while lists < LISTS || written.load(Ordering::Relaxed) < 10 {
        lists += 1;
        let mut page = desk.call("GET", &format!("{MAPS}?limit=3"), None).await.expect(200);
        let mut seen = numbers(&page);
        while let Some(token) = page["metadata"]["continue"].as_str() {
            page = desk.call("GET", &format!("{MAPS}?limit=3&continue={token}"), None).await.expect(200);
            seen.extend(numbers(&page));
        }
        // Of one moment they are the ones that were made last, without a hole.
        let newest = seen[0];
        let wanted: Vec<u32> = (0..seen.len() as u32).map(|back| newest - back).collect();
        assert_eq!(seen, wanted);
        assert!(seen.len() >= ALIVE as usize && seen.len() <= ALIVE as usize + 1, "{}", seen.len());
    }
    done.store(true, Ordering::Relaxed);
    writer.await.expect("the writer ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_request_is_read_where_it_has_one() {
    let desk = Desk::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let why = "invalid timeout specified in the request URL - time: invalid duration \"x\"";
    for path in [maps, "/healthz", "/apis", "/nothing/here"] {
        assert_eq!(desk.call("GET", &format!("{path}?timeout=x"), None).await.refused(400), why, "{path}");
    }
    desk.call("GET", &format!("{maps}?timeout=10s"), None).await.expect(200);
    desk.watch(&format!("{maps}?watch=true&timeout=x")).await;
    let late = desk.call("GET", &format!("{maps}?timeout=1ns"), None).await;
    if late.status != 200 {
        let message = late.refused(504);
        assert_eq!(message, "Timeout: request did not complete within the allotted timeout");
    }
}
