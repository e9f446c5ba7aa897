//! Resources of the configuration stream.

use std::sync::Arc;

use trunkline_proto::dataplane::v1 as dataplane;

use super::check::Violations;
use super::{
    credential, credential_to_wire, line_configuration, line_configuration_to_wire, route, route_to_wire, tls_identity,
    tls_identity_to_wire, trunk_to_wire, worker_settings, worker_settings_to_wire,
};
use crate::name::{NameError, RouteId, TrunkId, WorkerId};
use crate::snapshot::{Body, Resource, ResourceKey, Snapshot};
use crate::trunk::Trunk;

/// Why a resource of the stream cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// A kind this program does not know.
    #[error("resource type {0} is unknown")]
    UnknownType(i32),
    /// A name that is not of the kind.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No key, or a key that does not say what the body is.
    #[error("the key and the body do not belong together")]
    KeyMismatch,
    /// No body.
    #[error("the body is missing")]
    NoBody,
    /// A body that is not valid.
    #[error(transparent)]
    Invalid(#[from] Violations),
}

/// Reads a key.
pub fn key_from_wire(raw: &dataplane::ResourceKey) -> Result<ResourceKey, ResourceError> {
    let dataplane::ResourceKey { r#type, name } = raw;
    Ok(match dataplane::ResourceType::try_from(*r#type) {
        Ok(dataplane::ResourceType::Trunk) => ResourceKey::Trunk(TrunkId::parse_name(name)?),
        Ok(dataplane::ResourceType::Credential) => ResourceKey::Credential(name.parse()?),
        Ok(dataplane::ResourceType::Line) => ResourceKey::Line(name.parse()?),
        Ok(dataplane::ResourceType::Route) => ResourceKey::Route(RouteId::parse_name(name)?),
        Ok(dataplane::ResourceType::TlsIdentity) => ResourceKey::TlsIdentity(TrunkId::parse_name(name)?),
        Ok(dataplane::ResourceType::WorkerSettings) => ResourceKey::WorkerSettings(WorkerId::parse_name(name)?),
        Ok(dataplane::ResourceType::Unspecified) | Err(_) => return Err(ResourceError::UnknownType(*r#type)),
    })
}

/// The message of a key.
pub fn key_to_wire(key: &ResourceKey) -> dataplane::ResourceKey {
    let r#type = match key {
        ResourceKey::WorkerSettings(_) => dataplane::ResourceType::WorkerSettings,
        ResourceKey::Trunk(_) => dataplane::ResourceType::Trunk,
        ResourceKey::TlsIdentity(_) => dataplane::ResourceType::TlsIdentity,
        ResourceKey::Credential(_) => dataplane::ResourceType::Credential,
        ResourceKey::Line(_) => dataplane::ResourceType::Line,
        ResourceKey::Route(_) => dataplane::ResourceType::Route,
    };
    dataplane::ResourceKey {
        r#type: r#type.into(),
        name: key.to_string(),
    }
}

/// Reads a resource; the key must name the body.
pub fn resource_from_wire(raw: dataplane::Resource) -> Result<Resource, ResourceError> {
    let dataplane::Resource { key, version, body } = raw;
    let key = key_from_wire(&key.ok_or(ResourceError::KeyMismatch)?)?;
    let body = match body.ok_or(ResourceError::NoBody)? {
        dataplane::resource::Body::Trunk(raw) => Body::Trunk(Arc::new(Trunk::try_from(raw)?)),
        dataplane::resource::Body::Credential(raw) => Body::Credential(Arc::new(credential(raw)?)),
        dataplane::resource::Body::Line(raw) => Body::Line(Arc::new(line_configuration(raw)?)),
        dataplane::resource::Body::Route(raw) => Body::Route(Arc::new(route(raw)?)),
        dataplane::resource::Body::TlsIdentity(raw) => Body::TlsIdentity(Arc::new(tls_identity(raw)?)),
        dataplane::resource::Body::WorkerSettings(raw) => match &key {
            ResourceKey::WorkerSettings(worker) => {
                Body::WorkerSettings(worker.clone(), Arc::new(worker_settings(raw)?))
            }
            _ => return Err(ResourceError::KeyMismatch),
        },
    };
    let resource = Resource { version, body };
    if resource.key() == key {
        Ok(resource)
    } else {
        Err(ResourceError::KeyMismatch)
    }
}

/// The message of a resource, secrets included.
pub fn resource_to_wire(resource: &Resource) -> dataplane::Resource {
    let body = match &resource.body {
        Body::WorkerSettings(_, settings) => {
            dataplane::resource::Body::WorkerSettings(worker_settings_to_wire(settings))
        }
        Body::Trunk(trunk) => dataplane::resource::Body::Trunk(trunk_to_wire(trunk)),
        Body::TlsIdentity(identity) => dataplane::resource::Body::TlsIdentity(tls_identity_to_wire(identity)),
        Body::Credential(credential) => dataplane::resource::Body::Credential(credential_to_wire(credential)),
        Body::Line(line) => dataplane::resource::Body::Line(line_configuration_to_wire(line)),
        Body::Route(route) => dataplane::resource::Body::Route(route_to_wire(route)),
    };
    dataplane::Resource {
        key: Some(key_to_wire(&resource.key())),
        version: resource.version,
        body: Some(body),
    }
}

/// What a push comes to.
#[derive(Debug)]
pub struct AppliedPush {
    /// The next configuration.
    pub snapshot: Snapshot,
    /// The answer to the push.
    pub result: dataplane::PushResult,
    /// Resources refused by earlier pushes that are in force now: the control plane learns of them from the held
    /// resources of the next hello.
    pub recovered: Vec<(ResourceKey, i64)>,
}

/// Applies a push: what can be read and does not clash is in force, the rest is named in the answer.
pub fn apply_push(current: &Snapshot, push: dataplane::ConfigurationPush) -> AppliedPush {
    let dataplane::ConfigurationPush {
        nonce,
        revision,
        upserts,
        removals,
        store_id: _,
        partial: _,
    } = push;
    let mut rejections = Vec::new();
    let mut readable = Vec::with_capacity(upserts.len());
    for raw in upserts {
        let (key, version) = (raw.key.clone(), raw.version);
        match resource_from_wire(raw) {
            Ok(resource) => readable.push(resource),
            Err(error) => rejections.push(dataplane::ResourceRejection {
                key,
                version,
                error: error.to_string(),
            }),
        }
    }
    // A name we cannot read is one we do not hold.
    let removals: Vec<ResourceKey> = removals.iter().filter_map(|key| key_from_wire(key).ok()).collect();
    let applied = current.apply(readable, &removals, revision);
    rejections.extend(
        applied
            .rejections
            .into_iter()
            .map(|rejection| dataplane::ResourceRejection {
                key: Some(key_to_wire(&rejection.key)),
                version: rejection.version,
                error: rejection.reason.to_string(),
            }),
    );
    AppliedPush {
        snapshot: applied.snapshot,
        result: dataplane::PushResult {
            nonce,
            revision,
            rejections,
        },
        recovered: applied.recovered,
    }
}

/// A push that makes this configuration out of an empty one: what a worker keeps on disk. It holds secrets. The
/// `store_id` is the caller's.
pub fn push_of(snapshot: &Snapshot) -> dataplane::ConfigurationPush {
    dataplane::ConfigurationPush {
        nonce: 0,
        revision: snapshot.revision(),
        upserts: snapshot
            .resources()
            .map(|resource| resource_to_wire(&resource))
            .collect(),
        removals: Vec::new(),
        store_id: String::new(),
        partial: false,
    }
}
