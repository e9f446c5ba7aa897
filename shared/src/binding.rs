//! Registrations: addresses of record and their bindings (RFC 3261 §10), and how two workers' views become one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::name::{RegistrationName, TrunkId, WorkerId};
use crate::trunk::Transport;

/// An address of record as the key of a location look-up: the trunk and the user part. The domain does not count: every
/// domain of a trunk is the same place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Aor {
    /// The trunk.
    pub trunk: TrunkId,
    /// User part, unescaped; compared exactly (RFC 3261 §19.1.4).
    pub user: Arc<str>,
}

impl Aor {
    /// The resource name of its registration.
    pub fn name(&self) -> RegistrationName {
        RegistrationName {
            trunk: self.trunk.clone(),
            user: Arc::clone(&self.user),
        }
    }
}

/// One binding: a contact of an address of record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// Contact URI as the phone gave it.
    pub contact_uri: Arc<str>,
    /// q-value in thousandths, 0-1000.
    pub q_thousandths: u16,
    /// When it ends unless refreshed.
    pub expire_time: SystemTime,
    /// When it was first made.
    pub create_time: SystemTime,
    /// When it was last refreshed.
    pub update_time: SystemTime,
    /// Call-ID of the REGISTER.
    pub call_id: Arc<str>,
    /// Its CSeq number.
    pub cseq: u32,
    /// Transport of the flow.
    pub transport: Transport,
    /// Address the REGISTER came from.
    pub source: SocketAddr,
    /// User-Agent header; empty when there was none.
    pub user_agent: Arc<str>,
    /// Worker that holds the flow; `None` when unknown.
    pub worker: Option<WorkerId>,
    /// Path values in order (RFC 3327 §5).
    pub path: Vec<Arc<str>>,
    /// `+sip.instance` (RFC 5626 §4.1); empty when there was none.
    pub instance_id: Arc<str>,
}

impl Binding {
    /// Whether it still holds at `now`.
    pub fn is_live(&self, now: SystemTime) -> bool {
        self.expire_time > now
    }
}

/// All bindings of an address of record; none: it is not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AorBindings {
    /// The key.
    pub aor: Aor,
    /// E.g. `sip:alice@example.com`.
    pub address_of_record: Arc<str>,
    /// Newest first.
    pub bindings: Vec<Binding>,
    /// Milliseconds since 1970 of the change, by the clock of the worker where it happened.
    pub change_time_ms: i64,
}

impl AorBindings {
    /// Bindings that hold at `now`, in order.
    pub fn live(&self, now: SystemTime) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(move |binding| binding.is_live(now))
    }

    /// Whether this view replaces `current`: the later change wins. Two changes in the same millisecond are ordered by
    /// their content, so that every worker ends with the same one whatever order they arrive in. An equal view replaces
    /// nothing.
    pub fn supersedes(&self, current: &Self) -> bool {
        let key = |view: &Self| {
            (
                view.change_time_ms,
                view.bindings.clone(),
                Arc::clone(&view.address_of_record),
            )
        };
        self.change_time_ms > current.change_time_ms
            || (self.change_time_ms == current.change_time_ms && key(self) > key(current))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn binding(contact: &str) -> Binding {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Binding {
            contact_uri: contact.into(),
            q_thousandths: 1000,
            expire_time: at + Duration::from_secs(60),
            create_time: at,
            update_time: at,
            call_id: "c1".into(),
            cseq: 1,
            transport: Transport::Udp,
            source: "192.0.2.1:5060".parse().unwrap(),
            user_agent: "phone".into(),
            worker: Some(WorkerId::new("w1").unwrap()),
            path: vec!["<sip:p1;lr>".into()],
            instance_id: "".into(),
        }
    }

    pub(crate) fn view(change_time_ms: i64, contacts: &[&str]) -> AorBindings {
        AorBindings {
            aor: Aor {
                trunk: TrunkId::new("t").unwrap(),
                user: "alice".into(),
            },
            address_of_record: "sip:alice@example.com".into(),
            bindings: contacts.iter().map(|contact| binding(contact)).collect(),
            change_time_ms,
        }
    }

    /// Applies views in order, as a worker does.
    fn merged(views: &[AorBindings]) -> AorBindings {
        let mut current = views[0].clone();
        for next in &views[1..] {
            if next.supersedes(&current) {
                current = next.clone();
            }
        }
        current
    }

    #[test]
    fn the_later_change_wins_in_any_order() {
        let views = [
            view(5, &["sip:a"]),
            view(7, &[]),
            view(7, &["sip:b"]),
            view(6, &["sip:c"]),
        ];
        let expected = view(7, &["sip:b"]);
        for first in 0..4 {
            for second in 0..4 {
                for third in 0..4 {
                    let mut order: Vec<_> = [first, second, third].map(|i| views[i].clone()).into();
                    order.extend(views.iter().cloned());
                    assert_eq!(merged(&order), expected);
                    order.reverse();
                    assert_eq!(merged(&order), expected);
                }
            }
        }
    }

    #[test]
    fn an_equal_view_changes_nothing() {
        assert!(!view(1, &["sip:a"]).supersedes(&view(1, &["sip:a"])));
    }

    #[test]
    fn a_binding_ends_at_its_time() {
        let view = view(1, &["sip:a"]);
        let end = view.bindings[0].expire_time;
        assert_eq!(view.live(end - Duration::from_nanos(1)).count(), 1);
        assert_eq!(view.live(end).count(), 0);
    }
}
