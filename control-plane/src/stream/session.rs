//! One worker's configuration stream as a state machine: what the worker holds, what it was sent, what it refused.
//!
//! No clock, no socket: events come in through the `handle_*` methods with the time, what is to be done comes out of
//! [`Session::poll_effect`] until it answers `None`, and [`Session::deadline`] says when to call
//! [`Session::handle_timeout`].
//!
//! ```text
//!            hello                      push answered, nothing new
//! AwaitHello ─────► Idle ◄──────────────────────────────┐
//!                    │ catalogue moved on               │
//!                    └─────────► InFlight ──────────────┘ (answered, and the catalogue moved on: InFlight again)
//!            hello ahead of this server: Behind until the catalogue has caught up, or for three heartbeats
//! ```
//!
//! Rules kept here: one unanswered push; changes coalesce behind it; a refused version is offered again only when the
//! resource, or one it depends on, changes; only what the worker holds is removed; every revision reaches the worker,
//! if need be with an empty push, so that a worker behind the heartbeat's revision knows that its stream is stalled.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use trunkline_proto::dataplane::v1::{ConfigurationPush, HeldResource, PushResult};

use super::catalogue::{Catalogue, Key};
use crate::{metrics::StreamEnd, store::ResourceKind};

/// Times and sizes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Between heartbeats, both ways.
    pub heartbeat: Duration,
    /// A worker not heard of for this long is taken for gone: three heartbeats.
    pub silence: Duration,
    /// A push must be answered within.
    pub push_timeout: Duration,
    /// Encoded octets of one push; a larger difference goes in several. A single larger resource goes alone.
    pub push_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            silence: Duration::from_secs(15),
            push_timeout: Duration::from_secs(30),
            push_size: 16 * 1024 * 1024,
        }
    }
}

/// A version that the worker refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The refused version; 0: the removal was refused.
    pub version: i64,
    /// Why, in words of the worker.
    pub error: String,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
}

/// What the owner of a session has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send it.
    Push(ConfigurationPush),
    /// Send a heartbeat with the store's revision.
    Heartbeat,
    /// A push was answered after this long.
    Answered(Duration),
    /// The worker refused this many resources; they are parked.
    Refused(usize),
    /// End the stream; nothing follows.
    End(StreamEnd, &'static str),
}

/// How one resource on the worker compares to the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// In the current version.
    Synced,
    /// Not sent or not answered yet.
    Stale,
    /// The current version was refused.
    Error,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    settings_name: String,
    limits: Limits,
    catalogue: Arc<Catalogue>,
    state: State,
    /// Versions the worker has in force.
    held: HashMap<Key, i64>,
    parked: BTreeMap<Key, Parked>,
    /// Keys to compare before the next push.
    pending: BTreeSet<Key>,
    /// Everything up to this revision is in `pending` or done; `None`: compare everything.
    considered: Option<i64>,
    /// Revision the worker has confirmed.
    confirmed: Option<i64>,
    next_nonce: u64,
    last_heard: Instant,
    next_heartbeat: Instant,
    effects: VecDeque<Effect>,
}

#[derive(Debug)]
enum State {
    AwaitHello,
    /// The worker holds versions this server has not seen yet.
    Behind {
        until: Instant,
    },
    Idle,
    InFlight {
        nonce: u64,
        sent: Instant,
        /// Revision confirmed by the answer; `None` for a part of a larger difference.
        revision: Option<i64>,
        /// What was sent: the version, 0 for a removal.
        items: BTreeMap<Key, i64>,
    },
    Ended,
}

impl Session {
    /// A session of `workers/{id}`. `parked` is what the same process of the worker refused on an earlier stream.
    pub fn new(
        settings_name: String,
        limits: Limits,
        catalogue: Arc<Catalogue>,
        parked: BTreeMap<Key, Parked>,
        now: Instant,
    ) -> Self {
        Self {
            settings_name,
            limits,
            catalogue,
            state: State::AwaitHello,
            held: HashMap::new(),
            parked,
            pending: BTreeSet::new(),
            considered: None,
            confirmed: None,
            next_nonce: 1,
            last_heard: now,
            next_heartbeat: now + limits.heartbeat,
            effects: VecDeque::new(),
        }
    }

    /// The worker's first message: what it holds, of which store.
    pub fn handle_hello(&mut self, store_id: &str, held: &[HeldResource], now: Instant) {
        if !matches!(self.state, State::AwaitHello) {
            return self.end(StreamEnd::Protocol, "a second hello");
        }
        self.last_heard = now;
        // Versions of another store say nothing about this one: only the names count, and all is sent.
        let same_store = store_id == self.catalogue.store_id();
        for resource in held {
            // Of a type this program does not know: not ours to remove.
            let Some(key) = resource.key.as_ref().and_then(Key::from_wire) else {
                continue;
            };
            self.held.insert(key, if same_store { resource.version } else { 0 });
        }
        let newest = self.held.values().copied().max().unwrap_or(0);
        if newest > self.catalogue.revision() {
            self.state = State::Behind {
                until: now + self.limits.silence,
            };
            return;
        }
        self.state = State::Idle;
        self.push_if_due(now);
    }

    /// The catalogue moved on.
    pub fn handle_catalogue(&mut self, catalogue: Arc<Catalogue>, now: Instant) {
        if catalogue.revision() <= self.catalogue.revision() {
            return;
        }
        let settings = Key::new(ResourceKind::WorkerSettings, &self.settings_name);
        let deleted = self.catalogue.entry(&settings).is_some() && catalogue.entry(&settings).is_none();
        self.catalogue = catalogue;
        if deleted {
            return self.end(StreamEnd::Deleted, "this worker was deleted");
        }
        let newest = self.held.values().copied().max().unwrap_or(0);
        if matches!(self.state, State::Behind { .. }) && newest <= self.catalogue.revision() {
            self.state = State::Idle;
        }
        self.push_if_due(now);
    }

    /// The worker answers a push.
    pub fn handle_push_result(&mut self, result: &PushResult, now: Instant, now_ms: i64) {
        self.last_heard = now;
        // Late answers to pushes of an earlier life of the connection cannot happen; wrong ones say nothing.
        if !matches!(&self.state, State::InFlight { nonce, .. } if *nonce == result.nonce) {
            return self.end(StreamEnd::Protocol, "an answer to no push");
        }
        let State::InFlight {
            sent,
            revision,
            mut items,
            ..
        } = std::mem::replace(&mut self.state, State::Idle)
        else {
            return;
        };
        self.effects
            .push_back(Effect::Answered(now.saturating_duration_since(sent)));
        let mut refused = 0;
        for rejection in &result.rejections {
            let Some(key) = rejection.key.as_ref().and_then(Key::from_wire) else {
                continue;
            };
            // Only what was sent can be refused.
            let Some(version) = items.remove(&key) else { continue };
            refused += 1;
            let error = rejection.error.chars().take(1000).collect();
            self.parked.insert(
                key,
                Parked {
                    version,
                    error,
                    time_ms: now_ms,
                },
            );
        }
        if refused > 0 {
            self.effects.push_back(Effect::Refused(refused));
        }
        for (key, version) in items {
            self.parked.remove(&key);
            if version == 0 {
                self.held.remove(&key);
            } else {
                self.held.insert(key, version);
            }
        }
        if revision.is_some() {
            self.confirmed = revision;
        }
        self.push_if_due(now);
    }

    /// Any other message of the worker.
    pub fn handle_heard(&mut self, now: Instant) {
        if matches!(self.state, State::AwaitHello) {
            return self.end(StreamEnd::Protocol, "the first message is not a hello");
        }
        self.last_heard = now;
    }

    /// Time has passed; see [`Session::deadline`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.state, State::Ended) {
            return;
        }
        if now >= self.last_heard + self.limits.silence {
            return self.end(StreamEnd::Silent, "nothing heard for three heartbeats");
        }
        match self.state {
            State::InFlight { sent, .. } if now >= sent + self.limits.push_timeout => {
                return self.end(StreamEnd::Slow, "a push was not answered in time");
            }
            // A store that was set back will not catch up: what it has is the truth now.
            State::Behind { until } if now >= until => {
                self.held.values_mut().for_each(|version| *version = 0);
                self.state = State::Idle;
                self.push_if_due(now);
            }
            _ => {}
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + self.limits.heartbeat;
            if !matches!(self.state, State::AwaitHello) {
                self.effects.push_back(Effect::Heartbeat);
            }
        }
    }

    /// When [`Session::handle_timeout`] has something to do; `None` once ended.
    pub fn deadline(&self) -> Option<Instant> {
        let state = match self.state {
            State::Ended => return None,
            State::Behind { until } => Some(until),
            State::InFlight { sent, .. } => Some(sent + self.limits.push_timeout),
            State::AwaitHello | State::Idle => None,
        };
        let earliest = self.next_heartbeat.min(self.last_heard + self.limits.silence);
        Some(state.map_or(earliest, |state| state.min(earliest)))
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What the worker refused and was not offered anew.
    pub fn parked(&self) -> &BTreeMap<Key, Parked> {
        &self.parked
    }

    /// Revision the worker has confirmed; 0: none on this stream.
    pub fn confirmed_revision(&self) -> i64 {
        self.confirmed.unwrap_or(0)
    }

    /// All resources in one word.
    pub fn summary(&self, catalogue: &Catalogue) -> Sync {
        if self
            .parked
            .iter()
            .any(|(key, parked)| is_current_refusal(catalogue, key, parked))
        {
            Sync::Error
        } else if self.confirmed == Some(catalogue.revision()) {
            Sync::Synced
        } else {
            Sync::Stale
        }
    }

    /// Every resource the worker should hold, or holds and should not: its state, the version in force (0: none) and
    /// what it refused.
    pub fn resources<'a>(
        &'a self,
        catalogue: &'a Catalogue,
    ) -> impl Iterator<Item = (&'a Key, Sync, i64, Option<&'a Parked>)> {
        let wanted = catalogue
            .entries()
            .filter(|(key, _)| self.concerns(key))
            .map(|(key, entry)| {
                let held = self.held.get(key).copied().unwrap_or(0);
                let parked = self.parked.get(key);
                let sync = match parked {
                    Some(parked) if parked.version == entry.version() => Sync::Error,
                    _ if held == entry.version() => Sync::Synced,
                    _ => Sync::Stale,
                };
                (key, sync, held, parked)
            });
        let unwanted = self
            .held
            .iter()
            .filter(|(key, _)| catalogue.entry(key).is_none())
            .map(|(key, held)| {
                let parked = self.parked.get(key);
                let refused = parked.is_some_and(|parked| parked.version == 0);
                (key, if refused { Sync::Error } else { Sync::Stale }, *held, parked)
            });
        wanted.chain(unwanted)
    }

    fn push_if_due(&mut self, now: Instant) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        self.take_changes();
        if self.pending.is_empty() && self.confirmed == Some(self.catalogue.revision()) {
            return;
        }
        let (push, items) = self.next_push();
        // A part confirms nothing: the revision it leads to is in force only with the last part.
        let revision = (!push.partial).then_some(push.revision);
        self.state = State::InFlight {
            nonce: push.nonce,
            sent: now,
            revision,
            items,
        };
        self.effects.push_back(Effect::Push(push));
    }

    /// Moves what changed since the last look into `pending`.
    fn take_changes(&mut self) {
        let touched = self
            .considered
            .and_then(|revision| self.catalogue.touched_since(revision));
        let mut touched: BTreeSet<Key> = match touched {
            Some(keys) => keys.cloned().collect(),
            None => self
                .catalogue
                .entries()
                .map(|(key, _)| key)
                .chain(self.held.keys())
                .cloned()
                .collect(),
        };
        // A refusal may have been about a resource it depends on; with that one changed it deserves another try.
        let revived: Vec<Key> = self
            .parked
            .keys()
            .filter(|parked| self.considered.is_some() && touched.iter().any(|key| parked.depends_on(key)))
            .cloned()
            .collect();
        for key in revived {
            self.parked.remove(&key);
            touched.insert(key);
        }
        touched.retain(|key| self.concerns(key));
        self.pending.append(&mut touched);
        self.considered = Some(self.catalogue.revision());
    }

    fn next_push(&mut self) -> (ConfigurationPush, BTreeMap<Key, i64>) {
        let mut push = ConfigurationPush {
            nonce: self.next_nonce,
            revision: self.catalogue.revision(),
            store_id: self.catalogue.store_id().to_owned(),
            ..ConfigurationPush::default()
        };
        self.next_nonce += 1;
        let mut items = BTreeMap::new();
        let mut size = 0;
        while let Some(key) = self.pending.pop_first() {
            let held = self.held.get(&key).copied();
            let parked = self.parked.get(&key).map(|parked| parked.version);
            match self.catalogue.entry(&key) {
                Some(entry) => {
                    let version = entry.version();
                    if held == Some(version) || parked == Some(version) {
                        continue;
                    }
                    if size > 0 && size + entry.size > self.limits.push_size {
                        self.pending.insert(key);
                        push.partial = true;
                        push.revision = self.confirmed_revision();
                        break;
                    }
                    size += entry.size;
                    push.upserts.push((*entry.resource).clone());
                    items.insert(key, version);
                }
                // Only what the worker holds is removed: a resource it refused from the start is just forgotten.
                None if held.is_some() && parked != Some(0) => {
                    push.removals.push(key.to_wire());
                    items.insert(key, 0);
                }
                None if held.is_none() => drop(self.parked.remove(&key)),
                None => {}
            }
        }
        (push, items)
    }

    /// Settings of other workers are none of this worker's business.
    fn concerns(&self, key: &Key) -> bool {
        key.kind() != ResourceKind::WorkerSettings || key.name() == self.settings_name
    }

    fn end(&mut self, cause: StreamEnd, reason: &'static str) {
        if !matches!(self.state, State::Ended) {
            self.state = State::Ended;
            self.effects.push_back(Effect::End(cause, reason));
        }
    }
}

fn is_current_refusal(catalogue: &Catalogue, key: &Key, parked: &Parked) -> bool {
    catalogue.entry(key).map_or(0, super::catalogue::Entry::version) == parked.version
}

#[cfg(test)]
mod tests;
