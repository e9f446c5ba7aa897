//! Builds the catalogue from the store and keeps it in step: one task, whatever the number of streams.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use trunkline_proto::dataplane::v1::{Credential, LineConfiguration, Resource, WorkerSettings, resource::Body};

use super::catalogue::{Catalogue, Key};
use crate::{
    identity::TrunkCertificates,
    metrics::Metrics,
    store::{
        ChangesSince, Cipher, Operation, ReadTx, ResourceKind, Store, StoreError, Stored,
        credential::{self, WorkerCredential},
        installation, line, route, settings, tls_identity, trunk, worker,
    },
};

/// Certificates that are due and nonce keys that are old are looked for this often.
const UPKEEP: Duration = Duration::from_secs(600);
/// A nonce key signs for this long.
const NONCE_KEY_AGE_MS: i64 = 12 * 3_600_000;
/// After a failure of the store.
const RETRY: Duration = Duration::from_secs(1);

/// Reads the whole configuration, then follows the store until `stop` is cancelled.
#[derive(Debug)]
pub struct CatalogueSource {
    store: Store,
    certificates: TrunkCertificates,
    metrics: Metrics,
    published: watch::Sender<Arc<Catalogue>>,
}

impl CatalogueSource {
    /// Reads the whole configuration.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn open(store: Store, certificates: TrunkCertificates, metrics: Metrics) -> Result<Self, StoreError> {
        let mut tx = store.write().await?;
        let store_id = installation::ensure_store_id(&mut tx).await?;
        tx.commit().await?;
        upkeep(&store, &certificates).await?;
        let mut view = store.read().await?;
        let catalogue = read_all(&mut view, &store_id).await?;
        metrics.catalogue_revision.set(catalogue.revision());
        Ok(Self {
            store,
            certificates,
            metrics,
            published: watch::Sender::new(Arc::new(catalogue)),
        })
    }

    /// The catalogue now and every later one, coalesced.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Catalogue>> {
        self.published.subscribe()
    }

    /// Follows the store. A failure is logged and tried again: streams go on with what there is.
    pub async fn run(self, stop: CancellationToken) {
        let mut revisions = self.store.subscribe();
        revisions.mark_changed();
        let mut wait = UPKEEP;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = revisions.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            revisions.borrow_and_update();
            wait = match self.follow().await {
                Ok(()) => UPKEEP,
                Err(error) => {
                    error!(
                        error = &error as &dyn std::error::Error,
                        "take the configuration over from the store"
                    );
                    RETRY
                }
            };
        }
    }

    async fn follow(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        // First, so that a new TLS trunk and its certificate reach the workers in one push.
        upkeep(&self.store, &self.certificates).await?;
        let current = Arc::clone(&self.published.borrow());
        let mut view = self.store.read().await?;
        if view.revision() == current.revision() {
            return Ok(());
        }
        let next = match view.changes_since(current.revision()).await? {
            ChangesSince::Complete { revision, changes } => {
                let mut next = (*current).clone();
                let mut settings_changed = false;
                for change in changes {
                    let key = Key::new(change.kind, &change.name);
                    if change.kind == ResourceKind::WorkerSettings && worker_id(&change.name).is_none() {
                        settings_changed = true;
                    } else if change.operation == Operation::Remove {
                        next.remove(&key, change.version);
                    } else if change.kind == ResourceKind::WorkerSettings {
                        settings_changed = true;
                    } else {
                        read_one(&mut view, &mut next, &key, change.version).await?;
                    }
                }
                if settings_changed {
                    read_worker_settings(&mut view, &mut next).await?;
                }
                next.advance(revision);
                next
            }
            ChangesSince::Truncated { .. } => {
                info!("the change log is too short; reading the whole configuration");
                read_all(&mut view, current.store_id()).await?
            }
        };
        self.metrics.catalogue_revision.set(next.revision());
        self.published.send_replace(Arc::new(next));
        self.metrics.catalogue_build.observe(Metrics::seconds(began.elapsed()));
        Ok(())
    }
}

async fn upkeep(store: &Store, certificates: &TrunkCertificates) -> Result<(), StoreError> {
    certificates.reconcile(store, SystemTime::now()).await?;
    let due = {
        let mut view = store.read().await?;
        installation::nonce_key_age(view.conn(), crate::store::now_ms())
            .await?
            .is_none_or(|age| age > NONCE_KEY_AGE_MS)
    };
    if due {
        let mut tx = store.write().await?;
        let before_ms = tx.now_ms() - NONCE_KEY_AGE_MS;
        installation::rotate_nonce_key(&mut tx, before_ms).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn read_all(view: &mut ReadTx, store_id: &str) -> Result<Catalogue, StoreError> {
    let cipher = view.cipher();
    // Everything is at or below this revision, and nothing that went before it can be told: hence "empty at".
    let mut catalogue = Catalogue::empty(store_id, view.revision());
    for trunk in trunk::all(view.conn()).await? {
        put_trunk(&mut catalogue, trunk);
    }
    for identity in tls_identity::all(view.conn(), &cipher).await? {
        put_identity(&mut catalogue, identity);
    }
    for credential in credential::all_for_workers(view.conn(), &cipher).await? {
        put_credential(&mut catalogue, credential);
    }
    for line in line::all(view.conn()).await? {
        put_line(view, &cipher, &mut catalogue, line).await?;
    }
    for route in route::all(view.conn()).await? {
        put_route(&mut catalogue, route);
    }
    read_worker_settings(view, &mut catalogue).await?;
    Ok(catalogue)
}

/// Reads one resource anew; gone meanwhile is gone.
async fn read_one(view: &mut ReadTx, catalogue: &mut Catalogue, key: &Key, version: i64) -> Result<(), StoreError> {
    let cipher = view.cipher();
    let name = key.name();
    let found = match key.kind() {
        ResourceKind::Trunk => trunk::find(view.conn(), name)
            .await?
            .map(|trunk| put_trunk(catalogue, trunk))
            .is_some(),
        ResourceKind::TlsIdentity => tls_identity::find(view.conn(), &cipher, name)
            .await?
            .map(|identity| put_identity(catalogue, identity))
            .is_some(),
        ResourceKind::Credential => credential::find_for_workers(view.conn(), &cipher, name)
            .await?
            .map(|credential| put_credential(catalogue, credential))
            .is_some(),
        ResourceKind::Line => match line::find(view.conn(), name).await? {
            Some(line) => {
                put_line(view, &cipher, catalogue, line).await?;
                true
            }
            None => false,
        },
        ResourceKind::Route => route::find(view.conn(), name)
            .await?
            .map(|route| put_route(catalogue, route))
            .is_some(),
        ResourceKind::WorkerSettings => true,
    };
    if !found {
        catalogue.remove(key, version);
    }
    Ok(())
}

/// A resource of its own per worker: what all share, and whether it drains.
async fn read_worker_settings(view: &mut ReadTx, catalogue: &mut Catalogue) -> Result<(), StoreError> {
    let cipher = view.cipher();
    let nonce_keys = installation::nonce_keys(view.conn(), &cipher).await?;
    let settings = settings::find(view.conn()).await?;
    let shared = nonce_keys
        .version
        .max(settings.as_ref().map_or(0, |settings| settings.version));
    let pci_dss_enabled = settings.is_some_and(|settings| settings.message.pci_dss_enabled());
    for (id, drain, version) in worker::drain_flags(view.conn()).await? {
        let name = worker::resource_name(&id);
        let body = WorkerSettings {
            nonce_keys: nonce_keys.keys.iter().map(|key| key.to_vec()).collect(),
            pci_dss_enabled,
            drain,
        };
        put(
            catalogue,
            ResourceKind::WorkerSettings,
            &name,
            shared.max(version),
            Body::WorkerSettings(body),
        );
    }
    Ok(())
}

fn put_trunk(catalogue: &mut Catalogue, stored: Stored<trunkline_proto::v1::Trunk>) {
    let name = stored.message.name.clone();
    put(
        catalogue,
        ResourceKind::Trunk,
        &name,
        stored.version,
        Body::Trunk(stored.message),
    );
}

fn put_identity(catalogue: &mut Catalogue, stored: Stored<trunkline_proto::dataplane::v1::TlsIdentity>) {
    let name = stored.message.trunk.clone();
    put(
        catalogue,
        ResourceKind::TlsIdentity,
        &name,
        stored.version,
        Body::TlsIdentity(stored.message),
    );
}

fn put_credential(catalogue: &mut Catalogue, stored: WorkerCredential) {
    let WorkerCredential {
        credential: Stored { message, version },
        realm,
        ha1,
    } = stored;
    let body = Credential {
        enabled: message.enabled(),
        name: message.name,
        username: message.username,
        aor_user: message.aor_user,
        realm,
        ha1_md5: hex(&ha1.md5),
        ha1_sha256: hex(&ha1.sha256),
        ha1_sha512_256: hex(&ha1.sha512_256),
    };
    let name = body.name.clone();
    put(
        catalogue,
        ResourceKind::Credential,
        &name,
        version,
        Body::Credential(body),
    );
}

async fn put_line(
    view: &mut ReadTx,
    cipher: &Cipher,
    catalogue: &mut Catalogue,
    stored: Stored<trunkline_proto::v1::Line>,
) -> Result<(), StoreError> {
    let name = stored.message.name.clone();
    let password = line::auth_password(view.conn(), cipher, &name).await?;
    let body = LineConfiguration {
        line: Some(stored.message),
        auth_password: password.map(|password| (*password).clone()).unwrap_or_default(),
    };
    put(catalogue, ResourceKind::Line, &name, stored.version, Body::Line(body));
    Ok(())
}

fn put_route(catalogue: &mut Catalogue, stored: Stored<trunkline_proto::v1::Route>) {
    let name = stored.message.name.clone();
    put(
        catalogue,
        ResourceKind::Route,
        &name,
        stored.version,
        Body::Route(stored.message),
    );
}

fn put(catalogue: &mut Catalogue, kind: ResourceKind, name: &str, version: i64, body: Body) {
    let key = Key::new(kind, name);
    let resource = Resource {
        key: Some(key.to_wire()),
        version,
        body: Some(body),
    };
    catalogue.put(key, resource);
}

fn worker_id(name: &str) -> Option<&str> {
    name.strip_prefix("workers/")
}

fn hex(octets: &[u8]) -> String {
    octets
        .iter()
        .fold(String::with_capacity(octets.len() * 2), |mut text, octet| {
            // Writing to a String does not fail.
            let _ = write!(text, "{octet:02x}");
            text
        })
}
