//! Reaching an API server over TLS.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::Service;

/// Why a kubeconfig could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The file can't be read or understood.
    #[error("Cannot use the kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The certificates in it can't be used.
    #[error("Cannot make a client from the kubeconfig {path}: {source}")]
    Client {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client for the API server that a kubeconfig file names, with the credentials in it. Nothing is sent yet.
///
/// # Errors
/// When the file can't be read, or its certificates can't be used.
pub async fn connect(kubeconfig: &Path) -> Result<Client, RemoteError> {
    let path = kubeconfig.display().to_string();
    let wrong =
        |source: KubeconfigError| RemoteError::Kubeconfig { path: path.clone(), source: Box::new(source) };
    let parsed = Kubeconfig::read_from(kubeconfig).map_err(wrong)?;
    let config =
        Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await.map_err(wrong)?;
    Client::try_from(config).map_err(|source| RemoteError::Client { path, source: Box::new(source) })
}

/// A client whose credentials can be changed while others hold clones of it: what they ask from then on goes over new
/// connections, what is under way ends on the old ones.
#[derive(Clone)]
pub struct Renewable(Arc<RwLock<Client>>);

impl Renewable {
    /// One that begins with this client.
    pub fn new(client: Client) -> Self {
        Self(Arc::new(RwLock::new(client)))
    }

    /// The client that others hold.
    pub fn client(&self) -> Client {
        Client::new(self.clone(), self.current().default_namespace())
    }

    /// Goes on with another.
    pub fn renew(&self, client: Client) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn current(&self) -> Client {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Service<http::Request<Body>> for Renewable {
    type Response = http::Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = kube::Result<http::Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<kube::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let client = self.current();
        Box::pin(async move { client.send(request).await })
    }
}
