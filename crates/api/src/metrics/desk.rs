//! The front desk: who came in, who was let through, and what of it will go.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Catalog;

use super::histogram::Histogram;
use crate::door::path::RequestInfo;

/// Users who are counted each for themselves, as kube-apiserver has them, and the two kinds that all others are: of names that
/// clients choose there may be any number.
const USERS: [&str; 6] = ["admin", "client", "kube_proxy", "kubelet", "email_id", "other"];
/// Where those are whose names are addresses of mail.
const EMAIL: usize = 4;
/// Where the rest is.
const OTHER: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct User {
    username: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Deprecated {
    group: String,
    removed_release: &'static str,
    resource: String,
    subresource: String,
    version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    code: u16,
    host: &'static str,
    method: &'static str,
}

/// Limits of the classes of durations, in seconds: each twice the one before.
const SECONDS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// Limits of the classes of the time that certificates have left, in seconds: from half an hour to a year.
const LEFT: [f64; 14] = [
    0.0,
    1_800.0,
    3_600.0,
    7_200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];

/// What is counted of one outcome.
struct Counted {
    // Upstream's names for these do not end as those of counters must here.
    attempts: Gauge,
    seconds: Histogram,
}

/// What is counted before anybody is answered.
pub(crate) struct Desk {
    known: Counted,
    unknown: Counted,
    users: [Gauge; USERS.len()],
    allowed: (Counter, Histogram),
    refused: (Counter, Histogram),
    left: Histogram,
    deprecated: Family<Deprecated, Gauge>,
    own: Family<Asked, Counter>,
}

type Durations = Family<Outcome, Histogram, fn() -> Histogram>;

impl Desk {
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        let attempts = Family::<Outcome, Gauge>::default();
        let durations = || Durations::new_with_constructor(|| Histogram::new(&SECONDS));
        let (known_after, judged_after) = (durations(), durations());
        let judged = Family::<Outcome, Counter>::default();
        let users = Family::<User, Gauge>::default();
        let counted = |result| Counted {
            attempts: attempts.get_or_create_owned(&Outcome { result }),
            seconds: known_after.get_or_create_owned(&Outcome { result }),
        };
        let decided = |result| {
            let outcome = Outcome { result };
            (judged.get_or_create_owned(&outcome), judged_after.get_or_create_owned(&outcome))
        };
        let new = Self {
            known: counted("success"),
            unknown: counted("failure"),
            users: USERS.map(|username| users.get_or_create_owned(&User { username })),
            allowed: decided("allowed"),
            refused: decided("no-opinion"),
            left: Histogram::new(&LEFT),
            deprecated: Family::default(),
            own: Family::default(),
        };
        catalog.register("authentication_attempts", "Requests by whether their user was known", attempts);
        let text = "Seconds until the user of a request was known";
        catalog.register("authentication_duration_seconds", text, known_after);
        catalog.register("authenticated_user_requests", "Requests by their user", users);
        catalog.register("authorization_attempts", "Requests by whether their user may ask for that", judged);
        let text = "Seconds until it was known whether a user may ask for that";
        catalog.register("authorization_duration_seconds", text, judged_after);
        let text = "Seconds that the certificates had left that requests came with";
        catalog.register("apiserver_client_certificate_expiration_seconds", text, new.left.clone());
        let text = "Deprecated APIs that were asked for";
        catalog.register("apiserver_requested_deprecated_apis", text, new.deprecated.clone());
        let text = "Requests that components of this process made";
        catalog.register("rest_client_requests", text, new.own.clone());
        new
    }

    /// A request whose user was known after so long, or is anonymous.
    pub(crate) fn came(&self, user: &str, after: Duration) {
        self.known.attempts.inc();
        self.known.seconds.observe(after.as_secs_f64());
        let at = match USERS.iter().position(|known| *known == user) {
            Some(known) => known,
            None if user.contains('@') => EMAIL,
            None => OTHER,
        };
        self.users[at].inc();
    }

    /// A request with a proof that was found to be wrong after so long.
    pub(crate) fn stayed_out(&self, after: Duration) {
        self.unknown.attempts.inc();
        self.unknown.seconds.observe(after.as_secs_f64());
    }

    /// A request whose user may ask for that, or not, which was known after so long.
    pub(crate) fn judged(&self, allowed: bool, after: Duration) {
        let (count, seconds) = if allowed { &self.allowed } else { &self.refused };
        count.inc();
        seconds.observe(after.as_secs_f64());
    }

    /// A request that came with a certificate which is good for so many seconds more.
    pub(crate) fn certified(&self, left: i64) {
        #[allow(clippy::cast_precision_loss, reason = "a number of seconds to look at")]
        self.left.observe(left as f64);
    }

    /// A request for one of Kubernetes' own kinds that will go.
    pub(crate) fn deprecated(&self, info: &RequestInfo) {
        let key = Deprecated {
            group: info.group.clone(),
            removed_release: "",
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            version: info.version.clone(),
        };
        self.deprecated.get_or_create(&key).set(1);
    }

    /// A component of this process was answered so.
    pub(crate) fn answered_own(&self, method: &'static str, code: u16) {
        self.own.get_or_create(&Asked { code, host: "localhost", method }).inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn users_are_counted_by_kinds_of_names() {
        let mut catalog = Catalog::default();
        let desk = Desk::new(&mut catalog);
        for user in ["admin", "a@example.com", "b@example.com", "anybody"] {
            desk.came(user, Duration::from_millis(3));
        }
        desk.stayed_out(Duration::ZERO);
        desk.judged(true, Duration::from_secs(3600));
        desk.certified(604_000);
        desk.answered_own("GET", 200);
        desk.deprecated(&RequestInfo { resource: "endpoints".to_owned(), ..RequestInfo::default() });
        let mut text = String::new();
        encode(&mut text, &catalog).expect("room");
        for line in [
            "authenticated_user_requests{username=\"admin\"} 1\n",
            "authenticated_user_requests{username=\"email_id\"} 2\n",
            "authenticated_user_requests{username=\"other\"} 1\n",
            "authentication_attempts{result=\"success\"} 4\n",
            "authentication_attempts{result=\"failure\"} 1\n",
            "authorization_attempts_total{result=\"allowed\"} 1\n",
            "authorization_attempts_total{result=\"no-opinion\"} 0\n",
            "authorization_duration_seconds_sum{result=\"allowed\"} 3600.0\n",
            "authentication_duration_seconds_bucket{le=\"0.002\",result=\"success\"} 0\n",
            "authentication_duration_seconds_bucket{le=\"0.004\",result=\"success\"} 4\n",
            "apiserver_client_certificate_expiration_seconds_bucket{le=\"345600.0\"} 0\n",
            "apiserver_client_certificate_expiration_seconds_bucket{le=\"604800.0\"} 1\n",
            "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"\"} 1\n",
            "rest_client_requests_total{code=\"200\",host=\"localhost\",method=\"GET\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
