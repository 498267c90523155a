//! A file of tokens and whose they are (`--token-auth-file`). It counts as it is: a token that is taken out of it is good no more.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use yunfan_identity::UserInfo;

use super::lines;
use crate::error::ConfigError;
use crate::files::{self, Followed};
use crate::kept::{Key, key};

/// By the hash of the token, so that the time of a look-up tells nothing of it.
type Users = HashMap<Key, UserInfo>;

pub(super) struct TokenFile(Arc<RwLock<Users>>);

impl TokenFile {
    /// Reads it, and follows it.
    pub(super) fn open(path: PathBuf) -> Result<Self, ConfigError> {
        let text = files::read(&path)?;
        let users = Arc::new(RwLock::new(read(&path, &text)?));
        let weak = Arc::downgrade(&users);
        let mut followed = Followed::new(path.clone(), text);
        tokio::spawn(async move {
            loop {
                let new = followed.look().await;
                let Some(users) = weak.upgrade() else { return };
                let Some(text) = new else { continue };
                match read(&path, &text) {
                    Ok(new) => *users.write().unwrap_or_else(PoisonError::into_inner) = new,
                    Err(error) => tracing::error!(%error, "the tokens stay as they were"),
                }
            }
        });
        Ok(Self(users))
    }

    /// Whose token it is.
    pub(super) fn user(&self, token: &str) -> Option<UserInfo> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key(&[token.as_bytes()])).cloned()
    }
}

fn read(path: &Path, text: &str) -> Result<Users, ConfigError> {
    let users = lines::users(path, text)?;
    let mut by_token = Users::with_capacity(users.len());
    for (token, user) in users {
        let name = user.name.clone();
        if by_token.insert(key(&[token.as_bytes()]), user).is_some() {
            let why = format!("the token of {name:?} stands in it twice; give each user another one");
            return Err(ConfigError::file(path, "", why));
        }
    }
    Ok(by_token)
}
