//! What a certificate says.

use std::net::IpAddr;

use rustls::CertificateError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509Name};

use super::PkiError;
use crate::UserInfo;

/// The most organizations that are read from a certificate.
const MAX_ORGANIZATIONS: usize = 64;

/// The user that a client certificate is of, and until when.
#[derive(Clone, Debug)]
pub struct CertificateUser {
    /// The user.
    pub user: UserInfo,
    /// The last second in which the certificate is valid, seconds since 1970.
    pub not_after: i64,
}

impl CertificateUser {
    /// Reads a certificate (DER) whose signature has been verified.
    ///
    /// # Errors
    /// [`PkiError::Certificate`] if it cannot be read, or has no common name.
    pub fn parse(der: &[u8]) -> Result<Self, PkiError> {
        let unusable = |why: &str| PkiError::Certificate(why.to_owned());
        let certificate = parse(der).ok_or_else(|| unusable("it is not an X.509 certificate"))?;
        let subject = certificate.subject();
        let (name, groups) = names(subject);
        let name = name
            .filter(|name| !name.is_empty())
            .ok_or_else(|| unusable("its subject has no common name (CN), so it names no user"))?;
        Ok(Self {
            user: UserInfo::authenticated(name, groups),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// The last second in which the first certificate of a PEM text is valid, whoever it is of; none where there is no such
    /// certificate.
    pub fn pem_ends(pem: &[u8]) -> Option<i64> {
        let der = CertificateDer::from_pem_slice(pem).ok()?;
        Some(parse(&der)?.validity().not_after.timestamp())
    }

    /// Whether it has expired by now.
    pub fn expired(&self) -> bool {
        now() > self.not_after
    }
}

/// The common name of a subject, which is a user's name, and the organizations, which are groups.
pub(super) fn names<'a>(subject: &'a X509Name<'a>) -> (Option<&'a str>, Vec<&'a str>) {
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
    let organizations = subject.iter_organization().filter_map(|organization| organization.as_str().ok());
    (name, organizations.take(MAX_ORGANIZATIONS).collect())
}

fn now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

/// Whether it may be a server's at this time, whoever signed it.
pub(super) fn check_server(der: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let certificate = parse(der).ok_or(CertificateError::BadEncoding)?;
    let (now, validity) = (i64::try_from(now.as_secs()).unwrap_or(i64::MAX), certificate.validity());
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    // Without such a list it is for anything.
    match certificate.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.server_auth || usage.value.any => Ok(()),
        Ok(Some(_)) => Err(CertificateError::InvalidPurpose),
        Err(_) => Err(CertificateError::BadEncoding),
    }
}

/// The SubjectPublicKeyInfo, DER.
pub(super) fn public_key(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    Some(parse(der)?.public_key().raw.to_vec())
}

/// Whole days until it expires; negative when it has.
pub(super) fn days_left(der: &CertificateDer<'_>) -> i64 {
    parse(der)
        .map_or(-1, |certificate| (certificate.validity().not_after.timestamp() - now()).div_euclid(86_400))
}

/// Whether `authority` signed it.
pub(super) fn is_signed_by(der: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let (Some(certificate), Some(authority)) = (parse(der), parse(authority)) else { return false };
    certificate.issuer().as_raw() == authority.subject().as_raw()
        && certificate.verify_signature(Some(authority.public_key())).is_ok()
}

/// Whether it names every one of `names` (DNS names and IP addresses).
pub(super) fn is_server_for<S: AsRef<str>>(der: &CertificateDer<'_>, names: &[S]) -> bool {
    let Some(certificate) = parse(der) else { return false };
    let Ok(Some(own)) = certificate.subject_alternative_name() else { return names.is_empty() };
    names.iter().map(AsRef::as_ref).all(|name| {
        let address = name.parse::<IpAddr>().ok().map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        own.value.general_names.iter().any(|general| match (general, &address) {
            (GeneralName::IPAddress(bytes), Some(address)) => *bytes == address.as_slice(),
            (GeneralName::DNSName(dns), None) => dns.eq_ignore_ascii_case(name),
            _ => false,
        })
    })
}

/// Whether it is of that user in those groups.
pub(super) fn is_client_for<S: AsRef<str>>(
    der: &CertificateDer<'_>,
    common_name: &str,
    organizations: &[S],
) -> bool {
    CertificateUser::parse(der).is_ok_and(|certificate| {
        certificate.user == UserInfo::authenticated(common_name, organizations.iter().map(AsRef::as_ref))
    })
}
