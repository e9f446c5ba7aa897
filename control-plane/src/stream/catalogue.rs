//! The configuration as it is streamed: every resource in its current version, built once and shared by all streams.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prost::Message as _;
use trunkline_proto::dataplane::v1::{Resource, ResourceKey, ResourceType};

use crate::store::ResourceKind;

/// Removals remembered. A stream further behind compares everything it holds instead, which is right, only slower.
const REMEMBERED_REMOVALS: usize = 65_536;

/// Names a resource; ordered so that what others depend on comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    rank: u8,
    name: Arc<str>,
}

impl Key {
    /// The resource called `name`.
    pub fn new(kind: ResourceKind, name: &str) -> Self {
        Self {
            rank: rank(kind),
            name: name.into(),
        }
    }

    /// Reads a key from the wire; `None` when its type is unknown to this program.
    pub fn from_wire(key: &ResourceKey) -> Option<Self> {
        let kind = match key.r#type() {
            ResourceType::Unspecified => return None,
            ResourceType::Trunk => ResourceKind::Trunk,
            ResourceType::Credential => ResourceKind::Credential,
            ResourceType::Line => ResourceKind::Line,
            ResourceType::Route => ResourceKind::Route,
            ResourceType::TlsIdentity => ResourceKind::TlsIdentity,
            ResourceType::WorkerSettings => ResourceKind::WorkerSettings,
        };
        Some(Self::new(kind, &key.name))
    }

    /// The key on the wire.
    pub fn to_wire(&self) -> ResourceKey {
        ResourceKey {
            r#type: self.kind().to_wire() as i32,
            name: self.name.to_string(),
        }
    }

    /// Kind of resource.
    pub fn kind(&self) -> ResourceKind {
        ORDER[usize::from(self.rank)]
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a refusal of this resource may have been about `other`: a child about its trunk, a route about its
    /// targets.
    pub fn depends_on(&self, other: &Self) -> bool {
        match (self.kind(), other.kind()) {
            (ResourceKind::Route, ResourceKind::Trunk | ResourceKind::Line) => true,
            (ResourceKind::TlsIdentity, ResourceKind::Trunk) => self.name == other.name,
            (ResourceKind::Trunk, ResourceKind::TlsIdentity) => self.name == other.name,
            (ResourceKind::Credential | ResourceKind::Line, ResourceKind::Trunk) => self
                .name
                .strip_prefix(&*other.name)
                .is_some_and(|rest| rest.starts_with('/')),
            _ => false,
        }
    }
}

/// What others depend on comes first: a push that has to be split is usable part by part.
const ORDER: [ResourceKind; 6] = [
    ResourceKind::WorkerSettings,
    ResourceKind::Trunk,
    ResourceKind::TlsIdentity,
    ResourceKind::Credential,
    ResourceKind::Line,
    ResourceKind::Route,
];

fn rank(kind: ResourceKind) -> u8 {
    match kind {
        ResourceKind::WorkerSettings => 0,
        ResourceKind::Trunk => 1,
        ResourceKind::TlsIdentity => 2,
        ResourceKind::Credential => 3,
        ResourceKind::Line => 4,
        ResourceKind::Route => 5,
    }
}

/// A resource in its current version.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As it goes on the wire.
    pub resource: Arc<Resource>,
    /// Its encoded length in octets.
    pub size: usize,
}

impl Entry {
    /// Revision at which the resource last changed.
    pub fn version(&self) -> i64 {
        self.resource.version
    }
}

/// All resources at one revision. Cloning is cheap; changing a clone copies only the kinds that change.
#[derive(Debug, Clone)]
pub struct Catalogue {
    store_id: Arc<str>,
    revision: i64,
    sections: [Arc<Section>; 6],
    removals: Arc<VecDeque<(i64, Key)>>,
    /// Highest revision whose removals may have been forgotten.
    removals_floor: i64,
}

#[derive(Debug, Clone, Default)]
struct Section {
    entries: BTreeMap<Key, Entry>,
    by_version: BTreeMap<i64, Vec<Key>>,
}

impl Catalogue {
    /// No resource, at `revision` of the store called `store_id`.
    pub fn empty(store_id: &str, revision: i64) -> Self {
        Self {
            store_id: store_id.into(),
            revision,
            sections: Default::default(),
            removals: Arc::default(),
            removals_floor: revision,
        }
    }

    /// Tells this store from one that was lost.
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// Revision it shows.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The resource in its current version.
    pub fn entry(&self, key: &Key) -> Option<&Entry> {
        self.sections[usize::from(key.rank)].entries.get(key)
    }

    /// Every resource, those that others depend on first.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.sections.iter().flat_map(|section| &section.entries)
    }

    /// Keys that changed or went after `revision`; `None` when that is too long ago to tell.
    pub fn touched_since(&self, revision: i64) -> Option<impl Iterator<Item = &Key>> {
        if revision < self.removals_floor {
            return None;
        }
        let first_removal = self.removals.partition_point(|(version, _)| *version <= revision);
        let changed = self
            .sections
            .iter()
            .flat_map(move |section| section.by_version.range(revision + 1..).flat_map(|(_, keys)| keys));
        Some(changed.chain(self.removals.range(first_removal..).map(|(_, key)| key)))
    }

    /// Sets the revision this catalogue leads to.
    pub fn advance(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// Puts a resource in its place.
    pub fn put(&mut self, key: Key, resource: Resource) {
        let section = Arc::make_mut(&mut self.sections[usize::from(key.rank)]);
        section.forget_version(&key);
        section
            .by_version
            .entry(resource.version)
            .or_default()
            .push(key.clone());
        let size = resource.encoded_len();
        section.entries.insert(
            key,
            Entry {
                resource: Arc::new(resource),
                size,
            },
        );
    }

    /// Takes a resource out, at `revision`; revisions never go back from one call to the next.
    pub fn remove(&mut self, key: &Key, revision: i64) {
        let section = Arc::make_mut(&mut self.sections[usize::from(key.rank)]);
        section.forget_version(key);
        if section.entries.remove(key).is_none() {
            return;
        }
        let removals = Arc::make_mut(&mut self.removals);
        removals.push_back((revision, key.clone()));
        if removals.len() > REMEMBERED_REMOVALS
            && let Some((version, _)) = removals.pop_front()
        {
            self.removals_floor = self.removals_floor.max(version);
        }
    }
}

impl Section {
    fn forget_version(&mut self, key: &Key) {
        let Some(entry) = self.entries.get(key) else { return };
        let version = entry.version();
        if let Some(keys) = self.by_version.get_mut(&version) {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.by_version.remove(&version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(ResourceKind::Route, name)
    }

    fn resource(key: &Key, version: i64) -> Resource {
        Resource {
            key: Some(key.to_wire()),
            version,
            body: None,
        }
    }

    fn touched(catalogue: &Catalogue, revision: i64) -> Option<Vec<&str>> {
        catalogue
            .touched_since(revision)
            .map(|keys| keys.map(Key::name).collect())
    }

    #[test]
    fn what_changed_or_went_after_a_revision_is_found() {
        let mut catalogue = Catalogue::empty("s", 0);
        for (version, name) in [(1, "routes/a"), (2, "routes/b"), (3, "routes/c")] {
            catalogue.put(key(name), resource(&key(name), version));
        }
        catalogue.put(key("routes/a"), resource(&key("routes/a"), 4));
        catalogue.remove(&key("routes/b"), 5);
        catalogue.remove(&key("routes/never"), 6);
        catalogue.advance(6);
        assert_eq!(touched(&catalogue, 0).unwrap(), ["routes/c", "routes/a", "routes/b"]);
        assert_eq!(touched(&catalogue, 3).unwrap(), ["routes/a", "routes/b"]);
        assert_eq!(touched(&catalogue, 4).unwrap(), ["routes/b"]);
        assert_eq!(touched(&catalogue, 6).unwrap(), [""; 0]);
    }

    #[test]
    fn a_clone_keeps_what_it_shows() {
        let mut catalogue = Catalogue::empty("s", 0);
        catalogue.put(key("routes/a"), resource(&key("routes/a"), 1));
        let before = catalogue.clone();
        catalogue.remove(&key("routes/a"), 2);
        assert!(before.entry(&key("routes/a")).is_some());
        assert!(catalogue.entry(&key("routes/a")).is_none());
    }

    #[test]
    fn a_revision_before_the_catalogue_began_cannot_be_answered() {
        assert_eq!(touched(&Catalogue::empty("s", 7), 6), None);
        assert_eq!(touched(&Catalogue::empty("s", 7), 7).unwrap(), [""; 0]);
    }

    #[test]
    fn removals_are_forgotten_in_order_and_that_is_known() {
        let mut catalogue = Catalogue::empty("s", 0);
        for version in 1..=(REMEMBERED_REMOVALS as i64 + 1) {
            catalogue.put(key("routes/a"), resource(&key("routes/a"), version));
            catalogue.remove(&key("routes/a"), version);
        }
        assert!(catalogue.touched_since(0).is_none());
        assert!(catalogue.touched_since(1).is_some());
    }

    #[test]
    fn dependencies_come_first_and_are_known() {
        let trunk = Key::new(ResourceKind::Trunk, "trunks/a");
        let line = Key::new(ResourceKind::Line, "trunks/a/lines/x");
        assert!(trunk < line && line < key("routes/a"));
        assert!(line.depends_on(&trunk) && !trunk.depends_on(&line));
        assert!(!line.depends_on(&Key::new(ResourceKind::Trunk, "trunks/a-2")));
        assert!(!Key::new(ResourceKind::Line, "trunks/a-2/lines/x").depends_on(&trunk));
        for kind in ORDER {
            assert_eq!(Key::new(kind, "x").kind(), kind);
            assert_eq!(
                Key::from_wire(&Key::new(kind, "x").to_wire()),
                Some(Key::new(kind, "x"))
            );
        }
    }
}
