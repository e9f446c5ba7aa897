//! What shards share, in hash maps.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use trunkline_engine::io::{Budgets, Contact, Env};
use trunkline_engine::metrics::Counter;
use trunkline_media::negotiate::{AddressFamily, PortLease, PortsExhausted};
use trunkline_media::relay::PortId;
use trunkline_shared::binding::Aor;
use trunkline_shared::name::TrunkId;
use trunkline_shared::rate::TokenBucket;
use trunkline_shared::reject::Reject;
use trunkline_shared::trunk::Trunk;
use trunkline_sip::digest::ReplayGuard;

#[derive(Default)]
pub struct TestEnv {
    contacts: RefCell<HashMap<Aor, Vec<Contact>>>,
    leases: RefCell<HashSet<u32>>,
    next_port: RefCell<u32>,
    pub max_leases: RefCell<Option<usize>>,
    slots: RefCell<BTreeMap<TrunkId, i64>>,
    registrations: RefCell<HashMap<TrunkId, TokenBucket>>,
    calls: RefCell<HashMap<TrunkId, TokenBucket>>,
    guard: RefCell<Option<ReplayGuard>>,
    counters: RefCell<HashMap<Counter, u64>>,
    rejects: RefCell<HashMap<Reject, u64>>,
}

impl TestEnv {
    pub fn leases(&self) -> usize {
        self.leases.borrow().len()
    }

    pub fn slots_taken(&self) -> i64 {
        self.slots.borrow().values().sum()
    }

    pub fn slots_of(&self, trunk: &str) -> i64 {
        let slots = self.slots.borrow();
        slots
            .iter()
            .find(|(id, _)| id.as_str() == trunk)
            .map_or(0, |(_, taken)| *taken)
    }

    pub fn lowest_slot_count(&self) -> i64 {
        self.slots.borrow().values().copied().min().unwrap_or(0)
    }

    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.borrow().get(&counter).copied().unwrap_or(0)
    }

    pub fn rejected(&self, reject: Reject) -> u64 {
        self.rejects.borrow().get(&reject).copied().unwrap_or(0)
    }
}

impl Budgets for TestEnv {
    fn take_registration(&self, trunk: &Trunk, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.registrations.borrow_mut();
        let bucket = buckets
            .entry(trunk.id.clone())
            .or_insert_with(|| TokenBucket::new(&trunk.max_registration_rate, now));
        bucket.try_take(now).map_err(|wait| wait.0)
    }

    fn take_call(&self, trunk: &Trunk, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.calls.borrow_mut();
        let bucket = buckets
            .entry(trunk.id.clone())
            .or_insert_with(|| TokenBucket::new(&trunk.max_call_rate, now));
        bucket.try_take(now).map_err(|wait| wait.0)
    }

    fn acquire_call_slot(&self, trunk: &Trunk) -> bool {
        let mut slots = self.slots.borrow_mut();
        let taken = slots.entry(trunk.id.clone()).or_default();
        let free = trunk.max_calls.is_none_or(|max| *taken < i64::from(max));
        *taken += i64::from(free);
        free
    }

    fn release_call_slot(&self, trunk: &TrunkId) {
        let mut slots = self.slots.borrow_mut();
        let taken = slots.entry(trunk.clone()).or_default();
        *taken -= 1;
        assert!(*taken >= 0, "a call slot of {trunk} was paid back twice");
    }
}

impl Env for TestEnv {
    fn contacts(&self, aor: &Aor) -> Vec<Contact> {
        self.contacts.borrow().get(aor).cloned().unwrap_or_default()
    }

    fn update_contacts(&self, aor: &Aor, change: &mut dyn FnMut(&mut Vec<Contact>) -> bool) {
        let mut all = self.contacts.borrow_mut();
        let mut contacts = all.get(aor).cloned().unwrap_or_default();
        if change(&mut contacts) {
            all.insert(aor.clone(), contacts);
        }
    }

    fn lease_ports(&self, _trunk: &TrunkId, local: IpAddr, family: AddressFamily) -> Result<PortLease, PortsExhausted> {
        let mut leases = self.leases.borrow_mut();
        if self.max_leases.borrow().is_some_and(|max| leases.len() >= max) || AddressFamily::of(local) != family {
            return Err(PortsExhausted);
        }
        let mut next = self.next_port.borrow_mut();
        let id = *next;
        *next += 1;
        leases.insert(id);
        let port = 16_384 + u16::try_from(id % 8000).expect("small") * 2;
        Ok(PortLease {
            id: PortId(id),
            rtp: SocketAddr::new(local, port),
            rtcp: SocketAddr::new(local, port + 1),
        })
    }

    fn release_ports(&self, ports: PortId) {
        assert!(
            self.leases.borrow_mut().remove(&ports.0),
            "a port pair was given back twice"
        );
    }

    fn with_replay_guard(&self, check: &mut dyn FnMut(&mut ReplayGuard)) {
        check(self.guard.borrow_mut().get_or_insert_with(|| ReplayGuard::new(1024)));
    }

    fn count(&self, counter: Counter) {
        *self.counters.borrow_mut().entry(counter).or_default() += 1;
    }

    fn count_reject(&self, reject: Reject, _trunk: Option<&TrunkId>) {
        *self.rejects.borrow_mut().entry(reject).or_default() += 1;
    }
}
