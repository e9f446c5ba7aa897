//! What is shown of the workers.

use std::sync::Arc;

use trunkline_proto::v1;

use super::{Fleet, Slot, lock};
use crate::{
    store::{ResourceKind, timestamp, worker},
    stream::{
        catalogue::Key,
        session::{Parked, Sync},
    },
};

/// Resources shown of one worker, those in error first.
const SHOWN_RESOURCES: usize = 10_000;

/// A worker as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerState {
    /// Stream open; one that was not heard of for three heartbeats is closed.
    pub connected: bool,
    /// Last message, in milliseconds since 1970.
    pub last_seen_ms: Option<i64>,
    /// Revision it has applied.
    pub applied_revision: i64,
    /// Active calls.
    pub active_calls: u32,
    /// All resources taken together.
    pub sync_state: v1::SyncState,
    /// Each resource, those in error first; at most 10,000.
    pub resources: Vec<v1::ResourceSync>,
}

impl Fleet {
    /// A worker as it is now; `None` when it is not known here.
    pub fn worker(&self, id: &str) -> Option<WorkerState> {
        let slot = lock(&self.inner.workers).get(id).cloned()?;
        let catalogue = self.catalogue();
        let live = slot.lock();
        let connected = live.link.is_some();
        let mut resources = Vec::new();
        let sync_state;
        if let Some(session) = &live.session {
            sync_state = shown_state(session.summary(&catalogue), connected);
            resources.extend(
                session
                    .resources(&catalogue)
                    .map(|(key, sync, held, parked)| resource_sync(key, shown_state(sync, connected), held, parked)),
            );
        } else {
            // Nothing was heard since this process started; what the worker refused before is in the store.
            let mut errors = false;
            let own = worker::resource_name(id);
            let concerns = |key: &Key| key.kind() != ResourceKind::WorkerSettings || key.name() == own;
            for (key, entry) in catalogue.entries().filter(|(key, _)| concerns(key)) {
                let parked = live.parked.get(key);
                let refused = parked.is_some_and(|parked| parked.version == entry.version());
                errors |= refused;
                let state = if refused {
                    v1::SyncState::Error
                } else {
                    v1::SyncState::Stale
                };
                resources.push(resource_sync(key, state, 0, parked));
            }
            sync_state = if errors {
                v1::SyncState::Error
            } else {
                v1::SyncState::Stale
            };
        }
        drop_beyond(&mut resources);
        Some(WorkerState {
            connected,
            last_seen_ms: live.last_seen_ms,
            applied_revision: live.applied_revision,
            active_calls: live.active_calls,
            sync_state,
            resources,
        })
    }

    /// Listeners of `trunks/{trunk}` by worker, and its custom properties that no connected worker understands.
    pub fn trunk_status(&self, trunk: &str) -> v1::TrunkStatus {
        let mut slots: Vec<Arc<Slot>> = lock(&self.inner.workers).values().cloned().collect();
        slots.sort_by(|a, b| a.id.cmp(&b.id));
        let mut status = v1::TrunkStatus {
            connected: !slots.is_empty(),
            ..v1::TrunkStatus::default()
        };
        let mut unrecognised: Option<Vec<String>> = None;
        for slot in slots {
            let live = slot.lock();
            let mut bound = live.link.is_some();
            let mut has_listener = false;
            for listener in live.status.listeners.iter().filter(|listener| listener.trunk == trunk) {
                has_listener = true;
                bound &= listener.bound;
                let hostname = live
                    .hello
                    .as_ref()
                    .map(|hello| hello.hostname.clone())
                    .unwrap_or_default();
                let error = (!listener.bound).then(|| v1::StatusError {
                    code: listener.error_code.clone(),
                    text: listener.error_text.clone(),
                    hostname,
                });
                status.listeners.push(v1::ListenerStatus {
                    worker: worker::resource_name(&slot.id),
                    address: listener.address.clone(),
                    bound: listener.bound && live.link.is_some(),
                    error,
                    state_time: listener.state_time,
                });
            }
            status.connected &= has_listener && bound;
            if live.link.is_some() {
                let names = live
                    .status
                    .unrecognised
                    .iter()
                    .find(|properties| properties.trunk == trunk);
                let names = names.map(|properties| properties.names.clone()).unwrap_or_default();
                unrecognised = Some(match unrecognised {
                    Some(all) => all.into_iter().filter(|name| names.contains(name)).collect(),
                    None => names,
                });
            }
        }
        status.unrecognised_properties = unrecognised.unwrap_or_default();
        status
    }
}

/// Nobody can say that a worker that is away is in step.
fn shown_state(sync: Sync, connected: bool) -> v1::SyncState {
    match sync {
        Sync::Error => v1::SyncState::Error,
        Sync::Synced if connected => v1::SyncState::Synced,
        Sync::Synced | Sync::Stale => v1::SyncState::Stale,
    }
}

fn resource_sync(key: &Key, state: v1::SyncState, held: i64, parked: Option<&Parked>) -> v1::ResourceSync {
    v1::ResourceSync {
        resource: match key.kind() {
            // Two kinds go by the trunk's name.
            ResourceKind::TlsIdentity => format!("{}/tlsIdentity", key.name()),
            ResourceKind::WorkerSettings => format!("{}/settings", key.name()),
            _ => key.name().to_owned(),
        },
        state: state as i32,
        accepted_version: held,
        rejected_version: parked.map_or(0, |parked| parked.version),
        error: parked.map(|parked| parked.error.clone()).unwrap_or_default(),
        error_time: parked.map(|parked| timestamp(parked.time_ms)),
    }
}

fn drop_beyond(resources: &mut Vec<v1::ResourceSync>) {
    resources.sort_by_key(|resource| match resource.state() {
        v1::SyncState::Error => 0,
        v1::SyncState::Stale | v1::SyncState::Unspecified => 1,
        v1::SyncState::Synced => 2,
    });
    resources.truncate(SHOWN_RESOURCES);
}
