//! Tokens of service accounts that Secrets hold, with the real API server: whom they are from, and when they end.

mod support;

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api as Objects, DeleteParams, PostParams};
use serde_json::{Value, json};
use support::{Cloud, SPACE, start};

const TYPE: &str = "kubernetes.io/service-account-token";

/// Makes a Secret for a token of this account.
async fn ask(cloud: &Cloud, name: &str, account: &str) {
    let annotations = json!({"kubernetes.io/service-account.name": account});
    let secret = json!({"metadata": {"name": name, "annotations": annotations}, "type": TYPE});
    cloud.create::<Secret>(secret).await;
}

/// The token in a Secret, once it is there.
async fn token(cloud: &Cloud, name: &str) -> (String, Secret) {
    cloud.until::<Secret>(name, |secret| secret["data"]["token"].is_string()).await;
    let secret = cloud.of::<Secret>().get(name).await.expect("the Secret");
    let data = secret.data.clone().expect("data");
    (String::from_utf8(data["token"].0.clone()).expect("text"), secret)
}

/// What the API server says of a token.
async fn review(cloud: &Cloud, token: &str) -> Value {
    let review = json!({"metadata": {}, "spec": {"token": token}});
    let review: TokenReview = serde_json::from_value(review).expect("a review");
    let reviews = Objects::<TokenReview>::all(cloud.client.clone());
    json!(reviews.create(&PostParams::default(), &review).await.expect("an answer").status)
}

async fn holds(cloud: &Cloud, token: &str) -> bool {
    review(cloud, token).await["authenticated"] == true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_gets_the_token_of_the_account_that_it_names_and_goes_with_it() {
    let cloud = start(&["n1"]).await;
    cloud.create::<ServiceAccount>(json!({"metadata": {"name": "robot"}})).await;
    let account = cloud.of::<ServiceAccount>().get("robot").await.expect("the account");
    ask(&cloud, "robot-token", "robot").await;
    ask(&cloud, "other-token", "robot").await;
    let (first, secret) = token(&cloud, "robot-token").await;
    let (other, _) = token(&cloud, "other-token").await;
    let data = secret.data.expect("data");
    assert_eq!(data["namespace"].0, SPACE.as_bytes());
    assert!(data["ca.crt"].0.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let annotations = secret.metadata.annotations.expect("annotations");
    assert_eq!(Some(&annotations["kubernetes.io/service-account.uid"]), account.metadata.uid.as_ref());
    let said = review(&cloud, &first).await;
    assert_eq!(said["authenticated"], true, "{said}");
    assert_eq!(said["user"]["username"], format!("system:serviceaccount:{SPACE}:robot"));
    assert_eq!(said["user"]["uid"], json!(account.metadata.uid));

    // Another text in the Secret is another token; this one is none.
    cloud.patch::<Secret>("other-token", json!({"stringData": {"token": "mine"}})).await;
    assert!(!holds(&cloud, &other).await && !holds(&cloud, "mine").await);
    let since =
        |since: Value| json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": since}}});
    cloud.patch::<Secret>("robot-token", since(json!("2026-01-01"))).await;
    assert!(!holds(&cloud, &first).await);
    cloud.patch::<Secret>("robot-token", since(Value::Null)).await;
    assert!(holds(&cloud, &first).await);

    cloud.of::<ServiceAccount>().delete("robot", &DeleteParams::default()).await.expect("it goes");
    assert!(!holds(&cloud, &first).await);
    cloud.until_gone::<Secret>("robot-token").await;
    cloud.until_gone::<Secret>("other-token").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_secret_and_nobody_has_none() {
    let cloud = start(&["n1"]).await;
    let listed = json!([{"name": "robot-token"}, {"name": "stays"}]);
    cloud.create::<ServiceAccount>(json!({"metadata": {"name": "robot"}, "secrets": listed})).await;
    ask(&cloud, "robot-token", "robot").await;
    ask(&cloud, "stray", "nobody").await;
    let (token, _) = token(&cloud, "robot-token").await;
    assert!(holds(&cloud, &token).await);
    cloud.until_gone::<Secret>("stray").await;
    cloud.of::<Secret>().delete("robot-token", &DeleteParams::default()).await.expect("it goes");
    assert!(!holds(&cloud, &token).await);
    cloud.until::<ServiceAccount>("robot", |account| account["secrets"] == json!([{"name": "stays"}])).await;
}
