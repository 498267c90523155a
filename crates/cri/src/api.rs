//! The way to the container runtime: one connection that heals itself, limits on each call, and what errors become.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};
use yunfan_runtime::{Result, RuntimeError};

/// Largest answer that is taken; the kubelet has the same limit.
const LARGEST: usize = 16 << 20;
/// How long a call may take that does not wait for a container (the kubelet's default).
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The same where others wait for their turn.
pub(crate) const BRIEF: Duration = Duration::from_secs(5);

/// Cheap to clone, as both share one connection.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
}

impl Api {
    /// Connects when it is first used, and again whenever the runtime was restarted.
    pub(crate) fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        // The name is not looked up: where to connect is said here.
        let channel = Endpoint::from_static("http://cri").connect_with_connector_lazy(tower::service_fn(
            move |_: Uri| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            },
        ));
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST),
            images: ImageServiceClient::new(channel).max_decoding_message_size(LARGEST),
        }
    }
}

/// The socket of an endpoint as the kubelet's `--container-runtime-endpoint` names it.
///
/// # Errors
/// What is wrong with it.
pub fn socket_of(endpoint: &str) -> std::result::Result<PathBuf, String> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("{endpoint:?} is no Unix socket: expected unix:///PATH"))
    }
}

/// Waits for an answer, not for ever.
pub(crate) async fn call<T>(
    action: &'static str,
    asked: impl Future<Output = std::result::Result<Response<T>, Status>>,
) -> Result<T> {
    within(PATIENCE, action, asked).await.map_err(|status| failed(action, &status))
}

/// As [`call`], with a time of the caller's choice, and the answer as it is.
pub(crate) async fn within<T>(
    time: Duration,
    action: &'static str,
    asked: impl Future<Output = std::result::Result<Response<T>, Status>>,
) -> std::result::Result<T, Status> {
    match tokio::time::timeout(time, asked).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => {
            Err(Status::deadline_exceeded(format!("no answer to {action:?} within {} s", time.as_secs())))
        }
    }
}

/// What a refusal becomes where nothing more is known about it.
pub(crate) fn failed(action: &'static str, status: &Status) -> RuntimeError {
    RuntimeError::Service { action, reason: said(status) }
}

/// A refusal in words; the transport's own message says little without what is behind it.
pub(crate) fn said(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Takes "there is no such thing" for done.
pub(crate) fn gone(result: std::result::Result<impl Sized, Status>) -> std::result::Result<(), Status> {
    match result {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sockets() {
        assert_eq!(socket_of("unix:///run/x.sock"), Ok(PathBuf::from("/run/x.sock")));
        assert_eq!(socket_of("/run/x.sock"), Ok(PathBuf::from("/run/x.sock")));
        for wrong in ["", "run/x.sock", "tcp://127.0.0.1:1", "unix://x"] {
            assert!(socket_of(wrong).unwrap_err().contains("unix:///"), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_runtime_that_is_not_there_is_named_as_such() {
        let api = Api::new(Path::new("/nonexistent/cri.sock"));
        let asked = api.runtime.clone().version(k8s_cri::v1::VersionRequest::default()).await;
        let error = failed("version", &asked.unwrap_err()).to_string();
        assert!(
            error.starts_with("container runtime: version: ") && error.contains("No such file"),
            "{error}"
        );
    }
}
