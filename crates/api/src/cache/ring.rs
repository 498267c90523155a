//! The latest changes of one kind, and who waits for which of them. The ring is the queue of every watcher: each holds
//! a place in it, and one that falls off its end is told. So a slow watcher costs nothing, and a change is held once
//! however many watch.
//!
//! Who watches one namespace, one object or the objects with one value of a field (the Pods of one node) is woken for
//! those alone: such a watcher follows a [`Topic`], which is a queue of numbers of changes.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use yunfan_store::Revision;

use super::entry::{Entry, Fields};
use super::index::field_text;

/// Changes kept per kind, at most.
pub(super) const RING_EVENTS: usize = 8192;
/// Bytes of objects that the kept changes may hold per kind.
const RING_BYTES: usize = 32 << 20;
/// Ways of writing one change that are kept.
const MAX_FRAMES: usize = 16;
/// Written events are kept for this many of the latest changes: nearly all who watch have read them by then, and others
/// write them anew.
const FRAMED: usize = 512;

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeType {
    Added,
    Modified,
    Deleted,
}

impl ChangeType {
    /// The word in a watch event.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A way of writing an event: version, media type and shape in one text, the same for all watchers that want the same.
pub(crate) type Variant = Arc<str>;

/// A change's event as written for those who watch in one way.
type Frame = (ChangeType, Variant, Bytes);

/// One change of one object.
pub(crate) struct Change {
    pub(crate) kind: ChangeType,
    /// The object after the change; after a deletion its last state at the deletion's revision.
    pub(crate) entry: Arc<Entry>,
    /// The object before the change.
    pub(crate) prev: Option<Arc<Entry>>,
    frames: OnceLock<Box<Mutex<Vec<Frame>>>>,
    /// Whether it is too old for written events to be kept.
    settled: AtomicBool,
}

impl Change {
    /// What became of an object: `entry` is none when it was deleted. None if nothing was there and nothing is.
    pub(crate) fn new(
        revision: Revision,
        prev: Option<Arc<Entry>>,
        entry: Option<Arc<Entry>>,
    ) -> Option<Self> {
        let (kind, entry) = match (entry, &prev) {
            (Some(entry), Some(_)) => (ChangeType::Modified, entry),
            (Some(entry), None) => (ChangeType::Added, entry),
            (None, Some(prev)) => (ChangeType::Deleted, Arc::new(prev.at(revision))),
            (None, None) => return None,
        };
        Some(Self { kind, entry, prev, frames: OnceLock::new(), settled: AtomicBool::new(false) })
    }

    /// The same change with its states shown otherwise.
    pub(crate) fn presented(&self, entry: Arc<Entry>, prev: Option<Arc<Entry>>) -> Self {
        Self { kind: self.kind, entry, prev, frames: OnceLock::new(), settled: AtomicBool::new(false) }
    }

    /// A change made up to tell observers of an object as it is.
    pub(super) fn synthetic(kind: ChangeType, entry: Arc<Entry>) -> Arc<Self> {
        Arc::new(Self { kind, entry, prev: None, frames: OnceLock::new(), settled: AtomicBool::new(false) })
    }

    /// Drops the written events, and keeps none from now on.
    fn settle(&self) {
        self.settled.store(true, Ordering::Release);
        if let Some(frames) = self.frames.get() {
            *frames.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
        }
    }

    /// The watch event, encoded once for all watchers that want it in the same way. `as_type` differs from
    /// the change's own type when the object starts or stops to match a selector.
    pub(crate) fn frame(
        &self,
        as_type: ChangeType,
        variant: &Variant,
        encode: impl FnOnce() -> Bytes,
    ) -> Bytes {
        if self.settled.load(Ordering::Acquire) {
            return encode();
        }
        let mut frames = self.frames.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, bytes)) = frames.iter().find(|(kind, v, _)| *kind == as_type && v == variant) {
            return bytes.clone();
        }
        let bytes = encode();
        if frames.len() < MAX_FRAMES {
            frames.push((as_type, variant.clone(), bytes.clone()));
        }
        bytes
    }
}

/// Which changes of a kind a watcher is woken for. (It sees to the rest of its selectors itself.)
#[derive(Clone, Debug)]
pub(crate) enum Topic {
    /// All.
    All,
    /// Of objects below this prefix of keys, which ends with `/`: one namespace.
    Prefix(String),
    /// Of the object with this key.
    Key(String),
    /// Of objects that have this value at this path, or had it before the change.
    Field { path: String, value: String, selectable: Fields },
}

impl Topic {
    /// The name of its queue; none for [`Topic::All`]. Keys do not end with `/`, and paths do not begin with it.
    fn name(&self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Prefix(text) | Self::Key(text) => Some(text.clone()),
            Self::Field { path, value, .. } => Some(format!("{path}={value}")),
        }
    }

    fn has(&self, change: &Change) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => change.entry.key.starts_with(prefix),
            Self::Key(key) => *change.entry.key == **key,
            Self::Field { path, value, selectable } => {
                let has = |entry: &Entry| field_text(&entry.fields(selectable), path) == *value;
                has(&change.entry) || change.prev.as_ref().is_some_and(|prev| has(prev))
            }
        }
    }
}

/// What wakes watchers.
pub(super) type Signal = Arc<watch::Sender<()>>;

/// Numbers of the changes of one topic.
struct Queue {
    numbers: VecDeque<u64>,
    /// How many were taken off its front.
    dropped: u64,
    signal: Signal,
    watchers: usize,
}

/// The changes, and the topics that are followed.
pub(super) struct Ring {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// Number of the first change.
    first: u64,
    /// All changes after this revision are here.
    pub(super) floor: Revision,
    topics: HashMap<String, Queue>,
    /// The paths of the field topics, and how many topics each has.
    paths: Vec<(String, Fields, usize)>,
    signal: Signal,
}

/// A place in the ring, or in a topic.
pub(super) enum Place {
    All { next: u64 },
    Topic { topic: Topic, name: String, backlog: VecDeque<u64>, next: u64 },
}

impl Ring {
    pub(super) fn new(floor: Revision) -> Self {
        Self {
            changes: VecDeque::new(),
            bytes: 0,
            first: 1,
            floor,
            topics: HashMap::new(),
            paths: Vec::new(),
            signal: Signal::default(),
        }
    }

    /// Number of the change that comes next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    fn get(&self, number: u64) -> Option<&Arc<Change>> {
        self.changes.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The changes from this number on; none if some of them are gone.
    pub(super) fn since(&self, number: u64) -> Option<impl Iterator<Item = &Arc<Change>>> {
        let skip = usize::try_from(number.checked_sub(self.first)?).ok()?;
        Some(self.changes.iter().skip(skip))
    }

    /// Number of the first change after this revision; none if some of those are gone.
    pub(super) fn number_after(&self, revision: Revision) -> Option<u64> {
        let skip = self.changes.partition_point(|change| change.entry.revision <= revision);
        (revision >= self.floor).then(|| self.first + skip as u64)
    }

    /// Appends a change; who is to be woken is added to `wake`.
    pub(super) fn push(&mut self, change: Arc<Change>, wake: &mut Vec<Signal>) {
        let number = self.next();
        if !self.topics.is_empty() {
            self.publish(number, &change, wake);
        }
        self.bytes += change.entry.bytes.len();
        self.changes.push_back(change);
        if let Some(settled) = self.changes.len().checked_sub(FRAMED + 1) {
            self.changes[settled].settle();
        }
        while self.changes.len() > RING_EVENTS || self.bytes > RING_BYTES {
            let Some(old) = self.changes.pop_front() else { break };
            self.bytes -= old.entry.bytes.len();
            self.floor = old.entry.revision;
            self.first += 1;
        }
    }

    fn publish(&mut self, number: u64, change: &Change, wake: &mut Vec<Signal>) {
        let key = &change.entry.key;
        let prefix = &key[..=key.rfind('/').unwrap_or_default()];
        let mut names = vec![key.to_string(), prefix.to_owned()];
        for (path, selectable, _) in &self.paths {
            let now = field_text(&change.entry.fields(selectable), path);
            let before = change.prev.as_ref().map(|prev| field_text(&prev.fields(selectable), path));
            if let Some(before) = before.filter(|before| *before != now) {
                names.push(format!("{path}={before}"));
            }
            names.push(format!("{path}={now}"));
        }
        // A definition's old and new selectable fields are two sets with mostly the same paths.
        names.sort_unstable();
        names.dedup();
        let first = self.first;
        for name in names {
            let Some(queue) = self.topics.get_mut(&name) else { continue };
            while queue.numbers.front().is_some_and(|number| *number < first) {
                queue.numbers.pop_front();
                queue.dropped += 1;
            }
            queue.numbers.push_back(number);
            wake.push(queue.signal.clone());
        }
    }

    /// What wakes those who follow everything.
    pub(super) fn signal(&self) -> Signal {
        self.signal.clone()
    }

    /// Forgets all changes: every place becomes one that is gone.
    pub(super) fn clear(&mut self, floor: Revision) {
        self.first = self.next() + 1;
        self.changes.clear();
        self.bytes = 0;
        self.floor = floor;
        for queue in self.topics.values_mut() {
            queue.dropped += queue.numbers.len() as u64 + 1;
            queue.numbers.clear();
            queue.signal.send_replace(());
        }
        self.signal.send_replace(());
    }

    /// A place from which the topic's changes with this number and later ones follow; none if some are gone.
    pub(super) fn enter(&mut self, topic: Topic, number: u64) -> Option<(Place, watch::Receiver<()>)> {
        if number < self.first {
            return None;
        }
        let Some(name) = topic.name() else {
            return Some((Place::All { next: number }, self.signal.subscribe()));
        };
        let numbered = (number..).zip(self.since(number)?);
        let backlog = numbered.filter(|(_, change)| topic.has(change)).map(|(number, _)| number).collect();
        if let Topic::Field { path, selectable, .. } = &topic {
            match self.paths.iter_mut().find(|(p, s, _)| p == path && s == selectable) {
                Some((_, _, topics)) => *topics += 1,
                None => self.paths.push((path.clone(), selectable.clone(), 1)),
            }
        }
        let queue = self.topics.entry(name.clone()).or_insert_with(|| Queue {
            numbers: VecDeque::new(),
            dropped: 0,
            signal: Signal::default(),
            watchers: 0,
        });
        queue.watchers += 1;
        let next = queue.dropped + queue.numbers.len() as u64;
        let receiver = queue.signal.subscribe();
        Some((Place::Topic { topic, name, backlog, next }, receiver))
    }

    /// Gives up a place.
    pub(super) fn leave(&mut self, place: &Place) {
        let Place::Topic { topic, name, .. } = place else { return };
        if let Some(queue) = self.topics.get_mut(name) {
            queue.watchers -= 1;
            if queue.watchers == 0 {
                self.topics.remove(name);
            }
        }
        if let Topic::Field { path, selectable, .. } = topic
            && let Some(at) = self.paths.iter().position(|(p, s, _)| p == path && s == selectable)
        {
            self.paths[at].2 -= 1;
            if self.paths[at].2 == 0 {
                self.paths.swap_remove(at);
            }
        }
    }

    /// The next changes at a place, at most so many; none if some of them are gone.
    pub(super) fn take(&self, place: &mut Place, most: usize) -> Option<Vec<Arc<Change>>> {
        let (name, backlog, next) = match place {
            Place::All { next } => {
                let batch: Vec<_> = self.since(*next)?.take(most).cloned().collect();
                *next += batch.len() as u64;
                return Some(batch);
            }
            Place::Topic { name, backlog, next, .. } => (name, backlog, next),
        };
        let mut batch = Vec::new();
        while batch.len() < most
            && let Some(number) = backlog.pop_front()
        {
            batch.push(self.get(number)?.clone());
        }
        let queue = self.topics.get(name)?;
        let skip = usize::try_from(next.checked_sub(queue.dropped)?).ok()?;
        for number in queue.numbers.iter().skip(skip).take(most - batch.len()) {
            batch.push(self.get(*number)?.clone());
            *next += 1;
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_once_for_all_while_it_is_recent() {
        let mut ring = Ring::new(0);
        let mut push = |revision: Revision| {
            let entry = Arc::new(Entry::new("/registry/core/pods/a/b".into(), Bytes::new(), revision));
            let change = Arc::new(Change::new(revision, None, Some(entry)).expect("something is there"));
            ring.push(change.clone(), &mut Vec::new());
            change
        };
        let first = push(1);
        let variants: [Variant; 2] = ["v1".into(), "v2".into()];
        let written = |variant: &Variant, text: &'static str| {
            first.frame(ChangeType::Added, variant, || Bytes::from_static(text.as_bytes()))
        };
        assert_eq!(written(&variants[0], "a"), "a");
        assert_eq!(written(&variants[0], "b"), "a", "the same watch, the same bytes");
        assert_eq!(written(&variants[1], "c"), "c");
        for revision in 2..=FRAMED as u64 + 1 {
            push(revision);
        }
        assert_eq!(written(&variants[0], "d"), "d", "what is old is not kept");
        assert_eq!(written(&variants[0], "e"), "e");
    }
}
