//! Front proxies: they ask on behalf of users whom they know, and say so in headers. Who they are, their own certificate says,
//! which an authority signed that signs nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::request::Parts;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use yunfan_identity::pki::ClientAuthority;
use yunfan_identity::user::AUTHENTICATED_GROUP;
use yunfan_identity::{PeerCertificate, UserInfo};

use crate::error::ConfigError;
use crate::files;

/// The flags `--requestheader-*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOptions {
    /// `--requestheader-client-ca-file`; without it no proxy is believed.
    pub client_ca_file: Option<PathBuf>,
    /// `--requestheader-allowed-names`: common names of proxies; any where nothing is given.
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`: the first that is there counts.
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`: all count.
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_prefixes: Vec<String>,
}

pub(super) struct FrontProxy {
    authority: ClientAuthority,
    certificates: Vec<CertificateDer<'static>>,
    names: Vec<String>,
    usernames: Vec<HeaderName>,
    uids: Vec<HeaderName>,
    groups: Vec<HeaderName>,
    /// In lower case, as headers' names are.
    extras: Vec<String>,
}

impl HeaderOptions {
    /// The proxies that they let in, if any.
    pub(super) fn read(&self) -> Result<Option<FrontProxy>, ConfigError> {
        const FLAG: &str = "--requestheader-client-ca-file";
        let Some(path) = &self.client_ca_file else {
            if *self != Self::default() {
                let why = "is missing; headers are only believed from who shows a certificate of it";
                return Err(ConfigError::flag(FLAG, why));
            }
            return Ok(None);
        };
        let text = files::read(path)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let certificates = certificates
            .map_err(|error| ConfigError::file(path, "", format!("is no certificate in PEM: {error}")))?;
        let authority = ClientAuthority::new(&certificates).map_err(|error| {
            ConfigError::file(path, "", format!("cannot be used as an authority: {error}"))
        })?;
        let names = |flag: &str, given: &[String], default: &str| -> Result<Vec<HeaderName>, ConfigError> {
            let given: Vec<&str> = match given {
                [] => vec![default],
                given => given.iter().map(String::as_str).collect(),
            };
            let read = given.into_iter().map(|name| {
                let why = || ConfigError::flag(flag, format!("{name:?} can be no header's name"));
                name.trim().parse::<HeaderName>().map_err(|_| why())
            });
            read.collect()
        };
        let extras = match self.extra_prefixes.as_slice() {
            [] => vec!["x-remote-extra-".to_owned()],
            given if given.iter().any(|prefix| prefix.trim().is_empty()) => {
                let why = "must not be empty: it would take each header for something about the user";
                return Err(ConfigError::flag("--requestheader-extra-headers-prefix", why));
            }
            given => given.iter().map(|prefix| prefix.trim().to_ascii_lowercase()).collect(),
        };
        Ok(Some(FrontProxy {
            authority,
            certificates,
            names: self.allowed_names.clone(),
            usernames: names("--requestheader-username-headers", &self.username_headers, "x-remote-user")?,
            uids: names("--requestheader-uid-headers", &self.uid_headers, "x-remote-uid")?,
            groups: names("--requestheader-group-headers", &self.group_headers, "x-remote-group")?,
            extras,
        }))
    }
}

impl FrontProxy {
    pub(super) fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The user that a proxy tells of. What others say in such headers says nothing.
    pub(super) fn user(&self, request: &Parts) -> Option<UserInfo> {
        let name = first(&request.headers, &self.usernames)?;
        let peer = request.extensions.get::<PeerCertificate>()?;
        if !self.authority.signed(peer) {
            return None;
        }
        let proxy = peer.user().ok()?.name;
        if !self.names.is_empty() && !self.names.contains(&proxy) {
            tracing::debug!(proxy, "is no front proxy that is allowed");
            return None;
        }
        let mut groups = Vec::new();
        for header in &self.groups {
            groups.extend(request.headers.get_all(header).iter().filter_map(|value| text(value.as_bytes())));
        }
        let mut user = UserInfo { name, groups, ..UserInfo::default() };
        user.uid = first(&request.headers, &self.uids).unwrap_or_default();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in &request.headers {
            let key = self.extras.iter().find_map(|prefix| header.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Some(value)) = (key, text(value.as_bytes())) {
                let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
                extra.entry(key).or_default().push(value);
            }
        }
        user.extra = extra;
        if !user.in_group(AUTHENTICATED_GROUP) {
            user.groups.push(AUTHENTICATED_GROUP.to_owned());
        }
        Some(user)
    }

    /// Removes all such headers.
    pub(super) fn forget(&self, headers: &mut HeaderMap) {
        for name in [&self.usernames, &self.uids, &self.groups].into_iter().flatten() {
            headers.remove(name);
        }
        let told =
            |name: &&HeaderName| self.extras.iter().any(|prefix| name.as_str().starts_with(prefix.as_str()));
        let extras: Vec<HeaderName> = headers.keys().filter(told).cloned().collect();
        for name in extras {
            headers.remove(name);
        }
    }
}

fn first(headers: &HeaderMap, names: &[HeaderName]) -> Option<String> {
    names.iter().find_map(|name| text(headers.get(name)?.as_bytes()))
}

/// A value, if there is one.
fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
