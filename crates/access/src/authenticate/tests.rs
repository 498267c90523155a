use std::time::Duration;

use http::request::Parts;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use yunfan_identity::pki::Authority;
use yunfan_identity::{PeerCertificate, UserInfo};

use super::{Authentication, AuthenticationOptions, HeaderOptions, OidcOptions};
use crate::ConfigError;
use crate::testing::{Server, file, until};

const OWN: &str = "the-api";

async fn with(change: impl FnOnce(&mut AuthenticationOptions)) -> Result<Authentication, ConfigError> {
    let mut options = AuthenticationOptions::default();
    change(&mut options);
    options.read().await
}

async fn name(of: &Authentication, token: &str) -> Option<String> {
    of.token(token, &[OWN], &[OWN]).await.ok().flatten().map(|known| known.user.name)
}

#[tokio::test]
async fn a_file_of_tokens_counts_as_it_is() {
    let tokens = file("s3cret,ann,7,\"dev,ops\"\nother,bob,8\n");
    let authn = with(|options| options.token_file = Some(tokens.path().to_owned())).await.expect("usable");
    let known = authn.token("s3cret", &["vault", OWN], &[OWN]).await.expect("no error").expect("known");
    let mut ann = UserInfo::authenticated("ann", ["dev", "ops"]);
    ann.uid = "7".to_owned();
    assert_eq!((known.user, known.audiences), (ann, vec![OWN.to_owned()]));
    assert_eq!(authn.token("s3cret", &["vault"], &[OWN]).await, Ok(None), "it is for us alone");
    assert_eq!(authn.token("s3cre", &[OWN], &[OWN]).await, Ok(None));
    std::fs::write(tokens.path(), "other,bob,8\n").expect("written");
    until("a token that was taken out is refused", async || name(&authn, "s3cret").await.is_none()).await;
    assert_eq!(name(&authn, "other").await.as_deref(), Some("bob"));
    std::fs::write(tokens.path(), "").expect("written");
    until("an empty file has no tokens", async || name(&authn, "other").await.is_none()).await;
    let twice = file("a,ann,7\na,bob,8");
    let error =
        with(|options| options.token_file = Some(twice.path().to_owned())).await.expect_err("is twice");
    assert!(error.to_string().contains("\"bob\" stands in it twice"), "{error}");
}

async fn asking(hook: &Server, time: Duration) -> (Authentication, NamedTempFile) {
    let config = hook.kubeconfig("/authenticate");
    let authn = with(|options| {
        options.webhook_config_file = Some(config.path().to_owned());
        options.webhook_cache_ttl = time;
    });
    (authn.await.expect("usable"), config)
}

fn review(status: Value) -> String {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}).to_string()
}

#[tokio::test]
async fn a_webhook_knows_tokens_and_their_audiences() {
    let hook = Server::start(|_, body| {
        let user = json!({"username": "ann", "groups": ["dev"], "extra": {"a": ["b"]}});
        Some(review(match body["spec"]["token"].as_str() {
            Some("good") => json!({"authenticated": true, "user": user}),
            Some("vaults") => json!({"authenticated": true, "user": user, "audiences": ["vault"]}),
            Some("nameless") => json!({"authenticated": true, "user": {"username": ""}}),
            Some("odd") => json!({"authenticated": "yes", "user": user}),
            _ => json!({"authenticated": false, "error": "never heard of it"}),
        }))
    })
    .await;
    let (authn, _config) = asking(&hook, Duration::from_secs(60)).await;
    for _ in 0..3 {
        let known = authn.token("good", &[OWN], &[OWN]).await.expect("no error").expect("known");
        assert_eq!(known.user.groups, ["dev", "system:authenticated"]);
        assert_eq!(
            (known.user.extra["a"].as_slice(), known.audiences),
            (&["b".to_owned()][..], vec![OWN.to_owned()])
        );
    }
    assert_eq!(hook.count(), 1, "what it said is kept");
    assert_eq!(authn.token("good", &["vault"], &[OWN]).await, Ok(None), "it speaks of our audience");
    assert_eq!(authn.token("vaults", &[OWN], &[OWN]).await, Ok(None));
    let known = authn.token("vaults", &["vault", OWN], &[OWN]).await.expect("no error").expect("known");
    assert_eq!(known.audiences, ["vault"]);
    assert_eq!(authn.token("bad", &[OWN], &[OWN]).await, Err("never heard of it".to_owned().into()));
    for token in ["nameless", "odd"] {
        assert!(authn.token(token, &[OWN], &[OWN]).await.is_err(), "{token}");
    }
    let (path, asked) = hook.asked().remove(0);
    assert_eq!(
        (path.as_str(), &asked["spec"]),
        ("/authenticate", &json!({"token": "good", "audiences": [OWN]}))
    );
}

#[tokio::test]
async fn a_webhook_that_lies_or_is_dead_knows_nobody() {
    let user = json!({"authenticated": true, "user": {"username": "ann"}});
    for text in [
        json!({"apiVersion": "v1", "kind": "Status", "status": user}).to_string(),
        "{".to_owned(),
        review(json!({"authenticated": true, "user": {"username": "x".repeat(2 << 20)}})),
    ] {
        let hook = Server::start(move |_, _| Some(text.clone())).await;
        let (authn, _config) = asking(&hook, Duration::ZERO).await;
        assert!(authn.token("good", &[OWN], &[OWN]).await.is_err());
    }
    let (authn, _config) = asking(&Server::dead(), Duration::ZERO).await;
    assert!(authn.token("good", &[OWN], &[OWN]).await.is_err());
}

#[tokio::test]
async fn anonymous_requests_come_in_where_they_are_told_to() {
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
    let structured = async |text: &str| {
        let file = file(&format!("{head}{text}"));
        with(|options| options.config = Some(file.path().to_owned())).await.map(|authn| (authn, file))
    };
    let may = |authn: &Authentication| ["/healthz", "/api"].map(|path| authn.allows_anonymous(path));
    assert_eq!(may(&Authentication::default()), [true, true]);
    assert_eq!(may(&with(|options| options.anonymous = Some(false)).await.expect("usable")), [false, false]);
    let (some, file) =
        structured("anonymous: {enabled: true, conditions: [{path: /healthz}]}").await.expect("usable");
    assert_eq!(may(&some), [true, false]);
    std::fs::write(file.path(), format!("{head}anonymous: {{enabled: false}}")).expect("written");
    until("nothing is open", async || may(&some) == [false, false]).await;
    for (text, why) in [
        ("anonymous: {enabled: false, conditions: [{path: /a}]}", "anonymous.conditions: say when"),
        ("anonymous: {enabled: true, conditions: [{path: a}]}", "anonymous.conditions[0].path: is \"a\""),
        ("anonymous: {}", "enabled"),
        ("anonymouse: {enabled: true}", "anonymouse"),
    ] {
        let error = structured(text).await.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let path = file.path().to_owned();
    let both = with(|options| (options.config, options.anonymous) = (Some(path), Some(true))).await;
    assert!(both.expect_err("two say it").to_string().contains("--anonymous-auth"));
}

fn request(peer: Option<&PeerCertificate>, headers: &[(&'static str, &str)]) -> Parts {
    let mut request = http::Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut parts = request.body(()).expect("a request").into_parts().0;
    if let Some(peer) = peer {
        parts.extensions.insert(peer.clone());
    }
    parts
}

fn peer(authority: &Authority, name: &str) -> PeerCertificate {
    let identity = authority.issue_client(name, &[] as &[&str], 1).expect("a certificate");
    PeerCertificate::new(&identity.chain().expect("a chain")).expect("a chain")
}

#[tokio::test]
async fn a_front_proxy_is_believed_and_nobody_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::open_or_create(&dir.path().join("proxies")).expect("an authority");
    let other = Authority::open_or_create(&dir.path().join("clients")).expect("an authority");
    let certificate = file(authority.certificate_pem());
    let authn = with(|options| {
        options.headers = HeaderOptions {
            client_ca_file: Some(certificate.path().to_owned()),
            allowed_names: vec!["gate".to_owned()],
            username_headers: vec!["X-Who".to_owned(), "X-Remote-User".to_owned()],
            ..HeaderOptions::default()
        };
    });
    let authn = authn.await.expect("usable");
    let told = [
        ("x-remote-user", "ann"),
        ("x-remote-group", "dev"),
        ("x-remote-group", "ops"),
        ("x-remote-uid", "7"),
        ("x-remote-extra-example.com%2Fteam", "a"),
    ];
    let (gate, stranger, client) =
        (peer(&authority, "gate"), peer(&authority, "stranger"), peer(&other, "gate"));
    let user = authn.proxied(&request(Some(&gate), &told)).expect("is believed");
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
    assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
    assert_eq!(user.extra["example.com/team"], ["a"]);
    let first = authn.proxied(&request(Some(&gate), &[("x-remote-user", "ann"), ("x-who", "bob")]));
    assert_eq!(first.expect("is believed").name, "bob");
    assert_eq!(authn.proxied(&request(Some(&gate), &[("x-remote-group", "system:masters")])), None);
    for peer in [None, Some(&stranger), Some(&client)] {
        assert_eq!(authn.proxied(&request(peer, &told)), None);
    }
    let mut headers = request(None, &told).headers;
    headers.insert("accept", http::HeaderValue::from_static("x"));
    authn.forget_proxied(&mut headers);
    assert_eq!(headers.len(), 1, "{headers:?}");
    let alone = HeaderOptions { allowed_names: vec!["gate".to_owned()], ..HeaderOptions::default() };
    let error =
        with(|options| options.headers = alone).await.expect_err("nobody could be believed").to_string();
    assert!(error.starts_with("--requestheader-client-ca-file: is missing"), "{error}");
}

#[tokio::test]
async fn the_flags_of_an_issuer_are_checked() {
    let fail = async |oidc: OidcOptions| {
        with(|options| options.oidc = oidc).await.expect_err("is wrong").to_string()
    };
    let fine = || OidcOptions {
        issuer_url: Some("https://id.example".to_owned()),
        client_id: Some("us".to_owned()),
        ..OidcOptions::default()
    };
    assert!(with(|options| options.oidc = fine()).await.is_ok());
    assert!(
        fail(OidcOptions { client_id: None, ..fine() }).await.starts_with("--oidc-client-id: is missing")
    );
    let plain = Some("http://id.example".to_owned());
    assert!(
        fail(OidcOptions { issuer_url: plain, ..fine() }).await.contains("issuer.url: must be an https URL")
    );
    let algs = vec!["HS256".to_owned()];
    assert!(fail(OidcOptions { signing_algs: algs, ..fine() }).await.contains("\"HS256\" is none of"));
    let claims = vec!["x".to_owned()];
    assert!(fail(OidcOptions { required_claims: claims, ..fine() }).await.contains("must be CLAIM=VALUE"));
}
