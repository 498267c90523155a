//! Keeps events few, as clients of Kubernetes do (client-go, `tools/record`): many that are alike become one, and one object can't flood
//! the others with its own.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;

use crate::recorder::Happening;

/// What the message of an event begins with that stands for many.
pub(crate) const COMBINED: &str = "(combined from similar events): ";
/// So many messages that differ in nothing but themselves are events of their own …
const MOST_ALIKE: usize = 10;
/// … unless the last was so long ago.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Events about one object by one component at once, and how long it takes until one more may come.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Objects that are remembered.
const MAX_REMEMBERED: usize = 4096;

/// What happened lately.
#[derive(Default)]
pub(crate) struct Correlator {
    alike: HashMap<Like, Alike>,
    left: HashMap<About, Left>,
    hashes: RandomState,
}

/// Component and object: what it is, or its uid.
type About = (&'static str, String);
/// The same with severity and reason.
type Like = (About, bool, String);

struct Alike {
    /// Hashes of them.
    messages: HashSet<u64>,
    last: Timestamp,
}

/// How many events an object may still have.
struct Left {
    events: f64,
    at: Timestamp,
}

impl Correlator {
    /// What is to be written of a happening, and whether it stands for all that are like it; none where there were too many of its
    /// object.
    pub(crate) fn look(&mut self, mut happening: Happening) -> Option<(Happening, bool)> {
        let about = &happening.about;
        let object = about.uid.clone().unwrap_or_else(|| {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}/{}/{}", part(&about.kind), part(&about.namespace), part(&about.name))
        });
        let object = (happening.component, object);
        if !self.may(&object, happening.at) {
            return None;
        }
        let warning = happening.severity == crate::Severity::Warning;
        let like = (object, warning, happening.reason.to_string());
        let combined = self.is_one_of_many(like, &happening.message, happening.at);
        if combined {
            happening.message.insert_str(0, COMBINED);
        }
        Some((happening, combined))
    }

    fn may(&mut self, object: &About, now: Timestamp) -> bool {
        make_room(&mut self.left, |left| since(left.at, now) < REFILL);
        let left = self.left.entry(object.clone()).or_insert(Left { events: BURST, at: now });
        let passed = since(left.at, now).as_secs_f64() / REFILL.as_secs_f64();
        (left.events, left.at) = ((left.events + passed).min(BURST), now);
        let may = left.events >= 1.0;
        left.events -= f64::from(u8::from(may));
        may
    }

    fn is_one_of_many(&mut self, like: Like, message: &str, now: Timestamp) -> bool {
        make_room(&mut self.alike, |alike| since(alike.last, now) < FORGOTTEN);
        let message = self.hashes.hash_one(message);
        let alike = self.alike.entry(like).or_insert(Alike { messages: HashSet::new(), last: now });
        if since(alike.last, now) > FORGOTTEN {
            alike.messages.clear();
        }
        alike.last = now;
        if alike.messages.contains(&message) {
            return false;
        }
        if alike.messages.len() + 1 >= MOST_ALIKE {
            return true;
        }
        alike.messages.insert(message);
        false
    }
}

fn since(before: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(before)).unwrap_or_default()
}

/// Where there is too much, forgets what is old, and if that is not enough, all: what is counted anew is told a few times more.
fn make_room<K, V>(known: &mut HashMap<K, V>, is_young: impl Fn(&V) -> bool) {
    if known.len() >= MAX_REMEMBERED {
        known.retain(|_, one| is_young(one));
    }
    if known.len() >= MAX_REMEMBERED {
        known.clear();
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;
    use crate::Severity;

    fn happening(uid: &str, message: &str, at: Timestamp) -> Happening {
        Happening {
            component: "kubelet",
            about: ObjectReference { uid: Some(uid.to_owned()), ..ObjectReference::default() },
            severity: Severity::Warning,
            reason: "Failed".into(),
            message: message.to_owned(),
            at,
        }
    }

    #[test]
    fn many_that_are_alike_become_one() {
        let mut correlator = Correlator::default();
        let begun = Timestamp::now();
        let mut look = |message: String, at| {
            let (happening, combined) = correlator.look(happening("a", &message, at)).unwrap();
            assert_eq!(happening.message.starts_with(COMBINED), combined);
            combined
        };
        let seen: Vec<bool> = (0..12).map(|number| look(format!("try {number}"), begun)).collect();
        assert_eq!(seen.iter().filter(|combined| !**combined).count(), MOST_ALIKE - 1);
        assert!(seen[11] && !look("try 3".to_owned(), begun), "one that is known is itself");
        assert!(!look("try 99".to_owned(), begun + 601.seconds()), "they are forgotten");
    }

    #[test]
    fn one_object_does_not_flood_the_others() {
        let mut correlator = Correlator::default();
        let begun = Timestamp::now();
        let mut told = |uid: &str, at, times: usize| {
            (0..times).filter(|_| correlator.look(happening(uid, "same", at)).is_some()).count()
        };
        assert_eq!(told("a", begun, 100), 25);
        assert_eq!(told("b", begun, 3), 3);
        assert_eq!(told("a", begun + 300.seconds(), 10), 1);
        assert_eq!(told("a", begun + 100_000.seconds(), 100), 25);
    }
}
