//! What the shards share: bindings, budgets, ports, nonce counts and metrics, behind the engine's [`Env`].

pub mod bindings;
pub mod budgets;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use trunkline_engine::io::{Budgets, Contact, Env};
use trunkline_engine::metrics::Counter;
use trunkline_media::negotiate::{AddressFamily, PortLease, PortsExhausted};
use trunkline_media::relay::PortId;
use trunkline_shared::binding::Aor;
use trunkline_shared::name::TrunkId;
use trunkline_shared::reject::Reject;
use trunkline_shared::trunk::Trunk;
use trunkline_sip::digest::ReplayGuard;

use self::bindings::BindingStore;
use self::budgets::LocalBudgets;
use crate::metrics::MetricsSet;
use crate::relay::pool::PortPool;

/// Nonces whose counts are remembered: every phone of a large worker has a live one (about 80 octets each).
const NONCES: usize = 200_000;

/// One for all shards of a worker.
pub struct WorkerEnv {
    /// Where the phones are.
    pub bindings: Arc<BindingStore>,
    /// Limits of the trunks.
    pub budgets: Arc<LocalBudgets>,
    /// Media ports.
    pub ports: Arc<PortPool>,
    /// Counters.
    pub metrics: Arc<MetricsSet>,
    replay: Mutex<ReplayGuard>,
}

impl WorkerEnv {
    /// Puts the parts together.
    pub fn new(
        bindings: Arc<BindingStore>,
        budgets: Arc<LocalBudgets>,
        ports: Arc<PortPool>,
        metrics: Arc<MetricsSet>,
    ) -> WorkerEnv {
        WorkerEnv {
            bindings,
            budgets,
            ports,
            metrics,
            replay: Mutex::new(ReplayGuard::new(NONCES)),
        }
    }
}

impl Env for WorkerEnv {
    fn contacts(&self, aor: &Aor) -> Vec<Contact> {
        self.bindings.contacts(aor)
    }

    fn update_contacts(&self, aor: &Aor, change: &mut dyn FnMut(&mut Vec<Contact>) -> bool) {
        self.bindings.update(aor, change);
    }

    fn lease_ports(&self, _trunk: &TrunkId, local: IpAddr, family: AddressFamily) -> Result<PortLease, PortsExhausted> {
        self.ports.lease(Instant::now(), local, family)
    }

    fn release_ports(&self, ports: PortId) {
        self.ports.release(Instant::now(), ports);
    }

    fn with_replay_guard(&self, check: &mut dyn FnMut(&mut ReplayGuard)) {
        // The guard's state is whole after every call, so that a holder's panic leaves nothing half done.
        check(&mut self.replay.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn count(&self, counter: Counter) {
        self.metrics.count(counter);
    }

    fn count_reject(&self, reject: Reject, trunk: Option<&TrunkId>) {
        self.metrics.count_reject(reject, trunk);
    }
}

impl Budgets for WorkerEnv {
    fn take_registration(&self, trunk: &Trunk, now: Instant) -> Result<(), Duration> {
        self.budgets.take_registration(trunk, now)
    }

    fn take_call(&self, trunk: &Trunk, now: Instant) -> Result<(), Duration> {
        self.budgets.take_call(trunk, now)
    }

    fn acquire_call_slot(&self, trunk: &Trunk) -> bool {
        self.budgets.acquire_call_slot(trunk)
    }

    fn release_call_slot(&self, trunk: &TrunkId) {
        self.budgets.release_call_slot(trunk);
    }
}
