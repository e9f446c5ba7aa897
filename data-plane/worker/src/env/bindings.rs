//! Registration bindings of all trunks: this worker's own, with their flows, and those of the others.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use trunkline_engine::io::{ConnectionId, Contact, Flow};
use trunkline_shared::binding::{Aor, AorBindings};
use trunkline_shared::name::TrunkId;

/// The location table. One AOR is changed by one caller at a time; different AORs do not wait for each other.
#[derive(Default)]
pub struct BindingStore {
    aors: DashMap<Aor, Stored>,
    /// Connections that are the flow of bindings, and of how many: they are not closed for being idle (row 20).
    held: DashMap<ConnectionId, usize>,
}

impl std::fmt::Debug for BindingStore {
    /// Its size only: users and addresses do not belong in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BindingStore")
            .field("aors", &self.aors.len())
            .finish_non_exhaustive()
    }
}

struct Stored {
    address_of_record: Arc<str>,
    contacts: Vec<Contact>,
    changed_ms: i64,
}

impl BindingStore {
    /// Contacts of an AOR as stored, expired ones included.
    pub fn contacts(&self, aor: &Aor) -> Vec<Contact> {
        self.aors
            .get(aor)
            .map_or_else(Vec::new, |stored| stored.contacts.clone())
    }

    /// Changes the contacts of an AOR; see [`trunkline_engine::io::Env::update_contacts`].
    pub fn update(&self, aor: &Aor, change: &mut dyn FnMut(&mut Vec<Contact>) -> bool) {
        match self.aors.entry(aor.clone()) {
            Entry::Occupied(mut entry) => {
                let mut contacts = entry.get().contacts.clone();
                if !change(&mut contacts) {
                    return;
                }
                let stored = entry.get_mut();
                self.hold(&stored.contacts, &contacts);
                stored.contacts = contacts;
                // Never backwards: a clock set back must not make our own change look older than the last one.
                stored.changed_ms = now_ms().max(stored.changed_ms);
            }
            Entry::Vacant(entry) => {
                let mut contacts = Vec::new();
                if change(&mut contacts) && !contacts.is_empty() {
                    self.hold(&[], &contacts);
                    let uri: Arc<str> = format!("sip:{}", aor.user).into();
                    entry.insert(Stored {
                        address_of_record: uri,
                        contacts,
                        changed_ms: now_ms(),
                    });
                }
            }
        }
    }

    /// Takes what another worker, or this one before it was restarted, knows of an AOR, unless what is here is newer.
    /// True when it was taken. Flows of bindings that stay are kept.
    pub fn merge(&self, view: &AorBindings) -> bool {
        match self.aors.entry(view.aor.clone()) {
            Entry::Occupied(mut entry) => {
                if !view.supersedes(&entry.get().view(&view.aor)) {
                    return false;
                }
                let contacts = with_known_flows(view, &entry.get().contacts);
                self.hold(&entry.get().contacts, &contacts);
                *entry.get_mut() = Stored::of(view, contacts);
            }
            Entry::Vacant(entry) => {
                // Nothing is known and nothing is told: no need to remember that.
                if view.bindings.is_empty() {
                    return false;
                }
                entry.insert(Stored::of(view, with_known_flows(view, &[])));
            }
        }
        true
    }

    /// Everything that is stored, for the copy on disk.
    pub fn views(&self) -> Vec<AorBindings> {
        self.aors.iter().map(|entry| entry.value().view(entry.key())).collect()
    }

    /// Forgets AORs whose last binding ended before `before`, and those of trunks that are gone.
    pub fn purge(&self, before: SystemTime, known: impl Fn(&TrunkId) -> bool) {
        self.aors.retain(|aor, stored| {
            let keep = known(&aor.trunk) && stored.contacts.iter().any(|contact| contact.binding.is_live(before));
            if !keep {
                self.hold(&stored.contacts, &[]);
            }
            keep
        });
    }

    /// AORs with a binding that holds at `now`.
    pub fn registered(&self, now: SystemTime) -> usize {
        self.aors
            .iter()
            .filter(|stored| stored.contacts.iter().any(|contact| contact.binding.is_live(now)))
            .count()
    }

    /// Whether a connection is the flow of a binding.
    pub fn holds(&self, connection: ConnectionId) -> bool {
        self.held.contains_key(&connection)
    }

    fn hold(&self, before: &[Contact], after: &[Contact]) {
        for connection in after.iter().filter_map(connection_of) {
            *self.held.entry(connection).or_default() += 1;
        }
        for connection in before.iter().filter_map(connection_of) {
            self.held.remove_if_mut(&connection, |_, bindings| {
                *bindings = bindings.saturating_sub(1);
                *bindings == 0
            });
        }
    }
}

impl Stored {
    fn of(view: &AorBindings, contacts: Vec<Contact>) -> Stored {
        Stored {
            address_of_record: Arc::clone(&view.address_of_record),
            contacts,
            changed_ms: view.change_time_ms,
        }
    }

    fn view(&self, aor: &Aor) -> AorBindings {
        AorBindings {
            aor: aor.clone(),
            address_of_record: Arc::clone(&self.address_of_record),
            bindings: self.contacts.iter().map(|contact| contact.binding.clone()).collect(),
            change_time_ms: self.changed_ms,
        }
    }
}

fn connection_of(contact: &Contact) -> Option<ConnectionId> {
    contact.flow.as_ref().and_then(|flow| flow.connection)
}

/// Contacts of a view, each with the flow it has here: the same contact from the same source came by the same flow.
fn with_known_flows(view: &AorBindings, known: &[Contact]) -> Vec<Contact> {
    let flow = |binding: &trunkline_shared::binding::Binding| -> Option<Flow> {
        known
            .iter()
            .find(|contact| {
                contact.binding.contact_uri == binding.contact_uri && contact.binding.source == binding.source
            })
            .and_then(|contact| contact.flow.clone())
    };
    view.bindings
        .iter()
        .map(|binding| Contact {
            flow: flow(binding),
            binding: binding.clone(),
        })
        .collect()
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests;
