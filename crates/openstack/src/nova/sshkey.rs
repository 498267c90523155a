//! A new SSH key, for clients that bring none (Nova makes them until 2.91).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use ring::signature::{Ed25519KeyPair, KeyPair};

const KIND: &[u8] = b"ssh-ed25519";
/// What the private part is a multiple of where it is not encrypted.
const BLOCK: usize = 8;
/// Letters in a line of the private key's text.
const LINE: usize = 70;

/// A key's two halves as OpenSSH writes them: one line, and the text of a file (PROTOCOL.key in OpenSSH's source).
pub(super) struct Made {
    pub(super) public: String,
    pub(super) private: String,
}

/// Makes a key; `comment` is at its end. `None` where the cryptography library refuses its own seed, which it never did.
pub(super) fn make(comment: &str) -> Option<Made> {
    let mut random = rand::rng();
    let seed: [u8; 32] = random.random();
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
    let public = pair.public_key().as_ref();
    let mut blob = Vec::new();
    text(&mut blob, KIND);
    text(&mut blob, public);

    let mut secret = Vec::new();
    let check: [u8; 4] = random.random();
    secret.extend_from_slice(&check);
    secret.extend_from_slice(&check);
    secret.extend_from_slice(&blob);
    text(&mut secret, &[&seed, public].concat());
    text(&mut secret, comment.as_bytes());
    let mut padding = 1_u8;
    while !secret.len().is_multiple_of(BLOCK) {
        secret.push(padding);
        padding += 1;
    }

    let mut file = b"openssh-key-v1\0".to_vec();
    for word in ["none", "none", ""] {
        text(&mut file, word.as_bytes());
    }
    file.extend_from_slice(&1_u32.to_be_bytes());
    text(&mut file, &blob);
    text(&mut file, &secret);
    let encoded = STANDARD.encode(&file);
    let mut private = "-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned();
    for (at, letter) in encoded.chars().enumerate() {
        private.push(letter);
        if (at + 1) % LINE == 0 {
            private.push('\n');
        }
    }
    if !private.ends_with('\n') {
        private.push('\n');
    }
    private.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    Some(Made { public: format!("ssh-ed25519 {} {comment}", STANDARD.encode(&blob)), private })
}

/// Bytes with their length before them.
fn text(to: &mut Vec<u8>, bytes: &[u8]) {
    // What is written here is far below 4 GiB.
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_two_halves_in_openssh_s_form() {
        let made = make("Generated-by-Nova").unwrap();
        assert!(made.public.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"));
        let body: String = made.private.lines().filter(|line| !line.starts_with("---")).collect();
        let bytes = STANDARD.decode(body).unwrap();
        assert!(bytes.starts_with(b"openssh-key-v1\0"));
        assert!(made.private.lines().all(|line| line.len() <= LINE));
        assert_ne!(make("a").unwrap().public, make("a").unwrap().public);
    }

    #[test]
    fn ssh_keygen_reads_it_where_it_is_installed() {
        use std::os::unix::fs::PermissionsExt;
        let made = make("me").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, &made.private).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let Ok(told) = std::process::Command::new("ssh-keygen").args(["-y", "-f"]).arg(&path).output() else {
            return;
        };
        assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), made.public);
    }
}
