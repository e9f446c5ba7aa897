//! The trunks' limits (rows 7, 13, 14), enforced on this worker.
//!
//! This is the worker's share of limits that belong to the cluster; as long as the control plane leases no shares, the share
//! is the whole.

use std::time::{Duration, Instant};

use dashmap::DashMap;
use trunkline_engine::io::Budgets;
use trunkline_shared::name::TrunkId;
use trunkline_shared::rate::{Rate, TokenBucket};
use trunkline_shared::trunk::Trunk;

/// Buckets and slots by trunk.
#[derive(Default)]
pub struct LocalBudgets(DashMap<TrunkId, Budget>);

#[derive(Default)]
struct Budget {
    registrations: Option<RatedBucket>,
    calls: Option<RatedBucket>,
    active_calls: u32,
}

/// A bucket and the rate it was made for: a changed setting changes the bucket at the next use.
struct RatedBucket {
    rate: Rate,
    bucket: TokenBucket,
}

impl LocalBudgets {
    /// Calls of a trunk that hold a slot now.
    pub fn active_calls(&self, trunk: &TrunkId) -> u32 {
        self.0.get(trunk).map_or(0, |budget| budget.active_calls)
    }

    /// Forgets trunks that are gone and have no calls left.
    pub fn retain(&self, known: impl Fn(&TrunkId) -> bool) {
        self.0.retain(|trunk, budget| budget.active_calls > 0 || known(trunk));
    }
}

impl Budgets for LocalBudgets {
    fn take_registration(&self, trunk: &Trunk, now: Instant) -> Result<(), Duration> {
        let mut budget = self.0.entry(trunk.id.clone()).or_default();
        take(&mut budget.registrations, &trunk.max_registration_rate, now)
    }

    fn take_call(&self, trunk: &Trunk, now: Instant) -> Result<(), Duration> {
        let mut budget = self.0.entry(trunk.id.clone()).or_default();
        take(&mut budget.calls, &trunk.max_call_rate, now)
    }

    fn acquire_call_slot(&self, trunk: &Trunk) -> bool {
        let mut budget = self.0.entry(trunk.id.clone()).or_default();
        let free = trunk.max_calls.is_none_or(|limit| budget.active_calls < limit);
        if free {
            budget.active_calls += 1;
        }
        free
    }

    fn release_call_slot(&self, trunk: &TrunkId) {
        if let Some(mut budget) = self.0.get_mut(trunk) {
            // A counter that wrapped would close the trunk for ever; one release too many is a bug that must not.
            debug_assert!(budget.active_calls > 0, "a slot was paid back twice");
            budget.active_calls = budget.active_calls.saturating_sub(1);
        }
    }
}

fn take(slot: &mut Option<RatedBucket>, rate: &Rate, now: Instant) -> Result<(), Duration> {
    let rated = slot.get_or_insert_with(|| RatedBucket {
        rate: rate.clone(),
        bucket: TokenBucket::new(rate, now),
    });
    if rated.rate != *rate {
        rated.bucket.set_rate(rate, now);
        rated.rate = rate.clone();
    }
    rated.bucket.try_take(now).map_err(|wait| wait.0)
}
