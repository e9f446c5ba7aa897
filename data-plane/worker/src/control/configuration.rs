//! The configuration in force, and its copy on disk.
//!
//! Only what was accepted is kept, whole, as one file that is replaced atomically by a task of its own: the stream and the
//! shards never wait for the disk. A worker that dies between a push and the file presents the older versions it has and
//! is sent the difference. The file holds secrets (digest hashes, line passwords, keys) and is readable by its owner only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prost::Message as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trunkline_proto::dataplane::v1::{ConfigurationPush, HeldResource, PushResult};
use trunkline_shared::snapshot::Snapshot;
use trunkline_shared::wire;

use super::{file, record};
use crate::metrics::MetricsSet;

const FILE: &str = "configuration";
/// First octets of the file; the digit is the version of the format. A CRC and an encoded push follow.
const MAGIC: [u8; 8] = *b"TKCONF01";
/// A disk that refused is tried again after this long.
const RETRY: Duration = Duration::from_secs(5);

/// Owns the accepted snapshot: everybody else has a receiver.
#[derive(Debug)]
pub struct Configuration {
    path: PathBuf,
    current: watch::Sender<Accepted>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

/// An accepted configuration and the store it is of.
#[derive(Debug, Clone, Default)]
struct Accepted {
    snapshot: Arc<Snapshot>,
    store_id: String,
}

/// What a push came to.
#[derive(Debug)]
pub struct Outcome {
    /// The answer to the push.
    pub result: PushResult,
    /// Resources refused earlier are in force now; the control plane learns of it by the next hello.
    pub recovered: bool,
}

impl Configuration {
    /// The last accepted configuration from disk, or the empty one, in force in the receiver. A damaged file is reported
    /// and counts as none: the control plane sends everything again.
    ///
    /// # Errors
    /// A state directory that cannot be made or read.
    pub fn load(state_dir: &Path) -> anyhow::Result<(Configuration, watch::Receiver<Arc<Snapshot>>)> {
        file::create_private_dir(state_dir).with_context(|| format!("create {}", state_dir.display()))?;
        let path = state_dir.join(FILE);
        let content = file::read_if_there(&path).with_context(|| format!("read {}", path.display()))?;
        let accepted = match content.as_deref().map(decode) {
            None => Accepted::default(),
            Some(Some(accepted)) => {
                let (revision, trunks) = (accepted.snapshot.revision(), accepted.snapshot.trunks().count());
                tracing::info!(revision, trunks, "configuration loaded from disk");
                accepted
            }
            Some(None) => {
                tracing::error!(path = %path.display(), "the configuration on disk is damaged; waiting for another");
                Accepted::default()
            }
        };
        let (snapshots, receiver) = watch::channel(Arc::clone(&accepted.snapshot));
        let current = watch::Sender::new(accepted);
        Ok((
            Configuration {
                path,
                current,
                snapshots,
            },
            receiver,
        ))
    }

    /// Puts what is acceptable of a push in force. The work is done on a blocking thread: a configuration may be large.
    pub async fn apply(&mut self, push: ConfigurationPush) -> Outcome {
        let before = self.snapshot();
        let store_id = push.store_id.clone();
        let applied = tokio::task::spawn_blocking(move || wire::apply_push(&before, push))
            .await
            .expect("applying a push is total: what cannot be read is refused by name");
        let snapshot = Arc::new(applied.snapshot);
        self.current.send_replace(Accepted {
            snapshot: Arc::clone(&snapshot),
            store_id,
        });
        self.snapshots.send_replace(snapshot);
        Outcome {
            result: applied.result,
            recovered: !applied.recovered.is_empty(),
        }
    }

    /// The configuration in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow().snapshot)
    }

    /// Revision in force.
    pub fn revision(&self) -> i64 {
        self.current.borrow().snapshot.revision()
    }

    /// Store the versions are of; empty when there never was one.
    pub fn store_id(&self) -> String {
        self.current.borrow().store_id.clone()
    }

    /// Resources and versions for a hello.
    pub fn held(&self) -> Vec<HeldResource> {
        let held = self.snapshot().held();
        held.iter()
            .map(|(key, version)| HeldResource {
                key: Some(wire::key_to_wire(key)),
                version: *version,
            })
            .collect()
    }

    /// The task that keeps the file in step. It ends after `shutdown`, with what is in force then on disk.
    pub fn writer(&self) -> ConfigurationWriter {
        ConfigurationWriter {
            path: self.path.clone(),
            accepted: self.current.subscribe(),
        }
    }
}

/// Writes the file; see [`Configuration::writer`].
#[derive(Debug)]
pub struct ConfigurationWriter {
    path: PathBuf,
    accepted: watch::Receiver<Accepted>,
}

impl ConfigurationWriter {
    /// Runs until `shutdown`. Changes that arrive during a write are written together by the next.
    pub async fn run(mut self, metrics: Arc<MetricsSet>, shutdown: CancellationToken) {
        loop {
            let changed = tokio::select! {
                biased;
                changed = self.accepted.changed() => changed.is_ok(),
                () = shutdown.cancelled() => false,
            };
            if !changed && !self.accepted.has_changed().unwrap_or(false) {
                return;
            }
            while !self.write().await {
                metrics.count_configuration_write_failure();
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }

    async fn write(&mut self) -> bool {
        let accepted = self.accepted.borrow_and_update().clone();
        let path = self.path.clone();
        let revision = accepted.snapshot.revision();
        let written = tokio::task::spawn_blocking(move || file::replace(&path, &encode(&accepted))).await;
        match written {
            Ok(Ok(())) => {
                tracing::debug!(revision, "configuration is on disk");
                true
            }
            Ok(Err(error)) => {
                tracing::error!(path = %self.path.display(), %error, "configuration could not be written to disk");
                false
            }
            Err(error) => {
                tracing::error!(%error, "configuration could not be encoded");
                false
            }
        }
    }
}

fn encode(accepted: &Accepted) -> Vec<u8> {
    let push = ConfigurationPush {
        store_id: accepted.store_id.clone(),
        ..wire::push_of(&accepted.snapshot)
    };
    let mut content = Vec::with_capacity(MAGIC.len() + 4 + push.encoded_len());
    let body = push.encode_to_vec();
    content.extend_from_slice(&MAGIC);
    content.extend_from_slice(&record::crc32c(&body).to_le_bytes());
    content.extend_from_slice(&body);
    content
}

/// `None` when the file is damaged or holds something that was never accepted.
fn decode(content: &[u8]) -> Option<Accepted> {
    let (crc, body) = content.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*crc) != record::crc32c(body) {
        return None;
    }
    let push = ConfigurationPush::decode(body).ok()?;
    let store_id = push.store_id.clone();
    let applied = wire::apply_push(&Snapshot::default(), push);
    for rejection in &applied.result.rejections {
        // Written by an older program with other rules: the rest is good.
        let resource = rejection.key.as_ref().map_or("", |key| &key.name);
        tracing::warn!(resource, reason = rejection.error, "a resource on disk is refused now");
    }
    Some(Accepted {
        snapshot: Arc::new(applied.snapshot),
        store_id,
    })
}

#[cfg(test)]
mod tests;
