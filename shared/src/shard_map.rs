//! A map that is cheap to change as a copy: 256 shards behind `Arc`, of which a change copies one.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

const SHARDS: usize = 256;

/// Cloning costs 256 reference counts at most; inserting into a clone copies 1/256 of the entries. Keys come from the network,
/// so the hash is keyed.
pub(crate) struct ShardMap<K, V> {
    /// Empty until the first insertion.
    shards: Vec<Arc<HashMap<K, V>>>,
    hasher: RandomState,
    len: usize,
}

impl<K, V> Clone for ShardMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            shards: self.shards.clone(),
            hasher: self.hasher.clone(),
            len: self.len,
        }
    }
}

impl<K, V> Default for ShardMap<K, V> {
    fn default() -> Self {
        Self {
            shards: Vec::new(),
            hasher: RandomState::new(),
            len: 0,
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> ShardMap<K, V> {
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards.get(self.shard(key))?.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.shards.is_empty() {
            self.shards = vec![Arc::default(); SHARDS];
        }
        let at = self.shard(&key);
        let old = Arc::make_mut(&mut self.shards[at]).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.shard(key);
        let shard = self.shards.get_mut(at).filter(|shard| shard.contains_key(key))?;
        let old = Arc::make_mut(shard).remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The upper bits: the shard's own table spends the lower ones.
        (self.hasher.hash_one(key) >> 56) as usize % SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_copy_leaves_the_original() {
        let mut map = ShardMap::<String, u32>::default();
        for n in 0..10_000 {
            assert_eq!(map.insert(n.to_string(), n), None);
        }
        let before = map.clone();
        assert_eq!(map.insert("7".into(), 700), Some(7));
        assert_eq!(map.remove("8"), Some(8));
        assert_eq!(map.remove("8"), None);
        assert_eq!(
            (before.get("7"), before.get("8"), before.len()),
            (Some(&7), Some(&8), 10_000)
        );
        assert_eq!(
            (map.get("7"), map.get("8"), map.len(), map.iter().count()),
            (Some(&700), None, 9_999, 9_999)
        );
        let shared = before
            .shards
            .iter()
            .zip(&map.shards)
            .filter(|(a, b)| Arc::ptr_eq(a, b))
            .count();
        assert!(shared >= SHARDS - 2, "{shared}");
    }

    #[test]
    fn an_empty_map_answers() {
        let mut map = ShardMap::<String, u32>::default();
        assert_eq!(map.remove("a"), None);
        assert_eq!((map.get("a"), map.len()), (None, 0));
    }
}
