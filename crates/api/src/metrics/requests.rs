//! Requests: how many, how long, how many at this moment.

use std::collections::HashMap;
use std::fmt::Error;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry as Catalog;
use tokio_util::sync::CancellationToken;
use yunfan_objects::subresource::Subresource;

use crate::door::params::Params;
use crate::door::path::RequestInfo;
use crate::fairness::lasting;
use crate::sessions::Session;

/// Limits of the classes of durations, in seconds.
const SECONDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

/// Kinds that are told apart. Definitions come and go, and what was counted of them stays; beyond this, kinds are
/// counted together.
const PLACES: usize = 2000;

/// Paths that are no resources and are counted each for itself.
const PATHS: [&str; 12] = [
    "/",
    "/api",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
    "/yunfan",
];

/// Group, version and plural of a kind; all empty for paths that are no resources, and for what is not served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place(Arc<[String; 3]>);

impl EncodeLabelSet for Place {
    fn encode(&self, out: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        for (name, value) in ["group", "version", "resource"].iter().zip(self.0.iter()) {
            (*name, value.as_str()).encode(out.encode_label())?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Action {
    verb: &'static str,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DryRun {
    dry_run: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    dry_run: &'static str,
    code: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    request_kind: &'static str,
}

type Durations = Family<((Place, Action), DryRun), Histogram, fn() -> Histogram>;

/// What is counted of requests.
pub(crate) struct Requests {
    places: RwLock<HashMap<String, Place>>,
    nowhere: Place,
    total: Family<((Place, Action), Code), Counter>,
    durations: Durations,
    long: Family<(Place, Action), Gauge>,
    short: Family<Type, Gauge>,
    events: Family<Place, Counter>,
    dropped: Family<Place, Counter>,
}

/// What is counted of the watches on a kind.
#[derive(Clone)]
pub(crate) struct Watches {
    /// Events that were sent.
    pub(crate) events: Counter,
    /// Watches that were ended because their clients read too slowly.
    pub(crate) dropped: Counter,
}

impl Requests {
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        let new = Self {
            places: RwLock::default(),
            nowhere: Place(Arc::default()),
            total: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            long: Family::default(),
            short: Family::default(),
            events: Family::default(),
            dropped: Family::default(),
        };
        catalog.register(
            "apiserver_request",
            "Requests by verb, dry run, group, version, resource, subresource, scope and code",
            new.total.clone(),
        );
        catalog.register(
            "apiserver_request_duration_seconds",
            "Seconds until an answer began, or a watch or stream ended",
            new.durations.clone(),
        );
        catalog.register(
            "apiserver_longrunning_requests",
            "Watches and streams that are open",
            new.long.clone(),
        );
        catalog.register(
            "apiserver_current_inflight_requests",
            "Requests under way beside watches and streams, by whether they write",
            new.short.clone(),
        );
        catalog.register("apiserver_watch_events", "Events sent to watches", new.events.clone());
        catalog.register(
            "apiserver_terminated_watchers",
            "Watches ended because their clients read too slowly",
            new.dropped.clone(),
        );
        for request_kind in ["mutating", "readOnly"] {
            drop(new.short.get_or_create(&Type { request_kind }));
        }
        new
    }

    /// Counts a request as under way from now on. `served` says whether it is on a kind that there is.
    pub(crate) fn begin(
        self: &Arc<Self>,
        info: &RequestInfo,
        params: &Params,
        headers: &HeaderMap,
        served: bool,
        long: bool,
    ) -> UnderWay {
        let place = if served { self.place(info) } else { self.nowhere.clone() };
        let subresource = if info.is_resource {
            Subresource::named(&info.subresource).map_or("", |known| known.name)
        } else {
            PATHS.into_iter().rev().find(|path| info.path.starts_with(path)).unwrap_or_default()
        };
        let scope = if !info.is_resource {
            ""
        } else if !info.name.is_empty() || info.verb == "create" {
            "resource"
        } else if info.namespace.is_empty() {
            "cluster"
        } else {
            "namespace"
        };
        let connects = Subresource::named(&info.subresource).is_some_and(Subresource::connects);
        let verb = if connects { "CONNECT" } else { verb(&info.verb, headers) };
        let action = Action { verb, subresource, scope, component: "apiserver" };
        let dry_run = if params.all("dryRun").iter().any(|word| word == "All") { "All" } else { "" };
        let gauge = if long {
            self.long.get_or_create_owned(&(place.clone(), action))
        } else {
            let writes = !matches!(verb, "GET" | "LIST" | "HEAD" | "OPTIONS");
            let request_kind = if writes { "mutating" } else { "readOnly" };
            self.short.get_or_create_owned(&Type { request_kind })
        };
        gauge.inc();
        UnderWay {
            requests: self.clone(),
            key: (place, action),
            dry_run,
            gauge,
            started: Instant::now(),
            code: AtomicU16::new(0),
            place: OnceLock::new(),
            session: OnceLock::new(),
        }
    }

    /// What is counted of the watches on a kind.
    pub(crate) fn watches(&self, info: &RequestInfo) -> Watches {
        let place = self.place(info);
        Watches {
            events: self.events.get_or_create_owned(&place),
            dropped: self.dropped.get_or_create_owned(&place),
        }
    }

    fn place(&self, info: &RequestInfo) -> Place {
        let key = format!("{}/{}/{}", info.group, info.version, info.resource);
        if let Some(known) = self.places.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= PLACES {
            return self.nowhere.clone();
        }
        let names = [info.group.clone(), info.version.clone(), info.resource.clone()];
        places.entry(key).or_insert_with(|| Place(Arc::new(names))).clone()
    }
}

/// The verb as these metrics have it: mostly the HTTP method, but reads and writes of many are told apart.
fn verb(verb: &str, headers: &HeaderMap) -> &'static str {
    match verb {
        "get" => "GET",
        "head" => "HEAD",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => {
            let media_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
            if media_type.starts_with(b"application/apply-patch") { "APPLY" } else { "PATCH" }
        }
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "options" => "OPTIONS",
        _ => "OTHER",
    }
}

/// A request under way; it is counted when this is dropped.
pub(crate) struct UnderWay {
    requests: Arc<Requests>,
    key: (Place, Action),
    dry_run: &'static str,
    gauge: Gauge,
    started: Instant,
    /// The answer's; 0 for a request that its client gave up.
    code: AtomicU16,
    /// Its user's place for what lasts.
    place: OnceLock<lasting::Place>,
    /// What it has to end with.
    session: OnceLock<Session>,
}

impl UnderWay {
    /// Ends with this session, as far as it lasts.
    pub(crate) fn belong(&self, session: Session) {
        let _ = self.session.set(session);
    }

    /// Is cancelled when what lasts has to end; none where it ends by itself alone.
    pub(crate) fn end(&self) -> Option<CancellationToken> {
        self.session.get().map(Session::end)
    }

    /// Holds a place for as long as the request lasts.
    pub(crate) fn keep(&self, place: lasting::Place) {
        let _ = self.place.set(place);
    }

    /// Notes how it was answered.
    pub(crate) fn answered(&self, status: StatusCode) {
        self.code.store(status.as_u16(), Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.gauge.dec();
        let (dry_run, code) = (self.dry_run, self.code.load(Ordering::Relaxed));
        self.requests.total.get_or_create(&(self.key.clone(), Code { dry_run, code })).inc();
        let durations = self.requests.durations.get_or_create(&(self.key.clone(), DryRun { dry_run }));
        durations.observe(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn told(catalog: &Catalog) -> String {
        let mut out = String::new();
        encode(&mut out, catalog).expect("room");
        out
    }

    #[test]
    fn labels_are_those_of_what_is_served() {
        let mut catalog = Catalog::default();
        let requests = Arc::new(Requests::new(&mut catalog));
        let begin = |method: Method, path: &str, query: Option<&str>, served: bool| {
            let info = RequestInfo::parse(&method, path, false);
            requests.begin(&info, &Params::parse(query), &HeaderMap::new(), served, false)
        };
        let create = begin(Method::POST, "/api/v1/namespaces/a/pods", Some("dryRun=All"), true);
        assert!(
            told(&catalog).contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 1\n")
        );
        create.answered(StatusCode::CREATED);
        drop(create);
        drop(begin(Method::GET, "/apis/x.example/v1/anything/at/all", None, false));
        drop(begin(Method::GET, "/healthz/etcd", None, false));
        let text = told(&catalog);
        assert!(text.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 0\n"));
        for line in [
            "apiserver_request_total{group=\"\",version=\"v1\",resource=\"pods\",verb=\"POST\",subresource=\"\",scope=\"resource\",component=\"apiserver\",dry_run=\"All\",code=\"201\"} 1\n",
            "apiserver_request_total{group=\"\",version=\"\",resource=\"\",verb=\"GET\",subresource=\"\",scope=\"resource\",component=\"apiserver\",dry_run=\"\",code=\"0\"} 1\n",
            "subresource=\"/healthz\",scope=\"\",component=\"apiserver\",dry_run=\"\",code=\"0\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn kinds_beyond_the_limit_are_counted_together() {
        let requests = Requests::new(&mut Catalog::default());
        for kind in 0..PLACES {
            let info = RequestInfo { resource: format!("kind{kind}"), ..RequestInfo::default() };
            assert_ne!(requests.place(&info), requests.nowhere);
        }
        let one_more = RequestInfo { resource: "more".to_owned(), ..RequestInfo::default() };
        assert_eq!(requests.place(&one_more), requests.nowhere);
        let known = RequestInfo { resource: "kind7".to_owned(), ..RequestInfo::default() };
        assert_ne!(requests.place(&known), requests.nowhere);
    }
}
