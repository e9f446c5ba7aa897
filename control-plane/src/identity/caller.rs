//! The authenticated caller of an API request.

use std::net::IpAddr;

use trunkline_proto::v1;

/// Who sent an API request, as proved by its bearer token.
///
/// The authentication layer of the API listener puts one into the extensions of every request that it lets through;
/// a handler reads it with `request.extensions().get::<Caller>()`. A request without one never reaches a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `tokens/{token}`, `workers/{worker}` or `system`: the actor of audit entries.
    pub actor: String,
    /// What it may do.
    pub role: Role,
    /// Address the request came from; `None` for work of the control plane itself.
    pub source: Option<IpAddr>,
}

impl Caller {
    /// The control plane itself: first start, retention, certificate renewal.
    pub fn system() -> Self {
        Self {
            actor: "system".to_owned(),
            role: Role::Admin,
            source: None,
        }
    }

    /// Text of the source address for audit entries; empty for the system.
    pub fn source_text(&self) -> String {
        self.source
            .map(|address| address.to_canonical().to_string())
            .unwrap_or_default()
    }
}

/// What a caller may do. Ordered: each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read everything but secrets.
    Viewer,
    /// Change configuration, hang up, unregister, drain.
    Operator,
    /// Reveal passwords, tokens, join tokens, settings.
    Admin,
}

impl Role {
    /// Stable word for the store and for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role on the wire.
    pub fn to_wire(self) -> v1::Role {
        match self {
            Self::Viewer => v1::Role::Viewer,
            Self::Operator => v1::Role::Operator,
            Self::Admin => v1::Role::Admin,
        }
    }

    /// Reads the role of a request; `None` when it is unspecified.
    pub fn from_wire(role: v1::Role) -> Option<Self> {
        match role {
            v1::Role::Unspecified => None,
            v1::Role::Viewer => Some(Self::Viewer),
            v1::Role::Operator => Some(Self::Operator),
            v1::Role::Admin => Some(Self::Admin),
        }
    }

    /// Reverse of [`Role::as_str`]; `None` for any other word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_includes_the_ones_before_it() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }

    #[test]
    fn the_word_of_a_role_reads_back() {
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            assert_eq!(Role::from_word(role.as_str()), Some(role));
        }
        assert_eq!(Role::from_word("root"), None);
    }

    #[test]
    fn a_mapped_source_shows_as_the_ipv4_address_it_is() {
        let caller = Caller {
            source: Some("::ffff:192.0.2.7".parse().unwrap()),
            ..Caller::system()
        };
        assert_eq!(caller.source_text(), "192.0.2.7");
        assert_eq!(Caller::system().source_text(), "");
    }
}
