//! Lines: a trunk's static targets, SIP servers or proxies beyond the phones.

use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;
use crate::name::LineName;
use crate::secret::Secret;
use crate::trunk::{Transport, Trunk};

/// A SIP server a trunk sends calls to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its name.
    pub name: LineName,
    /// For people; 0-128 characters.
    pub display_name: Arc<str>,
    /// False takes it out of routing.
    pub enabled: bool,
    /// The server.
    pub host: Host,
    /// `None`: by the transport (RFC 3263 §4.2), which for a host name means SRV first.
    pub port: Option<u16>,
    /// `None`: that of the trunk.
    pub transport: Option<Transport>,
    /// Lower is tried first.
    pub priority: u16,
    /// Share among lines of equal priority, 1-65535.
    pub weight: u16,
    /// User that answers 401/407 from the server; empty: no answer.
    pub auth_username: Arc<str>,
    /// Its password; only workers, and writes, have it.
    pub auth_password: Secret,
    /// Whether a password is stored.
    pub has_password: bool,
    /// Registers every so long, 60-86400 s. `None`: does not.
    pub registration_interval: Option<Duration>,
    /// Probes with OPTIONS every so long, 5-3600 s. `None`: does not.
    pub options_interval: Option<Duration>,
    /// User part of the address of record it registers as; empty: `auth_username`.
    pub registration_user: Arc<str>,
}

impl Line {
    /// The transport in effect.
    pub fn transport_on(&self, trunk: &Trunk) -> Transport {
        self.transport.unwrap_or(trunk.transport)
    }

    /// User part of the address of record it registers as.
    pub fn registration_user(&self) -> &str {
        if self.registration_user.is_empty() {
            &self.auth_username
        } else {
            &self.registration_user
        }
    }
}

/// Puts lines, already sorted by priority, in the order to try them: within a priority a line comes first with a chance
/// proportional to its weight (as RFC 2782 for SRV). `pick(n)` returns a random number below `n`.
pub fn weighted_order(lines: &[Arc<Line>], mut pick: impl FnMut(u32) -> u32) -> Vec<Arc<Line>> {
    let mut out = Vec::with_capacity(lines.len());
    for group in lines.chunk_by(|a, b| a.priority == b.priority) {
        let mut left: Vec<&Arc<Line>> = group.iter().collect();
        while left.len() > 1 {
            let total: u32 = left.iter().map(|line| u32::from(line.weight)).sum();
            let mut ticket = pick(total.max(1));
            let chosen = left
                .iter()
                .position(|line| {
                    let weight = u32::from(line.weight);
                    let hit = ticket < weight;
                    ticket = ticket.saturating_sub(weight);
                    hit
                })
                .unwrap_or(0);
            out.push(Arc::clone(left.remove(chosen)));
        }
        out.extend(left.into_iter().cloned());
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn line(name: &str, priority: u16, weight: u16) -> Line {
        Line {
            name: name.parse().unwrap(),
            display_name: "".into(),
            enabled: true,
            host: "pbx.example.com".parse().unwrap(),
            port: None,
            transport: None,
            priority,
            weight,
            auth_username: "".into(),
            auth_password: Secret::default(),
            has_password: false,
            registration_interval: None,
            options_interval: None,
            registration_user: "".into(),
        }
    }

    #[test]
    fn weights_share_within_a_priority_only() {
        let lines = [
            ("trunks/t/lines/a", 0, 1),
            ("trunks/t/lines/b", 0, 3),
            ("trunks/t/lines/c", 1, 100),
        ]
        .map(|(name, priority, weight)| Arc::new(line(name, priority, weight)));
        let order = |ticket: u32| -> Vec<String> {
            weighted_order(&lines, |total| {
                assert_eq!(total, 4);
                ticket
            })
            .iter()
            .map(|line| line.name.id().to_owned())
            .collect()
        };
        assert_eq!(order(0), ["a", "b", "c"]);
        for ticket in 1..4 {
            assert_eq!(order(ticket), ["b", "a", "c"]);
        }
        assert!(weighted_order(&[], |_| 0).is_empty());
    }

    #[test]
    fn a_line_registers_as_its_user_unless_told_otherwise() {
        let mut line = line("trunks/t/lines/a", 0, 1);
        line.auth_username = "u".into();
        assert_eq!(line.registration_user(), "u");
        line.registration_user = "r".into();
        assert_eq!(line.registration_user(), "r");
    }
}
