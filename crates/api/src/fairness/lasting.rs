//! Watches and streams, which last: each user may have so many at one time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use yunfan_identity::UserInfo;
use yunfan_objects::ApiError;

/// Watches and streams that one user may have at one time. A program that follows every kind of a large cloud has some hundred.
const MOST: u32 = 4_000;

/// How many each user has.
#[derive(Clone, Default)]
pub(crate) struct Lasting(Arc<Mutex<HashMap<String, u32>>>);

/// One of them, until it is dropped.
pub(crate) struct Place {
    of: Lasting,
    user: String,
}

impl Lasting {
    /// A place for one more.
    ///
    /// # Errors
    /// 429 where the user has as many as one may have.
    pub(crate) fn enter(&self, user: &UserInfo) -> Result<Place, ApiError> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = users.entry(user.name.clone()).or_default();
        if *number >= MOST {
            let why =
                format!("user {:?} has {MOST} watches and streams already: end some of them", user.name);
            return Err(ApiError::too_many_requests(why, 1));
        }
        *number += 1;
        drop(users);
        Ok(Place { of: self.clone(), user: user.name.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = users.get_mut(&self.user) {
            *number -= 1;
            if *number == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_places_and_gets_them_back() {
        let lasting = Lasting::default();
        let user = |name: &str| UserInfo::authenticated(name, Vec::<String>::new());
        let mut all: Vec<Place> = (0..MOST).map(|_| lasting.enter(&user("ann")).expect("a place")).collect();
        assert_eq!(lasting.enter(&user("ann")).err().map(|error| error.code()), Some(429));
        lasting.enter(&user("bob")).expect("another's place");
        all.pop();
        lasting.enter(&user("ann")).expect("the place that was given back");
        all.clear();
        assert!(lasting.0.lock().expect("nobody panicked").is_empty());
    }
}
