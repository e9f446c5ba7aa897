//! The configuration a worker works by: immutable, compiled, swapped whole.
//!
//! [`Snapshot::apply`] makes the next one out of a set of changes. What a change does not touch is shared. A resource that
//! cannot be used is refused by name with a reason, keeps its previous accepted version, and *waits*: it is tried again with
//! every later change, because what stood in its way (a port in use, a trunk not there yet) may have gone, and the
//! control plane does not send a refused version twice.

mod accept;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

pub use accept::Conflict;

use crate::credential::Credential;
use crate::line::Line;
use crate::name::{CredentialName, LineName, RouteId, TrunkId, WorkerId};
use crate::route::Route;
use crate::settings::WorkerSettings;
use crate::shard_map::ShardMap;
use crate::tls::TlsIdentity;
use crate::trunk::Trunk;

/// Names a resource of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKey {
    /// What the worker of this id needs to know.
    WorkerSettings(WorkerId),
    /// A trunk.
    Trunk(TrunkId),
    /// Certificate and key of a TLS trunk.
    TlsIdentity(TrunkId),
    /// A digest credential.
    Credential(CredentialName),
    /// A line.
    Line(LineName),
    /// A route.
    Route(RouteId),
}

/// The resource name; kinds with equal names (a trunk and its TLS identity) differ by their type on the wire.
impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkerSettings(worker) => write!(f, "workers/{worker}"),
            Self::Trunk(trunk) | Self::TlsIdentity(trunk) => write!(f, "trunks/{trunk}"),
            Self::Credential(name) => name.fmt(f),
            Self::Line(name) => name.fmt(f),
            Self::Route(route) => write!(f, "routes/{route}"),
        }
    }
}

/// A resource in one version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Revision at which it last changed.
    pub version: i64,
    /// What it is.
    pub body: Body,
}

/// What a resource is.
#[derive(Debug, Clone)]
pub enum Body {
    /// Worker settings.
    WorkerSettings(WorkerId, Arc<WorkerSettings>),
    /// A trunk.
    Trunk(Arc<Trunk>),
    /// Certificate and key of a TLS trunk.
    TlsIdentity(Arc<TlsIdentity>),
    /// A digest credential.
    Credential(Arc<Credential>),
    /// A line.
    Line(Arc<Line>),
    /// A route.
    Route(Arc<Route>),
}

impl Resource {
    /// Its key.
    pub fn key(&self) -> ResourceKey {
        match &self.body {
            Body::WorkerSettings(worker, _) => ResourceKey::WorkerSettings(worker.clone()),
            Body::Trunk(trunk) => ResourceKey::Trunk(trunk.id.clone()),
            Body::TlsIdentity(identity) => ResourceKey::TlsIdentity(identity.trunk.clone()),
            Body::Credential(credential) => ResourceKey::Credential(credential.name.clone()),
            Body::Line(line) => ResourceKey::Line(line.name.clone()),
            Body::Route(route) => ResourceKey::Route(route.id.clone()),
        }
    }
}

/// A refused resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Which.
    pub key: ResourceKey,
    /// The version refused.
    pub version: i64,
    /// Why.
    pub reason: Conflict,
}

/// What [`Snapshot::apply`] comes to.
#[derive(Debug)]
pub struct Applied {
    /// The next configuration.
    pub snapshot: Snapshot,
    /// Resources of this change that were refused.
    pub rejections: Vec<Rejection>,
    /// Resources refused earlier that are in force from now on: the control plane still counts them as refused until the
    /// worker presents what it holds.
    pub recovered: Vec<(ResourceKey, i64)>,
}

/// A resource in force.
#[derive(Debug)]
struct Held<T> {
    version: i64,
    value: Arc<T>,
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self {
            version: self.version,
            value: Arc::clone(&self.value),
        }
    }
}

/// The credentials of a trunk by user name.
#[derive(Clone, Default)]
struct Users(ShardMap<Arc<str>, Arc<Credential>>);

/// An immutable configuration. `Default` is the empty one.
#[derive(Clone, Default)]
pub struct Snapshot {
    revision: i64,
    settings: Option<(WorkerId, Held<WorkerSettings>)>,
    trunks: Arc<BTreeMap<TrunkId, Held<Trunk>>>,
    tls: Arc<BTreeMap<TrunkId, Held<TlsIdentity>>>,
    lines: Arc<BTreeMap<LineName, Held<Line>>>,
    lines_by_trunk: Arc<HashMap<TrunkId, Arc<[Arc<Line>]>>>,
    routes: Arc<BTreeMap<RouteId, Held<Route>>>,
    routes_in_order: Arc<[Arc<Route>]>,
    credentials: ShardMap<CredentialName, Held<Credential>>,
    users: Arc<HashMap<TrunkId, Users>>,
    /// Refused for a conflict and not replaced or removed since.
    waiting: Arc<BTreeMap<ResourceKey, Resource>>,
}

impl Snapshot {
    /// Revision of the control plane's store it stands for.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// A trunk.
    pub fn trunk(&self, id: &TrunkId) -> Option<&Arc<Trunk>> {
        self.trunks.get(id).map(|held| &held.value)
    }

    /// Every trunk, by id.
    pub fn trunks(&self) -> impl Iterator<Item = &Arc<Trunk>> {
        self.trunks.values().map(|held| &held.value)
    }

    /// Certificate and key of a TLS trunk.
    pub fn tls_identity(&self, trunk: &TrunkId) -> Option<&Arc<TlsIdentity>> {
        self.tls.get(trunk).map(|held| &held.value)
    }

    /// A line.
    pub fn line(&self, name: &LineName) -> Option<&Arc<Line>> {
        self.lines.get(name).map(|held| &held.value)
    }

    /// The enabled lines of a trunk by priority, then heavier first, then name; [`crate::line::weighted_order`] shuffles
    /// them for a call.
    pub fn lines_of(&self, trunk: &TrunkId) -> &[Arc<Line>] {
        self.lines_by_trunk.get(trunk).map_or(&[], |lines| lines)
    }

    /// Every line, disabled ones too, by name.
    pub fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        self.lines.values().map(|held| &held.value)
    }

    /// The first enabled route that matches a request that came in by `inbound` for `user` at `host`.
    pub fn route(&self, inbound: &TrunkId, user: &str, host: &str) -> Option<&Arc<Route>> {
        self.routes_in_order
            .iter()
            .find(|route| route.matcher.matches(inbound, user, host))
    }

    /// The enabled routes in the order they are tried.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes_in_order
    }

    /// The credential of a user name on a trunk, when it is enabled and its hashes are of the trunk's present realm.
    pub fn credential(&self, trunk: &TrunkId, username: &str) -> Option<&Arc<Credential>> {
        let realm = &self.trunk(trunk)?.inbound_digest.realm;
        self.users
            .get(trunk)?
            .0
            .get(username)
            .filter(|credential| credential.enabled && credential.realm == *realm)
    }

    /// Whether an address of record of the trunk belongs to somebody: some credential in force is bound to its user.
    pub fn knows_user(&self, trunk: &TrunkId, aor_user: &str) -> bool {
        // Most often both names are the same.
        let own = self.credential(trunk, aor_user);
        if own.is_some_and(|credential| *credential.aor_user == *aor_user) {
            return true;
        }
        let (Some(users), Some(trunk)) = (self.users.get(trunk), self.trunk(trunk)) else {
            return false;
        };
        users.0.iter().any(|(_, credential)| {
            credential.enabled && *credential.aor_user == *aor_user && credential.realm == trunk.inbound_digest.realm
        })
    }

    /// How many credentials there are, of all trunks.
    pub fn credential_count(&self) -> usize {
        self.credentials.len()
    }

    /// What every worker needs to know; the defaults until the control plane has told.
    pub fn settings(&self) -> Arc<WorkerSettings> {
        self.settings
            .as_ref()
            .map(|(_, held)| Arc::clone(&held.value))
            .unwrap_or_default()
    }

    /// Every resource in force with its version: what a worker presents on a new stream. Refused ones that wait are not
    /// among them, so the control plane sends those again.
    pub fn held(&self) -> Vec<(ResourceKey, i64)> {
        self.resources()
            .map(|resource| (resource.key(), resource.version))
            .collect()
    }

    /// Every resource in force, in the order of the kinds they depend on: trunks before what belongs to them.
    pub fn resources(&self) -> impl Iterator<Item = Resource> {
        fn all<'a, T: 'a>(
            held: impl Iterator<Item = &'a Held<T>>,
            body: fn(Arc<T>) -> Body,
        ) -> impl Iterator<Item = Resource> {
            held.map(move |held| Resource {
                version: held.version,
                body: body(Arc::clone(&held.value)),
            })
        }
        self.settings
            .iter()
            .map(|(worker, held)| Resource {
                version: held.version,
                body: Body::WorkerSettings(worker.clone(), Arc::clone(&held.value)),
            })
            .chain(all(self.trunks.values(), Body::Trunk))
            .chain(all(self.tls.values(), Body::TlsIdentity))
            .chain(all(self.credentials.iter().map(|(_, held)| held), Body::Credential))
            .chain(all(self.lines.values(), Body::Line))
            .chain(all(self.routes.values(), Body::Route))
    }

    /// Makes the next configuration, at `revision`. Removals count first, then upserts and what waits.
    ///
    /// Removing a trunk removes its lines, credentials and certificate with it. A route whose target was removed stays;
    /// routing passes over the missing target.
    pub fn apply(&self, upserts: Vec<Resource>, removals: &[ResourceKey], revision: i64) -> Applied {
        let mut pending: BTreeMap<ResourceKey, Resource> = (*self.waiting).clone();
        let mut fresh: BTreeMap<ResourceKey, i64> = BTreeMap::new();
        let mut snapshot = Self {
            revision,
            ..self.clone()
        };
        for key in removals {
            pending.retain(|waiting, _| waiting != key && !belongs_to(waiting, key));
            snapshot.remove(key);
        }
        for resource in upserts {
            fresh.insert(resource.key(), resource.version);
            pending.insert(resource.key(), resource);
        }

        let refused = snapshot.accept(pending);
        let mut rejections = Vec::new();
        let mut waiting = BTreeMap::new();
        for (resource, reason) in refused {
            let key = resource.key();
            if fresh.contains_key(&key) {
                rejections.push(Rejection {
                    key: key.clone(),
                    version: resource.version,
                    reason,
                });
            }
            waiting.insert(key, resource);
        }
        let recovered = self
            .waiting
            .iter()
            .filter(|(key, _)| !fresh.contains_key(key) && !waiting.contains_key(key) && snapshot.holds(key))
            .map(|(key, resource)| (key.clone(), resource.version))
            .collect();
        snapshot.waiting = Arc::new(waiting);
        snapshot.index();
        Applied {
            snapshot,
            rejections,
            recovered,
        }
    }

    fn insert(&mut self, resource: Resource) {
        let version = resource.version;
        match resource.body {
            Body::WorkerSettings(worker, value) => self.settings = Some((worker, Held { version, value })),
            Body::Trunk(value) => {
                Arc::make_mut(&mut self.trunks).insert(value.id.clone(), Held { version, value });
            }
            Body::TlsIdentity(value) => {
                Arc::make_mut(&mut self.tls).insert(value.trunk.clone(), Held { version, value });
            }
            Body::Line(value) => {
                Arc::make_mut(&mut self.lines).insert(value.name.clone(), Held { version, value });
            }
            Body::Route(value) => {
                Arc::make_mut(&mut self.routes).insert(value.id.clone(), Held { version, value });
            }
            Body::Credential(value) => {
                self.forget_user(&value.name);
                Arc::make_mut(&mut self.users)
                    .entry(value.name.trunk().clone())
                    .or_default()
                    .0
                    .insert(Arc::clone(&value.username), Arc::clone(&value));
                self.credentials.insert(value.name.clone(), Held { version, value });
            }
        }
    }

    fn remove(&mut self, key: &ResourceKey) {
        match key {
            ResourceKey::WorkerSettings(worker) => {
                self.settings = self.settings.take().filter(|(held, _)| held != worker)
            }
            ResourceKey::TlsIdentity(trunk) => {
                Arc::make_mut(&mut self.tls).remove(trunk);
            }
            ResourceKey::Line(line) => {
                Arc::make_mut(&mut self.lines).remove(line);
            }
            ResourceKey::Route(route) => {
                Arc::make_mut(&mut self.routes).remove(route);
            }
            ResourceKey::Credential(name) => {
                self.forget_user(name);
                self.credentials.remove(name);
            }
            ResourceKey::Trunk(trunk) => self.remove_trunk(trunk),
        }
    }

    fn remove_trunk(&mut self, trunk: &TrunkId) {
        Arc::make_mut(&mut self.trunks).remove(trunk);
        Arc::make_mut(&mut self.tls).remove(trunk);
        Arc::make_mut(&mut self.lines).retain(|line, _| line.trunk() != trunk);
        if let Some(users) = Arc::make_mut(&mut self.users).remove(trunk) {
            for (_, credential) in users.0.iter() {
                self.credentials.remove(&credential.name);
            }
        }
    }

    /// Takes the user name of a credential out of the index, before the credential changes or goes.
    fn forget_user(&mut self, name: &CredentialName) {
        let Some(held) = self.credentials.get(name) else {
            return;
        };
        let username = Arc::clone(&held.value.username);
        if let Some(users) = Arc::make_mut(&mut self.users).get_mut(name.trunk()) {
            users.0.remove(&*username);
        }
    }

    fn holds(&self, key: &ResourceKey) -> bool {
        match key {
            ResourceKey::WorkerSettings(worker) => self.settings.as_ref().is_some_and(|(held, _)| held == worker),
            ResourceKey::Trunk(trunk) => self.trunks.contains_key(trunk),
            ResourceKey::TlsIdentity(trunk) => self.tls.contains_key(trunk),
            ResourceKey::Credential(name) => self.credentials.get(name).is_some(),
            ResourceKey::Line(name) => self.lines.contains_key(name),
            ResourceKey::Route(route) => self.routes.contains_key(route),
        }
    }

    /// Rebuilds the ordered views; a few thousand lines and routes at most.
    fn index(&mut self) {
        let mut by_trunk: HashMap<TrunkId, Vec<Arc<Line>>> = HashMap::new();
        for held in self.lines.values().filter(|held| held.value.enabled) {
            by_trunk
                .entry(held.value.name.trunk().clone())
                .or_default()
                .push(Arc::clone(&held.value));
        }
        let sorted = |mut lines: Vec<Arc<Line>>| -> Arc<[Arc<Line>]> {
            // Stable: lines of equal priority and weight stay in the order of their names.
            lines.sort_by_key(|line| (line.priority, std::cmp::Reverse(line.weight)));
            lines.into()
        };
        self.lines_by_trunk = Arc::new(
            by_trunk
                .into_iter()
                .map(|(trunk, lines)| (trunk, sorted(lines)))
                .collect(),
        );
        let mut routes: Vec<Arc<Route>> = self
            .routes
            .values()
            .filter(|held| held.value.enabled)
            .map(|held| Arc::clone(&held.value))
            .collect();
        routes.sort_by_key(|route| route.priority);
        self.routes_in_order = routes.into();
    }
}

/// Whether a resource goes with a removed one: what is below a trunk goes with the trunk.
fn belongs_to(key: &ResourceKey, removed: &ResourceKey) -> bool {
    let ResourceKey::Trunk(trunk) = removed else {
        return false;
    };
    match key {
        ResourceKey::TlsIdentity(of) => of == trunk,
        ResourceKey::Credential(name) => name.trunk() == trunk,
        ResourceKey::Line(name) => name.trunk() == trunk,
        ResourceKey::WorkerSettings(_) | ResourceKey::Trunk(_) | ResourceKey::Route(_) => false,
    }
}

/// Counts only: a configuration is no log line.
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.revision)
            .field("trunks", &self.trunks.len())
            .field("lines", &self.lines.len())
            .field("routes", &self.routes.len())
            .field("credentials", &self.credentials.len())
            .field("waiting", &self.waiting.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
