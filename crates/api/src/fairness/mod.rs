//! Fairness: no client's requests keep those of others waiting. A request is one of a flow ([`schemas`]), which waits at a level
//! ([`queues`]), as FlowSchemas and PriorityLevelConfigurations say, what they say counting from the moment it is stored; and then, if its
//! flow has had many lately, for its turn ([`turns`]).
//!
//! What lasts (watches and streams) takes a seat until it has begun, and one of its user's own places until it ends.

pub(crate) mod lasting;
mod metrics;
mod queues;
mod schemas;
mod status;
mod turns;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use yunfan_identity::UserInfo;
use yunfan_objects::ApiError;

use crate::cache::{Cache, Change, ChangeType};
use crate::door::path::RequestInfo;
use crate::keys;

use lasting::Lasting;
use metrics::Families;
use queues::{Entry, Levels, Queuing, Refused, Seat, Share};
use schemas::{Schema, level_of, sorted};
use turns::Turns;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// A request waits for its seat no longer than this: a quarter of the time that a request has.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The place of levels without a limit.
const EXEMPT: u32 = 0;
/// Who gets requests that no schema takes.
const CATCH_ALL: &str = "catch-all";
/// Objects of a list that take one more seat, and the most seats of one request.
const PER_SEAT: usize = 100;
const WIDEST: u32 = 10;

/// Lets requests in.
pub(crate) struct Fairness {
    total: u32,
    levels: Mutex<Levels>,
    /// The schemas in the order in which they are asked.
    book: RwLock<Arc<Vec<Arc<Schema>>>>,
    told: Mutex<Told>,
    turns: Arc<Turns>,
    families: Families,
    pub(crate) lasting: Lasting,
    /// An object has changed: its status may have to.
    changed: Notify,
    /// Held by who writes statuses.
    settling: tokio::sync::Mutex<()>,
}

/// The objects by name, and the numbers of levels.
#[derive(Default)]
struct Told {
    schemas: BTreeMap<String, Value>,
    levels: BTreeMap<String, Value>,
    places: BTreeMap<String, u32>,
    last: u32,
}

/// A request that was let in; its seat is given back when this is dropped.
pub(crate) struct Ticket {
    fairness: Arc<Fairness>,
    schema: Arc<Schema>,
    seat: Option<Seat>,
    since: Instant,
}

/// What a client is told of the flow that its request was one of.
#[derive(Clone, Debug)]
pub(crate) struct Flow(Arc<Schema>);

impl Flow {
    /// The uids of the schema and of the level.
    pub(crate) fn uids(&self) -> (&str, &str) {
        (&self.0.uid, &self.0.place.1)
    }

    /// Whether its level has no limits.
    pub(crate) fn is_exempt(&self) -> bool {
        self.0.place.0 == EXEMPT
    }
}

impl Fairness {
    /// For a server with so many seats, which goes by the objects in this cache.
    pub(crate) fn new(cache: &Cache, seats: usize) -> Arc<Self> {
        let fairness = Arc::new(Self {
            total: u32::try_from(seats).unwrap_or(u32::MAX),
            levels: Mutex::default(),
            book: RwLock::default(),
            told: Mutex::default(),
            turns: Arc::new(Turns::new()),
            families: Families::new(),
            lasting: Lasting::default(),
            changed: Notify::new(),
            settling: tokio::sync::Mutex::default(),
        });
        let prefixes = [SCHEMAS, LEVELS].map(|plural| (keys::kind_prefix(GROUP, plural), plural));
        let (target, known) = (Arc::downgrade(&fairness), prefixes.clone());
        cache.observe(Box::new(move |prefix: &str, change: &Change| {
            let Some((prefix, plural)) = known.iter().find(|(known, _)| known == prefix) else { return };
            let Some(target) = target.upgrade() else { return };
            let (_, name) = keys::split_name(prefix, &change.entry.key);
            let object = (change.kind != ChangeType::Deleted).then(|| change.entry.decode_stored());
            target.note(plural, name, object);
            target.rebuild();
        }));
        for (prefix, plural) in &prefixes {
            for entry in cache.kind(prefix).list(prefix).entries {
                let (_, name) = keys::split_name(prefix, &entry.key);
                fairness.note(plural, name, Some(entry.decode_stored()));
            }
        }
        fairness.rebuild();
        fairness
    }

    /// Adds what is counted to what is told.
    pub(crate) fn register(&self, catalog: &mut prometheus_client::registry::Registry) {
        self.families.register(catalog);
    }

    /// The flow of a request; none before a cloud has its first schemas.
    pub(crate) fn flow(&self, user: &UserInfo, info: &RequestInfo) -> Option<Flow> {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner).clone();
        let found = book.iter().find(|schema| schema.takes(user, info));
        // Whoever is in no group at all, as some impersonate, is in no rule either.
        let found = found.or_else(|| book.iter().find(|schema| schema.name == CATCH_ALL));
        found.cloned().map(Flow)
    }

    /// Lets a request of this flow in, at once or when it is its turn. A list of `objects` takes the more seats the longer it is.
    ///
    /// # Errors
    /// 429: its level or its queues are full, or its turn did not come in time.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        flow: &Flow,
        user: &UserInfo,
        info: &RequestInfo,
        objects: usize,
    ) -> Result<Ticket, ApiError> {
        let schema = &flow.0;
        if flow.is_exempt() {
            return Ok(self.ticket(schema, None));
        }
        let width = u32::try_from(objects / PER_SEAT).unwrap_or(WIDEST).clamp(1, WIDEST);
        let number = schema.flow(user, info);
        let entry = self.queues().enter(schema.place.0, number, width);
        let ticket = match entry {
            Ok(Entry::Now(seat)) => self.ticket(schema, Some(seat)),
            Ok(Entry::Later(receiver, place)) => {
                self.wait(schema, Waiting::new(self, receiver, place)).await?
            }
            Err(why) => return Err(self.refuse(schema, why)),
        };
        self.turns.wait(number).await;
        Ok(ticket)
    }

    async fn wait(
        self: &Arc<Self>,
        schema: &Arc<Schema>,
        mut waiting: Waiting<'_>,
    ) -> Result<Ticket, ApiError> {
        let begun = Instant::now();
        schema.counters.inqueue.inc();
        // Also when the client gives up: then nothing below is reached.
        let _counted = Counted(schema);
        let seat = tokio::time::timeout(LONGEST_WAIT, &mut waiting.receiver).await;
        let waited = |served| {
            self.families.waited(&schema.name, &schema.level, served, begun.elapsed().as_secs_f64());
        };
        if let Ok(Ok(seat)) = seat {
            waiting.over = true;
            waited(true);
            return Ok(self.ticket(schema, Some(seat)));
        }
        waited(false);
        Err(self.refuse(schema, Refused::Late))
    }

    fn ticket(self: &Arc<Self>, schema: &Arc<Schema>, seat: Option<Seat>) -> Ticket {
        schema.counters.dispatched.inc();
        schema.counters.executing.inc();
        Ticket { fairness: self.clone(), schema: schema.clone(), seat, since: Instant::now() }
    }

    fn refuse(&self, schema: &Schema, why: Refused) -> ApiError {
        self.families.refused(&schema.name, &schema.level, why);
        ApiError::too_many_requests("too many requests, please try again later", 1)
    }

    fn queues(&self) -> MutexGuard<'_, Levels> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, plural: &str, name: &str, object: Option<Value>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = if plural == SCHEMAS { &mut told.schemas } else { &mut told.levels };
        match object {
            Some(object) => drop(objects.insert(name.to_owned(), object)),
            None => drop(objects.remove(name)),
        }
    }

    /// Goes by what the objects say now.
    fn rebuild(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = &mut *told;
        let shares: u64 = told.levels.values().map(shares_of).sum();
        let mut limits = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (name, object) in &told.levels {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            if object["spec"]["type"] == "Exempt" {
                places.insert(name.clone(), (EXEMPT, uid));
                continue;
            }
            // One that is made again under its name is another.
            let place = *told.places.entry(uid.clone()).or_insert_with(|| {
                told.last += 1;
                told.last
            });
            let share = share_of(object, self.total, shares);
            self.families.level(name, share.nominal, share.most);
            limits.insert(place, share);
            places.insert(name.clone(), (place, uid));
        }
        told.places.retain(|_, place| limits.contains_key(place));
        let schemas = told.schemas.iter().filter_map(|(name, object)| {
            let level = level_of(object);
            let place = places.get(&level)?.clone();
            Some(Schema::of(object, place, self.families.of(name, &level)))
        });
        let book = Arc::new(sorted(schemas.collect()));
        let mut before = self.book.write().unwrap_or_else(PoisonError::into_inner);
        for gone in before.iter() {
            let stays = book.iter().any(|now| now.name == gone.name && now.level == gone.level);
            if !stays {
                self.families.forget(&gone.name, &gone.level);
            }
            if !places.contains_key(&gone.level) {
                self.families.forget_level(&gone.level);
            }
        }
        *before = book;
        drop(before);
        self.queues().set(self.total, &limits);
        self.changed.notify_one();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.schema.counters.executing.dec();
        if let Some(seat) = self.seat.take() {
            self.fairness.queues().leave(seat, self.since.elapsed());
        }
    }
}

/// A request that waits. Dropping it gives up its place, and the seat that came too late.
struct Waiting<'a> {
    fairness: &'a Fairness,
    receiver: oneshot::Receiver<Seat>,
    place: (u32, usize),
    over: bool,
}

impl<'a> Waiting<'a> {
    fn new(fairness: &'a Fairness, receiver: oneshot::Receiver<Seat>, place: (u32, usize)) -> Self {
        Self { fairness, receiver, place, over: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.receiver.close();
        let mut queues = self.fairness.queues();
        match self.receiver.try_recv() {
            Ok(seat) => queues.leave(seat, Duration::ZERO),
            Err(_) => queues.give_up(self.place),
        }
    }
}

/// Counts a request as waiting, until it is dropped.
struct Counted<'a>(&'a Schema);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.counters.inqueue.dec();
    }
}

fn shares_of(level: &Value) -> u64 {
    let (kind, default) = if level["spec"]["type"] == "Exempt" { ("exempt", 0) } else { ("limited", 30) };
    level["spec"][kind]["nominalConcurrencyShares"].as_u64().unwrap_or(default)
}

/// What a level has of so many seats, where all levels together have so many shares (API reference, `nominalConcurrencyShares`,
/// `lendablePercent` and `borrowingLimitPercent`).
fn share_of(level: &Value, total: u32, shares: u64) -> Share {
    let limited = &level["spec"]["limited"];
    let part =
        |of: u64, by: u64, in_all: u64| u32::try_from((of * by).div_ceil(in_all.max(1))).unwrap_or(u32::MAX);
    let nominal = part(u64::from(total), shares_of(level), shares);
    let percent = |key: &str| limited[key].as_u64();
    // Rounded to the nearest, as there.
    let of_nominal =
        |percent: u64| u32::try_from((u64::from(nominal) * percent + 50) / 100).unwrap_or(u32::MAX);
    let lent = percent("lendablePercent").map_or(0, of_nominal).min(nominal);
    let borrowed = percent("borrowingLimitPercent").map_or(total, of_nominal);
    let queuing = &limited["limitResponse"]["queuing"];
    let number =
        |key: &str, default: u64| usize::try_from(queuing[key].as_u64().unwrap_or(default)).unwrap_or(1);
    Share {
        nominal,
        kept: nominal - lent,
        most: nominal.saturating_add(borrowed).min(total.max(nominal)),
        queuing: (limited["limitResponse"]["type"] == "Queue").then(|| Queuing {
            queues: number("queues", 64),
            hand: number("handSize", 8),
            length: number("queueLengthLimit", 50),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn seats_are_shared_out_as_kubernetes_does() {
        let level = |shares: u32, more: Value| {
            let mut limited =
                json!({"nominalConcurrencyShares": shares, "limitResponse": {"type": "Reject"}});
            for (key, value) in more.as_object().into_iter().flatten() {
                limited[key] = value.clone();
            }
            json!({"spec": {"type": "Limited", "limited": limited}})
        };
        let plain = share_of(&level(20, json!({"lendablePercent": 50})), 600, 245);
        assert_eq!((plain.nominal, plain.kept, plain.most, plain.queuing), (49, 24, 600, None));
        let bounded = share_of(&level(5, json!({"borrowingLimitPercent": 100})), 600, 245);
        assert_eq!((bounded.nominal, bounded.kept, bounded.most), (13, 13, 26));
        let none = share_of(&level(0, json!({"borrowingLimitPercent": 0})), 600, 245);
        assert_eq!((none.nominal, none.most), (0, 0));
    }
}
