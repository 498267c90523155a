//! Certificates that others ask for: they have the key, the cloud's authority signs what they may be called (PKCS #10, RFC 2986).
//!
//! The certificate is written here and not by `rcgen`, which keeps one value of each attribute of a name: a user may be in any
//! number of groups.

use std::net::IpAddr;

use rcgen::SigningKey as _;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{
    FromDer as _, GeneralName, ParsedExtension, X509Certificate, X509CertificationRequest,
};

use super::{Authority, CLOCK_SKEW, PkiError, der, leaf, serial};

/// From this long on, what a certificate is valid before now is taken from its end.
const LONG: Duration = Duration::hours(8);

/// Algorithms of the authority's key, and how a certificate names them (AlgorithmIdentifier, DER).
const ALGORITHMS: [(&rcgen::SignatureAlgorithm, &[u8]); 4] = [
    (
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
    ),
    (
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],
    ),
    (&rcgen::PKCS_ED25519, &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70]),
    (
        &rcgen::PKCS_RSA_SHA256,
        &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00],
    ),
];

const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];
const AUTHORITY_KEY_IDENTIFIER: [u8; 3] = [0x55, 0x1d, 0x23];
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x25];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];

/// What a usage of the API certificates.k8s.io is in a certificate.
enum Usage {
    /// A bit of the key usage, counted as RFC 5280 does.
    Bit(u16),
    /// An extended key usage: its identifier's content.
    Extended(&'static [u8]),
}

fn usage(name: &str) -> Option<Usage> {
    Some(match name {
        "signing" | "digital signature" => Usage::Bit(0),
        "content commitment" => Usage::Bit(1),
        "key encipherment" => Usage::Bit(2),
        "data encipherment" => Usage::Bit(3),
        "key agreement" => Usage::Bit(4),
        "cert sign" => Usage::Bit(5),
        "crl sign" => Usage::Bit(6),
        "encipher only" => Usage::Bit(7),
        "decipher only" => Usage::Bit(8),
        "any" => Usage::Extended(&[0x55, 0x1d, 0x25, 0x00]),
        "server auth" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 1]),
        "client auth" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 2]),
        "code signing" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 3]),
        "email protection" | "s/mime" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 4]),
        "ipsec end system" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 5]),
        "ipsec tunnel" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 6]),
        "ipsec user" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 7]),
        "timestamping" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 8]),
        "ocsp signing" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 9]),
        "microsoft sgc" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x0a, 0x03, 0x03]),
        "netscape sgc" => Usage::Extended(&[0x60, 0x86, 0x48, 0x01, 0x86, 0xf8, 0x42, 0x04, 0x01]),
        _ => return None,
    })
}

/// A request for a certificate, signed with the key that the certificate is to be of.
#[derive(Clone, Debug, Default)]
pub struct CertificateRequest {
    /// The common name; empty where there is none.
    pub common_name: String,
    /// The organizations, in their order.
    pub organizations: Vec<String>,
    /// DNS names beside it.
    pub dns_names: Vec<String>,
    /// Mail addresses beside it.
    pub emails: Vec<String>,
    /// IP addresses beside it.
    pub addresses: Vec<IpAddr>,
    /// URIs beside it.
    pub uris: Vec<String>,
    /// The whole subject, DER.
    subject: Vec<u8>,
    /// SubjectPublicKeyInfo, DER.
    public_key: Vec<u8>,
}

/// What of a certificate must fit what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Whether it is of the key that the request is signed with.
    pub same_key: bool,
    /// The first second in which it is valid, seconds since 1970.
    pub not_before: i64,
    /// The last one.
    pub not_after: i64,
}

/// The content of the one block of a text. Whoever approves a request reads it with a reader of their own: of several blocks, and
/// of what only some readers take for one, each might see another.
fn only_block(pem: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let text = std::str::from_utf8(pem).ok()?;
    let (before, rest) = text.split_once("-----BEGIN CERTIFICATE REQUEST-----")?;
    let (body, after) = rest.split_once("-----END CERTIFICATE REQUEST-----")?;
    let begins_a_line = before.is_empty() || before.ends_with('\n');
    if !begins_a_line || [before, body, after].iter().any(|part| part.contains("-----")) {
        return None;
    }
    let plain: String = body.split_ascii_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(plain).ok()
}

impl CertificateRequest {
    /// Reads a request in PEM, and checks its signature.
    ///
    /// # Errors
    /// [`PkiError::Unsigned`] if it is not one block of PEM with a request, its signature is not that of its key or of an algorithm that the
    /// cloud's TLS knows, or its subject has more than one common name, or names that can't all be read: readers would not
    /// agree on whose it is.
    pub fn parse(pem: &[u8]) -> Result<Self, PkiError> {
        let unsigned = |why: &str| PkiError::Unsigned(why.to_owned());
        let der = only_block(pem).ok_or_else(|| unsigned("PEM block type must be CERTIFICATE REQUEST"))?;
        let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
            return Err(unsigned("it is not a PKCS #10 request"));
        };
        request.verify_signature().map_err(|_| {
            unsigned("its signature is not of its key, or not RSA (2048 bits at least), ECDSA (P-256, P-384) or Ed25519")
        })?;
        let info = &request.certification_request_info;
        if info.subject.iter_common_name().count() > 1 {
            return Err(unsigned("its subject has more than one common name"));
        }
        let (common_name, organizations) = leaf::names(&info.subject);
        // What is copied into the certificate is what was looked at: others read more of a name than is read here.
        if organizations.len() != info.subject.iter_organization().count() {
            return Err(unsigned("its organizations are too many, or not all are text in UTF-8"));
        }
        if common_name.is_none() && info.subject.iter_common_name().next().is_some() {
            return Err(unsigned("its common name is not text in UTF-8"));
        }
        let mut read = Self {
            common_name: common_name.unwrap_or_default().to_owned(),
            organizations: organizations.into_iter().map(str::to_owned).collect(),
            dns_names: Vec::new(),
            emails: Vec::new(),
            addresses: Vec::new(),
            uris: Vec::new(),
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().try_for_each(|name| read.add(name))?;
            }
        }
        Ok(read)
    }

    /// What a certificate (DER) is that somebody issued for this request; none where it can't be read.
    pub fn issued(&self, certificate: &[u8]) -> Option<Issued> {
        let Ok(([], read)) = X509Certificate::from_der(certificate) else { return None };
        let validity = read.validity();
        Some(Issued {
            same_key: read.public_key().raw == self.public_key,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Names of other sorts are left out of the certificate.
    fn add(&mut self, name: &GeneralName<'_>) -> Result<(), PkiError> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(address) => self.emails.push((*address).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                let wrong = |_| PkiError::Unsigned("an IP address has neither 4 nor 16 bytes".to_owned());
                self.addresses.push(address.map_err(wrong)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// The names beside the subject, as the extension holds them; none where there are none.
    fn alt_names(&self) -> Option<Vec<u8>> {
        let texts = |tag: u8, texts: &[String]| -> Vec<Vec<u8>> {
            texts.iter().map(|text| der::element(tag, &[text.as_bytes()])).collect()
        };
        let mut names = texts(0x82, &self.dns_names);
        names.extend(texts(0x81, &self.emails));
        names.extend(self.addresses.iter().map(|address| match address {
            IpAddr::V4(address) => der::element(0x87, &[&address.octets()]),
            IpAddr::V6(address) => der::element(0x87, &[&address.octets()]),
        }));
        names.extend(texts(0x86, &self.uris));
        (!names.is_empty()).then(|| der::sequence(&slices(&names)))
    }
}

impl Authority {
    /// Signs a request: a certificate (PEM) with its subject and names, for these usages (words of the API
    /// certificates.k8s.io), and for so long, or until the authority itself ends.
    ///
    /// # Errors
    /// [`PkiError::Unsigned`] if a usage is unknown or the authority has ended.
    pub fn sign_request<S: AsRef<str>>(
        &self,
        request: &CertificateRequest,
        usages: &[S],
        validity: std::time::Duration,
    ) -> Result<String, PkiError> {
        let unsigned = |why: String| PkiError::Unsigned(why);
        let key = self.issuer.key();
        let algorithm = ALGORITHMS.iter().find(|(algorithm, _)| *algorithm == key.algorithm());
        let (_, algorithm) =
            algorithm.ok_or_else(|| unsigned("the authority's key is of an unknown kind".to_owned()))?;
        let Ok((_, authority)) = X509Certificate::from_der(&self.certificate) else {
            return Err(unsigned("the authority's certificate can't be read".to_owned()));
        };
        let ends = authority.validity().not_after.to_datetime();
        let (from, until) = span(OffsetDateTime::now_utc(), validity, ends)?;
        let extensions = extensions(request, usages, key_identifier(&authority))?;
        let body = der::sequence(&[
            &der::element(0xa0, &[&der::positive(&[2])]), // version 3
            &der::positive(&serial()),
            algorithm,
            authority.subject().as_raw(),
            &der::sequence(&[&der::time(from), &der::time(until)]),
            &request.subject,
            &request.public_key,
            &der::element(0xa3, &[&extensions]),
        ]);
        let signature = key.sign(&body).map_err(|error| unsigned(error.to_string()))?;
        let certificate = der::sequence(&[&body, algorithm, &der::bits(&signature)]);
        Ok(pem(&certificate))
    }
}

/// From when until when a certificate is valid. It starts a little before now, for clocks that go after; a short one is not
/// cut by that.
fn span(
    now: OffsetDateTime,
    validity: std::time::Duration,
    ends: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), PkiError> {
    if now >= ends {
        return Err(PkiError::Unsigned(format!("the authority has ended at {ends}")));
    }
    let validity = Duration::try_from(validity).unwrap_or(Duration::MAX);
    let validity = if validity < LONG { validity } else { validity - CLOCK_SKEW };
    let until = now.checked_add(validity).unwrap_or(ends);
    Ok((now - CLOCK_SKEW, until.min(ends)))
}

fn extensions<S: AsRef<str>>(
    request: &CertificateRequest,
    usages: &[S],
    authority: Option<Vec<u8>>,
) -> Result<Vec<u8>, PkiError> {
    let (mut bits, mut extended) = (0, Vec::new());
    for name in usages.iter().map(AsRef::as_ref) {
        match usage(name) {
            Some(Usage::Bit(bit)) => bits |= 1 << bit,
            Some(Usage::Extended(identifier)) if !extended.contains(&identifier) => extended.push(identifier),
            Some(Usage::Extended(_)) => {}
            None => return Err(PkiError::Unsigned(format!("unrecognized usage values: [{name:?}]"))),
        }
    }
    let mut all = Vec::new();
    if bits != 0 {
        all.push(extension(&KEY_USAGE, true, &der::named_bits(bits)));
    }
    if !extended.is_empty() {
        let identifiers: Vec<_> = extended.into_iter().map(der::identifier).collect();
        all.push(extension(&EXTENDED_KEY_USAGE, false, &der::sequence(&slices(&identifiers))));
    }
    // Empty constraints: it is no authority.
    all.push(extension(&BASIC_CONSTRAINTS, true, &der::sequence(&[])));
    if let Some(id) = authority {
        let id = der::sequence(&[&der::element(0x80, &[&id])]);
        all.push(extension(&AUTHORITY_KEY_IDENTIFIER, false, &id));
    }
    if let Some(names) = request.alt_names() {
        // Without a subject they are all that says whose it is (RFC 5280, 4.2.1.6).
        all.push(extension(&SUBJECT_ALT_NAME, request.subject == der::sequence(&[]), &names));
    }
    Ok(der::sequence(&slices(&all)))
}

fn extension(identifier: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    der::sequence(&[&der::identifier(identifier), critical, &der::octets(content)])
}

fn key_identifier(authority: &X509Certificate<'_>) -> Option<Vec<u8>> {
    authority.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn slices(parts: &[Vec<u8>]) -> Vec<&[u8]> {
    parts.iter().map(Vec::as_slice).collect()
}

fn pem(certificate: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::authn::PeerCertificate;

    const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

    fn asked(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "staff");
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.subject_alt_names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::IpAddress("fd00::1".parse().unwrap()),
            SanType::Rfc822Name("ann@a.example".try_into().unwrap()),
            SanType::URI("spiffe://a/b".try_into().unwrap()),
        ];
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    fn authority() -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        (dir, authority)
    }

    #[test]
    fn a_signed_request_is_a_certificate_of_what_was_asked_for() {
        let (_dir, authority) = authority();
        for algorithm in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        {
            let request = CertificateRequest::parse(asked(algorithm).as_bytes()).unwrap();
            let usages =
                ["client auth", "digital signature", "key encipherment", "signing", "any", "client auth"];
            let pem = authority.sign_request(&request, &usages, HOUR).unwrap();
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert!(leaf::is_signed_by(&der, authority.certificate()));
            assert!(leaf::is_server_for(&der, &["a.example", "10.0.0.1", "fd00::1"]));
            assert_eq!(leaf::public_key(&der).unwrap(), request.public_key);
            let issued = request.issued(&der).unwrap();
            assert!(issued.same_key && issued.not_after - issued.not_before == 3900, "{issued:?}");
            let other = CertificateRequest::parse(asked(algorithm).as_bytes()).unwrap();
            assert_eq!(other.issued(&der), Some(Issued { same_key: false, ..issued }));
            assert_eq!(other.issued(b"none"), None);
            let user = crate::UserInfo::authenticated("ann", ["staff"]);
            assert_eq!(PeerCertificate::new(std::slice::from_ref(&der)).unwrap().user().unwrap(), user);
            let (_, read) = X509Certificate::from_der(&der).unwrap();
            assert_eq!(read.key_usage().unwrap().unwrap().value.flags, 0b101);
            let extended = read.extended_key_usage().unwrap().unwrap().value;
            assert!(extended.client_auth && extended.any && !extended.server_auth);
            assert!(!read.basic_constraints().unwrap().unwrap().value.ca);
            let names = &read.subject_alternative_name().unwrap().unwrap().value.general_names;
            assert_eq!(names.len(), 5);
            let lasts = read.validity().not_after.timestamp() - read.validity().not_before.timestamp();
            assert_eq!(lasts, 3900, "an hour, and five minutes before it");
        }
    }

    #[test]
    fn requests_that_cannot_be_trusted_are_refused() {
        let good = asked(&rcgen::PKCS_ECDSA_P256_SHA256);
        let other = asked(&rcgen::PKCS_ECDSA_P256_SHA256);
        let why = |pem: &str| CertificateRequest::parse(pem.as_bytes()).unwrap_err().to_string();
        assert!(why("nothing").ends_with("PEM block type must be CERTIFICATE REQUEST"));
        // The signature is the end of the text: that of another key does not fit.
        let cut = good.len() - 100;
        let mixed = format!("{}{}", &good[..cut], &other[other.len() - 100..]);
        let told = why(&mixed);
        assert!(told.contains("signature") || told.contains("PKCS #10"), "{told}");

        // Of two requests some would read the one, and some the other.
        let begin = "-----BEGIN CERTIFICATE REQUEST-----";
        let unpadded = other.replace('=', "");
        for text in [
            format!("{good}{other}"),
            format!("{unpadded}{good}"),
            format!("{begin}\nAAAA\n{good}"),
            format!("x{good}"),
            good.replace(begin, "-----BEGIN CERTIFICATE-----"),
        ] {
            assert!(why(&text).ends_with("PEM block type must be CERTIFICATE REQUEST"), "{text}");
        }
        assert!(CertificateRequest::parse(format!("what openssl says\n{good}\n").as_bytes()).is_ok());

        let (_dir, authority) = authority();
        let request = CertificateRequest::parse(good.as_bytes()).unwrap();
        let unknown = authority.sign_request(&request, &["dancing"], HOUR).unwrap_err().to_string();
        assert!(unknown.ends_with("unrecognized usage values: [\"dancing\"]"), "{unknown}");
    }

    #[test]
    fn two_common_names_are_one_too_many() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "bob");
        let key = KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let why = CertificateRequest::parse(pem.as_bytes()).unwrap_err().to_string();
        assert!(why.ends_with("more than one common name"), "{why}");
    }

    #[test]
    fn organizations_that_are_not_read_are_not_signed() {
        let of = |value: DnValue, extra: usize| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "ann");
            params.distinguished_name.push(DnType::OrganizationName, value);
            for _ in 0..extra {
                // Another attribute of the same kind: the library keeps one of each.
                params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "more");
            }
            let key = KeyPair::generate().unwrap();
            CertificateRequest::parse(params.serialize_request(&key).unwrap().pem().unwrap().as_bytes())
        };
        assert_eq!(of("staff".into(), 1).unwrap().organizations, ["staff", "more"]);
        let wide = DnValue::BmpString("system:masters".try_into().unwrap());
        assert!(of(wide, 0).unwrap_err().to_string().contains("organizations"));
    }

    #[test]
    fn a_certificate_ends_with_its_authority_and_long_ones_count_from_before_now() {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap();
        let hours = |hours: u64| std::time::Duration::from_secs(3600 * hours);
        assert_eq!(span(at(0), hours(1), at(1_000_000)).unwrap(), (at(-300), at(3600)));
        assert_eq!(span(at(0), hours(10), at(1_000_000)).unwrap(), (at(-300), at(36_000 - 300)));
        assert_eq!(span(at(0), hours(10), at(600)).unwrap(), (at(-300), at(600)));
        assert_eq!(span(at(0), std::time::Duration::MAX, at(600)).unwrap().1, at(600));
        assert!(span(at(600), hours(1), at(600)).is_err());
    }
}
