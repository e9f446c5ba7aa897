//! Why a use-case was refused. The one table from here to gRPC codes is in `grpc/status.rs`.

use crate::{identity::Role, store::StoreError};

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path in the request's resource, e.g. `acl.allow[3]`.
    pub field: String,
    /// What is wrong with it, in words.
    pub description: String,
}

impl FieldViolation {
    /// A violation.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
        }
    }
}

/// One condition of the system that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreconditionViolation {
    /// Stable token of the rule, e.g. `PCI_DSS_ENABLED`.
    pub kind: String,
    /// What it is about: a field path or the name of a resource.
    pub subject: String,
    /// In words.
    pub description: String,
}

/// Why a use-case was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong whatever the state of the system; all that is wrong with it.
    #[error("the request is not valid: {}", list(.0.iter().map(|violation| &violation.field)))]
    Invalid(Vec<FieldViolation>),
    /// There is no such resource.
    #[error("{resource} does not exist")]
    NotFound {
        /// Its name.
        resource: String,
    },
    /// Something the request needs belongs to another resource.
    #[error("{description}")]
    AlreadyExists {
        /// Stable token: `RESOURCE_EXISTS`, `DISPLAY_NAME_IN_USE`, `PORT_IN_USE`, `USERNAME_IN_USE`.
        reason: &'static str,
        /// The resource in the way.
        resource: String,
        /// In words.
        description: String,
        /// The fields that collide; empty when it is the name.
        fields: Vec<FieldViolation>,
    },
    /// The request is fine, the system is not in a state that allows it.
    #[error("the state of the system forbids it: {}", list(.violations.iter().map(|violation| &violation.description)))]
    Precondition {
        /// Stable token.
        reason: String,
        /// Every condition that does not hold.
        violations: Vec<PreconditionViolation>,
    },
    /// Somebody changed the resource since the caller read it.
    #[error("{resource} has changed since it was read")]
    StaleEtag {
        /// Its name.
        resource: String,
        /// The etag it has now.
        current: String,
    },
    /// The caller's role is too small.
    #[error("the method needs the role {}", .needed.as_str())]
    PermissionDenied {
        /// The smallest role that suffices.
        needed: Role,
    },
    /// A worker that has to act cannot be reached now.
    #[error("{description}")]
    Unavailable {
        /// Stable token.
        reason: &'static str,
        /// In words.
        description: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Error {
    /// One wrong field.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldViolation::new(field, description)])
    }

    /// A missing resource.
    pub fn not_found(resource: impl Into<String>) -> Self {
        Self::NotFound {
            resource: resource.into(),
        }
    }

    /// A name that is taken.
    pub fn exists(resource: &str) -> Self {
        Self::AlreadyExists {
            reason: "RESOURCE_EXISTS",
            resource: resource.to_owned(),
            description: format!("{resource} exists"),
            fields: Vec::new(),
        }
    }

    /// One condition that does not hold.
    pub fn precondition(kind: &str, subject: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = PreconditionViolation {
            kind: kind.to_owned(),
            subject: subject.into(),
            description: description.into(),
        };
        Self::Precondition {
            reason: kind.to_owned(),
            violations: vec![violation],
        }
    }
}

/// The first few, so that a message stays readable; the details carry all.
fn list<'a>(items: impl Iterator<Item = &'a String>) -> String {
    const SHOWN: usize = 5;
    let mut items = items.peekable();
    let mut text = items
        .by_ref()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("; ");
    if items.peek().is_some() {
        text.push_str("; …");
    }
    text
}
