//! Reads of what Pods name, which come to an end: a server that takes connections and says nothing must not stop a Pod whose files
//! and images are here.

use std::time::Duration;

use yunfan_client::{Watched, Writer};

/// How long the API server has for an answer.
pub(super) const WITHIN: Duration = Duration::from_secs(10);

/// Reads an object.
///
/// # Errors
/// As the server says, or that it says nothing.
pub(super) async fn get<K: Watched>(
    writer: &Writer,
    namespace: Option<&str>,
    name: &str,
) -> Result<K, kube::Error> {
    within(writer.get::<K>(namespace, name)).await
}

/// Waits for the server's answer, but not for ever.
pub(super) async fn within<T>(
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let silent = || {
        let text = format!("the API server did not answer within {} seconds", WITHIN.as_secs());
        kube::Error::Service(text.into())
    };
    tokio::time::timeout(WITHIN, answer).await.unwrap_or_else(|_| Err(silent()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_not_waited_for() {
        let silent = tower::service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, std::io::Error>>()
        });
        let writer = Writer::new(kube::Client::new(silent, "default"), "test");
        let error = get::<ConfigMap>(&writer, Some("n"), "c").await.unwrap_err();
        assert!(error.to_string().contains("did not answer within 10 seconds"), "{error}");
    }
}
