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

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk(calls: Option<u32>, rate: &str) -> Trunk {
        let mut trunk = Trunk::with_defaults(TrunkId::new("main").expect("an id"), "Main");
        trunk.max_calls = calls;
        trunk.max_call_rate = rate.parse().expect("a rate");
        trunk
    }

    #[test]
    fn slots_are_taken_up_to_the_limit_and_paid_back() {
        let (budgets, limited) = (LocalBudgets::default(), trunk(Some(2), "40/5s"));
        assert!(budgets.acquire_call_slot(&limited) && budgets.acquire_call_slot(&limited));
        assert!(!budgets.acquire_call_slot(&limited));
        budgets.release_call_slot(&limited.id);
        assert!(budgets.acquire_call_slot(&limited));
        assert_eq!(budgets.active_calls(&limited.id), 2);
    }

    #[test]
    fn a_lowered_limit_ends_nothing_and_admits_nothing_until_there_is_room() {
        let budgets = LocalBudgets::default();
        for _ in 0..3 {
            assert!(budgets.acquire_call_slot(&trunk(None, "40/5s")));
        }
        let lowered = trunk(Some(2), "40/5s");
        assert!(!budgets.acquire_call_slot(&lowered));
        budgets.release_call_slot(&lowered.id);
        assert!(!budgets.acquire_call_slot(&lowered), "two are still running");
        budgets.release_call_slot(&lowered.id);
        assert!(budgets.acquire_call_slot(&lowered));
    }

    #[test]
    fn a_changed_rate_acts_on_the_next_call_without_a_fresh_burst() {
        let (budgets, now) = (LocalBudgets::default(), Instant::now());
        let slow = trunk(None, "1/10s");
        assert_eq!(budgets.take_call(&slow, now), Ok(()));
        assert_eq!(budgets.take_call(&slow, now), Err(Duration::from_secs(10)));
        let faster = trunk(None, "1/1s");
        assert_eq!(budgets.take_call(&faster, now), Err(Duration::from_secs(1)));
        assert_eq!(budgets.take_call(&faster, now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn a_gone_trunk_is_forgotten_when_its_calls_are_over() {
        let (budgets, limited) = (LocalBudgets::default(), trunk(Some(2), "40/5s"));
        assert!(budgets.acquire_call_slot(&limited));
        budgets.retain(|_| false);
        assert_eq!(budgets.active_calls(&limited.id), 1);
        budgets.release_call_slot(&limited.id);
        budgets.retain(|_| false);
        assert!(budgets.0.is_empty());
    }
}
