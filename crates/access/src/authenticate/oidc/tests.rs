use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use yunfan_identity::UserInfo;
use yunfan_identity::pki::Authority;

use crate::ConfigError;
use crate::authenticate::{Authentication, AuthenticationOptions};
use crate::testing::{Server, file, until};

const OWN: &str = "the-api";
const RSA: &[u8] = include_bytes!("test-rsa.pem");

/// A key of the provider.
#[derive(Clone)]
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    sign: EncodingKey,
}

impl Key {
    fn rsa(id: &'static str) -> Self {
        Self { id, algorithm: Algorithm::RS256, sign: EncodingKey::from_rsa_pem(RSA).expect("a key") }
    }

    fn ec(id: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let sign = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key");
        Self { id, algorithm: Algorithm::ES256, sign }
    }

    fn published(&self) -> Value {
        let mut key =
            serde_json::to_value(Jwk::from_encoding_key(&self.sign, self.algorithm).expect("a key"))
                .expect("JSON");
        (key["kid"], key["use"]) = (json!(self.id), json!("sig"));
        key
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        encode(&header, claims, &self.sign).expect("a token")
    }
}

/// An OpenID provider: discovery and keys, over TLS.
struct Provider {
    server: Server,
    authority: Authority,
    keys: Arc<Mutex<Vec<Key>>>,
    /// What it answers at `/groups`.
    groups: Arc<Mutex<Option<String>>>,
    _dir: TempDir,
}

impl Provider {
    async fn start(keys: Vec<Key>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(dir.path()).expect("an authority");
        let keys = Arc::new(Mutex::new(keys));
        let (shown, url) = (keys.clone(), Arc::new(Mutex::new(String::new())));
        let own = url.clone();
        let groups: Arc<Mutex<Option<String>>> = Arc::default();
        let told = groups.clone();
        let server = Server::start_tls(&authority, move |path, _| {
            let url = own.lock().expect("no panic").clone();
            let answer = match path {
                "/.well-known/openid-configuration" => {
                    json!({"issuer": url, "jwks_uri": format!("{url}/keys")})
                }
                "/keys" => {
                    let keys: Vec<Value> =
                        shown.lock().expect("no panic").iter().map(Key::published).collect();
                    json!({"keys": keys})
                }
                "/groups" => return told.lock().expect("no panic").clone(),
                _ => json!({}),
            };
            Some(answer.to_string())
        })
        .await;
        url.lock().expect("no panic").clone_from(&server.url);
        Self { server, authority, keys, groups, _dir: dir }
    }

    /// Claims of a token that is good for five minutes.
    fn claims(&self) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({"iss": self.server.url, "aud": "us", "sub": "ann", "exp": now + 300, "iat": now})
    }

    fn with(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut claims = self.claims();
        change(&mut claims);
        claims
    }

    fn issuer(&self) -> Value {
        json!({"url": self.server.url, "audiences": ["us"], "certificateAuthority": self.authority.certificate_pem()})
    }
}

async fn configured(jwt: &Value) -> Result<(Authentication, NamedTempFile), ConfigError> {
    let document = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt,
    });
    let file = file(&document.to_string());
    let config = Some(file.path().to_owned());
    let authn = AuthenticationOptions { config, ..AuthenticationOptions::default() }.read().await?;
    Ok((authn, file))
}

async fn ask(authn: &Authentication, token: &str) -> Result<Option<UserInfo>, String> {
    let known = authn.token(token, &[OWN], &[OWN]).await.map_err(|error| error.to_string())?;
    Ok(known.map(|known| known.user))
}

#[tokio::test]
async fn a_token_of_the_issuer_is_its_user() {
    let keys = vec![Key::rsa("one"), Key::ec("two")];
    let provider = Provider::start(keys.clone()).await;
    let jwt = json!([{"issuer": provider.issuer(), "claimMappings": {
        "username": {"claim": "sub", "prefix": "id:"}, "groups": {"claim": "roles", "prefix": "id:"}, "uid": {"claim": "oid"},
    }}]);
    let (authn, _file) = configured(&jwt).await.expect("usable");
    let claims =
        provider.with(|claims| (claims["roles"], claims["oid"]) = (json!(["dev", "ops"]), json!("7")));
    for key in &keys {
        let user = ask(&authn, &key.token(&claims)).await.expect("good").expect("known");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("id:ann", "7"));
        assert_eq!(user.groups, ["id:dev", "id:ops", "system:authenticated"]);
    }
    let one = provider.with(|claims| (claims["roles"], claims["oid"]) = (json!("dev"), json!("7")));
    assert_eq!(ask(&authn, &keys[0].token(&one)).await.expect("good").expect("known").groups[0], "id:dev");
    assert!(ask(&authn, &keys[0].token(&provider.claims())).await.is_err(), "the uid is missing");
    let elsewhere = provider.with(|claims| claims["iss"] = json!("https://elsewhere"));
    assert_eq!(ask(&authn, &keys[0].token(&elsewhere)).await, Ok(None), "is another's to judge");
    assert_eq!(ask(&authn, "nonsense").await, Ok(None));
}

#[tokio::test]
async fn forged_stale_and_foreign_tokens_are_refused() {
    let (rsa, ec) = (Key::rsa("one"), Key::ec("two"));
    let provider = Provider::start(vec![rsa.clone(), ec.clone()]).await;
    let jwt =
        json!([{"issuer": provider.issuer(), "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}]);
    let (authn, _file) = configured(&jwt).await.expect("usable");
    let good = rsa.token(&provider.claims());
    assert!(ask(&authn, &good).await.is_ok());
    let now = jsonwebtoken::get_current_timestamp();
    let changes: [(&str, Value); 8] = [
        ("exp", json!(now - 1)),
        ("exp", Value::Null),
        ("exp", json!("soon")),
        ("nbf", json!(now + 3600)),
        ("aud", json!("them")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("sub", json!("")),
    ];
    for (claim, value) in changes {
        let claims = provider.with(|claims| match value.is_null() {
            true => drop(claims.as_object_mut().expect("an object").remove(claim)),
            false => claims[claim] = value.clone(),
        });
        assert!(ask(&authn, &rsa.token(&claims)).await.is_err(), "{claim}: {value}");
    }
    let parts: Vec<&str> = good.split('.').collect();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = part(json!({"alg": "none", "kid": "one"}));
    // Signed with what is published, as if it were a shared secret.
    let published = provider.keys.lock().expect("no panic")[0].published().to_string();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("one".to_owned());
    let shared = encode(&header, &provider.claims(), &EncodingKey::from_secret(published.as_bytes()))
        .expect("a token");
    let changed = part(provider.with(|claims| claims["sub"] = json!("root")));
    let stranger = Key { id: "one", ..Key::ec("two") };
    let mixed = Key { id: "two", ..rsa.clone() };
    for (forged, what) in [
        (format!("{none}.{}.", parts[1]), "no signature"),
        (shared, "a shared secret"),
        (format!("{}.{changed}.{}", parts[0], parts[2]), "other claims"),
        (good[..good.len() - 8].to_owned(), "cut off"),
        (format!("{}.{}", parts[0], parts[1]), "without its third part"),
        (stranger.token(&provider.claims()), "another's key by the same name"),
        (mixed.token(&provider.claims()), "the name of another key"),
        (ec.token(&provider.claims()).replace('.', ".."), "more parts"),
    ] {
        assert!(!matches!(ask(&authn, &forged).await, Ok(Some(_))), "{what}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_known_is_looked_for_and_one_that_went_is_not_known() {
    let (old, new) = (Key::ec("old"), Key::ec("new"));
    let provider = Provider::start(vec![old.clone()]).await;
    let jwt =
        json!([{"issuer": provider.issuer(), "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}]);
    let (authn, _file) = configured(&jwt).await.expect("usable");
    let claims = provider.claims();
    assert!(ask(&authn, &old.token(&claims)).await.is_ok());
    let before = provider.server.count();
    assert!(ask(&authn, &old.token(&claims)).await.is_ok());
    assert_eq!(provider.server.count(), before, "keys are kept");
    *provider.keys.lock().expect("no panic") = vec![new.clone()];
    until("the new key is known", async || ask(&authn, &new.token(&claims)).await.is_ok()).await;
    assert!(ask(&authn, &old.token(&claims)).await.is_err());
    let before = provider.server.count();
    for _ in 0..50 {
        assert!(ask(&authn, &old.token(&claims)).await.is_err());
    }
    assert!(provider.server.count() - before < 20, "who makes up names of keys does not flood the issuer");
}

#[tokio::test]
async fn a_key_that_was_exchanged_under_its_name_is_fetched_again() {
    let (old, new) = (Key::ec("same"), Key::ec("same"));
    let provider = Provider::start(vec![old.clone()]).await;
    let jwt =
        json!([{"issuer": provider.issuer(), "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}]);
    let (authn, _file) = configured(&jwt).await.expect("usable");
    let claims = provider.claims();
    until("the old key is known", async || ask(&authn, &old.token(&claims)).await.is_ok()).await;
    *provider.keys.lock().expect("no panic") = vec![new.clone()];
    until("the new key is known", async || ask(&authn, &new.token(&claims)).await.is_ok()).await;
    assert!(ask(&authn, &old.token(&claims)).await.is_err());
}

#[tokio::test]
async fn a_change_of_the_file_forgets_no_keys() {
    let key = Key::ec("one");
    let provider = Provider::start(vec![key.clone()]).await;
    let jwt = |prefix: &str| json!([{"issuer": provider.issuer(), "claimMappings": {"username": {"claim": "sub", "prefix": prefix}}}]);
    let (authn, file) = configured(&jwt("")).await.expect("usable");
    let token = key.token(&provider.claims());
    until("the key is known", async || ask(&authn, &token).await.is_ok()).await;
    // As if the issuer were away.
    provider.keys.lock().expect("no panic").clear();
    let document = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt("new:"),
    });
    std::fs::write(file.path(), document.to_string()).expect("written");
    let name = async || ask(&authn, &token).await.ok().flatten().map(|user| user.name);
    until("the file counts", async || name().await.as_deref() != Some("ann")).await;
    assert_eq!(name().await.as_deref(), Some("new:ann"));
}

#[tokio::test]
async fn expressions_and_rules_make_the_user() {
    let key = Key::ec("one");
    let provider = Provider::start(vec![key.clone()]).await;
    let jwt = json!([{
        "issuer": provider.issuer(),
        "claimValidationRules": [
            {"claim": "hd", "requiredValue": "example.com"},
            {"expression": "claims.exp - claims.iat <= 300", "message": "too long"},
        ],
        "claimMappings": {
            "username": {"expression": "claims.given + ':' + claims.sub"},
            "groups": {"expression": "claims.roles.split(',')"},
            "extra": [{"key": "example.com/team", "valueExpression": "claims.team"}],
        },
        "userValidationRules": [
            {"expression": "!user.username.startsWith('system:')", "message": "not these"},
            {"expression": "user.groups.all(group, !group.startsWith('system:'))"},
        ],
    }]);
    let (authn, _file) = configured(&jwt).await.expect("usable");
    let token = |change: &[(&str, Value)]| {
        let mut claims = provider.claims();
        let standard = [("hd", "example.com"), ("given", "id"), ("roles", "dev,ops"), ("team", "a")];
        for (name, value) in standard {
            claims[name] = json!(value);
        }
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        key.token(&claims)
    };
    let user = ask(&authn, &token(&[])).await.expect("good").expect("known");
    assert_eq!(user.name, "id:ann");
    assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
    assert_eq!(user.extra["example.com/team"], ["a"]);
    for (claim, value, why) in [
        ("hd", json!("other.com"), "has not the required value"),
        ("iat", json!(1), "too long"),
        ("given", json!("system"), "not these"),
        ("roles", json!("dev,system:masters"), "validation expression"),
        ("roles", json!(5), "resulted in error"),
        ("given", Value::Null, "resulted in error"),
    ] {
        let error = ask(&authn, &token(&[(claim, value)])).await.expect_err(why);
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn mail_has_to_be_verified() {
    let key = Key::ec("one");
    let provider = Provider::start(vec![key.clone()]).await;
    let jwt = json!([{"issuer": provider.issuer(), "claimMappings": {"username": {"claim": "email", "prefix": ""}}}]);
    let (authn, _file) = configured(&jwt).await.expect("usable");
    let ask = async |verified: Value| {
        let claims = provider
            .with(|claims| (claims["email"], claims["email_verified"]) = (json!("a@example.com"), verified));
        ask(&authn, &key.token(&claims)).await
    };
    assert!(ask(json!(true)).await.is_ok());
    for verified in [json!(false), json!("true"), Value::Null] {
        assert!(ask(verified).await.is_err());
    }
    let unchecked = |source: &str| json!([{"issuer": provider.issuer(), "claimMappings": {"username": {"expression": source}}}]);
    let error = configured(&unchecked("claims.email")).await.expect_err("is not checked").to_string();
    assert!(error.contains("email_verified must be used"), "{error}");
    configured(&unchecked("claims.email_verified ? claims.email : ''")).await.expect("is checked");
}

#[tokio::test]
async fn an_issuer_that_is_away_lets_nobody_in_and_is_found_when_it_is_back() {
    let key = Key::ec("one");
    let provider = Provider::start(vec![key.clone()]).await;
    let other = tempfile::tempdir().expect("a directory");
    let other = Authority::open_or_create(other.path()).expect("an authority");
    let mut issuer = provider.issuer();
    issuer["certificateAuthority"] = json!(other.certificate_pem());
    let jwt = |issuer: Value| json!([{"issuer": issuer, "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}]);
    let (authn, file) = configured(&jwt(issuer)).await.expect("usable");
    let token = key.token(&provider.claims());
    assert!(ask(&authn, &token).await.is_err(), "its certificate is a stranger's");
    let document = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt(provider.issuer()),
    });
    std::fs::write(file.path(), document.to_string()).expect("written");
    until("the file is read anew", async || ask(&authn, &token).await.is_ok()).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_named() {
    let fine = || {
        json!([{"issuer": {"url": "https://a.example", "audiences": ["us"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}])
    };
    configured(&fine()).await.expect("usable");
    let twice = json!([fine()[0], fine()[0]]);
    let cases: [(&str, Value, &str); 15] = [
        ("/issuer/url", json!("http://a.example"), "jwt[0].issuer.url: must be an https URL"),
        ("/issuer/url", json!("https://u:p@a.example"), "jwt[0].issuer.url: must have neither"),
        ("/issuer/egressSelectorType", json!("etcd"), "jwt[0].issuer.egressSelectorType: must be either"),
        ("/issuer/discoveryURL", json!("https://a.example"), "jwt[0].issuer.discoveryURL: must be another"),
        ("/issuer/audiences", json!([]), "jwt[0].issuer.audiences: must have"),
        ("/issuer/audiences", json!(["a", "b"]), "jwt[0].issuer.audienceMatchPolicy: must be MatchAny"),
        (
            "/issuer/certificateAuthority",
            json!("x"),
            "jwt[0].issuer.certificateAuthority: has no certificate",
        ),
        ("/issuer/wrong", json!("x"), "wrong"),
        (
            "/claimMappings/username",
            json!({"claim": "sub"}),
            "jwt[0].claimMappings.username.prefix: is missing",
        ),
        ("/claimMappings/username", json!({}), "jwt[0].claimMappings.username: needs"),
        ("/claimMappings/username", json!({"claim": "a", "expression": "b"}), "cannot stand beside"),
        (
            "/claimMappings/groups",
            json!({"expression": "1"}),
            "jwt[0].claimMappings.groups.expression: gives int",
        ),
        (
            "/claimMappings/extra",
            json!([{"key": "x.kubernetes.io/a", "valueExpression": "'a'"}]),
            "jwt[0].claimMappings.extra[0].key: must not be below",
        ),
        (
            "/claimValidationRules",
            json!([{"expression": "clams.a"}]),
            "jwt[0].claimValidationRules[0].expression",
        ),
        (
            "/userValidationRules",
            json!([{"expression": "user.name == ''"}]),
            "jwt[0].userValidationRules[0].expression",
        ),
    ];
    for (place, value, why) in cases {
        let mut jwt = fine();
        let (parent, field) = place.rsplit_once('/').expect("a path");
        jwt[0].pointer_mut(parent).expect("is there")[field] = value;
        let error = configured(&jwt).await.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(configured(&twice).await.expect_err("twice").to_string().contains("jwt[1].issuer.url"));
}

#[tokio::test]
async fn groups_that_are_kept_elsewhere_are_fetched() {
    let key = Key::rsa("one");
    let provider = Provider::start(vec![key.clone()]).await;
    let jwt = json!([{"issuer": provider.issuer(), "claimMappings": {
        "username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "groups", "prefix": "id:"}}}]);
    let (authn, _file) = configured(&jwt).await.expect("usable");
    let tell = |token: Option<String>| *provider.groups.lock().expect("no panic") = token;
    let endpoint = format!("{}/groups", provider.server.url);
    // Each has another name, so that none is known from before.
    let elsewhere = |name: &str, endpoint: &str| {
        key.token(&provider.with(|claims| {
            claims["sub"] = json!(name);
            claims["_claim_names"] = json!({"groups": "src"});
            claims["_claim_sources"] = json!({"src": {"endpoint": endpoint, "access_token": "open"}});
        }))
    };
    let fetched = |groups: Value| key.token(&provider.with(|claims| claims["groups"] = groups));
    tell(Some(fetched(json!(["dev", "ops"]))));
    let ann = elsewhere("ann", &endpoint);
    let asked = || provider.server.asked().iter().filter(|(path, _)| path == "/groups").count();
    for _ in 0..2 {
        let user = ask(&authn, &ann).await.expect("good").expect("known");
        assert_eq!(user.groups, ["id:dev", "id:ops", "system:authenticated"]);
        assert_eq!(asked(), 1, "it is kept for a moment");
    }
    // What the token has itself counts.
    let own = provider.with(|claims| {
        claims["groups"] = json!(["own"]);
        claims["_claim_names"] = json!({"groups": "src"});
        claims["_claim_sources"] = json!({"src": {"endpoint": endpoint}});
    });
    assert_eq!(ask(&authn, &key.token(&own)).await.expect("good").expect("known").groups[0], "id:own");
    assert_eq!(asked(), 1);

    let forger = Key::ec("one");
    let forged = forger.token(&provider.with(|claims| claims["groups"] = json!(["system:masters"])));
    let others =
        key.token(&provider.with(|claims| (claims["aud"], claims["groups"]) = (json!("them"), json!(["x"]))));
    for (name, answer) in [
        ("forged", forged),
        ("others", others),
        ("none", key.token(&provider.claims())),
        ("odd", "{}".to_owned()),
    ] {
        tell(Some(answer));
        let why = ask(&authn, &elsewhere(name, &endpoint)).await.expect_err(name);
        assert!(why.contains("could not expand distributed claims"), "{name}: {why}");
    }
    let count = asked();
    for (name, endpoint) in [("plain", "http://127.0.0.1:1/groups"), ("file", "file:///etc/passwd")] {
        let why = ask(&authn, &elsewhere(name, endpoint)).await.expect_err(name);
        assert!(why.contains("is no https URL"), "{why}");
    }
    let lost = provider.with(|claims| {
        claims["_claim_names"] = json!({"groups": "src"});
        claims["_claim_sources"] = json!({});
    });
    let why = ask(&authn, &key.token(&lost)).await.expect_err("no source");
    assert!(why.contains("\"src\""), "{why}");
    assert_eq!(asked(), count);
    // A claim that is nobody's to map is not looked for.
    tell(None);
    let nameless = provider.with(|claims| {
        claims["_claim_names"] = json!({"mail": "src"});
        claims["_claim_sources"] = json!({"src": {"endpoint": endpoint}});
    });
    assert_eq!(ask(&authn, &key.token(&nameless)).await.expect("good").expect("known").groups.len(), 1);
}

#[tokio::test]
async fn groups_may_be_kept_by_another_issuer() {
    let (key, theirs) = (Key::rsa("one"), Key::ec("theirs"));
    let provider = Provider::start(vec![key.clone()]).await;
    let other = Provider::start(vec![theirs.clone()]).await;
    // Both are known by their authorities.
    let mut issuer = provider.issuer();
    let both = format!("{}{}", provider.authority.certificate_pem(), other.authority.certificate_pem());
    issuer["certificateAuthority"] = json!(both);
    let jwt = json!([{"issuer": issuer, "claimMappings": {
        "username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "groups", "prefix": ""}}}]);
    let (authn, _file) = configured(&jwt).await.expect("usable");
    let told = theirs.token(&other.with(|claims| claims["groups"] = json!(["dev"])));
    *other.groups.lock().expect("no panic") = Some(told);
    let endpoint = format!("{}/groups", other.server.url);
    let token = key.token(&provider.with(|claims| {
        claims["_claim_names"] = json!({"groups": "src"});
        claims["_claim_sources"] = json!({"src": {"endpoint": endpoint}});
    }));
    let user = ask(&authn, &token).await.expect("good").expect("known");
    assert_eq!(user.groups[0], "dev");
    // Who only keeps groups signs nobody in.
    assert_eq!(ask(&authn, &theirs.token(&other.claims())).await, Ok(None));
}
