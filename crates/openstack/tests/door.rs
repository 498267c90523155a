//! The door in front of a real API server, asked as OpenStack's clients ask.

mod compute;
mod network;
mod storage;
mod support;

mod identity;

use http::Method;
use kube::api::{Api as Objects, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::client::{Client, flavor, image, send, sign_in, tenant, text, wait_for};
use support::{PASSWORD, start};
use yunfan_resources::compute::{KeyPair, VirtualMachine};
use yunfan_resources::iam::Project;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMl6ZsSz2nFJ7b1w2J8bQ7YkJpTbS4jvT8bFqv6xq1Yk me@host";

async fn network(client: &Client, cidr: &str) -> String {
    let network =
        client.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "net"}})).await;
    let id = text(&network["network"]["id"]).to_owned();
    let subnet = json!({"subnet": {"name": "sub", "network_id": id, "cidr": cidr, "ip_version": 4}});
    client.must(201, "POST", "/network/v2.0/subnets", subnet).await;
    id
}

#[tokio::test]
async fn signing_in() {
    let cloud = start("https://cloud").await;
    let good = sign_in(&cloud, "admin", PASSWORD, None).await;
    assert_eq!(good.status, 201, "{}", good.body);
    let token = &good.body["token"];
    assert_eq!(token["project"]["name"], "admin", "the default project");
    assert_eq!(token["roles"].as_array().map(Vec::len), Some(4));
    let types: Vec<&str> =
        token["catalog"].as_array().unwrap().iter().map(|one| text(&one["type"])).collect();
    assert_eq!(types, ["identity", "compute", "image", "network", "block-storage", "volumev3", "placement"]);
    for (user, password, project) in
        [("admin", "wrong", None), ("nobody", PASSWORD, None), ("admin", PASSWORD, Some("nowhere"))]
    {
        let bad = sign_in(&cloud, user, password, project).await;
        assert_eq!((bad.status, &bad.body["error"]["code"]), (401, &json!(401)), "{user}");
        assert!(bad.headers.contains_key("www-authenticate"));
    }
    let malformed = send(&cloud.router, Method::POST, "/identity/v3/auth/tokens", &[], b"{".to_vec()).await;
    assert_eq!(malformed.status, 400);

    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let headers = [("x-auth-token", admin.token.as_str()), ("x-subject-token", admin.token.as_str())];
    let shown = send(&cloud.router, Method::GET, "/identity/v3/auth/tokens", &headers, Vec::new()).await;
    assert_eq!(shown.body["token"]["user"]["name"], "admin");
    let body = json!({"auth": {"identity": {"methods": ["token"], "token": {"id": admin.token}}, "scope": "unscoped"}});
    let again = admin.must(201, "POST", "/identity/v3/auth/tokens", body).await;
    assert_eq!(again["token"]["expires_at"], shown.body["token"]["expires_at"]);
    assert!(again["token"].get("project").is_none());
    let gone = send(&cloud.router, Method::DELETE, "/identity/v3/auth/tokens", &headers, Vec::new()).await;
    assert_eq!(gone.status, 204);
    assert_eq!(admin.ask("GET", "/compute/v2.1/servers", Value::Null).await.status, 401);
}

/// What clients read before they have a token: which versions there are.
const DOCUMENTS: [&str; 13] = [
    "/identity",
    "/identity/v3",
    "/compute",
    "/compute/v2",
    "/compute/v2.1",
    "/image",
    "/image/v2",
    "/image/versions",
    "/network",
    "/network/v2.0",
    "/volume",
    "/volume/v3",
    "/placement",
];

#[tokio::test]
async fn nothing_is_told_without_a_token() {
    let cloud = start("https://cloud").await;
    assert!(cloud.paths.len() > 100, "{:?}", cloud.paths);
    let mut past = Vec::new();
    for path in &cloud.paths {
        // Any word stands for what is asked for.
        let asked: Vec<&str> =
            path.split('/').map(|part| if part.starts_with('{') { "thing" } else { part }).collect();
        let asked = asked.join("/");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let open = match method {
                "GET" | "HEAD" => DOCUMENTS.contains(&path.trim_end_matches('/')),
                // Where one gets a token, or another password: the body must prove who one is.
                "POST" => {
                    ["/identity/v3/auth/tokens", "/identity/v3/users/{id}/password"].contains(&path.as_str())
                }
                _ => false,
            };
            for token in [None, Some("forged")] {
                let mut headers = vec![("content-type", "application/json")];
                headers.extend(token.map(|token| ("x-auth-token", token)));
                let method = Method::from_bytes(method.as_bytes()).expect("a method");
                let answer = send(&cloud.router, method.clone(), &asked, &headers, b"{}".to_vec()).await;
                // Every other path is the Kubernetes API's, to which nobody is somebody: `system:anonymous`, who may not.
                let elsewhere =
                    matches!(asked.as_str(), "/" | "/thing") && token.is_none() && answer.status == 403;
                if !open && !elsewhere && !matches!(answer.status, 401 | 405) {
                    past.push(format!("{method} {path} with {token:?}: {} {}", answer.status, answer.body));
                }
            }
        }
    }
    assert!(past.is_empty(), "{past:#?}");
}

#[tokio::test]
async fn who_has_which_role() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let twice = admin.ask("POST", "/identity/v3/projects", json!({"project": {"name": "demo"}})).await;
    assert_eq!((twice.status, twice.body["error"]["title"].as_str()), (409, Some("Conflict")));
    let odd =
        admin.must(201, "POST", "/identity/v3/projects", json!({"project": {"name": "kube-system"}})).await;
    let taken = admin.get("/identity/v3/projects?name=kube-system").await;
    assert_eq!(taken["projects"][0]["id"], odd["project"]["id"]);
    let list =
        admin.get(&format!("/identity/v3/role_assignments?include_names&scope.project.id={project}")).await;
    assert_eq!(list["role_assignments"][0]["user"]["name"], "demo");
    assert_eq!(list["role_assignments"][0]["role"]["name"], "member");
    // A member may not make users, list projects, or see another project.
    assert_eq!(demo.ask("POST", "/identity/v3/users", json!({"user": {"name": "x"}})).await.status, 403);
    assert_eq!(demo.ask("GET", "/identity/v3/projects", Value::Null).await.status, 403);
    assert_eq!(demo.ask("GET", "/compute/v2.1/servers?all_tenants=1", Value::Null).await.status, 403);
    assert_eq!(demo.get("/identity/v3/auth/projects").await["projects"].as_array().map(Vec::len), Some(1));
    assert_eq!(sign_in(&cloud, "demo", "secret", Some("admin")).await.status, 401);
    // A disabled user's tokens are refused at once, and there are no new ones.
    let user = admin.get("/identity/v3/users?name=demo").await;
    let path = format!("/identity/v3/users/{}", text(&user["users"][0]["id"]));
    admin.must(200, "PATCH", &path, json!({"user": {"enabled": false}})).await;
    assert_eq!(demo.ask("GET", "/compute/v2.1/servers", Value::Null).await.status, 401);
    assert_eq!(sign_in(&cloud, "demo", "secret", None).await.status, 401);
    admin.must(200, "PATCH", &path, json!({"user": {"enabled": true, "password": "other"}})).await;
    assert_eq!(sign_in(&cloud, "demo", "other", None).await.status, 201);
}

#[tokio::test]
async fn a_disabled_project_gives_and_takes_no_tokens() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let path = format!("/identity/v3/projects/{project}");
    let enable = |enabled: bool| json!({"project": {"enabled": enabled}});
    admin.must(200, "PATCH", &path, enable(false)).await;
    demo.must(401, "GET", "/compute/v2.1/servers", Value::Null).await;
    // The kube door reads the same tokens.
    let headers = [("authorization", &*format!("Bearer {}", demo.token))];
    let kube = send(&cloud.router, Method::GET, "/api/v1/namespaces/demo/pods", &headers, vec![]).await;
    assert_eq!(kube.status, 401);
    assert_eq!(sign_in(&cloud, "demo", "secret", Some("demo")).await.status, 401);
    let unscoped = sign_in(&cloud, "demo", "secret", None).await;
    assert!(unscoped.status == 201 && unscoped.body["token"].get("project").is_none(), "{}", unscoped.body);
    other.get("/compute/v2.1/servers").await;
    admin.must(200, "PATCH", &path, enable(true)).await;
    demo.must(401, "GET", "/compute/v2.1/servers", Value::Null).await;
    Client::new(&cloud, "demo", "secret", "demo").await.get("/compute/v2.1/servers").await;

    // It is the object that counts, whoever writes it.
    let fresh = Client::new(&cloud, "demo", "secret", "demo").await;
    let projects = Objects::<Project>::all(cloud.system.clone());
    let disabled = Patch::Merge(json!({"spec": {"enabled": false}}));
    projects.patch("demo", &PatchParams::default(), &disabled).await.unwrap();
    for _ in 0..300 {
        if fresh.ask("GET", "/compute/v2.1/servers", Value::Null).await.status == 401 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("a token for a disabled project stays good");
}

#[tokio::test]
async fn a_server_from_its_making_to_its_end() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (flavor, network, image) =
        (flavor(&admin).await, network(&demo, "10.7.0.0/24").await, image(&demo).await);
    let key = json!({"keypair": {"name": "my key", "public_key": KEY}});
    demo.must(201, "POST", "/compute/v2.1/os-keypairs", key).await;
    let wanted = json!({"server": {
        "name": "Web 1", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": network}], "key_name": "my key",
        "user_data": "IyEvYmluL3NoCg==", "metadata": {"role": "web"}, "min_count": 1, "max_count": 1,
    }});
    let made = demo.must(202, "POST", "/compute/v2.1/servers", wanted.clone()).await;
    let id = text(&made["server"]["id"]).to_owned();
    let path = format!("/compute/v2.1/servers/{id}");
    let server = wait_for(&demo, &path, "server", "ACTIVE").await;
    assert_eq!(server["addresses"]["net"][0]["version"], 4);
    assert_eq!((&server["key_name"], &server["flavor"]["ram"]), (&json!("my key"), &json!(256)));
    assert_eq!(server["image"]["id"], image.as_str());
    assert_eq!(demo.get("/compute/v2.1/servers/detail?name=Web").await["servers"][0]["id"], id.as_str());
    assert_eq!(demo.get("/compute/v2.1/servers/detail?status=ERROR").await["servers"], json!([]));
    let ports = demo.get(&format!("/network/v2.0/ports?device_id={id}")).await;
    assert_eq!(ports["ports"][0]["network_id"], network.as_str());
    assert_eq!(
        demo.get(&format!("{path}/os-interface")).await["interfaceAttachments"][0]["net_id"],
        network.as_str()
    );

    let console = demo
        .must(200, "POST", &format!("{path}/action"), json!({"os-getConsoleOutput": {"length": 5}}))
        .await;
    assert!(text(&console["output"]).contains("length=5"));
    assert_eq!(demo.ask("POST", &format!("{path}/action"), json!({"os-start": null})).await.status, 409);
    demo.must(202, "POST", &format!("{path}/action"), json!({"os-stop": null})).await;
    wait_for(&demo, &path, "server", "SHUTOFF").await;
    demo.must(202, "POST", &format!("{path}/action"), json!({"os-start": null})).await;
    wait_for(&demo, &path, "server", "ACTIVE").await;
    demo.must(202, "POST", &format!("{path}/action"), json!({"reboot": {"type": "HARD"}})).await;
    wait_for(&demo, &path, "server", "ACTIVE").await;
    assert_eq!(demo.ask("POST", &format!("{path}/action"), json!({"migrate": null})).await.status, 501);

    // In use: the image, and the network with its port.
    assert_eq!(demo.ask("DELETE", &format!("/image/v2/images/{image}"), Value::Null).await.status, 409);
    let kept = demo.ask("DELETE", &format!("/network/v2.0/networks/{network}"), Value::Null).await;
    assert_eq!((kept.status, &kept.body["NeutronError"]["type"]), (409, &json!("NetworkInUse")));

    // One object, two doors.
    let machines = Objects::<VirtualMachine>::namespaced(cloud.system.clone(), "demo");
    let vm = machines.get("web-1").await.unwrap();
    assert_eq!(vm.spec.user_data.as_deref(), Some("IyEvYmluL3NoCg=="));
    machines.delete("web-1", &DeleteParams::default()).await.unwrap();
    assert_eq!(demo.get("/compute/v2.1/servers").await["servers"], json!([]));
    let gone = demo.ask("GET", &path, Value::Null).await;
    assert_eq!((gone.status, &gone.body["itemNotFound"]["code"]), (404, &json!(404)));
    demo.must(204, "DELETE", &format!("/image/v2/images/{image}"), Value::Null).await;
    assert!(cloud.node.images.lock().unwrap().is_empty(), "the bytes are gone as well");
    for _ in 0..200 {
        if demo.ask("DELETE", &format!("/network/v2.0/networks/{network}"), Value::Null).await.status == 204 {
            assert_eq!(demo.get("/network/v2.0/subnets").await["subnets"], json!([]));
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the deleted server's port stays on the network");
}

#[tokio::test]
async fn a_key_pair_is_its_users_in_every_project() {
    const PAIRS: &str = "/compute/v2.1/os-keypairs";
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, second) = tenant(&cloud, &admin, "second").await;
    let user = admin.get("/identity/v3/users?name=demo").await;
    let roles = admin.get("/identity/v3/roles?name=member").await;
    let (user, role) = (text(&user["users"][0]["id"]), text(&roles["roles"][0]["id"]));
    let grant = format!("/identity/v3/projects/{second}/users/{user}/roles/{role}");
    admin.must(204, "PUT", &grant, Value::Null).await;
    let there = Client::new(&cloud, "demo", "secret", "second").await;
    let names = |client: Client| async move {
        let pairs = client.get(PAIRS).await;
        pairs["keypairs"]
            .as_array()
            .map(|pairs| pairs.iter().map(|one| one["keypair"]["name"].clone()).collect::<Vec<_>>())
    };
    let key = json!({"keypair": {"name": "my key", "public_key": KEY}});
    demo.must(201, "POST", PAIRS, key.clone()).await;
    there.must(409, "POST", PAIRS, key.clone()).await;
    let (flavor, image) = (flavor(&admin).await, image(&there).await);
    let wanted = |key: &str| json!({"server": {"name": "a", "imageRef": image, "flavorRef": flavor, "networks": "none", "key_name": key}});
    there.must(400, "POST", "/compute/v2.1/servers", wanted("no key")).await;
    other.must(400, "POST", "/compute/v2.1/servers", wanted("my key")).await;
    let made = there.must(202, "POST", "/compute/v2.1/servers", wanted("my key")).await;
    let path = format!("/compute/v2.1/servers/{}", text(&made["server"]["id"]));
    assert_eq!(there.get(&path).await["server"]["key_name"], "my key");
    // The guest gets it from its own namespace.
    let machine =
        Objects::<VirtualMachine>::namespaced(cloud.system.clone(), "second").get("a").await.unwrap();
    let copies = Objects::<KeyPair>::namespaced(cloud.system.clone(), "second");
    let copy = copies.get(machine.spec.key_pair.as_deref().unwrap()).await.unwrap();
    assert_eq!(copy.spec.public_key, KEY);
    assert_eq!(names(demo.clone()).await, Some(vec![json!("my key")]));
    assert_eq!(names(there.clone()).await, Some(vec![json!("my key")]));
    assert_eq!(names(other.clone()).await, Some(vec![]));
    // Another user may call theirs the same.
    other.must(201, "POST", PAIRS, key).await;
    demo.must(204, "DELETE", &format!("{PAIRS}/my%20key"), Value::Null).await;
    assert_eq!(names(there).await, Some(vec![]));
    assert_eq!(names(other).await, Some(vec![json!("my key")]));
}

#[tokio::test]
async fn tenants_do_not_see_each_other_and_admins_see_all() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (one, one_id) = tenant(&cloud, &admin, "one").await;
    let (two, _) = tenant(&cloud, &admin, "two").await;
    let (flavor, net, image) = (flavor(&admin).await, network(&one, "10.8.0.0/24").await, image(&one).await);
    // The same range twice is fine, in two projects.
    network(&two, "10.8.0.0/24").await;
    let body = |image: &str, net: &str| json!({"server": {"name": "a", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": net}]}});
    let made = one.must(202, "POST", "/compute/v2.1/servers", body(&image, &net)).await;
    let path = format!("/compute/v2.1/servers/{}", text(&made["server"]["id"]));
    assert_eq!(two.ask("GET", &path, Value::Null).await.status, 404);
    assert_eq!(two.ask("DELETE", &path, Value::Null).await.status, 404);
    assert_eq!(two.ask("GET", &format!("/image/v2/images/{image}"), Value::Null).await.status, 404);
    assert_eq!(two.ask("GET", &format!("/network/v2.0/networks/{net}"), Value::Null).await.status, 404);
    assert_eq!(two.ask("POST", "/compute/v2.1/servers", body(&image, &net)).await.status, 400);
    // An admin makes things for others; a tenant does not.
    let body = json!({"network": {"name": "given", "project_id": one_id}});
    let given = admin.must(201, "POST", "/network/v2.0/networks", body.clone()).await;
    assert_eq!(given["network"]["project_id"], one_id.as_str());
    let subnet = json!({"subnet": {"network_id": given["network"]["id"], "cidr": "10.8.1.0/24"}});
    admin.must(201, "POST", "/network/v2.0/subnets", subnet).await;
    assert_eq!(
        one.get("/network/v2.0/networks?name=given").await["networks"].as_array().map(Vec::len),
        Some(1)
    );
    assert!(two.ask("POST", "/network/v2.0/networks", body).await.status >= 400);
    let all = admin.get("/compute/v2.1/servers/detail?all_tenants=True").await;
    assert_eq!(all["servers"][0]["tenant_id"], one_id.as_str());
    assert!(all["servers"][0].get("OS-EXT-SRV-ATTR:host").is_some());
    assert_eq!(admin.get(&path).await["server"]["id"], made["server"]["id"]);
    assert_eq!(one.get("/compute/v2.1/servers/detail").await["servers"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn quotas_refuse_with_their_numbers() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let path = format!("/compute/v2.1/os-quota-sets/{project}");
    let set =
        admin.must(200, "PUT", &path, json!({"quota_set": {"cores": 1, "ram": 1024, "instances": 5}})).await;
    assert_eq!((&set["quota_set"]["cores"], &set["quota_set"]["ram"]), (&json!(1), &json!(1024)));
    admin
        .must(200, "PUT", &format!("/network/v2.0/quotas/{project}"), json!({"quota": {"network": 1}}))
        .await;
    let (flavor, net, image) =
        (flavor(&admin).await, network(&demo, "10.9.0.0/24").await, image(&demo).await);
    let body =
        json!({"server": {"name": "a", "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": net}]}});
    demo.must(202, "POST", "/compute/v2.1/servers", body.clone()).await;
    let over = demo.ask("POST", "/compute/v2.1/servers", body).await;
    assert_eq!(over.status, 403, "{}", over.body);
    assert!(
        text(&over.body["forbidden"]["message"]).starts_with("Quota exceeded for cores"),
        "{}",
        over.body
    );
    let over = demo.ask("POST", "/network/v2.0/networks", json!({"network": {"name": "more"}})).await;
    assert_eq!(
        (over.status, &over.body["NeutronError"]["type"]),
        (409, &json!("OverQuota")),
        "{}",
        over.body
    );
    let limits = demo.get("/compute/v2.1/limits").await;
    assert_eq!(limits["limits"]["absolute"]["maxTotalCores"], 1);
    assert_eq!(demo.ask("PUT", &path, json!({"quota_set": {"cores": 10}})).await.status, 403);
    let list = demo.get("/compute/v2.1/servers").await;
    assert_eq!(list["servers"].as_array().map(Vec::len), Some(1), "what was refused left nothing behind");
}

#[tokio::test]
async fn what_is_wrong_is_said_in_each_services_words() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let wrong = |path: &'static str, body: Value| {
        let admin = &admin;
        async move { admin.ask("POST", path, body).await }
    };
    let answer =
        wrong("/compute/v2.1/servers", json!({"server": {"name": "a", "flavorRef": "1", "colour": 1}})).await;
    assert!(answer.status == 400 && text(&answer.body["badRequest"]["message"]).contains("colour"));
    let answer = wrong("/network/v2.0/networks", json!({"network": {"colour": 1}})).await;
    assert!(answer.status == 400 && text(&answer.body["NeutronError"]["message"]).contains("colour"));
    let answer = wrong("/image/v2/images", json!({"disk_format": "floppy"})).await;
    assert!(answer.status == 400 && text(&answer.body["message"]).contains("disk_format"));
    let answer = wrong("/identity/v3/projects", json!({"project": {}})).await;
    assert!(answer.status == 400 && text(&answer.body["error"]["message"]).contains("name"));
    let long = json!({"network": {"name": "x".repeat(2 << 20)}});
    assert_eq!(wrong("/network/v2.0/networks", long).await.status, 413);
    for path in ["/compute/v2.1/nothing", "/network/v2.0/trunks", "/image/v2/nothing", "/identity/v3/trusts"]
    {
        assert_eq!(admin.ask("GET", path, Value::Null).await.status, 404, "{path}");
    }
    let unknown = send(
        &cloud.router,
        Method::GET,
        "/compute/v2.1/servers",
        &[("openstack-api-version", "compute 2.999")],
        vec![],
    )
    .await;
    assert_eq!(unknown.status, 406);
    let nobody = send(&cloud.router, Method::GET, "/compute/v2.1/servers", &[], vec![]).await;
    assert_eq!(
        (nobody.status, nobody.headers["vary"].to_str().unwrap()),
        (401, "OpenStack-API-Version, X-OpenStack-Nova-API-Version")
    );
    for (path, status) in [
        ("/identity/", 300),
        ("/identity", 300),
        ("/identity/v3", 200),
        ("/compute/", 200),
        ("/compute/v2.1/", 200),
        ("/image/", 300),
        ("/image/versions", 200),
        ("/network/", 200),
        ("/network/v2.0", 200),
    ] {
        assert_eq!(send(&cloud.router, Method::GET, path, &[], vec![]).await.status, status, "{path}");
    }
    // A range that overlaps another of the same network is the API server's to refuse, in Neutron's shape.
    let net = network(&admin, "10.1.0.0/16").await;
    let answer =
        wrong("/network/v2.0/subnets", json!({"subnet": {"network_id": net, "cidr": "10.1.2.0/24"}})).await;
    assert!(
        answer.status == 400 && text(&answer.body["NeutronError"]["message"]).contains("overlaps"),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_refused_upload_leaves_the_image_waiting_for_bytes() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let made = demo.must(201, "POST", "/image/v2/images", json!({"name": "a", "disk_format": "qcow2"})).await;
    let path = format!("/image/v2/images/{}", text(&made["id"]));
    let file = format!("{path}/file");
    let headers = [("x-auth-token", demo.token.as_str()), ("content-type", "application/octet-stream")];
    let refused = send(&demo.router, Method::PUT, &file, &headers, b"corrupt".to_vec()).await;
    assert_eq!((refused.status, &refused.body["message"]), (400, &json!("This is no qcow2 image")));
    assert_eq!(demo.get(&path).await["status"], "queued");
    // A reader sees the image and may not fill it.
    let body = json!({"user": {"name": "eve", "password": "secret", "default_project_id": project}});
    let user = admin.must(201, "POST", "/identity/v3/users", body).await;
    let roles = admin.get("/identity/v3/roles?name=reader").await;
    let (user, role) = (text(&user["user"]["id"]), text(&roles["roles"][0]["id"]));
    admin
        .must(204, "PUT", &format!("/identity/v3/projects/{project}/users/{user}/roles/{role}"), Value::Null)
        .await;
    let eve = Client::new(&cloud, "eve", "secret", "demo").await;
    let eves = [("x-auth-token", eve.token.as_str()), ("content-type", "application/octet-stream")];
    assert_eq!(send(&eve.router, Method::PUT, &file, &eves, b"bytes".to_vec()).await.status, 403);
    assert_eq!(eve.get(&path).await["status"], "queued");

    assert_eq!(send(&demo.router, Method::PUT, &file, &headers, b"bytes".to_vec()).await.status, 204);
    let image = demo.get(&path).await;
    assert_eq!((&image["status"], &image["size"]), (&json!("active"), &json!(5)));
    assert_eq!(image["checksum"], "4b3a6218bb3e3a7303e8a171a60fcf92");
    assert_eq!(send(&demo.router, Method::PUT, &file, &headers, b"more".to_vec()).await.status, 409);
    let bytes = send(&demo.router, Method::GET, &file, &headers, vec![]).await;
    assert_eq!((bytes.body, bytes.headers["content-length"].to_str().unwrap()), (json!("bytes"), "5"));
    let patch = [
        ("x-auth-token", demo.token.as_str()),
        ("content-type", "application/openstack-images-v2.1-json-patch"),
    ];
    let changes = json!([{"op": "replace", "path": "/name", "value": "b"}, {"op": "add", "path": "/os_distro", "value": "debian"}]);
    let changed = send(&demo.router, Method::PATCH, &path, &patch, changes.to_string().into_bytes()).await;
    assert_eq!(
        (&changed.body["name"], &changed.body["os_distro"]),
        (&json!("b"), &json!("debian")),
        "{}",
        changed.body
    );
    assert_eq!(demo.get("/image/v2/images?name=b").await["images"].as_array().map(Vec::len), Some(1));
}
