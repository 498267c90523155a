//! Answers of the API that no type stands for: discovery, scales of any kind, metrics.

use std::time::Duration;

use kube::Client;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::pod_writer::reason;

/// All but the unreserved characters (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// What an error says for a path that nobody serves, and what Kubernetes' clients make of it.
pub(crate) const NO_PAGE: &str = "404 page not found";
pub(crate) const NO_RESOURCE: &str = "the server could not find the requested resource";

/// Why there is no answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Failure {
    /// Whether the API server says that there is nothing at the path.
    pub(crate) absent: bool,
    pub(crate) text: String,
}

impl Failure {
    /// Whether nobody serves the path.
    pub(crate) fn is_no_page(&self) -> bool {
        matches!(self.text.as_str(), NO_PAGE | NO_RESOURCE)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { absent: false, text }
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.text
    }
}

/// What is at a path.
pub(crate) async fn get(client: &Client, path: &str) -> Result<Value, Failure> {
    asked(client, http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?).await
}

/// The answer, for which there is a limit in time: some servers are others', and many wait in one queue.
pub(crate) async fn asked(client: &Client, request: http::Request<Vec<u8>>) -> Result<Value, Failure> {
    match tokio::time::timeout(PATIENCE, client.request(request)).await {
        Ok(answer) => answer.map_err(|error| Failure {
            absent: yunfan_client::is_not_found(&error),
            text: reason(&error).trim().to_owned(),
        }),
        Err(_) => Err("the server did not answer in time".to_owned().into()),
    }
}

/// A text as it stands in a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_no_part_of_a_path() {
        assert_eq!(encoded("app in (a,b),x!=y"), "app%20in%20%28a%2Cb%29%2Cx%21%3Dy");
    }
}
