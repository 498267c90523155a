//! Whom a request is from, in the headers of a front proxy.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use yunfan_identity::UserInfo;
use yunfan_objects::ApiError;

use crate::door::path::percent_encode;

pub(super) const USER: HeaderName = HeaderName::from_static("x-remote-user");
pub(super) const UID: HeaderName = HeaderName::from_static("x-remote-uid");
pub(super) const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
/// What the names of all others begin with.
pub(super) const EXTRA: &str = "x-remote-extra-";

/// Says whom a request is from. Headers of these names that came with it must be gone.
///
/// # Errors
/// 500 for a name that no header can hold.
pub(super) fn tell(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), ApiError> {
    let value = |text: &str| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| ApiError::internal(format!("{text:?} cannot be told to another server")))
    };
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::try_from(format!("{EXTRA}{}", escaped(key)))
            .map_err(|_| ApiError::internal(format!("{key:?} cannot be told to another server")))?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

/// A key as part of a header's name: what such a name cannot hold is percent-encoded.
fn escaped(key: &str) -> String {
    percent_encode(key).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_whole() {
        let mut user = UserInfo::authenticated("jörg", ["staff"]);
        user.uid = "7".to_owned();
        user.extra.insert("iam.yunfan.io/a%b".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        let mut headers = HeaderMap::new();
        tell(&mut headers, &user).expect("told");
        assert_eq!((headers[USER].as_bytes(), &headers[UID]), ("jörg".as_bytes(), &HeaderValue::from(7)));
        let all = |name: &str| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(all("x-remote-group"), ["staff", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-iam.yunfan.io%2fa%25b"), ["x", "y"]);
        user.name = "a\nb".to_owned();
        assert_eq!(tell(&mut headers, &user).expect_err("no header").code(), 500);
    }
}
