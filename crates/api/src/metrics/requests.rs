//! Requests: how many, how long, how many at this moment.

use std::collections::HashMap;
use std::fmt::Error;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Catalog;
use tokio_util::sync::CancellationToken;
use yunfan_objects::subresource::Subresource;

use crate::door::params::Params;
use crate::door::path::RequestInfo;
use crate::fairness::lasting;
use crate::sessions::Session;

use super::histogram::Histogram;

/// Limits of the classes of durations, in seconds.
const SECONDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

/// Limits of the classes of durations that goals are set for, in seconds.
const GOALS: [f64; 21] = [
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// Limits of the classes of sizes, in bytes.
const BYTES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

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
struct End {
    code: u16,
}

/// What lists of a kind are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Listed(Place);

impl EncodeLabelSet for Listed {
    fn encode(&self, out: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        let [group, _, resource] = &*self.0.0;
        for (name, value) in [("group", group.as_str()), ("index", ""), ("resource", resource.as_str())] {
            (name, value).encode(out.encode_label())?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    request_kind: &'static str,
}

type Histograms = Family<(Place, Action), Histogram, fn() -> Histogram>;
type Durations = Family<((Place, Action), DryRun), Histogram, fn() -> Histogram>;

/// Codes whose counters are at hand: most answers have one of these. 0 is of requests that their clients gave up.
const COMMON: [u16; 8] = [200, 201, 0, 101, 304, 404, 409, 422];

/// What requests that are counted alike are counted by: looked up once for each of them.
struct Line {
    key: (Place, Action),
    dry_run: &'static str,
    durations: Histogram,
    goals: Histogram,
    /// Of reads alone.
    sizes: Option<Histogram>,
    /// Of lists alone.
    lists: Option<Counter>,
    /// Of [`COMMON`], once there was an answer with that code.
    codes: [OnceLock<Counter>; COMMON.len()],
}

/// What tells lines apart: the place by its address, since each is there once, and for good.
type LineKey = (usize, Action, &'static str);

/// What is counted of requests.
pub(crate) struct Requests {
    places: RwLock<HashMap<String, Place>>,
    lines: RwLock<HashMap<LineKey, Arc<Line>>>,
    nowhere: Place,
    total: Family<((Place, Action), Code), Counter>,
    durations: Durations,
    goals: Histograms,
    sizes: Histograms,
    ended: Family<((Place, Action), End), Counter>,
    lists: Family<Listed, Counter>,
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
            lines: RwLock::default(),
            nowhere: Place(Arc::default()),
            total: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(&SECONDS)),
            goals: Family::new_with_constructor(|| Histogram::new(&GOALS)),
            sizes: Family::new_with_constructor(|| Histogram::new(&BYTES)),
            ended: Family::default(),
            lists: Family::default(),
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
        new.tell_more(catalog);
        for request_kind in ["mutating", "readOnly"] {
            drop(new.short.get_or_create(&Type { request_kind }));
        }
        new
    }

    fn tell_more(&self, catalog: &mut Catalog) {
        catalog.register(
            "apiserver_request_sli_duration_seconds",
            "The same without the time that requests waited for their turn",
            self.goals.clone(),
        );
        catalog.register("apiserver_response_sizes", "Bytes of the answers to reads", self.sizes.clone());
        catalog.register(
            "apiserver_request_terminations",
            "Requests that the server gave up to protect itself",
            self.ended.clone(),
        );
        catalog.register(
            "apiserver_cache_list",
            "Lists, which are all of the watch cache",
            self.lists.clone(),
        );
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
            line: self.line(place, action, dry_run),
            requests: self.clone(),
            gauge,
            started: Instant::now(),
            code: AtomicU16::new(0),
            size: AtomicU64::new(UNKNOWN),
            waited: AtomicU64::new(0),
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

    fn line(&self, place: Place, action: Action, dry_run: &'static str) -> Arc<Line> {
        let at: LineKey = (Arc::as_ptr(&place.0).addr(), action, dry_run);
        if let Some(known) = self.lines.read().unwrap_or_else(PoisonError::into_inner).get(&at) {
            return known.clone();
        }
        let reads = matches!(action.verb, "GET" | "LIST");
        let lists = action.verb == "LIST" && place != self.nowhere;
        let key = (place, action);
        let line = Line {
            durations: self.durations.get_or_create_owned(&(key.clone(), DryRun { dry_run })),
            goals: self.goals.get_or_create_owned(&key),
            sizes: reads.then(|| self.sizes.get_or_create_owned(&key)),
            lists: lists.then(|| self.lists.get_or_create_owned(&Listed(key.0.clone()))),
            codes: Default::default(),
            key,
            dry_run,
        };
        let mut lines = self.lines.write().unwrap_or_else(PoisonError::into_inner);
        // There are no more than places, verbs, subresources and scopes together.
        lines.entry(at).or_insert_with(|| Arc::new(line)).clone()
    }

    /// The counter of answers with a code.
    fn coded(&self, line: &Line, code: u16) -> Counter {
        let count =
            || self.total.get_or_create_owned(&(line.key.clone(), Code { dry_run: line.dry_run, code }));
        match COMMON.iter().position(|common| *common == code) {
            Some(at) => line.codes[at].get_or_init(count).clone(),
            None => count(),
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

/// The size of an answer that is not known beforehand.
const UNKNOWN: u64 = u64::MAX;

/// A request under way; it is counted when this is dropped.
pub(crate) struct UnderWay {
    requests: Arc<Requests>,
    line: Arc<Line>,
    gauge: Gauge,
    started: Instant,
    /// The answer's; 0 for a request that its client gave up.
    code: AtomicU16,
    /// Bytes of the answer, before it is compressed.
    size: AtomicU64,
    /// Nanoseconds until it was its turn.
    waited: AtomicU64,
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

    /// Notes how it was answered, and with how many bytes, where that is known.
    pub(crate) fn answered(&self, status: StatusCode, size: Option<u64>) {
        self.code.store(status.as_u16(), Ordering::Relaxed);
        self.size.store(size.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Notes how long it waited for its turn.
    pub(crate) fn waited(&self, time: Duration) {
        self.waited.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.gauge.dec();
        let (line, code) = (&self.line, self.code.load(Ordering::Relaxed));
        self.requests.coded(line, code).inc();
        let elapsed = self.started.elapsed();
        line.durations.observe(elapsed.as_secs_f64());
        let waited = Duration::from_nanos(self.waited.load(Ordering::Relaxed));
        line.goals.observe(elapsed.saturating_sub(waited).as_secs_f64());
        let size = self.size.load(Ordering::Relaxed);
        if let Some(sizes) = line.sizes.as_ref().filter(|_| size != UNKNOWN) {
            #[allow(clippy::cast_precision_loss, reason = "a number to look at")]
            sizes.observe(size as f64);
        }
        if let Some(lists) = line.lists.as_ref().filter(|_| code == 200) {
            lists.inc();
        }
        if matches!(code, 429 | 504) {
            self.requests.ended.get_or_create(&(line.key.clone(), End { code })).inc();
        }
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
        create.answered(StatusCode::CREATED, Some(5));
        drop(create);
        let list = begin(Method::GET, "/api/v1/pods", None, true);
        list.answered(StatusCode::OK, Some(2000));
        list.waited(Duration::from_secs(3600));
        drop(list);
        let late = begin(Method::GET, "/api/v1/namespaces/a/pods/b", None, true);
        late.answered(StatusCode::GATEWAY_TIMEOUT, None);
        drop(late);
        drop(begin(Method::GET, "/apis/x.example/v1/anything/at/all", None, false));
        drop(begin(Method::GET, "/healthz/etcd", None, false));
        let text = told(&catalog);
        assert!(text.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 0\n"));
        for line in [
            "apiserver_request_total{group=\"\",version=\"v1\",resource=\"pods\",verb=\"POST\",subresource=\"\",scope=\"resource\",component=\"apiserver\",dry_run=\"All\",code=\"201\"} 1\n",
            "apiserver_request_total{group=\"\",version=\"\",resource=\"\",verb=\"GET\",subresource=\"\",scope=\"resource\",component=\"apiserver\",dry_run=\"\",code=\"0\"} 1\n",
            "apiserver_cache_list_total{group=\"\",index=\"\",resource=\"pods\"} 1\n",
            "apiserver_response_sizes_bucket{le=\"1000.0\",group=\"\",version=\"v1\",resource=\"pods\",verb=\"LIST\",subresource=\"\",scope=\"cluster\",component=\"apiserver\"} 0\n",
            "apiserver_response_sizes_sum{group=\"\",version=\"v1\",resource=\"pods\",verb=\"LIST\",subresource=\"\",scope=\"cluster\",component=\"apiserver\"} 2000.0\n",
            "apiserver_request_sli_duration_seconds_sum{group=\"\",version=\"v1\",resource=\"pods\",verb=\"LIST\",subresource=\"\",scope=\"cluster\",component=\"apiserver\"} 0.0\n",
            "component=\"apiserver\",code=\"504\"} 1\n",
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
