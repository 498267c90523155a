use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

fn claims() -> Claims {
    let mut claims = Claims::new("ann", "42", 600);
    claims.project = Some(Scope { id: "0af".into(), name: "demo".into() });
    claims.roles = vec!["member".into()];
    claims.groups = vec!["staff".into()];
    claims
}

fn refused(key: &TokenKey, token: &str) {
    match key.verify(token) {
        Err(error) => assert_eq!(error.to_string(), "The token is not valid"),
        Ok(claims) => panic!("accepted: {claims:?}"),
    }
}

#[test]
fn a_token_comes_back_as_its_claims() {
    let key = TokenKey::ephemeral().unwrap();
    let claims = claims();
    let token = key.issue(&claims).unwrap();
    assert_eq!(key.verify(&token).unwrap(), claims);
    let user = claims.user();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "42"));
    assert_eq!(user.groups, ["staff", "system:authenticated"]);
    assert_eq!(user.extra[EXTRA_PROJECT_NAME], ["demo"]);
}

#[test]
fn expired_forged_truncated_and_unsigned_tokens_are_refused() {
    let key = TokenKey::ephemeral().unwrap();
    let good = key.issue(&claims()).unwrap();
    key.verify(&good).unwrap();

    let mut expired = claims();
    (expired.iat, expired.exp) = (expired.iat - 100, expired.iat);
    refused(&key, &key.issue(&expired).unwrap());

    refused(&key, &TokenKey::ephemeral().unwrap().issue(&claims()).unwrap());

    for length in [0, 1, 10, good.len() / 2, good.len() - 1] {
        refused(&key, &good[..length]);
    }
    refused(&key, &format!("{good}.{good}"));
    refused(&key, &"a".repeat(MAX_TOKEN + 1));

    let parts: Vec<&str> = good.split('.').collect();
    for alg in ["none", "None", "HS256"] {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"typ":"JWT","alg":"{alg}"}}"#));
        refused(&key, &format!("{header}.{}.", parts[1]));
        refused(&key, &format!("{header}.{}.{}", parts[1], parts[2]));
    }
    let mut other = claims();
    other.sub = "root".into();
    let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&other).unwrap());
    refused(&key, &format!("{}.{payload}.{}", parts[0], parts[2]));
}

#[test]
fn a_token_signed_for_another_issuer_or_without_exp_is_refused() {
    let key = TokenKey::ephemeral().unwrap();
    let sign = |change: fn(&mut serde_json::Value)| {
        let mut value = serde_json::to_value(claims()).unwrap();
        change(&mut value);
        jsonwebtoken::encode(&key.0.header, &value, &key.0.sign).unwrap()
    };
    key.verify(&sign(|_| {})).unwrap();
    refused(&key, &sign(|value| value["iss"] = "https://elsewhere".into()));
    refused(&key, &sign(|value| drop(value.as_object_mut().unwrap().remove("iss"))));
    refused(&key, &sign(|value| drop(value.as_object_mut().unwrap().remove("exp"))));
}

#[test]
fn revoked_tokens_are_refused() {
    let key = TokenKey::ephemeral().unwrap();
    let claims = claims();
    let token = key.issue(&claims).unwrap();
    key.revocations().revoke(&claims.jti, claims.exp).unwrap();
    refused(&key, &token);
}

#[test]
fn claims_that_must_not_be_signed_are_refused() {
    let key = TokenKey::ephemeral().unwrap();
    let mut long = claims();
    long.exp = long.iat + MAX_LIFETIME + 1;
    assert!(key.issue(&long).is_err());
    let mut nobody = claims();
    nobody.sub.clear();
    assert!(key.issue(&nobody).is_err());
    assert!(Claims::new("a", "", u64::MAX).exp < u64::MAX);
}

#[test]
fn the_key_is_kept_privately_and_a_damaged_file_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let token = TokenKey::open_or_create(dir.path()).unwrap().issue(&claims()).unwrap();
    TokenKey::open_or_create(dir.path()).unwrap().verify(&token).unwrap();

    let path = dir.path().join(KEY_FILE);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let pem = std::fs::read_to_string(&path).unwrap();
    for damaged in ["", &pem[..pem.len() / 2], "garbage"] {
        std::fs::write(&path, damaged).unwrap();
        let error = TokenKey::open_or_create(dir.path()).err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
