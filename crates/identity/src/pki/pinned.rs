//! Clients that trust a certificate also for itself, and not only for what it signed.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::tls::{Trust, provider};
use super::{PkiError, leaf};

/// Takes what these authorities signed, and the pinned certificates themselves: one that somebody signed with its own key is
/// often an authority's by its form, too, which no chain may end in. Go's clients do the same.
///
/// # Errors
/// [`PkiError`] if rustls refuses the authorities.
pub(super) fn verifier(trust: Trust) -> Result<Arc<dyn ServerCertVerifier>, PkiError> {
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(trust.authorities), provider())
        .build()
        .map_err(|error| PkiError::Certificate(error.to_string()))?;
    Ok(Arc::new(Pinned { pinned: trust.pinned, chains }))
}

/// Takes certain certificates without a chain: all else of them is checked as ever.
#[derive(Debug)]
struct Pinned {
    pinned: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pinned.iter().any(|known| known.as_ref() == certificate.as_ref()) {
            return self.chains.verify_server_cert(certificate, others, name, ocsp, now);
        }
        leaf::check_server(certificate, now).map_err(Error::InvalidCertificate)?;
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use rustls::RootCertStore;

    use super::*;

    /// A certificate that is signed with its own key, and is an authority's by its form.
    fn own(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["hook.default.svc".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn verify(
        pinned: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        name: &'static str,
        at: UnixTime,
    ) -> Result<(), Error> {
        let mut authorities = RootCertStore::empty();
        authorities.add(pinned.clone()).unwrap();
        let verifier = verifier(Trust { authorities, pinned: vec![pinned.clone()] }).unwrap();
        verifier.verify_server_cert(shown, &[], &name.try_into().unwrap(), &[], at).map(drop)
    }

    #[test]
    fn a_pinned_certificate_is_taken_for_itself_and_no_other() {
        let (name, now) = ("hook.default.svc", UnixTime::now());
        let (pinned, other) = (own(|_| ()), own(|_| ()));
        verify(&pinned, &pinned, name, now).unwrap();
        let later =
            own(|params| params.not_before = time::OffsetDateTime::now_utc() + time::Duration::days(2));
        let client = own(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        let server = own(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        verify(&server, &server, name, now).unwrap();
        let ended = UnixTime::since_unix_epoch(Duration::from_secs(1 << 40));
        for (pinned, shown, name, at) in [
            (&pinned, &other, name, now),
            (&pinned, &pinned, "other.default.svc", now),
            (&pinned, &pinned, name, ended),
            (&later, &later, name, now),
            (&client, &client, name, now),
        ] {
            let refused = verify(pinned, shown, name, at).unwrap_err();
            assert!(matches!(refused, Error::InvalidCertificate(_)), "{refused}");
        }
    }
}
