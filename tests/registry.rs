//! Images from registries that ask who is there: real ones (Debian's `docker-registry`), with a password and with tokens.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use serde_json::{Value, json};
use yunfan_tests::registry::{MANIFEST, Registry};
use yunfan_tests::{Cloud, run, seconds};

const USER: &str = Registry::CREDENTIALS.0;
const PASSWORD: &str = Registry::CREDENTIALS.1;
/// Of that password, by bcrypt.
const HASH: &str = "$2b$05$7IBKZDqOBzzcwUsc/4BAzu7Y/Aqc4xE4fGop91fl0yIfSJo.yIjau";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An index of two platforms, of which the other one's image would not run; returns its tag.
fn push_index(registry: &Registry) -> &'static str {
    let (mut other, right) = registry.manifest("team/web/manifests/1");
    let size = registry.ask("team/web/manifests/1", &["-I", "-H", &format!("Accept: {MANIFEST}")]);
    let size =
        size.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
    let size: usize = size.and_then(|size| size.trim().parse().ok()).expect("a length");
    other["layers"] = json!([]);
    let wrong = registry.put("team/web/manifests/none", MANIFEST, &other);
    let entry = |digest: &str, size: usize, arch: &str| {
        json!({"mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": arch}})
    };
    let (own, foreign) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        _ => ("amd64", "arm64"),
    };
    let manifests = json!([entry(&wrong, other.to_string().len(), foreign), entry(&right, size, own)]);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    registry.put("team/web/manifests/many", INDEX, &index);
    "many"
}

fn secret(cloud: &Cloud, namespace: &str, name: &str, registry: &Registry, password: &str) {
    let server = format!("--docker-server={}", registry.address());
    let (user, password) = (format!("--docker-username={USER}"), format!("--docker-password={password}"));
    cloud
        .kubectl(&["create", "secret", "docker-registry", name, "-n", namespace, &server, &user, &password])
        .ok();
}

/// A Pod that runs a command of the image, with a secret or none.
fn pod(cloud: &Cloud, namespace: &str, name: &str, image: &str, secret: Option<&str>, policy: &str) {
    let secrets: Vec<Value> = secret.iter().map(|secret| json!({"name": secret})).collect();
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"restartPolicy": "Never", "imagePullSecrets": secrets, "containers": [
            {"name": "c", "image": image, "imagePullPolicy": policy, "command": ["sh", "-c", "echo it runs"]}]}});
    cloud.apply(&object.to_string());
}

fn runs(cloud: &Cloud, namespace: &str, name: &str) {
    cloud.until(&format!("{namespace}/{name} has run"), seconds(60), || {
        let pod = cloud.get(&["pod", "-n", namespace, name]);
        if pod["status"]["phase"] == "Succeeded" { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    assert_eq!(cloud.kubectl(&["logs", "-n", namespace, name]).ok(), "it runs");
}

/// Waits until a Pod says why it does not run: for one of these reasons, with this word.
fn waits(cloud: &Cloud, namespace: &str, name: &str, reasons: &[&str], word: &str) {
    cloud.until(&format!("{namespace}/{name} waits for {reasons:?}"), seconds(60), || {
        let pod = cloud.get(&["pod", "-n", namespace, name]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let text = |key: &str| waiting[key].as_str().unwrap_or_default().to_lowercase();
        let known = reasons.iter().any(|reason| reason.to_lowercase() == text("reason"));
        if known && text("message").contains(word) { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}

const DENIED: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

#[test]
fn images_behind_a_password_are_for_those_who_have_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let users = dir.path().join("users");
    std::fs::write(&users, format!("{USER}:{HASH}\n")).expect("the registry's users");
    let auth = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}", users.display());
    let registry = Registry::start(dir.path(), &auth);
    registry.push_web("team/web:1", &[]);
    registry.push_web("team/web:z", &["--dest-compress-format", "zstd"]);
    let many = push_index(&registry);
    let (_, one) = registry.manifest("team/web/manifests/1");

    let cloud = Cloud::start();
    for namespace in ["acme", "other"] {
        cloud.kubectl(&["create", "namespace", namespace]).ok();
    }
    secret(&cloud, "acme", "good", &registry, PASSWORD);
    secret(&cloud, "acme", "bad", &registry, "wrong");
    let image = |tag: &str| registry.image(&format!("team/web{tag}"));

    pod(&cloud, "acme", "nobody", &image(":1"), None, "IfNotPresent");
    waits(&cloud, "acme", "nobody", &DENIED, "uthori");
    pod(&cloud, "acme", "wrong", &image(":1"), Some("bad"), "IfNotPresent");
    waits(&cloud, "acme", "wrong", &DENIED, "uthori");
    for (name, tag) in [
        ("tag", ":1".to_owned()),
        ("digest", format!("@{one}")),
        ("zstd", ":z".into()),
        ("index", format!(":{many}")),
    ] {
        pod(&cloud, "acme", name, &image(&tag), Some("good"), "Always");
        runs(&cloud, "acme", name);
    }

    // It is on the node now, and yet for nobody else.
    for (namespace, name, with) in [("other", "a", None), ("acme", "b", Some("bad"))] {
        pod(&cloud, namespace, name, &image(":1"), with, "IfNotPresent");
        waits(&cloud, namespace, name, &DENIED, "uthori");
    }
    pod(&cloud, "other", "never", &image(":1"), None, "Never");
    waits(&cloud, "other", "never", &["ErrImageNeverPull"], "never");

    // An account's secrets are its Pods'; the older form of secrets counts too.
    let entry = json!({registry.address(): {"username": USER, "password": PASSWORD}});
    let old = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockercfg",
        "metadata": {"name": "old", "namespace": "other"}, "stringData": {".dockercfg": entry.to_string()}});
    cloud.apply(&old.to_string());
    let patch = r#"{"imagePullSecrets": [{"name": "old"}]}"#;
    cloud.kubectl(&["patch", "serviceaccount", "default", "-n", "other", "-p", patch]).ok();
    pod(&cloud, "other", "account", &image(":1"), None, "IfNotPresent");
    runs(&cloud, "other", "account");
}

/// Gives tokens to whoever has the password, as a registry's realm does.
fn realm(dir: &Path) -> String {
    run("sh", &["-c", &format!(
        "cd {} && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=tests -days 1 2>/dev/null",
        dir.display()
    )])
    .ok();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is no matter.
            let _ = answer(stream, &dir);
        }
    });
    format!("http://{address}/token")
}

fn answer(mut stream: TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let basic = run("sh", &["-c", &format!("printf {USER}:{PASSWORD} | openssl base64 -A")]).ok();
    let known = head
        .lines()
        .any(|line| line.to_lowercase().starts_with("authorization: basic") && line.ends_with(&basic));
    let (status, body) = match known {
        true => ("200 OK", json!({"token": token(&head, dir)}).to_string()),
        false => {
            ("401 Unauthorized", r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}"#.into())
        }
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A token for what the request asks for, signed with the realm's key.
fn token(head: &str, dir: &Path) -> String {
    let query = head.split_whitespace().nth(1).and_then(|path| path.split_once('?')).map(|(_, query)| query);
    let decoded = query.unwrap_or_default().replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    let scopes = decoded.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<Value> = scopes
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
        })
        .collect();
    let certificate = std::fs::read_to_string(dir.join("cert.pem")).expect("the realm's certificate");
    let der: String = certificate.lines().filter(|line| !line.starts_with("-----")).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]}).to_string();
    let claims = json!({"iss": "tests", "sub": USER, "aud": "registry", "jti": now.to_string(),
        "nbf": now - 60, "iat": now - 60, "exp": now + 600, "access": access})
    .to_string();
    let script = r#"b() { openssl base64 -A | tr '+/' '-_' | tr -d =; }
        text=$(printf %s "$1" | b).$(printf %s "$2" | b)
        printf '%s.%s' "$text" "$(printf %s "$text" | openssl dgst -sha256 -sign "$3" | b)""#;
    let key = dir.join("key.pem").to_string_lossy().into_owned();
    run("sh", &["-c", script, "sh", &header, &claims, &key]).ok()
}

#[test]
fn images_behind_tokens_are_for_those_who_get_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let realm = realm(dir.path());
    let certificate = dir.path().join("cert.pem");
    let auth = format!(
        "auth: {{token: {{realm: \"{realm}\", service: registry, issuer: tests, rootcertbundle: {}}}}}",
        certificate.display()
    );
    let registry = Registry::start(dir.path(), &auth);
    registry.push_web("team/web:1", &[]);
    let cloud = Cloud::start();
    secret(&cloud, "default", "good", &registry, PASSWORD);
    secret(&cloud, "default", "bad", &registry, "wrong");
    let image = registry.image("team/web:1");
    pod(&cloud, "default", "wrong", &image, Some("bad"), "IfNotPresent");
    waits(&cloud, "default", "wrong", &DENIED, "uthori");
    pod(&cloud, "default", "right", &image, Some("good"), "IfNotPresent");
    runs(&cloud, "default", "right");
    pod(&cloud, "default", "late", &image, None, "IfNotPresent");
    waits(&cloud, "default", "late", &DENIED, "uthori");
}
