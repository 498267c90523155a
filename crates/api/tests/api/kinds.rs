//! What is served, and with which verbs.

use crate::support::Desk;

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_go_one_at_a_time() {
    let desk = Desk::new().await;
    let message = desk.call("DELETE", "/api/v1/namespaces", None).await.refused(405);
    assert!(message.starts_with("deletecollection is not supported"), "{message}");
    desk.call("GET", "/api/v1/namespaces/default", None).await.expect(200);
}
