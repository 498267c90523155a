//! Who may come in and who may do what, as configured: with real clients, and servers of our own that the cloud asks.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use yunfan_tests::{Builder, Cloud, Hook, HookAuthority, binary, run, seconds};

/// A directory for files that must be there before the cloud is.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let unique = format!("yunfan-access-{}-{:x}", std::process::id(), rand::random::<u64>());
        let dir = Path::new("/var/tmp").join(unique);
        std::fs::create_dir(&dir).expect("a directory");
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, so that a reader sees the old text or the new one.
    fn write(&self, name: &str, text: &str) -> String {
        let (path, new) = (self.path(name), self.path("new"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, &path).expect("in place");
        path.to_string_lossy().into_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn server(flags: &[(&str, &str)]) -> Builder {
    let builder = Cloud::builder().server_only();
    flags.iter().fold(builder, |builder, (flag, value)| builder.argument(&format!("{flag}={value}")))
}

/// What `kubectl auth whoami` says to the bearer of a token: name and groups.
fn who(cloud: &Cloud, token: &str) -> Result<(String, Vec<String>), String> {
    let said = cloud.kubectl_as(token, &["auth", "whoami", "-o", "json"]).as_probe()?;
    let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    let user = &said["status"]["userInfo"];
    let groups = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok((user["username"].as_str().unwrap_or_default().to_owned(), groups.map(str::to_owned).collect()))
}

/// The status of a request with these arguments of curl.
fn status(cloud: &Cloud, arguments: &[&str]) -> u16 {
    cloud.curl("/api/v1/namespaces", arguments).0
}

fn bearer(token: &str) -> [String; 2] {
    ["-H".to_owned(), format!("Authorization: Bearer {token}")]
}

fn refused(cloud: &Cloud, token: &str) -> bool {
    let arguments = bearer(token);
    status(cloud, &[&arguments[0], &arguments[1]]) == 401
}

fn review(cloud: &Cloud, token: &str) -> Value {
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    cloud.kubectl_with(&["create", "-f", "-", "-o", "json"], &review.to_string()).json()["status"].clone()
}

#[test]
fn tokens_and_passwords_of_files() {
    let files = Files::new();
    let tokens = files.write("tokens", "ann-token,ann,7,\"dev,ops\"\nbob-token,bob,8\n");
    let passwords = files.write("passwords", "sesame,carol,9,dev\n");
    let cloud = server(&[
        ("--token-auth-file", &tokens),
        ("--basic-auth-file", &passwords),
        ("--anonymous-auth", "false"),
    ]);
    let cloud = cloud.start();
    let (name, groups) = who(&cloud, "ann-token").expect("is known");
    assert_eq!((name.as_str(), groups.join(" ").as_str()), ("ann", "dev ops system:authenticated"));
    cloud.kubectl(&["create", "clusterrolebinding", "devs", "--clusterrole=view", "--group=dev"]).ok();
    assert_eq!(cloud.kubectl_as("ann-token", &["auth", "can-i", "list", "pods"]).ok().trim(), "yes");
    assert!(cloud.kubectl_as("bob-token", &["auth", "can-i", "list", "pods"]).refused().contains("no"));
    cloud.kubectl_as("ann-token", &["get", "pods"]).ok();
    assert_eq!(review(&cloud, "ann-token")["user"]["username"], "ann");
    assert_eq!(review(&cloud, "no-token")["error"], "invalid bearer token");
    for token in ["no-token", "ann-toke", "ann-token2", ""] {
        assert!(refused(&cloud, token), "{token}");
    }
    assert_eq!(status(&cloud, &["-u", "carol:sesame"]), 200);
    assert_eq!(status(&cloud, &["-u", "carol:wrong"]), 401);
    assert_eq!(status(&cloud, &[]), 401, "nothing is open");
    assert_eq!(cloud.curl("/healthz", &[]).0, 401);
    // Who guesses has to wait, and is told so.
    let guesses: Vec<u16> = (0..15).map(|_| status(&cloud, &["-u", "mallory:guess"])).collect();
    assert_eq!((guesses[0], guesses[14]), (401, 429), "{guesses:?}");
    files.write("tokens", "bob-token,bob,8\n");
    cloud.until("a token that was taken out is refused", seconds(10), || {
        if refused(&cloud, "ann-token") { Ok(()) } else { Err("it still holds".into()) }
    });
    assert_eq!(who(&cloud, "bob-token").expect("is known").0, "bob");
}

#[test]
fn bootstrap_tokens_hold_until_their_time_has_passed() {
    let cloud = Cloud::builder().server_only().start();
    let secret = |expiration: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
            "stringData": {
                "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:workers", "expiration": expiration,
            },
        })
        .to_string()
    };
    let token = "abcdef.0123456789abcdef";
    assert!(refused(&cloud, token));
    cloud.apply(&secret("2999-01-01T00:00:00Z"));
    let (name, groups) = who(&cloud, token).expect("is known");
    assert_eq!(name, "system:bootstrap:abcdef");
    assert_eq!(groups.join(" "), "system:bootstrappers system:bootstrappers:workers system:authenticated");
    assert!(refused(&cloud, "abcdef.0123456789abcdeg"));
    cloud.apply(&secret("2001-01-01T00:00:00Z"));
    assert!(refused(&cloud, token));
    cloud.until("the Secret goes", seconds(20), || {
        let found = cloud.kubectl(&["-n", "kube-system", "get", "secrets", "-o", "name"]).ok();
        if found.contains("bootstrap-token") { Err(found) } else { Ok(()) }
    });
}

/// An OpenID provider, of which one key is known.
struct Provider {
    hook: Hook,
    authority: HookAuthority,
    keys: Arc<Mutex<Vec<(&'static str, EncodingKey)>>>,
}

fn key() -> EncodingKey {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key")
}

fn signed(id: &str, key: &EncodingKey, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(id.to_owned());
    encode(&header, claims, key).expect("a token")
}

impl Provider {
    fn start() -> Self {
        let authority = HookAuthority::default();
        let keys = Arc::new(Mutex::new(vec![("one", key())]));
        let (shown, url) = (keys.clone(), Arc::new(Mutex::new(String::new())));
        let own = url.clone();
        let hook = Hook::start(&authority, move |path, _| {
            let url = own.lock().expect("no panic").clone();
            Some(match path {
                "/.well-known/openid-configuration" => {
                    json!({"issuer": url, "jwks_uri": format!("{url}/keys")})
                }
                _ => {
                    let one = |(id, key): &(&str, EncodingKey)| {
                        let key = Jwk::from_encoding_key(key, Algorithm::ES256).expect("a key");
                        let mut key = serde_json::to_value(key).expect("JSON");
                        key["kid"] = json!(id);
                        key
                    };
                    json!({"keys": shown.lock().expect("no panic").iter().map(one).collect::<Vec<_>>()})
                }
            })
        });
        *url.lock().expect("no panic") = hook.url().to_owned();
        Self { hook, authority, keys }
    }

    fn claims(&self) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({"iss": self.hook.url(), "aud": "yunfan", "sub": "ann", "exp": now + 600, "roles": ["dev"]})
    }

    fn configuration(&self) -> Value {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {
                    "url": self.hook.url(), "audiences": ["yunfan"], "certificateAuthority": self.authority.pem(),
                },
                "claimMappings": {
                    "username": {"expression": "'id:' + claims.sub"}, "groups": {"claim": "roles", "prefix": "id:"},
                },
                "userValidationRules": [{"expression": "!user.username.contains('root')"}],
            }],
            "anonymous": {"enabled": true, "conditions": [{"path": "/healthz"}]},
        })
    }
}

#[test]
fn tokens_of_an_openid_provider() {
    let (files, provider) = (Files::new(), Provider::start());
    let config = files.write("authentication.yaml", &provider.configuration().to_string());
    let cloud = server(&[("--authentication-config", &config)]).start();
    let first = provider.keys.lock().expect("no panic")[0].1.clone();
    let good = signed("one", &first, &provider.claims());
    let (name, groups) = cloud.until("the provider is found", seconds(20), || who(&cloud, &good));
    assert_eq!((name.as_str(), groups.join(" ").as_str()), ("id:ann", "id:dev system:authenticated"));
    cloud.kubectl(&["create", "clusterrolebinding", "devs", "--clusterrole=view", "--group=id:dev"]).ok();
    cloud.kubectl_as(&good, &["get", "pods"]).ok();
    assert_eq!(review(&cloud, &good)["user"]["username"], "id:ann");
    assert_eq!((cloud.curl("/healthz", &[]).0, status(&cloud, &[])), (200, 401), "open is what is named");

    let now = jsonwebtoken::get_current_timestamp();
    for (claim, value) in [
        ("exp", json!(now - 1)),
        ("aud", json!("another")),
        ("iss", json!("https://elsewhere.example")),
        ("sub", json!("root")),
        ("nbf", json!(now + 3600)),
    ] {
        let mut claims = provider.claims();
        claims[claim] = value;
        assert!(refused(&cloud, &signed("one", &first, &claims)), "{claims}");
    }
    let parts: Vec<&str> = good.split('.').collect();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("one".to_owned());
    let public =
        serde_json::to_vec(&Jwk::from_encoding_key(&first, Algorithm::ES256).expect("a key")).expect("JSON");
    let shared = encode(&header, &provider.claims(), &EncodingKey::from_secret(&public)).expect("a token");
    for forged in [
        // {"alg":"none","kid":"one"}
        format!("eyJhbGciOiJub25lIiwia2lkIjoib25lIn0.{}.", parts[1]),
        shared,
        signed("one", &key(), &provider.claims()),
        signed("two", &first, &provider.claims()),
        good[..good.len() - 6].to_owned(),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], parts[0], parts[2]),
    ] {
        assert!(refused(&cloud, &forged), "{forged}");
    }

    // Keys change, and what the operator takes back is back.
    let second = key();
    *provider.keys.lock().expect("no panic") = vec![("two", second.clone())];
    let next = signed("two", &second, &provider.claims());
    cloud.until("the new key is known", seconds(20), || who(&cloud, &next));
    assert!(refused(&cloud, &good), "the old one is gone");
    let mut none = provider.configuration();
    none["jwt"] = json!([]);
    files.write("authentication.yaml", &none.to_string());
    cloud.until("the issuer is no longer believed", seconds(10), || {
        if refused(&cloud, &next) { Ok(()) } else { Err("it still is".into()) }
    });
}

#[test]
fn a_webhook_and_a_front_proxy_say_who_it_is() {
    let (files, authority) = (Files::new(), HookAuthority::default());
    let hook = Hook::start(&authority, |_, body| {
        let status = match body["spec"]["token"].as_str()? {
            "good" => json!({"authenticated": true, "user": {"username": "hooked", "groups": ["dev"]}}),
            "vault" => json!({"authenticated": true, "audiences": ["vault"], "user": {"username": "hooked"}}),
            "slow" => return None,
            "lie" => return Some(json!({"kind": "Status", "status": {"authenticated": true}})),
            _ => json!({"authenticated": false}),
        };
        Some(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}))
    });
    let config = hook.kubeconfig(&authority, "/authenticate", &files.path("webhook"));
    let proxies = files.write("proxies.crt", authority.pem());
    let cloud = server(&[
        ("--authentication-token-webhook-config-file", &config),
        ("--requestheader-client-ca-file", &proxies),
        ("--requestheader-allowed-names", "gate"),
    ]);
    let cloud = cloud.start();
    assert_eq!(who(&cloud, "good").expect("is known").0, "hooked");
    let asked = hook.asked().len();
    assert_eq!(who(&cloud, "good").expect("is known").0, "hooked");
    assert_eq!(hook.asked().len(), asked, "what it said is kept");
    for token in ["bad", "lie", "vault", "slow"] {
        assert!(refused(&cloud, token), "{token}");
    }
    // Our own tokens are nobody else's to see.
    let own = cloud.until("the account is there", seconds(20), || {
        cloud.kubectl(&["create", "token", "default"]).as_probe()
    });
    assert!(who(&cloud, own.trim()).expect("is known").0.starts_with("system:serviceaccount:"));
    assert!(!hook.asked().iter().any(|asked| asked["spec"]["token"] == own.trim()));

    let asking = |(certificate, key): (String, String), user: &str| {
        let (certificate, key) = (files.write("c.crt", &certificate), files.write("c.key", &key));
        let user = format!("X-Remote-User: {user}");
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let body = r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}"#;
        let group = "X-Remote-Group: dev";
        let json = "Content-Type: application/json";
        cloud.curl(
            path,
            &["--cert", &certificate, "--key", &key, "-H", &user, "-H", group, "-H", json, "-d", body],
        )
    };
    let (code, said) = asking(authority.client("gate"), "proxied");
    assert_eq!(code, 201, "{said}");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let wanted = json!({"username": "proxied", "groups": ["dev", "system:authenticated"]});
    assert_eq!(said["status"]["userInfo"], wanted);
    assert_eq!(asking(authority.client("stranger"), "proxied").0, 401);
    assert_eq!(asking(authority.client("gate"), "").0, 401, "a proxy is no user itself");
    let own = |name: &str| std::fs::read_to_string(cloud.data_dir().join("pki").join(name)).expect("a file");
    let (code, said) = asking((own("admin.crt"), own("admin.key")), "proxied");
    assert_eq!(code, 201, "{said}");
    assert!(
        said.contains("\"admin\"") && !said.contains("proxied"),
        "a client is whom its certificate names: {said}"
    );
}

#[test]
fn an_authorization_webhook_is_asked_where_it_is_meant() {
    let (files, authority) = (Files::new(), HookAuthority::default());
    let hook = Hook::start(&authority, |_, body| {
        let spec = &body["spec"];
        let status = match spec["user"].as_str()? {
            "hung" => return None,
            "liar" => return Some(json!({"status": {"allowed": true}})),
            "banned" => json!({"allowed": false, "denied": true, "reason": "banned by the book"}),
            _ => json!({"allowed": spec["resourceAttributes"]["resource"] == "configmaps"}),
        };
        Some(
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status}),
        )
    });
    let kubeconfig = hook.kubeconfig(&authority, "/authorize", &files.path("webhook"));
    let configuration = |policy: &str| {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": [
                {"type": "Webhook", "name": "book", "webhook": {
                    "timeout": "1s", "failurePolicy": policy, "subjectAccessReviewVersion": "v1",
                    "matchConditionSubjectAccessReviewVersion": "v1",
                    "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig},
                    "matchConditions": [{"expression":
                        "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'default'"}],
                }},
                {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"},
            ],
        })
        .to_string()
    };
    let config = files.write("authorization.yaml", &configuration("Deny"));
    let tokens: String = ["ann", "banned", "hung", "liar"]
        .iter()
        .map(|name| format!("{name}-token,{name},{name}\n"))
        .collect();
    let tokens = files.write("tokens", &tokens);
    let cloud = server(&[("--authorization-config", &config), ("--token-auth-file", &tokens)]).start();
    for user in ["ann", "banned", "hung", "liar"] {
        cloud
            .kubectl(&["create", "clusterrolebinding", user, "--clusterrole=view", &format!("--user={user}")])
            .ok();
    }
    let can = |user: &str, words: &[&str]| {
        let token = format!("{user}-token");
        let ran = cloud.kubectl_as(&token, &[&["auth", "can-i"], words].concat());
        (ran.succeeded(), format!("{ran}"))
    };
    // What the webhook allows, and what the roles allow where it has no opinion.
    assert!(can("ann", &["create", "configmaps"]).0);
    assert!(can("ann", &["list", "pods"]).0);
    assert!(!can("ann", &["create", "configmaps", "-n", "kube-system"]).0, "is not asked there");
    assert!(!can("banned", &["list", "pods"]).0, "what it refuses, no role allows");
    assert!(can("banned", &["list", "pods", "-n", "kube-system"]).0);
    let said = cloud.kubectl_as("banned-token", &["get", "pods"]).refused();
    assert!(said.contains("banned by the book"), "{said}");
    cloud.kubectl_as("ann-token", &["create", "configmap", "made"]).ok();
    for user in ["hung", "liar"] {
        assert!(!can(user, &["list", "pods"]).0, "{user}: without an answer nothing is allowed");
    }
    let asked = |name: &str| hook.asked().iter().filter(|body| body["spec"]["user"] == name).count();
    let before = asked("ann");
    assert!(can("ann", &["create", "configmaps"]).0);
    assert_eq!(asked("ann"), before, "answers are kept");
    assert_eq!(asked("admin"), 0, "masters are nobody's to judge");

    files.write("authorization.yaml", &configuration("NoOpinion"));
    cloud.until("the next one is asked where it fails", seconds(20), || {
        let (allowed, said) = can("liar", &["list", "pods"]);
        if allowed { Ok(()) } else { Err(said) }
    });
    assert!(can("hung", &["list", "pods"]).0);
}

#[test]
fn policies_of_a_file_decide() {
    let files = Files::new();
    let line = |spec: Value| {
        format!(
            "{}\n",
            json!({"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": spec})
        )
    };
    let policies = [
        line(json!({"user": "ann", "namespace": "default", "resource": "*", "apiGroup": "*"})),
        line(json!({"group": "system:authenticated", "readonly": true, "nonResourcePath": "*"})),
        line(
            json!({"user": "*", "resource": "selfsubjectaccessreviews", "apiGroup": "authorization.k8s.io"}),
        ),
    ];
    let policies = files.write("policies", &policies.concat());
    let tokens = files.write("tokens", "ann-token,ann,1\nbob-token,bob,2\n");
    let cloud = server(&[
        ("--authorization-mode", "Node,ABAC"),
        ("--authorization-policy-file", &policies),
        ("--token-auth-file", &tokens),
    ]);
    let cloud = cloud.start();
    cloud.kubectl_as("ann-token", &["create", "configmap", "made"]).ok();
    cloud.kubectl_as("ann-token", &["-n", "kube-system", "get", "configmaps"]).refused_with(&["Forbidden"]);
    cloud.kubectl_as("bob-token", &["get", "configmaps"]).refused_with(&["No policy matched."]);
    assert_eq!(cloud.kubectl_as("ann-token", &["auth", "can-i", "delete", "pods"]).ok().trim(), "yes");
    cloud.kubectl(&["get", "configmaps", "-A"]).ok();
}

#[test]
fn what_cannot_be_used_stops_the_start_and_is_named() {
    let files = Files::new();
    let wrong = files.write("wrong.yaml", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: Often, name: a}]\n");
    let tokens = files.write("tokens", "hunter2,ann\n");
    let missing = files.path("missing").to_string_lossy().into_owned();
    let data = files.path("data").to_string_lossy().into_owned();
    for (flag, value, words) in [
        ("--authorization-mode", "Rbac", &["--authorization-mode", "\"Rbac\" is no mode"][..]),
        ("--authorization-config", wrong.as_str(), &[wrong.as_str(), "authorizers[0].type", "\"Often\""]),
        ("--token-auth-file", tokens.as_str(), &[tokens.as_str(), "line 1", "at least three values"]),
        ("--basic-auth-file", missing.as_str(), &[missing.as_str(), "cannot be read"]),
        ("--authentication-config", tokens.as_str(), &[tokens.as_str()]),
        ("--oidc-client-id", "x", &["--oidc-issuer-url: is missing"]),
        ("--authentication-token-webhook-config-file", missing.as_str(), &[missing.as_str()]),
    ] {
        let ran = run(binary(), &["server", "--data-dir", &data, "--listen", "127.0.0.1:0", flag, value]);
        let said = ran.refused_with(words);
        assert!(!said.contains("hunter2"), "{said}");
        assert!(!Path::new(&data).exists(), "nothing was made");
    }
}
