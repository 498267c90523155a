//! AES-GCM in the two forms of Kubernetes: with one key for many values, and with a key of its own for each value.
//!
//! A nonce of GCM has 96 bits. Taken at random, two of 2³² values under one key have the same with a chance of about 2⁻³², which is the most
//! that NIST SP 800-38D (8.3) lets happen; a nonce that comes twice gives away what was encrypted, and the key of authentication. So
//! [`Single`] counts, and refuses to go on. [`Derived`] has no such end: each value's key is derived from 32 random bytes that are kept
//! before it (HKDF-Expand with SHA-256), as Kubernetes does it for KMS v2. Keys that nobody may ever exchange have that form.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

/// Values that one key of [`Single`] encrypts in one life of the process, at most.
const MOST: u64 = 1 << 32;
/// From here on the log asks for another key.
const MANY: u64 = 1 << 31;
/// Bytes that a value's own key is derived from.
const INFO: usize = 32;

/// How often keys were used, by the keys' digests: a configuration that is read again does not begin anew.
#[derive(Default)]
pub(crate) struct Uses(Mutex<HashMap<[u8; 32], Arc<AtomicU64>>>);

impl Uses {
    fn of(&self, secret: &[u8]) -> Arc<AtomicU64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(Sha256::digest(secret).into()).or_default().clone()
    }
}

/// A key for one or many values.
pub(crate) enum Key {
    Single(Box<Single>),
    Derived(Derived),
}

impl Key {
    /// Appends the encrypted value; `bound` can't be exchanged for anything else then.
    pub(crate) fn seal(&self, bound: &[u8], value: &[u8], out: &mut BytesMut) -> Result<(), String> {
        match self {
            Self::Single(key) => key.seal(bound, value, out),
            Self::Derived(key) => key.seal(bound, value, out),
        }
    }

    /// The value, if this is the key, and nothing was changed.
    pub(crate) fn open(&self, bound: &[u8], sealed: &[u8]) -> Option<Bytes> {
        match self {
            Self::Single(key) => open(&key.key, bound, sealed),
            Self::Derived(key) => {
                let (info, sealed) = sealed.split_at_checked(INFO)?;
                open(&key.key(info)?, bound, sealed)
            }
        }
    }
}

/// One key for many values: nonce, ciphertext, tag.
pub(crate) struct Single {
    key: LessSafeKey,
    used: Arc<AtomicU64>,
}

impl Single {
    /// None if the key has neither 16 nor 32 bytes.
    pub(crate) fn new(secret: &[u8], uses: &Uses) -> Option<Self> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return None,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, secret).ok()?);
        Some(Self { key, used: uses.of(secret) })
    }

    fn seal(&self, bound: &[u8], value: &[u8], out: &mut BytesMut) -> Result<(), String> {
        let used = self.used.fetch_add(1, Ordering::Relaxed);
        if used >= MOST {
            return Err(format!("the key has encrypted {MOST} values: put another one before it"));
        }
        if used == MANY {
            tracing::warn!(
                "a key of the encryption configuration has encrypted {MANY} values: put another one before it soon"
            );
        }
        seal(&self.key, bound, value, out)
    }
}

/// A key for each value: what it is derived from, nonce, ciphertext, tag.
pub(crate) struct Derived(Prk);

impl Derived {
    /// None if the seed has less than 32 bytes.
    pub(crate) fn new(seed: &[u8]) -> Option<Self> {
        // The seed is random: there is nothing to extract.
        (seed.len() >= 32).then(|| Self(Prk::new_less_safe(HKDF_SHA256, seed)))
    }

    fn key(&self, info: &[u8]) -> Option<LessSafeKey> {
        let info = [info];
        Some(LessSafeKey::new(self.0.expand(&info, &AES_256_GCM).ok()?.into()))
    }

    fn seal(&self, bound: &[u8], value: &[u8], out: &mut BytesMut) -> Result<(), String> {
        let info: [u8; INFO] = random()?;
        let key = self.key(&info).ok_or("no key could be derived")?;
        out.put_slice(&info);
        seal(&key, bound, value, out)
    }
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(bytes)
}

fn seal(key: &LessSafeKey, bound: &[u8], value: &[u8], out: &mut BytesMut) -> Result<(), String> {
    let nonce: [u8; NONCE_LEN] = random()?;
    out.reserve(NONCE_LEN + value.len() + key.algorithm().tag_len());
    out.put_slice(&nonce);
    let begin = out.len();
    out.put_slice(value);
    let tag = key.seal_in_place_separate_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(bound),
        &mut out[begin..],
    );
    let tag = tag.map_err(|_| "the value is too long to be encrypted".to_owned())?;
    out.put_slice(tag.as_ref());
    Ok(())
}

fn open(key: &LessSafeKey, bound: &[u8], sealed: &[u8]) -> Option<Bytes> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut buffer = sealed.to_vec();
    let length = key.open_in_place(nonce, Aad::from(bound), &mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(buffer.into())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn keys() -> [Key; 3] {
        let uses = Uses::default();
        [
            Key::Single(Box::new(Single::new(&[7; 16], &uses).unwrap())),
            Key::Single(Box::new(Single::new(&[7; 32], &uses).unwrap())),
            Key::Derived(Derived::new(&[7; 32]).unwrap()),
        ]
    }

    fn sealed(key: &Key, bound: &[u8], value: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        key.seal(bound, value, &mut out).unwrap();
        out.freeze()
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        for key in keys() {
            let one = sealed(&key, b"/a", b"value");
            assert_eq!(key.open(b"/a", &one).unwrap(), "value");
            assert!(!one.windows(5).any(|part| part == b"value"));
            assert_eq!(key.open(b"/b", &one), None, "in another place");
            assert_ne!(sealed(&key, b"/a", b"value"), one, "the same nonce twice");
            for at in 0..one.len() {
                let mut changed = one.to_vec();
                changed[at] ^= 1;
                assert_eq!(key.open(b"/a", &changed), None, "byte {at}");
                assert_eq!(key.open(b"/a", &one[..at]), None, "{at} bytes");
            }
            let others = keys().iter().filter(|other| other.open(b"/a", &one).is_some()).count();
            assert_eq!(others, 1);
        }
    }

    #[test]
    fn a_key_that_was_used_too_often_refuses_to_go_on() {
        let uses = Uses::default();
        let key = Single::new(&[1; 32], &uses).unwrap();
        key.used.store(MOST - 1, Ordering::Relaxed);
        let mut out = BytesMut::new();
        key.seal(b"/a", b"", &mut out).unwrap();
        // Not even after the configuration was read again.
        let again = Single::new(&[1; 32], &uses).unwrap();
        assert!(again.seal(b"/a", b"", &mut out).unwrap_err().contains("another one"));
        assert!(Single::new(&[2; 32], &uses).unwrap().seal(b"/a", b"", &mut out).is_ok());
        assert!(Single::new(&[1; 24], &uses).is_none());
    }

    #[test]
    fn values_of_others_are_read() {
        // Made by Python's `cryptography` and `hmac`: the key 0..31, the nonce 0..11, derived from 100..131, "hello" bound to "/k".
        let secret: Vec<u8> = (0..32).collect();
        let single = Key::Single(Box::new(Single::new(&secret, &Uses::default()).unwrap()));
        let derived = Key::Derived(Derived::new(&secret).unwrap());
        for (key, sealed) in [
            (single, "AAECAwQFBgcICQoLL2e6d6p4boGnLBOUNADG26wPvFXQ"),
            (
                derived,
                "ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoMAAQIDBAUGBwgJCgvEFrm2zGza8GyDMqCg2mWSisLLEdw=",
            ),
        ] {
            let sealed = STANDARD.decode(sealed).unwrap();
            assert_eq!(key.open(b"/k", &sealed).unwrap(), "hello");
        }
    }
}
