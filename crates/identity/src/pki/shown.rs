//! The certificate that a process shows, and how it is followed by another before it expires, while connections come and go.

use std::sync::{Arc, PoisonError, RwLock, Weak};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Authority, Identity, PkiError, tls};

/// What is shown to whoever connects next, as a server or as a client.
pub struct Shown(RwLock<Arc<CertifiedKey>>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Shown").field(&self.current().cert).finish()
    }
}

impl Shown {
    /// Shows this one until it is told otherwise.
    ///
    /// # Errors
    /// [`PkiError`] if the identity's texts are damaged or rustls refuses them.
    pub fn new(identity: &Identity) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(Self(RwLock::new(certified(identity)?))))
    }

    /// Shows another from now on, to those who connect. Whether it is another than before.
    ///
    /// # Errors
    /// As [`Shown::new`]; what is shown stays then.
    pub fn show(&self, identity: &Identity) -> Result<bool, PkiError> {
        let next = certified(identity)?;
        if self.current().cert == next.cert {
            return Ok(false);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(true)
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, PkiError> {
    Ok(Arc::new(CertifiedKey::from_der(identity.chain()?, identity.key()?, &tls::provider())?))
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a certificate is for.
enum Purpose {
    /// A server with these names and addresses.
    Server(Vec<String>),
    /// A client in these groups.
    Client(Vec<String>),
}

/// A kept certificate that somebody shows.
pub(super) struct Followed {
    name: String,
    common_name: String,
    purpose: Purpose,
    shown: Weak<Shown>,
}

impl Authority {
    /// [`Authority::server`], to be shown for as long as the process lives: [`Authority::renew`] sees to it.
    ///
    /// # Errors
    /// As there.
    pub fn shown_server<S: AsRef<str>>(
        &self,
        name: &str,
        common_name: &str,
        names: &[S],
    ) -> Result<Arc<Shown>, PkiError> {
        let purpose = Purpose::Server(names.iter().map(|name| name.as_ref().to_owned()).collect());
        self.follow(name, common_name, purpose)
    }

    /// [`Authority::client`], to be shown for as long as the process lives: [`Authority::renew`] sees to it.
    ///
    /// # Errors
    /// As there.
    pub fn shown_client<S: AsRef<str>>(
        &self,
        name: &str,
        common_name: &str,
        organizations: &[S],
    ) -> Result<Arc<Shown>, PkiError> {
        let purpose = Purpose::Client(organizations.iter().map(|name| name.as_ref().to_owned()).collect());
        self.follow(name, common_name, purpose)
    }

    /// Issues again what is shown and is about to expire, or is no longer there as it should be, with what the
    /// front proxies' authority issued; the names of those that are shown anew.
    ///
    /// # Errors
    /// As [`Authority::server`], of the first at fault; the others are looked at all the same.
    pub fn renew(&self) -> Result<Vec<String>, PkiError> {
        let mut renewed = Vec::new();
        let mut fault = None;
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.retain(|one| one.shown.strong_count() > 0);
        for one in &*followed {
            let Some(shown) = one.shown.upgrade() else { continue };
            match self.kept_for(one).and_then(|identity| shown.show(&identity)) {
                Ok(true) => renewed.push(one.name.clone()),
                Ok(false) => {}
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        drop(followed);
        let front = self.front.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(front) = front {
            match front.renew() {
                Ok(more) => renewed.extend(more.into_iter().map(|name| format!("front-proxy/{name}"))),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        fault.map_or(Ok(renewed), Err)
    }

    fn follow(&self, name: &str, common_name: &str, purpose: Purpose) -> Result<Arc<Shown>, PkiError> {
        let mut one = Followed {
            name: name.to_owned(),
            common_name: common_name.to_owned(),
            purpose,
            shown: Weak::new(),
        };
        let shown = Shown::new(&self.kept_for(&one)?)?;
        one.shown = Arc::downgrade(&shown);
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).push(one);
        Ok(shown)
    }

    fn kept_for(&self, one: &Followed) -> Result<Identity, PkiError> {
        match &one.purpose {
            Purpose::Server(names) => self.server(&one.name, &one.common_name, names),
            Purpose::Client(organizations) => self.client(&one.name, &one.common_name, organizations),
        }
    }
}
