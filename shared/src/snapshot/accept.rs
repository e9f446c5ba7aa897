//! Which resources of a change can be used beside the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Body, Resource, ResourceKey, Snapshot};
use crate::name::{CredentialName, LineName, TrunkId};
use crate::route::TargetKind;
use crate::trunk::L4Protocol;

/// Why a resource that is valid by itself cannot be used beside the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// It belongs to, or names, a trunk that is not there.
    #[error("{field}: there is no trunk `{trunk}`")]
    UnknownTrunk {
        /// Path of the field that names it.
        field: String,
        /// The trunk.
        trunk: TrunkId,
    },
    /// It names a line that is not there.
    #[error("{field}: there is no line `{line}`")]
    UnknownLine {
        /// Path of the field that names it.
        field: String,
        /// The line.
        line: LineName,
    },
    /// Another trunk, or another setting of this one, binds the port.
    #[error("{field}: {l4} port {port} is in use by {other_field} of trunk `{other}`")]
    PortInUse {
        /// Path of the field that asks for the port.
        field: &'static str,
        /// UDP or TCP.
        l4: L4Protocol,
        /// The port.
        port: u16,
        /// Who has it.
        other: TrunkId,
        /// For what.
        other_field: &'static str,
    },
    /// Another credential of the trunk has the user name.
    #[error("username: `{username}` is the user name of `{other}`")]
    UsernameInUse {
        /// The user name.
        username: Arc<str>,
        /// Who has it.
        other: CredentialName,
    },
}

impl Snapshot {
    /// Takes in what can be taken in; returns the rest with reasons. Kinds go in the order they depend on each other.
    pub(super) fn accept(&mut self, pending: BTreeMap<ResourceKey, Resource>) -> Vec<(Resource, Conflict)> {
        let mut refused = self.accept_trunks(&pending);
        for (_, resource) in pending {
            if matches!(resource.body, Body::Trunk(_)) {
                continue;
            }
            match self.conflict(&resource.body) {
                Some(conflict) => refused.push((resource, conflict)),
                None => self.insert(resource),
            }
        }
        refused
    }

    /// Trunks are judged together: two of them may swap ports in one change. All are taken in; while two clash, the one
    /// that changed is put back (of two that changed, the one changed later, then the one later by name). Putting back may
    /// clash again, and ends at the previous set, which did not.
    fn accept_trunks(&mut self, pending: &BTreeMap<ResourceKey, Resource>) -> Vec<(Resource, Conflict)> {
        let mut changed: BTreeMap<TrunkId, &Resource> = BTreeMap::new();
        for resource in pending.values() {
            if let Body::Trunk(trunk) = &resource.body {
                changed.insert(trunk.id.clone(), resource);
            }
        }
        if changed.is_empty() {
            return Vec::new();
        }
        let before = Arc::clone(&self.trunks);
        for resource in changed.values() {
            self.insert((*resource).clone());
        }
        let mut refused = Vec::new();
        loop {
            let losers = self.port_clashes(&changed);
            if losers.is_empty() {
                return refused;
            }
            let trunks = Arc::make_mut(&mut self.trunks);
            for (loser, conflict) in losers {
                match before.get(&loser) {
                    Some(held) => trunks.insert(loser.clone(), held.clone()),
                    None => trunks.remove(&loser),
                };
                if let Some(resource) = changed.remove(&loser) {
                    refused.push((resource.clone(), conflict));
                }
            }
        }
    }

    /// The trunks to put back because a setting wants a port that another one has, and why. One that is to be put back has
    /// no ports any more; those it had before are looked at the next time.
    fn port_clashes(&self, changed: &BTreeMap<TrunkId, &Resource>) -> BTreeMap<TrunkId, Conflict> {
        let mut owners: HashMap<(L4Protocol, u16), (&TrunkId, &'static str)> = HashMap::new();
        let mut losers = BTreeMap::new();
        for (id, held) in self.trunks.iter() {
            for port in held.value.ports() {
                let owner = owners.get(&(port.l4, port.port));
                let Some(&(other, other_field)) = owner.filter(|(other, _)| !losers.contains_key(*other)) else {
                    owners.insert((port.l4, port.port), (id, port.field));
                    continue;
                };
                // `id` comes after `other` by name; it loses unless only `other` changed, or `other` changed later.
                let versions = (
                    changed.get(other).map(|r| r.version),
                    changed.get(id).map(|r| r.version),
                );
                let other_loses = match versions {
                    (Some(theirs), Some(ours)) => theirs > ours,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                    // Both were in force before: cannot be, since every set in force is free of clashes.
                    (None, None) => continue,
                };
                let (loser, field, winner, winner_field) = if other_loses {
                    (other, other_field, id, port.field)
                } else {
                    (id, port.field, other, other_field)
                };
                let conflict = Conflict::PortInUse {
                    field,
                    l4: port.l4,
                    port: port.port,
                    other: winner.clone(),
                    other_field: winner_field,
                };
                losers.insert(loser.clone(), conflict);
                if !other_loses {
                    break;
                }
                owners.insert((port.l4, port.port), (id, port.field));
            }
        }
        losers
    }

    /// What stands in the way of a resource that is no trunk.
    fn conflict(&self, body: &Body) -> Option<Conflict> {
        let known = |trunk: &TrunkId, field: &dyn Fn() -> String| {
            (!self.trunks.contains_key(trunk)).then(|| Conflict::UnknownTrunk {
                field: field(),
                trunk: trunk.clone(),
            })
        };
        let name = || "name".to_owned();
        match body {
            Body::WorkerSettings(..) | Body::Trunk(_) => None,
            Body::TlsIdentity(identity) => known(&identity.trunk, &|| "trunk".into()),
            Body::Line(line) => known(line.name.trunk(), &name),
            Body::Credential(credential) => {
                let trunk = credential.name.trunk();
                let taken = self
                    .users
                    .get(trunk)
                    .and_then(|users| users.0.get(&*credential.username));
                known(trunk, &name).or_else(|| {
                    taken
                        .filter(|other| other.name != credential.name)
                        .map(|other| Conflict::UsernameInUse {
                            username: Arc::clone(&credential.username),
                            other: other.name.clone(),
                        })
                })
            }
            Body::Route(route) => {
                let inbound = route.matcher.inbound_trunk.as_ref();
                inbound
                    .and_then(|trunk| known(trunk, &|| "match.inbound_trunk".into()))
                    .or_else(|| {
                        route
                            .targets
                            .iter()
                            .enumerate()
                            .find_map(|(index, target)| match &target.kind {
                                TargetKind::Phones(trunk) => known(trunk, &|| format!("targets[{index}].phones")),
                                TargetKind::Lines(trunk) => known(trunk, &|| format!("targets[{index}].lines")),
                                TargetKind::Line(line) => {
                                    (!self.lines.contains_key(line)).then(|| Conflict::UnknownLine {
                                        field: format!("targets[{index}].line"),
                                        line: line.clone(),
                                    })
                                }
                            })
                    })
            }
        }
    }
}
