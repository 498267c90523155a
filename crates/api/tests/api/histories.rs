//! What holds for any history of writes: the pages of a list are one moment, and a watch from a revision is the
//! difference between the state then and the state now, with and without selectors, over a restart too.

#![expect(clippy::print_stdout, reason = "the seed, to run a failed history again")]

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::{Desk, Watch};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITES: usize = 120;
const NAMES: usize = 25;

/// Name to label `l` of the objects that this test makes.
type State = BTreeMap<String, String>;

/// The states after each revision that a write of this test took.
#[derive(Default)]
struct History {
    states: Vec<(u64, State)>,
}

impl History {
    fn now(&self) -> State {
        self.states.last().map(|(_, state)| state.clone()).unwrap_or_default()
    }

    fn at(&self, revision: u64) -> State {
        let before = self.states.iter().rev().find(|(at, _)| *at <= revision);
        before.map(|(_, state)| state.clone()).unwrap_or_default()
    }
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a revision")
}

fn pair(object: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&object["metadata"]["name"]), text(&object["metadata"]["labels"]["l"]))
}

/// One random write, which always changes something.
async fn write(desk: &Desk, random: &mut StdRng, history: &mut History) {
    let mut state = history.now();
    let name = format!("m-{:03}", random.random_range(0..NAMES));
    let label = format!("v{}", random.random_range(0..3));
    let path = format!("{MAPS}/{name}");
    let written = match state.get(&name) {
        None => {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name,
                "labels": {"l": label, "made": "here"}}});
            desk.call("POST", MAPS, Some(object)).await.expect(201)
        }
        Some(_) if random.random_range(0..3) == 0 => {
            desk.call("DELETE", &path, None).await.expect(200);
            state.remove(&name);
            // An answer to a deletion has no revision of its own: a list does.
            let at = revision(&desk.call("GET", &format!("{MAPS}?limit=1"), None).await.expect(200));
            return history.states.push((at, state));
        }
        Some(_) => {
            let patch = json!({"metadata": {"labels": {"l": label}}, "data": {"n": random.random::<u32>().to_string()}});
            desk.patch("merge-patch+json", &path, patch.to_string()).await.expect(200)
        }
    };
    state.insert(name, label);
    history.states.push((revision(&written), state));
}

/// A selector, and whether an object matches it.
type Selector = (&'static str, fn(&str, &str) -> bool);

const SELECTORS: [Selector; 4] = [
    ("labelSelector=made%3Dhere", |_, _| true),
    ("labelSelector=l%3Dv1,made", |_, label| label == "v1"),
    ("labelSelector=l+notin+(v0),made", |_, label| label != "v0"),
    ("fieldSelector=metadata.name%3Dm-003", |name, _| name == "m-003"),
];

fn selected(state: &State, matches: fn(&str, &str) -> bool) -> State {
    state.iter().filter(|(name, label)| matches(name, label)).map(|(n, l)| (n.clone(), l.clone())).collect()
}

/// Applies events up to and with those of a revision; the watch must have a bookmark or an event behind it.
async fn follow(watch: &mut Watch, state: &mut State, until: u64) {
    while let Some(event) = watch.next().await {
        let at = revision(&event["object"]);
        if event["type"] == "BOOKMARK" {
            assert!(at >= until, "nothing was left out");
            return;
        }
        let (name, label) = pair(&event["object"]);
        match event["type"].as_str().expect("a type") {
            "ADDED" => assert!(state.insert(name, label).is_none(), "{event}"),
            "MODIFIED" => assert!(state.insert(name, label).is_some(), "{event}"),
            "DELETED" => assert!(state.remove(&name).is_some(), "{event}"),
            other => panic!("{other}: {event}"),
        }
    }
    panic!("the watch ended without a bookmark");
}

/// One watch from a revision, with this selector: it must lead to what is there now.
async fn check_watch(desk: &Desk, history: &History, (selector, matches): Selector, from: u64) {
    let until = history.states.last().expect("some writes").0;
    // The last word before its end is a bookmark.
    let query =
        format!("watch=1&{selector}&resourceVersion={from}&allowWatchBookmarks=true&timeoutSeconds=3");
    let mut watch = desk.watch(&format!("{MAPS}?{query}")).await;
    let mut state = selected(&history.at(from), matches);
    follow(&mut watch, &mut state, until).await;
    assert_eq!(state, selected(&history.now(), matches), "{selector} from {from}");
}

async fn check_watches(desk: &Desk, random: &mut StdRng, history: &History) {
    let mut checks = Vec::new();
    for selector in SELECTORS {
        for _ in 0..4 {
            let from = history.states[random.random_range(0..history.states.len())].0;
            checks.push(check_watch(desk, history, selector, from));
        }
    }
    futures::future::join_all(checks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_the_difference_between_two_states() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = History::default();
    let desk = Desk::new().await;
    for _ in 0..WRITES {
        write(&desk, &mut random, &mut history).await;
    }
    check_watches(&desk, &mut random, &history).await;
    let dir = desk.close().await;
    let desk = Desk::open(dir.path()).await;
    for _ in 0..10 {
        write(&desk, &mut random, &mut history).await;
    }
    check_watches(&desk, &mut random, &history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_a_list_are_one_moment() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = History::default();
    let desk = Desk::new().await;
    for _ in 0..WRITES / 2 {
        write(&desk, &mut random, &mut history).await;
    }
    for (selector, matches) in SELECTORS {
        let mut seen = State::new();
        let mut token = String::new();
        let mut first = None;
        loop {
            let limit = random.random_range(1..6);
            let path = format!("{MAPS}?{selector}&limit={limit}&continue={token}");
            let page = desk.call("GET", &path, None).await.expect(200);
            let at = *first.get_or_insert(revision(&page));
            assert_eq!(revision(&page), at);
            let items = page["items"].as_array().expect("items");
            assert!(items.len() <= limit);
            seen.extend(items.iter().map(pair));
            match page["metadata"]["continue"].as_str() {
                Some(next) => token = next.to_owned(),
                None => break,
            }
            for _ in 0..random.random_range(0..3) {
                write(&desk, &mut random, &mut history).await;
            }
        }
        let at = first.expect("a page");
        assert_eq!(seen, selected(&history.at(at), matches), "{selector} at {at}");
        let exact = format!("{MAPS}?{selector}&resourceVersion={at}&resourceVersionMatch=Exact");
        let whole = desk.call("GET", &exact, None).await.expect(200);
        let whole: State = whole["items"].as_array().expect("items").iter().map(pair).collect();
        assert_eq!(whole, seen);
    }
}
