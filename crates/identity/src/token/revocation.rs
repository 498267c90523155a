//! Tokens that are revoked before their time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

use super::{Claims, MAX_LIFETIME, now_ms};

/// How many ids, users and projects are remembered, of each. At two days each that is one revocation every
/// 1.7 s without end.
const CAPACITY: usize = 100_000;

/// What stands for the whole cloud where a place is named.
pub const WHOLE: &str = "system";

/// No more can be remembered. Nothing is forgotten to make room: that would make a revoked token good again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{CAPACITY} revocations are in force already; wait for tokens to expire, or disable the user")]
pub struct RevocationsFull;

/// What has been revoked, in memory: single tokens by their id or audit id, and all tokens of a user or for a project
/// that were issued up to a moment. Entries are dropped when every token they could be about has expired.
pub struct Revocations {
    state: RwLock<State>,
    capacity: usize,
}

#[derive(Default)]
struct State {
    /// Token id or audit id -> when the entry can be dropped, seconds since 1970.
    ids: HashMap<String, u64>,
    /// User name -> tokens issued up to then are revoked, milliseconds since 1970.
    users: HashMap<String, u64>,
    /// The same by project id.
    projects: HashMap<String, u64>,
    /// The same by domain id.
    domains: HashMap<String, u64>,
    /// The same by user name and what the token is for.
    places: HashMap<(String, String), u64>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self { state: RwLock::default(), capacity: CAPACITY }
    }
}

impl Revocations {
    /// Revokes the token with this id (`jti`), or all that have this audit id, or come of the application credential or the trust
    /// with this id. `expires` is the token's own
    /// `exp`, seconds since 1970; the entry is kept until then.
    ///
    /// # Errors
    /// [`RevocationsFull`].
    pub fn revoke(&self, id: &str, expires: u64) -> Result<(), RevocationsFull> {
        let now = now_ms() / 1000;
        if expires <= now {
            return Ok(());
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.ids.len() >= self.capacity && !state.ids.contains_key(id) {
            state.ids.retain(|_, expires| *expires > now);
            if state.ids.len() >= self.capacity {
                return Err(RevocationsFull);
            }
        }
        let kept = state.ids.entry(id.to_owned()).or_default();
        *kept = (*kept).max(expires);
        Ok(())
    }

    /// Revokes all tokens of `user` that were issued at `not_before` (milliseconds since 1970) or earlier:
    /// the password was changed, the user was disabled.
    ///
    /// # Errors
    /// [`RevocationsFull`].
    pub fn revoke_user(&self, user: &str, not_before: u64) -> Result<(), RevocationsFull> {
        self.revoke_all(|state| &mut state.users, user.to_owned(), not_before)
    }

    /// Revokes all tokens for the project with this id that were issued at `not_before` (milliseconds since 1970) or
    /// earlier: the project was disabled.
    ///
    /// # Errors
    /// [`RevocationsFull`].
    pub fn revoke_project(&self, id: &str, not_before: u64) -> Result<(), RevocationsFull> {
        self.revoke_all(|state| &mut state.projects, id.to_owned(), not_before)
    }

    /// Revokes all tokens of users of the domain with this id, and all for it or its projects, that were issued at `not_before`
    /// (milliseconds since 1970) or earlier: the domain was disabled.
    ///
    /// # Errors
    /// [`RevocationsFull`].
    pub fn revoke_domain(&self, id: &str, not_before: u64) -> Result<(), RevocationsFull> {
        self.revoke_all(|state| &mut state.domains, id.to_owned(), not_before)
    }

    /// Revokes all tokens of `user` for a project or a domain (`place` is its id) or the whole cloud ([`WHOLE`]) that were issued at
    /// `not_before` (milliseconds since 1970) or earlier: a role there was taken away.
    ///
    /// # Errors
    /// [`RevocationsFull`].
    pub fn revoke_in(&self, user: &str, place: &str, not_before: u64) -> Result<(), RevocationsFull> {
        self.revoke_all(|state| &mut state.places, (user.to_owned(), place.to_owned()), not_before)
    }

    fn revoke_all<K: Eq + Hash>(
        &self,
        of: fn(&mut State) -> &mut HashMap<K, u64>,
        whose: K,
        not_before: u64,
    ) -> Result<(), RevocationsFull> {
        let oldest = now_ms().saturating_sub(MAX_LIFETIME * 1000);
        if not_before < oldest {
            return Ok(());
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let moments = of(&mut state);
        if moments.len() >= self.capacity && !moments.contains_key(&whose) {
            moments.retain(|_, at| *at >= oldest);
            if moments.len() >= self.capacity {
                return Err(RevocationsFull);
            }
        }
        let kept = moments.entry(whose).or_default();
        *kept = (*kept).max(not_before);
        Ok(())
    }

    /// Whether a token with these claims has been revoked.
    pub fn is_revoked(&self, claims: &Claims) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let over = |moment: &u64| claims.issued_at_ms() <= *moment;
        state.ids.contains_key(&claims.jti)
            || claims.audit_ids.iter().any(|id| state.ids.contains_key(id))
            || state.users.get(&claims.sub).is_some_and(over)
            || claims.project.as_ref().and_then(|project| state.projects.get(&project.id)).is_some_and(over)
            || claims.app_credential.as_ref().is_some_and(|own| state.ids.contains_key(&own.id))
            || claims.trust.as_ref().is_some_and(|trust| {
                state.ids.contains_key(&trust.id)
                    || state.users.get(&trust.trustee_name).is_some_and(over)
                    || state.domains.get(&trust.trustee_domain).is_some_and(over)
            })
            || (!state.places.is_empty()
                && claims.place().is_some_and(|place| {
                    state.places.get(&(claims.sub.clone(), place.to_owned())).is_some_and(over)
                }))
            || [&claims.domain, &claims.user_domain]
                .into_iter()
                .flatten()
                .any(|domain| state.domains.get(&domain.id).is_some_and(over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Scope;

    fn claims() -> Claims {
        Claims::new("ann", "1", 60)
    }

    #[test]
    fn ids_audit_ids_and_users_are_revoked() {
        let revocations = Revocations::default();
        let (one, two, mut three) = (claims(), claims(), claims());
        revocations.revoke(&one.jti, one.exp).unwrap();
        revocations.revoke(&two.audit_ids[0], two.exp).unwrap();
        assert!(revocations.is_revoked(&one) && revocations.is_revoked(&two));
        assert!(!revocations.is_revoked(&three));
        revocations.revoke_user("ann", three.issued_at_ms()).unwrap();
        assert!(revocations.is_revoked(&three));
        (three.iat, three.iat_ms) = (three.iat + 1, 0);
        assert!(!revocations.is_revoked(&three), "issued after the revocation");
    }

    #[test]
    fn a_users_tokens_for_one_place_are_revoked_together() {
        let revocations = Revocations::default();
        let (mut here, mut elsewhere, mut whole) = (claims(), claims(), claims());
        here.project = Some(Scope { id: "1".to_owned(), name: "p".to_owned() });
        elsewhere.project = Some(Scope { id: "2".to_owned(), name: "q".to_owned() });
        whole.system = true;
        revocations.revoke_in("ann", "1", here.issued_at_ms()).unwrap();
        assert!(revocations.is_revoked(&here));
        assert!(!revocations.is_revoked(&elsewhere) && !revocations.is_revoked(&whole));
        let mut other = here.clone();
        other.sub = "bob".to_owned();
        assert!(!revocations.is_revoked(&other));
        revocations.revoke_in("ann", WHOLE, whole.issued_at_ms()).unwrap();
        assert!(revocations.is_revoked(&whole));
    }

    #[test]
    fn tokens_for_a_project_are_revoked_together() {
        let revocations = Revocations::default();
        let scoped = |id: &str| {
            let mut claims = claims();
            claims.project = Some(Scope { id: id.to_owned(), name: "p".to_owned() });
            claims
        };
        let (here, mut later, elsewhere) = (scoped("1"), scoped("1"), scoped("2"));
        (later.iat, later.iat_ms) = (here.iat + 1, 0);
        revocations.revoke_project("1", here.issued_at_ms()).unwrap();
        assert!(revocations.is_revoked(&here));
        assert!(!revocations.is_revoked(&later), "issued after the project was enabled again");
        assert!(!revocations.is_revoked(&elsewhere) && !revocations.is_revoked(&claims()));
    }

    #[test]
    fn tokens_end_with_their_domain_and_with_what_they_were_got_by() {
        let revocations = Revocations::default();
        let (mut of_domain, mut by_trust, mut by_credential) = (claims(), claims(), claims());
        of_domain.user_domain = Some(Scope { id: "d".to_owned(), name: "d".to_owned() });
        by_trust.trust = Some(crate::token::Trust { id: "t".to_owned(), ..Default::default() });
        by_credential.app_credential =
            Some(crate::token::AppCredential { id: "c".to_owned(), ..Default::default() });
        let mut trusted = claims();
        trusted.trust = Some(crate::token::Trust { trustee_name: "eve".to_owned(), ..Default::default() });
        assert!(!revocations.is_revoked(&trusted));
        revocations.revoke_user("eve", trusted.issued_at_ms()).unwrap();
        assert!(revocations.is_revoked(&trusted), "who got it is gone");
        let all = [&of_domain, &by_trust, &by_credential];
        assert!(all.iter().all(|claims| !revocations.is_revoked(claims)));
        revocations.revoke_domain("d", of_domain.issued_at_ms()).unwrap();
        revocations.revoke("t", by_trust.exp).unwrap();
        revocations.revoke("c", by_credential.exp).unwrap();
        assert!(all.iter().all(|claims| revocations.is_revoked(claims)));
        assert!(!revocations.is_revoked(&claims()));
    }

    #[test]
    fn it_is_bounded_and_forgets_only_what_expired() {
        let revocations = Revocations { capacity: 2, ..Revocations::default() };
        let now = now_ms() / 1000;
        revocations.revoke("a", now + 60).unwrap();
        revocations.revoke("expired", now.saturating_sub(1)).unwrap();
        revocations.revoke("b", now + 60).unwrap();
        assert_eq!(revocations.revoke("c", now + 60), Err(RevocationsFull));
        revocations.revoke("a", now + 90).unwrap();
        revocations.state.write().unwrap().ids.insert("b".into(), now - 1);
        revocations.revoke("c", now + 60).unwrap();
    }
}
