//! The active calls, in memory, and their changes as they are stored.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;
use trunkline_proto::v1;

use crate::{
    metrics::Metrics,
    store::{Store, StoreError, call},
};

/// Changes a watcher may fall behind before it has to start again: some seconds of a busy installation.
const CHANGES: usize = 4096;

/// The calls that are active now; clones share it.
#[derive(Debug, Clone)]
pub struct LiveCalls {
    inner: Arc<Mutex<Inner>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Inner {
    active: HashMap<String, Arc<v1::Call>>,
    /// `None` once closed.
    changes: Option<broadcast::Sender<Arc<v1::Call>>>,
}

impl LiveCalls {
    /// The active calls of the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: &Store, metrics: Metrics) -> Result<Self, StoreError> {
        let mut view = store.read().await?;
        let active: HashMap<_, _> = call::active(view.conn())
            .await?
            .into_iter()
            .map(|call| (call.name.clone(), Arc::new(call)))
            .collect();
        metrics
            .calls_active
            .set(i64::try_from(active.len()).unwrap_or(i64::MAX));
        let inner = Inner {
            active,
            changes: Some(broadcast::Sender::new(CHANGES)),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            metrics,
        })
    }

    /// Takes calls over that were just stored, in the order in which they were.
    pub fn apply(&self, calls: Vec<v1::Call>) {
        let mut inner = self.lock();
        for call in calls {
            let call = Arc::new(call);
            if call.state() == v1::CallState::Ended {
                inner.active.remove(&call.name);
            } else {
                inner.active.insert(call.name.clone(), Arc::clone(&call));
            }
            if let Some(changes) = &inner.changes {
                // Nobody is watching when this fails.
                drop(changes.send(call));
            }
        }
        self.metrics
            .calls_active
            .set(i64::try_from(inner.active.len()).unwrap_or(i64::MAX));
    }

    /// The active calls now and every change from here on, without a gap between the two. Once closed, the changes end
    /// at once.
    pub fn watch(&self) -> (Vec<Arc<v1::Call>>, broadcast::Receiver<Arc<v1::Call>>) {
        let inner = self.lock();
        let changes = match &inner.changes {
            Some(changes) => changes.subscribe(),
            None => broadcast::Sender::new(1).subscribe(),
        };
        (inner.active.values().cloned().collect(), changes)
    }

    /// Ends every watch: the control plane is going down.
    pub fn close(&self) {
        self.lock().changes = None;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
