//! Nothing is reached past the gate: every resource that discovery names, with every method, and every other path that is served.

use serde_json::Value;

use crate::support::{Desk, admin, nobody};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Resources that whoever is known may ask for in some way, by the roles that each cloud starts with: what they are about is
/// themselves, or the cloud's offers.
const FOR_ALL: [(&str, &[&str]); 9] = [
    ("/apis/authentication.k8s.io/v1/selfsubjectreviews", &["POST"]),
    ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &["POST"]),
    ("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &["POST"]),
    ("/apis/compute.yunfan.io/v1/flavors", &["GET", "HEAD"]),
    ("/apis/image.yunfan.io/v1/metadefnamespaces", &["GET", "HEAD"]),
    ("/apis/network.yunfan.io/v1/externalnetworks", &["GET", "HEAD"]),
    ("/apis/network.yunfan.io/v1/qospolicies", &["GET", "HEAD"]),
    ("/apis/storage.yunfan.io/v1/volumegrouptypes", &["GET", "HEAD"]),
    ("/apis/storage.yunfan.io/v1/volumetypes", &["GET", "HEAD"]),
];

/// Other paths that nobody need say who they are for.
const PUBLIC: [&str; 5] = ["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// Every path below which there are objects: of collections, of single objects, and of their parts.
async fn resource_paths(desk: &Desk) -> Vec<String> {
    let mut paths = Vec::new();
    for root in ["/api", "/apis"] {
        let found = desk.get_as(root, DISCOVERY).await.expect(200);
        for group in each(&found["items"]) {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for version in each(&group["versions"]) {
                let version_name = version["version"].as_str().expect("a version");
                let base = if name.is_empty() {
                    format!("/api/{version_name}")
                } else {
                    format!("/apis/{name}/{version_name}")
                };
                for resource in each(&version["resources"]) {
                    let plural = resource["resource"].as_str().expect("a resource");
                    let namespaced = resource["scope"] == "Namespaced";
                    let scopes: &[&str] = if namespaced { &["", "/namespaces/default"] } else { &[""] };
                    for scope in scopes {
                        paths.push(format!("{base}{scope}/{plural}"));
                    }
                    let object = format!("{base}{}/{plural}/thing", scopes[scopes.len() - 1]);
                    for part in each(&resource["subresources"]) {
                        paths.push(format!("{object}/{}", part["subresource"].as_str().expect("a part")));
                    }
                    paths.push(object);
                }
            }
        }
    }
    paths
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[tokio::test]
async fn no_object_is_reached_by_who_may_not() {
    let desk = Desk::new().await;
    let paths = resource_paths(&desk).await;
    assert!(paths.len() > 250, "discovery names {} paths only", paths.len());
    let (mut past, mut open) = (Vec::new(), 0);
    for path in &paths {
        for method in METHODS {
            for query in ["", "?watch=true&timeoutSeconds=1", "?dryRun=All"] {
                let asked = format!("{path}{query}");
                let anonymous =
                    desk.send(None, method, &asked, "application/json", &[], "{}".to_owned()).await;
                if anonymous.status != 403 {
                    past.push(format!("{method} {asked} by nobody: {}", anonymous.status));
                }
                let known =
                    desk.send(nobody(), method, &asked, "application/json", &[], "{}".to_owned()).await;
                let for_all = FOR_ALL.iter().any(|(open, methods)| {
                    path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                        && methods.contains(&method)
                });
                open += usize::from(for_all);
                if !for_all && known.status != 403 {
                    past.push(format!("{method} {asked} without a role: {}", known.status));
                }
            }
        }
    }
    assert!(past.is_empty(), "{past:#?}");
    assert!(open > 0, "what is open to all is not there at all");
}

#[tokio::test]
async fn no_other_path_is_read_by_who_may_not() {
    let desk = Desk::new().await;
    let listed = desk.send(admin(), "GET", "/", "", &[], String::new()).await.expect(200);
    let mut paths: Vec<String> =
        each(&listed["paths"]).filter_map(|path| path.as_str().map(str::to_owned)).collect();
    assert!(paths.len() > 40, "{paths:?}");
    let more = [
        "/",
        "/api/v1",
        "/logs",
        "/debug/pprof/",
        "/metrics/slis",
        "/yunfan",
        "/yunfan/backup",
        "/openapi/v3/api/v1",
    ];
    paths.extend(more.map(str::to_owned));
    for path in paths {
        let known = ["/api", "/apis", "/openapi"]
            .iter()
            .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        for method in METHODS {
            let anonymous = desk.send(None, method, &path, "", &[], String::new()).await;
            let public = PUBLIC.contains(&path.as_str()) && method == "GET";
            assert_eq!(anonymous.status == 403, !public, "{method} {path} by nobody: {}", anonymous.status);
            let answer = desk.send(nobody(), method, &path, "", &[], String::new()).await;
            let open = public || known && method == "GET";
            assert_eq!(answer.status == 403, !open, "{method} {path} without a role: {}", answer.status);
        }
    }
}
