//! SIP methods that can be challenged (row 39).

use std::fmt;

/// A method inbound digest can be asked for. ACK and CANCEL are not among them: they MUST NOT be challenged (RFC 3261 §22.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are the RFC's method names")]
pub enum ChallengeableMethod {
    Bye,
    Info,
    Invite,
    Message,
    Notify,
    Options,
    Prack,
    Publish,
    Refer,
    Register,
    Subscribe,
    Update,
}

impl ChallengeableMethod {
    /// Every method.
    pub const ALL: [Self; 12] = [
        Self::Bye,
        Self::Info,
        Self::Invite,
        Self::Message,
        Self::Notify,
        Self::Options,
        Self::Prack,
        Self::Publish,
        Self::Refer,
        Self::Register,
        Self::Subscribe,
        Self::Update,
    ];
    /// The default list.
    pub const DEFAULT_LIST: [Self; 2] = [Self::Register, Self::Invite];

    /// The method token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bye => "BYE",
            Self::Info => "INFO",
            Self::Invite => "INVITE",
            Self::Message => "MESSAGE",
            Self::Notify => "NOTIFY",
            Self::Options => "OPTIONS",
            Self::Prack => "PRACK",
            Self::Publish => "PUBLISH",
            Self::Refer => "REFER",
            Self::Register => "REGISTER",
            Self::Subscribe => "SUBSCRIBE",
            Self::Update => "UPDATE",
        }
    }

    /// By its token; methods are case-sensitive (RFC 3261 §7.1).
    pub fn parse(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == token)
    }
}

impl fmt::Display for ChallengeableMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of methods, in the order given, with a constant-time look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodSet {
    methods: Vec<ChallengeableMethod>,
    bits: u16,
}

impl MethodSet {
    /// The set; repeats are dropped.
    pub fn new(methods: &[ChallengeableMethod]) -> Self {
        let mut set = Self {
            methods: Vec::with_capacity(methods.len()),
            bits: 0,
        };
        for method in methods {
            let bit = 1_u16 << *method as u16;
            if set.bits & bit == 0 {
                set.bits |= bit;
                set.methods.push(*method);
            }
        }
        set
    }

    /// The methods in order.
    pub fn as_slice(&self) -> &[ChallengeableMethod] {
        &self.methods
    }

    /// Whether the method is in the set.
    pub fn contains(&self, method: ChallengeableMethod) -> bool {
        self.bits & (1 << method as u16) != 0
    }

    /// Whether requests of this method token are to be challenged; false for every method that cannot be.
    pub fn contains_token(&self, token: &str) -> bool {
        ChallengeableMethod::parse(token).is_some_and(|method| self.contains(method))
    }
}

impl Default for MethodSet {
    fn default() -> Self {
        Self::new(&ChallengeableMethod::DEFAULT_LIST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_and_cancel_cannot_be_named() {
        assert_eq!(ChallengeableMethod::parse("ACK"), None);
        assert_eq!(ChallengeableMethod::parse("CANCEL"), None);
        assert_eq!(ChallengeableMethod::parse("invite"), None);
        assert!(
            ChallengeableMethod::ALL
                .into_iter()
                .all(|m| ChallengeableMethod::parse(m.as_str()) == Some(m))
        );
    }

    #[test]
    fn a_set_keeps_order_and_drops_repeats() {
        use ChallengeableMethod::{Bye, Invite, Update};
        let set = MethodSet::new(&[Update, Bye, Update]);
        assert_eq!(set.as_slice(), [Update, Bye]);
        assert!(
            set.contains(Update) && set.contains_token("BYE") && !set.contains(Invite) && !set.contains_token("ACK")
        );
    }
}
