//! The cloud's own certificate authority, and what it signs.
//!
//! One directory holds it all, as PEM files that only the owner can read: `ca.crt` and `ca.key`, and per
//! certificate that is kept `NAME.crt` and `NAME.key`. Keys are ECDSA P-256: made in well under a
//! millisecond, and every TLS client has it.

mod der;
mod leaf;
mod pinned;
mod request;
mod shown;
mod tls;

pub use leaf::CertificateUser;
pub use request::{CertificateRequest, Issued};
pub use shown::Shown;
pub use tls::{
    ClientAuthority, Trust, client_config, server_config, showing, trusting, unchecked_client_config,
};

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::UserInfo;
use crate::files::{self, FileError};

/// Validity of the authority, days.
const AUTHORITY_DAYS: i64 = 3650;
/// Validity of a certificate that is kept in a file, days.
pub const LEAF_DAYS: i64 = 365;
/// A kept certificate is issued again when it expires within so many days.
const RENEW_DAYS: i64 = 60;
/// Clocks of two hosts may differ by so much.
const CLOCK_SKEW: Duration = Duration::minutes(5);

/// Why a certificate or key cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file is at fault.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was asked for cannot be put into a certificate.
    #[error("A certificate for {subject:?} cannot be issued: {why}")]
    Request {
        /// The common name.
        subject: String,
        /// What is wrong with it.
        why: String,
    },
    /// A request for a certificate that cannot be signed.
    #[error("The certificate request cannot be signed: {0}")]
    Unsigned(String),
    /// A certificate that somebody presented cannot be used.
    #[error("The certificate cannot be used: {0}")]
    Certificate(String),
    /// rustls refuses a configuration.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate (chain) and its private key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate; more may follow, up to the authority.
    pub certificate_pem: String,
    /// The private key (PKCS #8). Secret.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Identity").field("certificate", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads an identity from a certificate's and a key's file.
    ///
    /// # Errors
    /// [`PkiError::File`] naming the one that is missing, damaged, or not the other's.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let certificate_pem = required(certificate)?;
        let key_pem = required(key)?;
        let pair = parse_key(key, &key_pem)?;
        check_pair(certificate, &certificate_pem, key, &pair)?;
        Ok(Self { certificate_pem, key_pem })
    }

    /// The certificates, leaf first.
    ///
    /// # Errors
    /// [`PkiError::Certificate`] if the PEM text is damaged.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let chain = CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| PkiError::Certificate(error.to_string()))?;
        if chain.is_empty() {
            return Err(PkiError::Certificate("there is none in the PEM text".to_owned()));
        }
        Ok(chain)
    }

    /// Whether the certificate is about to expire, so that it is time for another.
    ///
    /// # Errors
    /// [`PkiError::Certificate`] if the PEM text is damaged.
    pub fn is_ending(&self) -> Result<bool, PkiError> {
        let chain = self.chain()?;
        Ok(chain.first().is_none_or(|leaf| leaf::days_left(leaf) <= RENEW_DAYS))
    }

    /// The private key.
    ///
    /// # Errors
    /// [`PkiError::Certificate`] if the PEM text is damaged.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|error| PkiError::Certificate(format!("its private key is damaged: {error}")))
    }
}

/// The certificate authority of one cloud.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    /// What somebody shows, to be issued again in time.
    followed: Mutex<Vec<shown::Followed>>,
    /// The one of front proxies, once it was asked for.
    front: Mutex<Option<Arc<Authority>>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("certificate", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the authority in `dir`, or makes one where there is none. A directory that has the key alone (its
    /// maker was killed between the two files) gets a certificate of that key.
    ///
    /// # Errors
    /// [`PkiError::File`] naming the file that is damaged, or missing beside the other.
    pub fn open_or_create(dir: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (certificate, key) = (files::read(&certificate_path)?, files::read(&key_path)?);
        let pair = match key {
            Some(pem) => parse_key(&key_path, &pem)?,
            None if certificate.is_some() => {
                return Err(PkiError::File(FileError::Mismatch {
                    path: certificate_path,
                    other: key_path,
                    why: "the key is missing; restore it from a backup",
                }));
            }
            None => {
                files::create_dir(dir)?;
                let pair = new_key("the certificate authority")?;
                files::write_private(&key_path, &pair.serialize_pem())?;
                pair
            }
        };
        let certificate_pem = match certificate {
            Some(pem) => pem,
            None => {
                let pem = self_sign(&pair)?;
                files::write_private(&certificate_path, &pem)?;
                pem
            }
        };
        check_pair(&certificate_path, &certificate_pem, &key_path, &pair)?;
        let corrupt = || FileError::corrupt(&certificate_path, "a CA certificate in PEM");
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| corrupt())?;
        let issuer = Issuer::from_ca_cert_der(&certificate, pair).map_err(|_| corrupt())?;
        let (followed, front) = (Mutex::default(), Mutex::default());
        Ok(Self { dir: dir.to_owned(), issuer, certificate_pem, certificate, followed, front })
    }

    /// The authority of those who pass on requests of others, in a directory below this one's: a certificate of it says that
    /// its owner may tell on whose behalf it asks, which no certificate of a user may.
    ///
    /// # Errors
    /// As [`Authority::open_or_create`].
    pub fn front_proxy(&self) -> Result<Arc<Self>, PkiError> {
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(front) = &*front {
            return Ok(front.clone());
        }
        let opened = Arc::new(Self::open_or_create(&self.dir.join("front-proxy"))?);
        *front = Some(opened.clone());
        Ok(opened)
    }

    /// The authority's own certificate, PEM: what clients must trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's own certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A new certificate for a TLS server with these names and addresses (`localhost`, `127.0.0.1`, ...).
    ///
    /// # Errors
    /// [`PkiError::Request`] if a name is neither an IP address nor ASCII.
    pub fn issue_server<S: AsRef<str>>(
        &self,
        common_name: &str,
        names: &[S],
        days: i64,
    ) -> Result<Identity, PkiError> {
        let mut params = leaf_params(common_name, &[] as &[&str], days)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = alt_names(common_name, names)?;
        self.sign(common_name, &params)
    }

    /// A new certificate for a TLS client, who is the user `common_name` in the groups `organizations` (at most two).
    ///
    /// # Errors
    /// [`PkiError::Request`] if there are more than two organizations.
    pub fn issue_client<S: AsRef<str>>(
        &self,
        common_name: &str,
        organizations: &[S],
        days: i64,
    ) -> Result<Identity, PkiError> {
        let mut params = leaf_params(common_name, organizations, days)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(common_name, &params)
    }

    /// The server certificate kept as `NAME.crt`: the one there, or a new one where there is none, it is about to
    /// expire, is not this authority's, or lacks one of `names`.
    ///
    /// # Errors
    /// As [`Authority::issue_server`]; [`PkiError::File`] naming a file that cannot be read, written or understood.
    pub fn server<S: AsRef<str>>(
        &self,
        name: &str,
        common_name: &str,
        names: &[S],
    ) -> Result<Identity, PkiError> {
        self.kept(
            name,
            |der| leaf::is_server_for(der, names),
            || self.issue_server(common_name, names, LEAF_DAYS),
        )
    }

    /// The client certificate kept as `NAME.crt`: the one there, or a new one where there is none, it is about to
    /// expire, is not this authority's, or is another user's.
    ///
    /// # Errors
    /// As [`Authority::issue_client`]; [`PkiError::File`] naming a file that cannot be read, written or understood.
    pub fn client<S: AsRef<str>>(
        &self,
        name: &str,
        common_name: &str,
        organizations: &[S],
    ) -> Result<Identity, PkiError> {
        self.kept(
            name,
            |der| leaf::is_client_for(der, common_name, organizations),
            || self.issue_client(common_name, organizations, LEAF_DAYS),
        )
    }

    fn kept(
        &self,
        name: &str,
        serves: impl FnOnce(&CertificateDer<'_>) -> bool,
        issue: impl FnOnce() -> Result<Identity, PkiError>,
    ) -> Result<Identity, PkiError> {
        let (certificate_path, key_path) =
            (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        // Without either file a new pair is made: the key is written first, so a key alone is half a pair.
        if let (Some(certificate_pem), Some(key_pem)) =
            (files::read(&certificate_path)?, files::read(&key_path)?)
        {
            let pair = parse_key(&key_path, &key_pem)?;
            let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
                .map_err(|_| FileError::corrupt(&certificate_path, "a certificate in PEM"))?;
            let own = leaf::public_key(&der)
                .ok_or_else(|| FileError::corrupt(&certificate_path, "an X.509 certificate"))?
                == pair.subject_public_key_info();
            // A pair that does not match is one that was being replaced when its maker was killed.
            if own
                && leaf::days_left(&der) > RENEW_DAYS
                && leaf::is_signed_by(&der, &self.certificate)
                && serves(&der)
            {
                return Ok(Identity { certificate_pem, key_pem });
            }
        }
        let identity = issue()?;
        files::write_private(&key_path, &identity.key_pem)?;
        files::write_private(&certificate_path, &identity.certificate_pem)?;
        Ok(identity)
    }

    fn sign(&self, common_name: &str, params: &CertificateParams) -> Result<Identity, PkiError> {
        let pair = new_key(common_name)?;
        let certificate = params
            .signed_by(&pair, &self.issuer)
            .map_err(|error| request(common_name, &error.to_string()))?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: pair.serialize_pem() })
    }
}

/// The user that a client certificate (DER, verified by the handshake) is of: its common name, with its
/// organizations as groups.
///
/// # Errors
/// [`PkiError::Certificate`] if it cannot be read or names nobody.
pub fn user_from_certificate(der: &[u8]) -> Result<UserInfo, PkiError> {
    CertificateUser::parse(der).map(|certificate| certificate.user)
}

/// Asks for a certificate of a new key: a request (PKCS #10, PEM) that whoever signs may look at, and the key (PKCS #8, PEM), which
/// is secret.
///
/// # Errors
/// [`PkiError::Request`] as for [`Authority::issue_server`] and [`Authority::issue_client`].
pub fn ask<S: AsRef<str>, N: AsRef<str>>(
    common_name: &str,
    organizations: &[S],
    names: &[N],
) -> Result<(String, String), PkiError> {
    let fault = |error: rcgen::Error| request(common_name, &error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(common_name, organizations)?;
    params.subject_alt_names = alt_names(common_name, names)?;
    let key = new_key(common_name)?;
    let asked = params.serialize_request(&key).and_then(|asked| asked.pem()).map_err(fault)?;
    Ok((asked, key.serialize_pem()))
}

/// Asks for a certificate of a new key of a kind, in Kubernetes' words for these (`ECDSAP256`, `ECDSAP384`, `ED25519`), without saying whose it is: whoever
/// signs knows that from elsewhere. As [`ask`], with the request as DER.
///
/// # Errors
/// [`PkiError::Request`] for a kind that this program makes no keys of.
pub fn ask_for_key(kind: &str) -> Result<(Vec<u8>, String), PkiError> {
    let fault = |error: rcgen::Error| request(kind, &error.to_string());
    let algorithm = match kind {
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        "ED25519" => &rcgen::PKCS_ED25519,
        _ => {
            let why = "keys of this kind are not made here: use ECDSAP256, ECDSAP384 or ED25519";
            return Err(request(kind, why));
        }
    };
    let key = KeyPair::generate_for(algorithm).map_err(fault)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let asked = params.serialize_request(&key).map_err(fault)?;
    Ok((asked.der().to_vec(), key.serialize_pem()))
}

/// The names and addresses of a server.
fn alt_names<S: AsRef<str>>(common_name: &str, names: &[S]) -> Result<Vec<SanType>, PkiError> {
    let name = |name: &S| {
        let name = name.as_ref();
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(SanType::IpAddress(address));
        }
        let name: Result<_, rcgen::Error> = name.try_into();
        name.map(SanType::DnsName).map_err(|error| request(common_name, &error.to_string()))
    };
    names.iter().map(name).collect()
}

fn leaf_params<S: AsRef<str>>(
    common_name: &str,
    organizations: &[S],
    days: i64,
) -> Result<CertificateParams, PkiError> {
    let mut params = base_params(days)?;
    params.distinguished_name = subject(common_name, organizations)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn subject<S: AsRef<str>>(common_name: &str, organizations: &[S]) -> Result<DistinguishedName, PkiError> {
    if common_name.is_empty() || common_name.len() > 512 {
        return Err(request(common_name, "the common name must have 1 to 512 bytes"));
    }
    let mut subject = DistinguishedName::new();
    // rcgen keeps one value per attribute type; the second spelling of the same OID gives a second one.
    let slots = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    if organizations.len() > slots.len() {
        return Err(request(common_name, "at most two organizations fit"));
    }
    for (slot, organization) in slots.into_iter().zip(organizations) {
        subject.push(slot, organization.as_ref());
    }
    subject.push(DnType::CommonName, common_name);
    Ok(subject)
}

fn base_params(days: i64) -> Result<CertificateParams, PkiError> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now
        .checked_add(Duration::days(days.clamp(0, AUTHORITY_DAYS)))
        .ok_or_else(|| PkiError::Certificate("the clock is out of range".to_owned()))?;
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

/// A new serial number. It is positive, and its first byte says something, as DER wants it.
fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x3f | 0x40;
    serial
}

fn self_sign(pair: &KeyPair) -> Result<String, PkiError> {
    let mut params = base_params(AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    // Part of the name is the key's: clouds made on one host must not look like one authority to a browser.
    let id = params.key_identifier(pair);
    let id: String = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("yunfan-ca-{id}");
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params
        .self_signed(pair)
        .map(|certificate| certificate.pem())
        .map_err(|error| request(&name, &error.to_string()))
}

fn new_key(subject: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|error| request(subject, &error.to_string()))
}

fn request(subject: &str, why: &str) -> PkiError {
    PkiError::Request { subject: subject.to_owned(), why: why.to_owned() }
}

fn required(path: &Path) -> Result<String, PkiError> {
    files::read(path)?.ok_or_else(|| {
        PkiError::File(FileError::Io {
            action: "read",
            path: path.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    })
}

fn parse_key(path: &Path, pem: &str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem)
        .map_err(|_| PkiError::File(FileError::corrupt(path, "a private key in PKCS #8 PEM")))
}

fn check_pair(
    certificate_path: &Path,
    certificate_pem: &str,
    key_path: &Path,
    pair: &KeyPair,
) -> Result<(), PkiError> {
    let corrupt = || FileError::corrupt(certificate_path, "a certificate in PEM");
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| corrupt())?;
    if leaf::public_key(&der).ok_or_else(corrupt)? == pair.subject_public_key_info() {
        return Ok(());
    }
    Err(PkiError::File(FileError::Mismatch {
        path: key_path.to_owned(),
        other: certificate_path.to_owned(),
        why: "the certificate is of another key; restore both from one backup",
    }))
}

#[cfg(test)]
mod tests;
