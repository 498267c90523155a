//! Reaching an API server over TLS.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

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
