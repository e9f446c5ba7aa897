//! Where transactions live: a slab with generations, an index from key to slot, and one queue of deadlines.
//!
//! The three are kept together because they have one invariant: a slot is live exactly when the index and, if it has a
//! timer, the queue know it. Nothing stale stays behind, so memory follows the number of live transactions.

use std::hash::Hasher;
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::timer_queue::TimerQueue;
use crate::timer::Timer;

/// A slot number that cannot be confused with a later tenant of the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Handle {
    slot: u32,
    generation: u64,
}

/// The timers one transaction runs; two at a time is the most any state of the four machines needs.
#[derive(Debug, Default)]
pub(super) struct Timers(SmallVec<[(Instant, Timer); 2]>);

/// Values of type `T` under canonical keys.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Option<Tenant<T>>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    queue: TimerQueue,
    next_generation: u64,
    seed: [u64; 2],
}

/// A key that was looked up and has no holder: where to insert it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vacant {
    hash: u64,
}

#[derive(Debug)]
struct Tenant<T> {
    generation: u64,
    hash: u64,
    key: Box<[u8]>,
    timers: Timers,
    value: T,
}

impl Timers {
    pub(super) fn arm(&mut self, timer: Timer, deadline: Instant) {
        match self.0.iter_mut().find(|(_, armed)| *armed == timer) {
            Some(entry) => entry.0 = deadline,
            None => self.0.push((deadline, timer)),
        }
    }

    pub(super) fn disarm(&mut self, timer: Timer) {
        self.0.retain(|(_, armed)| *armed != timer);
    }

    fn next(&self) -> Option<Instant> {
        self.0.iter().map(|(deadline, _)| *deadline).min()
    }

    /// Removes and returns the earliest timer that is due. Of two that are due together the one that ends the
    /// transaction goes first: no retransmission is sent by a transaction that is over.
    fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let (position, _) = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, (deadline, _))| *deadline <= now)
            .min_by_key(|(_, (deadline, timer))| (*deadline, is_retransmit(*timer)))?;
        Some(self.0.remove(position).1)
    }
}

fn is_retransmit(timer: Timer) -> bool {
    matches!(timer, Timer::A | Timer::E | Timer::G)
}

impl<T> Table<T> {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            queue: TimerQueue::default(),
            next_generation: 0,
            seed,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Adds `value`; `Err` gives the holder of the key back when there is one.
    pub(super) fn insert(&mut self, key: &[u8], value: T) -> Result<Handle, Handle> {
        match self.look_up(key) {
            Ok(handle) => Err(handle),
            Err(vacant) => Ok(self.insert_at(vacant, key, value)),
        }
    }

    /// Adds `value` under a key that has just been found to have no holder.
    pub(super) fn insert_at(&mut self, Vacant { hash }: Vacant, key: &[u8], value: T) -> Handle {
        let digest = digest(self.seed, key);
        let key = digest.as_ref().map_or(key, |digest| digest);
        let generation = self.next_generation;
        self.next_generation += 1;
        let tenant = Some(Tenant {
            generation,
            hash,
            key: key.into(),
            timers: Timers::default(),
            value,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = tenant;
                slot
            }
            None => {
                let slot = u32::try_from(self.slots.len()).expect("the capacity of a table is a u32");
                self.slots.push(tenant);
                slot
            }
        };
        let slots = &self.slots;
        self.index
            .insert_unique(hash, slot, |slot| tenant_of(slots, *slot).hash);
        Handle { slot, generation }
    }

    /// The holder of a key, or where to insert it.
    pub(super) fn look_up(&self, key: &[u8]) -> Result<Handle, Vacant> {
        let digest = digest(self.seed, key);
        let key = digest.as_ref().map_or(key, |digest| digest);
        let hash = hash(self.seed, key);
        let holds = |slot: &u32| {
            let tenant = tenant_of(&self.slots, *slot);
            tenant.hash == hash && *tenant.key == *key
        };
        match self.index.find(hash, holds) {
            Some(&slot) => Ok(Handle {
                slot,
                generation: tenant_of(&self.slots, slot).generation,
            }),
            None => Err(Vacant { hash }),
        }
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Handle> {
        self.look_up(key).ok()
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&T> {
        self.tenant(handle).map(|tenant| &tenant.value)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        self.tenant_mut(handle).map(|tenant| &mut tenant.value)
    }

    /// Changes the timers of a transaction and keeps the queue in step with them.
    pub(super) fn update_timers(&mut self, handle: Handle, change: impl FnOnce(&mut Timers)) {
        let Some(tenant) = self.tenant_mut(handle) else { return };
        change(&mut tenant.timers);
        let next = tenant.timers.next();
        self.queue.set(handle.slot, next);
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<T> {
        self.tenant(handle)?;
        let tenant = self.slots[handle.slot as usize].take()?;
        self.queue.set(handle.slot, None);
        self.free.push(handle.slot);
        if let Ok(entry) = self.index.find_entry(tenant.hash, |slot| *slot == handle.slot) {
            entry.remove();
        }
        if self.index.is_empty() {
            self.release();
        }
        Some(tenant.value)
    }

    /// The earliest deadline of all.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queue.next().map(|(deadline, _)| deadline)
    }

    /// Takes one due timer off its transaction.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Handle, Timer)> {
        let (deadline, slot) = self.queue.next()?;
        if deadline > now {
            return None;
        }
        let tenant = self.slots[slot as usize].as_mut().expect("a queued slot has a tenant");
        let handle = Handle {
            slot,
            generation: tenant.generation,
        };
        let timer = tenant
            .timers
            .take_due(now)
            .expect("the queue holds the earliest deadline of the tenant");
        let next = tenant.timers.next();
        self.queue.set(slot, next);
        Some((handle, timer))
    }

    /// After a burst the table is far larger than what comes next needs: an empty one gives its memory back. Handles
    /// stay harmless, for generations are never used twice.
    fn release(&mut self) {
        const KEEP: usize = 1024;
        if self.slots.len() > KEEP {
            *self = Self {
                next_generation: self.next_generation,
                ..Self::new(self.seed)
            };
        }
    }

    fn tenant(&self, handle: Handle) -> Option<&Tenant<T>> {
        self.slots
            .get(handle.slot as usize)?
            .as_ref()
            .filter(|tenant| tenant.generation == handle.generation)
    }

    fn tenant_mut(&mut self, handle: Handle) -> Option<&mut Tenant<T>> {
        self.slots
            .get_mut(handle.slot as usize)?
            .as_mut()
            .filter(|tenant| tenant.generation == handle.generation)
    }
}

fn tenant_of<T>(slots: &[Option<Tenant<T>>], slot: u32) -> &Tenant<T> {
    let tenant = slots[slot as usize].as_ref();
    tenant.expect("an indexed slot has a tenant")
}

/// SipHash over a secret prefix: whoever chooses branches must not be able to choose buckets.
fn hash(seed: [u64; 2], key: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write_u64(seed[0]);
    hasher.write_u64(seed[1]);
    hasher.write(key);
    hasher.finish()
}

/// Branches are as long as the peer likes, and keys are kept for half a minute. What is longer than any sane element
/// writes is replaced by two hashes under the secret seed, in a form that no canonical key has.
const LONGEST_KEY: usize = 256;

fn digest(seed: [u64; 2], key: &[u8]) -> Option<[u8; 17]> {
    if key.len() <= LONGEST_KEY {
        return None;
    }
    let mut digest = [u8::MAX; 17];
    digest[1..9].copy_from_slice(&hash(seed, key).to_be_bytes());
    digest[9..].copy_from_slice(&hash([seed[1], !seed[0]], key).to_be_bytes());
    Some(digest)
}

/// `now + duration`, or as far as the clock goes.
pub(super) fn deadline(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration)
        .unwrap_or_else(|| now + Duration::from_secs(24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_dies_with_its_tenant() {
        let mut table = Table::new([1, 2]);
        let first = table.insert(b"a", 'a').unwrap();
        assert_eq!(table.remove(first), Some('a'));
        let second = table.insert(b"b", 'b').unwrap();
        assert_eq!(second.slot, first.slot, "the slot is used again");
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&'b'));
    }

    #[test]
    fn a_key_has_one_holder() {
        let mut table = Table::new([1, 2]);
        let first = table.insert(b"a", 1).unwrap();
        assert_eq!(table.insert(b"a", 2), Err(first));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_long_key_is_kept_short_and_found_again() {
        let mut table = Table::new([1, 2]);
        let keys = [vec![b'x'; LONGEST_KEY + 1], vec![b'x'; 60_000], vec![b'y'; 60_000]];
        let handles: Vec<Handle> = keys.iter().map(|key| table.insert(key, ()).unwrap()).collect();
        for (key, handle) in keys.iter().zip(&handles) {
            assert_eq!(table.find(key), Some(*handle));
            assert_eq!(table.insert(key, ()), Err(*handle));
            assert_eq!(table.tenant(*handle).unwrap().key.len(), 17);
        }
        for handle in handles {
            assert_eq!(table.remove(handle), Some(()));
        }
        assert_eq!((table.len(), table.find(&keys[0])), (0, None));
    }

    #[test]
    fn an_emptied_table_gives_its_memory_back() {
        let mut table = Table::new([1, 2]);
        let handles: Vec<Handle> = (0u32..5000)
            .map(|n| table.insert(&n.to_be_bytes(), n).unwrap())
            .collect();
        for handle in &handles {
            table.remove(*handle);
        }
        assert_eq!(
            (table.slots.capacity(), table.index.capacity(), table.free.capacity()),
            (0, 0, 0)
        );
        let after = table.insert(b"a", 1).unwrap();
        assert_eq!(
            table.get(handles[0]),
            None,
            "an old handle does not reach the new tenant"
        );
        assert_eq!(table.get(after), Some(&1));
    }

    #[test]
    fn removal_forgets_the_timers() {
        let now = crate::transaction::tests::epoch();
        let mut table = Table::new([1, 2]);
        let handle = table.insert(b"a", ()).unwrap();
        table.update_timers(handle, |timers| timers.arm(Timer::B, now + Duration::from_secs(1)));
        table.remove(handle);
        assert_eq!(table.next_deadline(), None);
        assert_eq!(table.take_due(now + Duration::from_secs(2)), None);
    }

    #[test]
    fn a_timer_that_ends_goes_before_one_that_repeats() {
        let now = crate::transaction::tests::epoch();
        let mut table = Table::new([1, 2]);
        let handle = table.insert(b"a", ()).unwrap();
        table.update_timers(handle, |timers| {
            timers.arm(Timer::A, now);
            timers.arm(Timer::B, now);
        });
        assert_eq!(table.take_due(now), Some((handle, Timer::B)));
        assert_eq!(table.take_due(now), Some((handle, Timer::A)));
        assert_eq!(table.take_due(now), None);
    }

    #[test]
    fn arming_again_replaces() {
        let now = crate::transaction::tests::epoch();
        let mut table = Table::new([1, 2]);
        let handle = table.insert(b"a", ()).unwrap();
        table.update_timers(handle, |timers| timers.arm(Timer::C, now + Duration::from_secs(1)));
        table.update_timers(handle, |timers| timers.arm(Timer::C, now + Duration::from_secs(5)));
        assert_eq!(table.next_deadline(), Some(now + Duration::from_secs(5)));
    }
}
