//! TLS configurations: ring, TLS 1.2 and 1.3, no process-wide default needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};

use super::{Identity, PkiError, Shown, pinned};
use crate::PeerCertificate;

/// Whom a client trusts.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Who signs the certificates of servers.
    pub authorities: RootCertStore,
    /// Certificates that a server may show themselves, whoever signed them.
    pub pinned: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// In what this authority signed, and nothing else.
    ///
    /// # Errors
    /// [`PkiError`] if the certificate is no authority's.
    pub fn of(authority: &CertificateDer<'static>) -> Result<Self, PkiError> {
        Ok(Self { authorities: roots(std::slice::from_ref(authority))?, pinned: Vec::new() })
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    Ok(roots)
}

fn client_verifier(authorities: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    WebPkiClientVerifier::builder_with_provider(roots(authorities)?.into(), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| PkiError::Certificate(error.to_string()))
}

/// Authorities of one kind of clients, where a server lets in several kinds: whose client one is, their certificate says.
pub struct ClientAuthority {
    /// What connections remember it by.
    number: u64,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    /// Those with these certificates.
    ///
    /// # Errors
    /// [`PkiError`] if there is none, or one cannot be used.
    pub fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, PkiError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self { number, verifier: client_verifier(authorities)? })
    }

    /// Whether one of them signed what a client showed. Looked at once for each connection.
    pub fn signed(&self, peer: &PeerCertificate) -> bool {
        peer.signed_by(self.number, |chain| {
            let Some((leaf, more)) = chain.split_first() else { return false };
            self.verifier.verify_client_cert(leaf, more, UnixTime::now()).is_ok()
        })
    }
}

/// A server that shows `identity` and speaks HTTP/2 and HTTP/1.1. With `clients` it asks for a client
/// certificate: a client without one is let in, one with a certificate that `clients` did not sign is not.
///
/// # Errors
/// [`PkiError`] if the identity's texts are damaged or rustls refuses them.
pub fn server_config(
    identity: &Identity,
    clients: Option<&CertificateDer<'static>>,
) -> Result<ServerConfig, PkiError> {
    showing(Shown::new(identity)?, clients.map(std::slice::from_ref).unwrap_or_default())
}

/// [`server_config`] of a server whose certificate may change while it runs, for clients of several authorities; which of them
/// signed a certificate, [`ClientAuthority`] says.
///
/// # Errors
/// [`PkiError`] if rustls refuses `clients`.
pub fn showing(shown: Arc<Shown>, clients: &[CertificateDer<'static>]) -> Result<ServerConfig, PkiError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        [] => builder.with_no_client_auth(),
        authorities => builder.with_client_cert_verifier(client_verifier(authorities)?),
    };
    let mut config = builder.with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that trusts `authority` alone and, if asked, shows `identity`. ALPN is left to the HTTP client.
///
/// # Errors
/// [`PkiError`] if the identity's texts are damaged or rustls refuses them.
pub fn client_config(
    authority: &CertificateDer<'static>,
    identity: Option<&Identity>,
) -> Result<ClientConfig, PkiError> {
    trusting(Some(Trust::of(authority)?), identity.map(Shown::new).transpose()?)
}

/// A client that trusts these and, if asked, shows a certificate; without any it takes whatever certificate it is
/// shown, for connections that are made to the right place by other means: into the network of a Pod, whose programs sign
/// their own.
///
/// # Errors
/// [`PkiError`] if rustls refuses its settings.
pub fn trusting(trust: Option<Trust>, shown: Option<Arc<Shown>>) -> Result<ClientConfig, PkiError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Some(trust) if trust.pinned.is_empty() => builder.with_root_certificates(trust.authorities),
        Some(trust) => builder.dangerous().with_custom_certificate_verifier(pinned::verifier(trust)?),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider()))),
    };
    Ok(match shown {
        Some(shown) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    })
}

/// [`trusting`] nobody and anybody.
///
/// # Errors
/// [`PkiError`] if rustls refuses its own settings.
pub fn unchecked_client_config() -> Result<ClientConfig, PkiError> {
    trusting(None, None)
}

/// Takes any certificate. That its owner speaks is still checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
