//! Each known failure of delta configuration streams has its test here; the property test drives random histories.

use proptest::prelude::*;
use trunkline_proto::dataplane::v1::{Resource, ResourceRejection};

use super::*;

/// A session with the worker at its far end, on one virtual clock.
struct Pair {
    session: Session,
    catalogue: Catalogue,
    now: Instant,
    /// What the worker holds.
    worker: BTreeMap<Key, i64>,
    /// Versions the worker refuses.
    refuses: BTreeSet<(Key, i64)>,
    /// Names the worker refuses in any version.
    refuses_always: BTreeSet<Key>,
    unanswered: Option<ConfigurationPush>,
    ended: Option<StreamEnd>,
    heartbeats: usize,
    pushes: usize,
}

impl Pair {
    fn new() -> Self {
        let catalogue = Catalogue::empty("store-1", 0);
        let now = Instant::now();
        let session = connect(&catalogue, BTreeMap::new(), now);
        Self {
            session,
            catalogue,
            now,
            worker: BTreeMap::new(),
            refuses: BTreeSet::new(),
            refuses_always: BTreeSet::new(),
            unanswered: None,
            ended: None,
            heartbeats: 0,
            pushes: 0,
        }
    }

    /// A pair whose worker is in step with `names`.
    fn synced(names: &[&str]) -> Self {
        let mut pair = Self::new();
        for name in names {
            pair.change(&trunk(name));
        }
        pair.hello();
        pair.settle();
        pair
    }

    fn change(&mut self, key: &Key) -> i64 {
        let version = self.catalogue.revision() + 1;
        self.catalogue.put(
            key.clone(),
            Resource {
                key: Some(key.to_wire()),
                version,
                body: None,
            },
        );
        self.publish(version);
        version
    }

    fn remove(&mut self, key: &Key) {
        let revision = self.catalogue.revision() + 1;
        self.catalogue.remove(key, revision);
        self.publish(revision);
    }

    fn publish(&mut self, revision: i64) {
        self.catalogue.advance(revision);
        self.session
            .handle_catalogue(Arc::new(self.catalogue.clone()), self.now);
        self.pump();
    }

    fn hello(&mut self) {
        self.hello_of("store-1");
    }

    fn hello_of(&mut self, store_id: &str) {
        let held: Vec<_> = self
            .worker
            .iter()
            .map(|(key, version)| HeldResource {
                key: Some(key.to_wire()),
                version: *version,
            })
            .collect();
        self.session.handle_hello(store_id, &held, self.now);
        self.pump();
    }

    /// The worker comes back on a new stream; an unanswered push is lost.
    fn reconnect(&mut self) {
        self.unanswered = None;
        self.ended = None;
        self.session = connect(&self.catalogue, self.session.parked().clone(), self.now);
        self.hello();
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.session.handle_timeout(self.now);
        self.pump();
    }

    fn pump(&mut self) {
        while let Some(effect) = self.session.poll_effect() {
            assert!(self.ended.is_none(), "{effect:?} after the end");
            match effect {
                Effect::Push(push) => {
                    assert!(self.unanswered.is_none(), "one unanswered push at a time");
                    for removal in &push.removals {
                        let key = Key::from_wire(removal).unwrap();
                        assert!(self.worker.contains_key(&key), "{key:?} is removed but not held");
                    }
                    self.pushes += 1;
                    self.unanswered = Some(push);
                }
                Effect::Heartbeat => self.heartbeats += 1,
                Effect::End(cause, _) => self.ended = Some(cause),
                Effect::Answered(_) | Effect::Refused(_) => {}
            }
        }
    }

    /// The worker applies the push and answers it; the names that were upserted.
    fn answer(&mut self) -> Vec<String> {
        let push = self.unanswered.take().expect("a push to answer");
        let mut rejections = Vec::new();
        for resource in &push.upserts {
            let wire = resource.key.clone().unwrap();
            let key = Key::from_wire(&wire).unwrap();
            if self.refuses.contains(&(key.clone(), resource.version)) || self.refuses_always.contains(&key) {
                let (key, version) = (Some(wire), resource.version);
                rejections.push(ResourceRejection {
                    key,
                    version,
                    error: "no".into(),
                });
            } else {
                self.worker.insert(key, resource.version);
            }
        }
        for removal in &push.removals {
            self.worker.remove(&Key::from_wire(removal).unwrap());
        }
        let result = PushResult {
            nonce: push.nonce,
            revision: push.revision,
            rejections,
        };
        self.session.handle_push_result(&result, self.now, 1_000);
        self.pump();
        push.upserts
            .into_iter()
            .map(|resource| resource.key.unwrap().name)
            .collect()
    }

    fn settle(&mut self) {
        for _ in 0..1_000 {
            if self.unanswered.is_none() {
                return;
            }
            self.answer();
        }
        panic!("pushes never end");
    }

    fn sync(&self, key: &Key) -> Option<Sync> {
        self.session
            .resources(&self.catalogue)
            .find(|(other, ..)| *other == key)
            .map(|(_, sync, ..)| sync)
    }
}

fn connect(catalogue: &Catalogue, parked: BTreeMap<Key, Parked>, now: Instant) -> Session {
    Session::new(
        "workers/w".into(),
        Limits::default(),
        Arc::new(catalogue.clone()),
        parked,
        now,
    )
}

fn trunk(id: &str) -> Key {
    Key::new(ResourceKind::Trunk, &format!("trunks/{id}"))
}

fn line(trunk: &str, id: &str) -> Key {
    Key::new(ResourceKind::Line, &format!("trunks/{trunk}/lines/{id}"))
}

#[test]
fn the_first_push_is_the_whole_configuration() {
    let mut pair = Pair::new();
    pair.change(&trunk("a"));
    pair.change(&trunk("b"));
    pair.hello();
    let push = pair.unanswered.clone().unwrap();
    assert_eq!((push.upserts.len(), push.removals.len(), push.revision), (2, 0, 2));
    assert_eq!(push.store_id, "store-1");
    pair.settle();
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Synced);
}

#[test]
fn an_empty_configuration_is_still_pushed_so_that_the_worker_knows_it_is_in_step() {
    let mut pair = Pair::new();
    pair.hello();
    assert_eq!(pair.answer(), [""; 0]);
    assert_eq!(pair.session.confirmed_revision(), 0);
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Synced);
}

#[test]
fn a_refused_resource_is_not_resent_until_it_changes() {
    let mut pair = Pair::synced(&["a"]);
    let version = pair.catalogue.revision() + 1;
    pair.refuses.insert((trunk("a"), version));
    pair.change(&trunk("a"));
    pair.settle();
    let pushes = pair.pushes;
    for _ in 0..100 {
        pair.advance(Duration::from_secs(1));
        pair.session.handle_heard(pair.now);
    }
    assert_eq!(pair.pushes, pushes, "no push without a change");
    pair.change(&trunk("b"));
    assert_eq!(pair.answer(), ["trunks/b"], "another change does not bring it back");
    pair.change(&trunk("a"));
    assert_eq!(pair.answer(), ["trunks/a"], "its own change does");
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Synced);
}

#[test]
fn a_refusal_is_seen_with_both_versions_and_the_reason() {
    let mut pair = Pair::synced(&["a", "b"]);
    pair.refuses_always.insert(trunk("a"));
    let refused = pair.change(&trunk("a"));
    pair.settle();
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Error);
    let catalogue = pair.catalogue.clone();
    let (_, sync, held, parked) = pair
        .session
        .resources(&catalogue)
        .find(|(key, ..)| **key == trunk("a"))
        .unwrap();
    assert_eq!((sync, held), (Sync::Error, 1));
    assert_eq!(
        parked,
        Some(&Parked {
            version: refused,
            error: "no".into(),
            time_ms: 1_000
        })
    );
    assert_eq!(
        pair.sync(&trunk("b")),
        Some(Sync::Synced),
        "the others of the push are in force"
    );
}

#[test]
fn a_refusal_survives_a_reconnect_of_the_same_process() {
    let mut pair = Pair::synced(&["a"]);
    pair.refuses_always.insert(trunk("a"));
    pair.change(&trunk("a"));
    pair.settle();
    pair.reconnect();
    assert_eq!(pair.answer(), [""; 0]);
    assert_eq!(pair.sync(&trunk("a")), Some(Sync::Error));
}

#[test]
fn a_child_refused_for_want_of_its_trunk_is_offered_again_with_the_trunk() {
    let mut pair = Pair::synced(&[]);
    pair.refuses_always.extend([trunk("a"), line("a", "x")]);
    pair.change(&trunk("a"));
    pair.settle();
    pair.change(&line("a", "x"));
    pair.settle();
    pair.refuses_always.clear();
    pair.change(&trunk("a"));
    assert_eq!(pair.answer(), ["trunks/a", "trunks/a/lines/x"]);
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Synced);
}

#[test]
fn changes_keep_flowing_after_the_first_answer() {
    let mut pair = Pair::synced(&["a"]);
    for _ in 0..50 {
        pair.change(&trunk("a"));
        assert_eq!(pair.answer(), ["trunks/a"]);
    }
}

#[test]
fn changes_behind_an_unanswered_push_are_coalesced() {
    let mut pair = Pair::synced(&["a"]);
    let pushes = pair.pushes;
    pair.change(&trunk("a"));
    for _ in 0..20 {
        pair.change(&trunk("a"));
        pair.change(&trunk("b"));
    }
    assert_eq!(pair.pushes, pushes + 1);
    pair.answer();
    assert_eq!(pair.answer(), ["trunks/a", "trunks/b"]);
    assert_eq!(pair.pushes, pushes + 2);
    assert_eq!(pair.worker[&trunk("b")], pair.catalogue.revision());
}

#[test]
fn a_resource_that_never_reached_the_worker_is_not_removed_from_it() {
    let mut pair = Pair::synced(&["a"]);
    pair.change(&trunk("a"));
    // Comes and goes behind the unanswered push.
    pair.change(&trunk("b"));
    pair.remove(&trunk("b"));
    pair.answer();
    let push = pair.unanswered.clone().unwrap();
    assert!(push.upserts.is_empty() && push.removals.is_empty(), "{push:?}");
    pair.settle();
    // Refused from the start, then deleted.
    pair.refuses_always.insert(trunk("c"));
    pair.change(&trunk("c"));
    pair.settle();
    pair.remove(&trunk("c"));
    assert!(pair.unanswered.clone().unwrap().removals.is_empty());
    pair.settle();
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Synced);
}

#[test]
fn a_resource_deleted_while_the_worker_was_away_is_removed_on_reconnect() {
    let mut pair = Pair::synced(&["a", "b"]);
    pair.session = connect(&pair.catalogue, BTreeMap::new(), pair.now);
    pair.remove(&trunk("a"));
    pair.reconnect();
    let push = pair.unanswered.clone().unwrap();
    assert!(push.upserts.is_empty(), "what it holds is not sent again");
    assert_eq!(push.removals, [trunk("a").to_wire()]);
    pair.settle();
    assert_eq!(pair.worker.keys().collect::<Vec<_>>(), [&trunk("b")]);
}

#[test]
fn a_disconnect_in_mid_push_leaves_no_half_state() {
    let mut pair = Pair::synced(&["a"]);
    pair.change(&trunk("a"));
    pair.change(&trunk("b"));
    // The worker applied the first push, but its answer was lost.
    pair.worker.insert(trunk("a"), 2);
    pair.reconnect();
    assert_eq!(pair.answer(), ["trunks/b"]);
    assert_eq!(pair.worker[&trunk("a")], 2);
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Synced);
}

#[test]
fn a_server_that_is_behind_does_not_flap_the_worker() {
    let mut pair = Pair::synced(&["a"]);
    pair.worker.insert(trunk("a"), 5);
    pair.worker.insert(trunk("b"), 4);
    pair.reconnect();
    assert!(pair.unanswered.is_none(), "nothing older is sent, nothing is removed");
    for revision in 2..=5 {
        let key = if revision == 4 { trunk("b") } else { trunk("a") };
        pair.change(&key);
        assert_eq!(pair.unanswered.is_some(), revision == 5);
    }
    assert_eq!(pair.answer(), [""; 0]);
}

#[test]
fn a_store_that_was_set_back_wins_after_three_heartbeats() {
    let mut pair = Pair::synced(&["a"]);
    pair.worker.insert(trunk("a"), 50);
    pair.reconnect();
    for _ in 0..3 {
        pair.session.handle_heard(pair.now);
        pair.advance(Duration::from_secs(5));
    }
    assert_eq!(pair.answer(), ["trunks/a"]);
    assert_eq!(pair.worker[&trunk("a")], 1);
}

#[test]
fn versions_of_another_store_are_all_replaced() {
    let mut pair = Pair::synced(&["a"]);
    pair.worker.insert(trunk("gone"), 7);
    pair.session = connect(&pair.catalogue, BTreeMap::new(), pair.now);
    pair.hello_of("store-0");
    let push = pair.unanswered.clone().unwrap();
    assert_eq!(push.upserts.len(), 1, "the same number is not the same version");
    assert_eq!(push.removals, [trunk("gone").to_wire()]);
}

#[test]
fn a_silent_worker_is_let_go_and_so_is_one_that_never_speaks() {
    for hello in [true, false] {
        let mut pair = Pair::new();
        if hello {
            pair.hello();
            pair.settle();
        }
        pair.advance(Duration::from_secs(14));
        assert_eq!(pair.ended, None);
        pair.advance(Duration::from_secs(1));
        assert_eq!(pair.ended, Some(StreamEnd::Silent));
        assert_eq!(pair.session.deadline(), None);
    }
}

#[test]
fn a_worker_that_talks_but_does_not_answer_is_let_go() {
    let mut pair = Pair::synced(&["a"]);
    pair.change(&trunk("a"));
    for _ in 0..5 {
        pair.advance(Duration::from_secs(5));
        pair.session.handle_heard(pair.now);
        assert_eq!(pair.ended, None);
    }
    pair.advance(Duration::from_secs(5));
    assert_eq!(pair.ended, Some(StreamEnd::Slow));
}

#[test]
fn a_revision_that_concerns_no_resource_of_the_worker_still_reaches_it() {
    let mut pair = Pair::synced(&["a"]);
    let other = Key::new(ResourceKind::WorkerSettings, "workers/other");
    let revision = pair.change(&other);
    let push = pair.unanswered.clone().unwrap();
    assert!(push.upserts.is_empty() && push.removals.is_empty());
    assert_eq!(push.revision, revision);
}

#[test]
fn heartbeats_go_out_whether_or_not_anything_changes() {
    let mut pair = Pair::synced(&["a"]);
    for beat in 1..=10 {
        pair.session.handle_heard(pair.now);
        let deadline = pair.session.deadline().unwrap();
        pair.advance(deadline - pair.now);
        assert_eq!(pair.heartbeats, beat);
    }
}

#[test]
fn a_deleted_worker_is_let_go() {
    let mut pair = Pair::new();
    let settings = Key::new(ResourceKind::WorkerSettings, "workers/w");
    pair.change(&settings);
    pair.hello();
    pair.settle();
    pair.remove(&settings);
    assert_eq!(pair.ended, Some(StreamEnd::Deleted));
}

#[test]
fn a_worker_that_breaks_the_protocol_is_let_go() {
    let breaches: [fn(&mut Pair); 3] = [
        |pair| pair.session.handle_heard(pair.now),
        |pair| {
            pair.hello();
            pair.hello();
        },
        |pair| {
            pair.hello();
            let result = PushResult {
                nonce: 99,
                ..PushResult::default()
            };
            pair.session.handle_push_result(&result, pair.now, 0);
        },
    ];
    for breach in breaches {
        let mut pair = Pair::new();
        breach(&mut pair);
        pair.pump();
        assert_eq!(pair.ended, Some(StreamEnd::Protocol));
    }
}

#[test]
fn a_refusal_of_what_was_not_sent_is_ignored() {
    let mut pair = Pair::synced(&["a"]);
    pair.change(&trunk("b"));
    let push = pair.unanswered.take().unwrap();
    let rejection = ResourceRejection {
        key: Some(trunk("a").to_wire()),
        version: 1,
        error: "?".into(),
    };
    let result = PushResult {
        nonce: push.nonce,
        revision: push.revision,
        rejections: vec![rejection],
    };
    pair.session.handle_push_result(&result, pair.now, 0);
    pair.pump();
    assert!(pair.session.parked().is_empty());
    assert_eq!(pair.sync(&trunk("a")), Some(Sync::Synced));
}

#[test]
fn a_difference_beyond_the_size_of_a_push_goes_in_parts_that_confirm_nothing_alone() {
    let mut pair = Pair::new();
    for id in ["a", "b", "c"] {
        pair.change(&trunk(id));
    }
    let size = pair.catalogue.entry(&trunk("a")).unwrap().size;
    let limits = Limits {
        push_size: 2 * size,
        ..Limits::default()
    };
    let catalogue = Arc::new(pair.catalogue.clone());
    pair.session = Session::new("workers/w".into(), limits, catalogue, BTreeMap::new(), pair.now);
    pair.hello();
    let first = pair.unanswered.clone().unwrap();
    assert_eq!((first.upserts.len(), first.partial, first.revision), (2, true, 0));
    pair.answer();
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Stale);
    let second = pair.unanswered.clone().unwrap();
    assert_eq!((second.upserts.len(), second.partial, second.revision), (1, false, 3));
    pair.answer();
    assert_eq!(pair.session.summary(&pair.catalogue), Sync::Synced);
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Change(u8),
    Remove(u8),
    Answer,
    Reconnect { push_applied: bool },
    Refuse(u8),
    Accept(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Change),
        2 => (0..6_u8).prop_map(Step::Remove),
        4 => Just(Step::Answer),
        1 => any::<bool>().prop_map(|push_applied| Step::Reconnect { push_applied }),
        1 => (0..6_u8).prop_map(Step::Refuse),
        1 => (0..6_u8).prop_map(Step::Accept),
    ]
}

/// Two trunks with two lines each.
fn nth(index: u8) -> Key {
    match index {
        0 => trunk("a"),
        1 => trunk("b"),
        2 => line("a", "x"),
        3 => line("a", "y"),
        4 => line("b", "x"),
        _ => line("b", "y"),
    }
}

proptest! {
    /// After any history the worker holds exactly the catalogue, except for what it refused in its current version,
    /// and says so; removals are only of what it held, and pushes come one at a time (both asserted in `pump`).
    #[test]
    fn a_worker_converges_whatever_happens(steps in proptest::collection::vec(step(), 0..60)) {
        let mut pair = Pair::new();
        pair.hello();
        for step in steps {
            match step {
                Step::Change(index) => drop(pair.change(&nth(index))),
                Step::Remove(index) => pair.remove(&nth(index)),
                Step::Answer => if pair.unanswered.is_some() { drop(pair.answer()) },
                Step::Reconnect { push_applied } => {
                    if push_applied && let Some(push) = pair.unanswered.take() {
                        for resource in push.upserts {
                            let key = Key::from_wire(resource.key.as_ref().unwrap()).unwrap();
                            if !pair.refuses_always.contains(&key) {
                                pair.worker.insert(key, resource.version);
                            }
                        }
                        for removal in push.removals {
                            pair.worker.remove(&Key::from_wire(&removal).unwrap());
                        }
                    }
                    pair.reconnect();
                }
                Step::Refuse(index) => drop(pair.refuses_always.insert(nth(index))),
                Step::Accept(index) => drop(pair.refuses_always.remove(&nth(index))),
            }
        }
        pair.settle();
        prop_assert_eq!(pair.ended, None);
        prop_assert_eq!(pair.session.confirmed_revision(), pair.catalogue.revision());
        for (key, sync, held, parked) in pair.session.resources(&pair.catalogue) {
            prop_assert_eq!(pair.worker.get(key).copied().unwrap_or(0), held);
            let current = pair.catalogue.entry(key).map_or(0, |entry| entry.version());
            match sync {
                Sync::Synced => prop_assert_eq!(held, current),
                Sync::Error => prop_assert_eq!(parked.map(|parked| parked.version), Some(current)),
                Sync::Stale => prop_assert!(false, "{:?} is stale", key),
            }
        }
        // Nothing more is sent while nothing changes.
        let pushes = pair.pushes;
        pair.session.handle_heard(pair.now);
        pair.advance(Duration::from_secs(5));
        prop_assert_eq!(pair.pushes, pushes);
    }
}
