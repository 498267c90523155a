//! Names and passwords from a file (`--basic-auth-file`): `PASSWORD,NAME,UID,"GROUPS"`. The password may stand there as it is, or as an
//! argon2 hash (`$argon2id$...`). Guessing is made slow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::request::Parts;
use yunfan_identity::UserInfo;
use yunfan_identity::password::{self, PasswordError};
use yunfan_identity::throttle::Throttle;

use super::lines;
use crate::error::ConfigError;
use crate::files::{self, Followed};
use crate::kept::{Kept, key};

/// How long a password that was right is not computed anew. A change of the file is seen at once all the same.
const RIGHT: Duration = Duration::from_secs(60);
/// Such passwords.
const MOST: usize = 1024;

type Users = HashMap<String, (String, UserInfo)>;

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicError {
    /// No such user, or not their password.
    Wrong,
    /// Too many wrong passwords; the next may be tried after this time.
    Later(Duration),
    /// Too many people sign in at this moment: whether it is right was not looked at.
    Busy,
}

pub(super) struct Basic {
    users: Arc<RwLock<Users>>,
    right: Kept<()>,
    throttle: Throttle,
}

impl Basic {
    /// Reads the file, and follows it.
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
                    Err(error) => tracing::error!(%error, "the passwords stay as they were"),
                }
            }
        });
        Ok(Self { users, right: Kept::new(MOST), throttle: Throttle::default() })
    }

    /// Whom a request from `address` is from, if it carries a name and a password.
    pub(super) async fn user(
        &self,
        request: &Parts,
        address: Option<IpAddr>,
    ) -> Result<Option<UserInfo>, BasicError> {
        let Some(value) = request.headers.get(AUTHORIZATION) else { return Ok(None) };
        let Ok(value) = value.to_str() else { return Err(BasicError::Wrong) };
        let Some((scheme, rest)) = value.split_once(' ') else { return Ok(None) };
        if !scheme.eq_ignore_ascii_case("basic") {
            return Ok(None);
        }
        let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let given = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (name, given) = given.ok_or(BasicError::Wrong)?;
        let known = self.users.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let stored = known.as_ref().map(|(stored, _)| stored.as_str()).unwrap_or_default();
        let right = key(&[name.as_bytes(), given.as_bytes(), stored.as_bytes()]);
        if self.right.get(&right).is_none() {
            let tried = self.throttle.enter((name, address)).await.map_err(BasicError::Later)?;
            if !self.matches(given, known.as_ref().map(|(stored, _)| stored.as_str())).await? {
                tried.failed();
                return Err(BasicError::Wrong);
            }
            tried.passed();
            self.right.insert(right, (), RIGHT);
        }
        known.map(|(_, user)| Some(user)).ok_or(BasicError::Wrong)
    }

    /// Where one password is kept as a hash, all take as long to check as that one: time must not tell who stands in the file.
    async fn matches(&self, given: &str, stored: Option<&str>) -> Result<bool, BasicError> {
        let hashed = stored.filter(|stored| is_hash(stored));
        let costly = self
            .users
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .any(|(stored, _)| is_hash(stored));
        let by_hash = match costly {
            true => checked(password::verify(given, hashed).await)?,
            false => false,
        };
        Ok(match stored {
            // The hashes differ everywhere if the passwords do, so the time of their comparison tells nothing.
            Some(plain) if hashed.is_none() => key(&[given.as_bytes()]) == key(&[plain.as_bytes()]),
            _ => by_hash,
        })
    }
}

fn is_hash(stored: &str) -> bool {
    stored.starts_with("$argon2")
}

/// A check that nobody had time for says nothing of the password.
fn checked(result: Result<bool, PasswordError>) -> Result<bool, BasicError> {
    match result {
        Ok(right) => Ok(right),
        Err(PasswordError::Busy) => Err(BasicError::Busy),
        Err(error) => {
            tracing::error!(%error, "a password of the file could not be checked");
            Ok(false)
        }
    }
}

fn read(path: &Path, text: &str) -> Result<Users, ConfigError> {
    let mut users = Users::new();
    for (password, user) in lines::users(path, text)? {
        let name = user.name.clone();
        if users.insert(name.clone(), (password, user)).is_some() {
            let why = format!("the user {name:?} stands in it twice; keep one line");
            return Err(ConfigError::file(path, "", why));
        }
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn request(name: &str, password: &str) -> Parts {
        let value = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        http::Request::builder().header(AUTHORIZATION, value).body(()).expect("a request").into_parts().0
    }

    #[tokio::test]
    async fn a_password_lets_in_and_guessing_is_made_slow() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let hash = password::hash("hidden").await.expect("a hash");
        writeln!(file, "open:sesame,ann,1,dev\n\"{hash}\",bob,2").expect("written");
        let basic = Basic::open(file.path().to_owned()).expect("users");
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        let ask = async |name: &str, password: &str| basic.user(&request(name, password), address).await;
        let ann = ask("ann", "open:sesame").await.expect("right").expect("a user");
        assert_eq!((ann.name.as_str(), ann.groups[0].as_str()), ("ann", "dev"));
        assert!(ask("bob", "hidden").await.expect("right").is_some());
        assert_eq!(ask("bob", &hash).await, Err(BasicError::Wrong), "the hash is no password");
        assert_eq!(ask("nobody", "").await, Err(BasicError::Wrong));
        let none = http::Request::builder().header(AUTHORIZATION, "Bearer x").body(()).expect("a request");
        assert_eq!(basic.user(&none.into_parts().0, address).await, Ok(None));
        let mut answers = Vec::new();
        for _ in 0..20 {
            answers.push(ask("ann", "wrong").await);
        }
        assert_eq!(answers[0], Err(BasicError::Wrong));
        assert!(matches!(answers[19], Err(BasicError::Later(_))), "{answers:?}");
        assert!(
            ask("ann", "open:sesame").await.is_ok(),
            "who was in a moment ago is not locked out by others"
        );
        assert_eq!(ask("nobody", "x").await, Err(BasicError::Wrong), "nor are others");
    }

    #[test]
    fn a_check_that_nobody_has_time_for_is_no_wrong_password() {
        assert_eq!(checked(Err(PasswordError::Busy)), Err(BasicError::Busy));
        assert_eq!(checked(Err(PasswordError::Stored)), Ok(false));
        assert_eq!(checked(Ok(true)), Ok(true));
    }

    #[tokio::test]
    async fn who_is_taken_out_of_the_file_is_out() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        writeln!(file, "secret,ann,1").expect("written");
        let basic = Basic::open(file.path().to_owned()).expect("users");
        assert!(basic.user(&request("ann", "secret"), None).await.is_ok());
        std::fs::write(file.path(), "other,ann,1").expect("written");
        let out = async {
            while basic.user(&request("ann", "secret"), None).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), out).await.expect("it is seen");
    }
}
