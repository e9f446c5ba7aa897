//! SIP access control (rows 8-11): allow first, then deny; deny wins whatever the prefix lengths.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Most entries of one list.
pub const MAX_ENTRIES: usize = 100_000;

/// Why a text is no access list entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Neither an address nor a prefix.
    #[error("`{0}` is neither an IP address nor an IP prefix")]
    Unreadable(String),
    /// A prefix with bits set beyond its length.
    #[error("`{given}` has host bits set; the network is `{network}`")]
    HostBits {
        /// As given.
        given: String,
        /// The prefix it probably means.
        network: String,
    },
}

/// An entry of an access list: an address or a prefix in canonical form. IPv4-mapped IPv6 is kept as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry(IpNet);

impl Entry {
    /// Reads `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`. Host bits must be zero.
    pub fn parse(text: &str) -> Result<Self, EntryError> {
        let text = text.trim();
        let unreadable = || EntryError::Unreadable(text.into());
        let net: IpNet = if text.contains('/') {
            text.parse().map_err(|_| unreadable())?
        } else {
            text.parse::<IpAddr>().map_err(|_| unreadable())?.into()
        };
        if net.trunc() != net {
            return Err(EntryError::HostBits {
                given: text.into(),
                network: Self(net.trunc()).to_string(),
            });
        }
        Ok(Self(unmapped(net)))
    }

    /// The prefix; a single address has full length.
    pub const fn net(self) -> IpNet {
        self.0
    }
}

/// An address without its full prefix length, a prefix with it.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

/// `::ffff:a.b.c.d/n` with n ≥ 96 is an IPv4 prefix in disguise.
fn unmapped(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6
            .addr()
            .to_ipv4_mapped()
            .and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - 96).ok())
            .map_or(net, IpNet::V4),
        IpNet::V4(_) | IpNet::V6(_) => net,
    }
}

/// What decided about an address. Indices count from 0 in the list as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// The longest entry of the allow list that holds the address.
    AllowEntry {
        /// Index in the allow list.
        index: usize,
        /// The entry.
        entry: Entry,
    },
    /// Everybody is allowed and nobody denies.
    AllowAll,
    /// The longest entry of the deny list that holds the address.
    DenyEntry {
        /// Index in the deny list.
        index: usize,
        /// The entry.
        entry: Entry,
    },
    /// Nothing allows the address.
    NoMatch,
    /// There is no address to look up: the Via names none.
    NoAddress,
}

/// Whether a request is let in, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The address looked up, IPv4-mapped IPv6 as IPv4.
    pub address: Option<IpAddr>,
    /// What decided.
    pub by: DecidedBy,
}

impl Decision {
    /// Whether the request is let in.
    pub const fn allowed(&self) -> bool {
        matches!(self.by, DecidedBy::AllowEntry { .. } | DecidedBy::AllowAll)
    }

    /// Path of the deciding field, e.g. `acl.deny[3]`.
    pub fn field(&self) -> String {
        match self.by {
            DecidedBy::AllowEntry { index, .. } => format!("acl.allow[{index}]"),
            DecidedBy::AllowAll => "acl.allow_all".into(),
            DecidedBy::DenyEntry { index, .. } => format!("acl.deny[{index}]"),
            DecidedBy::NoMatch => "acl.allow".into(),
            DecidedBy::NoAddress => "acl.use_source_address".into(),
        }
    }

    /// The deciding entry, or what stands for it, as text: the value for the call record.
    pub fn value(&self) -> String {
        match self.by {
            DecidedBy::AllowEntry { entry, .. } | DecidedBy::DenyEntry { entry, .. } => entry.to_string(),
            DecidedBy::AllowAll => "true".into(),
            DecidedBy::NoMatch => self.address.map(|address| address.to_string()).unwrap_or_default(),
            DecidedBy::NoAddress => "false".into(),
        }
    }
}

/// The access control of a trunk, compiled: a look-up costs one walk down a trie for each list.
#[derive(Clone)]
pub struct AccessList {
    use_source_address: bool,
    allow_all: bool,
    allow: Arc<Prefixes>,
    deny: Arc<Prefixes>,
}

impl AccessList {
    /// Compiles the lists, kept in the order given; of equal entries the first counts.
    pub fn new(use_source_address: bool, allow_all: bool, allow: Vec<Entry>, deny: Vec<Entry>) -> Self {
        let (allow, deny) = (Arc::new(Prefixes::new(allow)), Arc::new(Prefixes::new(deny)));
        Self {
            use_source_address,
            allow_all,
            allow,
            deny,
        }
    }

    /// Row 8: true for the packet's source, false for the bottom-most Via.
    pub fn use_source_address(&self) -> bool {
        self.use_source_address
    }

    /// Row 11.
    pub fn allow_all(&self) -> bool {
        self.allow_all
    }

    /// Row 9, in order.
    pub fn allow(&self) -> &[Entry] {
        &self.allow.entries
    }

    /// Row 10, in order.
    pub fn deny(&self) -> &[Entry] {
        &self.deny.entries
    }

    /// Decides about a request from `source` whose bottom-most Via yields `via` ([`via_address`]).
    pub fn decide(&self, source: IpAddr, via: Option<IpAddr>) -> Decision {
        self.decide_address(if self.use_source_address { Some(source) } else { via })
    }

    /// Decides about the address that counts.
    pub fn decide_address(&self, address: Option<IpAddr>) -> Decision {
        let Some(address) = address.map(|address| address.to_canonical()) else {
            return Decision {
                address: None,
                by: DecidedBy::NoAddress,
            };
        };
        let by = match self.allow.longest(address) {
            None if !self.allow_all => DecidedBy::NoMatch,
            allowed => match (self.deny.longest(address), allowed) {
                (Some((index, entry)), _) => DecidedBy::DenyEntry { index, entry },
                (None, Some((index, entry))) => DecidedBy::AllowEntry { index, entry },
                (None, None) => DecidedBy::AllowAll,
            },
        };
        Decision {
            address: Some(address),
            by,
        }
    }
}

/// Equal lists in equal order; the tries follow from them.
impl PartialEq for AccessList {
    fn eq(&self, other: &Self) -> bool {
        self.use_source_address == other.use_source_address
            && self.allow_all == other.allow_all
            && self.allow() == other.allow()
            && self.deny() == other.deny()
    }
}

impl Eq for AccessList {}

/// Counts only: a list of 100,000 entries is no log line.
impl fmt::Debug for AccessList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessList")
            .field("use_source_address", &self.use_source_address)
            .field("allow_all", &self.allow_all)
            .field("allow", &self.allow.entries.len())
            .field("deny", &self.deny.entries.len())
            .finish()
    }
}

/// A list of prefixes with the index of each.
struct Prefixes {
    entries: Vec<Entry>,
    v4: PrefixMap<Ipv4Net, u32>,
    v6: PrefixMap<Ipv6Net, u32>,
}

impl Prefixes {
    fn new(entries: Vec<Entry>) -> Self {
        let (mut v4, mut v6) = (PrefixMap::new(), PrefixMap::new());
        for (index, entry) in (0_u32..).zip(&entries) {
            match entry.0 {
                IpNet::V4(net) => {
                    v4.entry(net).or_insert(index);
                }
                IpNet::V6(net) => {
                    v6.entry(net).or_insert(index);
                }
            }
        }
        Self { entries, v4, v6 }
    }

    fn longest(&self, address: IpAddr) -> Option<(usize, Entry)> {
        let index = match address {
            IpAddr::V4(address) => *self.v4.get_lpm(&host_v4(address))?.1,
            IpAddr::V6(address) => *self.v6.get_lpm(&host_v6(address))?.1,
        };
        let index = usize::try_from(index).ok()?;
        self.entries.get(index).map(|entry| (index, *entry))
    }
}

fn host_v4(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

fn host_v6(address: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::from(address)
}

/// The address a bottom-most Via value yields (row 8): its `received` parameter when present, otherwise its sent-by host
/// when that is an IP literal. A host name yields nothing: access control never asks the DNS.
///
/// `via` is the value of one Via header field; of several comma-separated values the last counts.
pub fn via_address(via: &str) -> Option<IpAddr> {
    let bottom = last_value(via)?;
    let mut parameters = bottom.split(';');
    let sent_by = sent_by(parameters.next()?)?;
    let received = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("received").then(|| value.trim())
    });
    let host = match received {
        Some(received) => received,
        None => host_of(sent_by),
    };
    let literal = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    literal.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// The part after the last comma that stands outside quotes.
fn last_value(via: &str) -> Option<&str> {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    for (at, byte) in via.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => start = at + 1,
            _ => {}
        }
    }
    via.get(start..)
}

/// `SIP / 2.0 / UDP  host:port` without the protocol; white space around the slashes is legal (RFC 3261 §20.42).
fn sent_by(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('/')?;
    let (_, rest) = rest.split_once('/')?;
    let (_, sent_by) = rest.trim_start().split_once([' ', '\t'])?;
    Some(sent_by.trim())
}

fn host_of(sent_by: &str) -> &str {
    if sent_by.starts_with('[') {
        return sent_by.find(']').map_or(sent_by, |end| &sent_by[..=end]);
    }
    sent_by.split(':').next().unwrap_or(sent_by).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &[&str]) -> Vec<Entry> {
        list.iter().map(|text| Entry::parse(text).unwrap()).collect()
    }

    fn list(allow_all: bool, allow: &[&str], deny: &[&str]) -> AccessList {
        AccessList::new(true, allow_all, entries(allow), entries(deny))
    }

    fn by(list: &AccessList, address: &str) -> DecidedBy {
        list.decide_address(Some(address.parse().unwrap())).by
    }

    #[test]
    fn entries_are_canonical() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            (" 192.0.2.0/24 ", "192.0.2.0/24"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(Entry::parse(text).unwrap().to_string(), shown);
        }
        assert_eq!(
            Entry::parse("192.0.2.1/24"),
            Err(EntryError::HostBits {
                given: "192.0.2.1/24".into(),
                network: "192.0.2.0/24".into()
            })
        );
        for bad in ["", "192.0.2", "192.0.2.0/33", "example.com", "192.0.2.1-192.0.2.9", "*"] {
            assert!(matches!(Entry::parse(bad), Err(EntryError::Unreadable(_))), "{bad}");
        }
    }

    #[test]
    fn an_empty_list_denies() {
        assert_eq!(by(&list(false, &[], &[]), "192.0.2.1"), DecidedBy::NoMatch);
    }

    #[test]
    fn deny_wins_over_a_longer_allow() {
        let list = list(false, &["10.0.0.0/8", "10.1.2.3"], &["10.1.0.0/16"]);
        assert!(matches!(by(&list, "10.2.0.1"), DecidedBy::AllowEntry { index: 0, .. }));
        let decision = list.decide("10.1.2.3".parse().unwrap(), None);
        assert_eq!(
            (decision.allowed(), decision.field(), decision.value()),
            (false, "acl.deny[0]".into(), "10.1.0.0/16".into())
        );
    }

    #[test]
    fn deny_counts_only_after_allow() {
        // Not allowed and denied: the missing allowance decides.
        assert_eq!(
            by(&list(false, &["10.0.0.0/8"], &["192.0.2.1"]), "192.0.2.1"),
            DecidedBy::NoMatch
        );
        assert!(matches!(
            by(&list(true, &[], &["192.0.2.1"]), "192.0.2.1"),
            DecidedBy::DenyEntry { index: 0, .. }
        ));
        assert_eq!(by(&list(true, &[], &["192.0.2.1"]), "192.0.2.2"), DecidedBy::AllowAll);
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let list = list(false, &["192.0.2.0/24", "2001:db8::/32"], &[]);
        assert!(matches!(
            by(&list, "::ffff:192.0.2.9"),
            DecidedBy::AllowEntry { index: 0, .. }
        ));
        assert!(matches!(
            by(&list, "2001:db8:1::1"),
            DecidedBy::AllowEntry { index: 1, .. }
        ));
        assert_eq!(by(&list, "2001:db9::1"), DecidedBy::NoMatch);
    }

    #[test]
    fn the_first_of_equal_entries_is_named() {
        assert!(matches!(
            by(&list(false, &["10.0.0.1", "10.0.0.1/32"], &[]), "10.0.0.1"),
            DecidedBy::AllowEntry { index: 0, .. }
        ));
    }

    #[test]
    fn the_source_or_the_via_is_looked_up() {
        let by_via = AccessList::new(false, false, entries(&["192.0.2.7"]), vec![]);
        let source = "198.51.100.1".parse().unwrap();
        assert!(by_via.decide(source, Some("192.0.2.7".parse().unwrap())).allowed());
        assert_eq!(by_via.decide(source, None).by, DecidedBy::NoAddress);
    }

    #[test]
    fn via_yields_received_or_a_literal() {
        for (via, address) in [
            ("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1", Some("192.0.2.1")),
            ("SIP/2.0/UDP 10.0.0.1;received=192.0.2.9;branch=x", Some("192.0.2.9")),
            (
                "SIP / 2.0 / TLS [2001:db8::1]:5061;Received = 2001:db8::2",
                Some("2001:db8::2"),
            ),
            ("SIP/2.0/UDP [2001:db8::1]", Some("2001:db8::1")),
            (
                "SIP/2.0/UDP first.example.com, SIP/2.0/UDP 192.0.2.3;branch=\"a,b\"",
                Some("192.0.2.3"),
            ),
            ("SIP/2.0/UDP phone.example.com;branch=x", None),
            ("SIP/2.0/UDP 192.0.2.1 : 5060 ;rport", Some("192.0.2.1")),
            ("SIP/2.0/UDP phone.example.com;received=nonsense", None),
            ("", None),
            ("SIP/2.0", None),
            ("SIP/2.0/UDP", None),
        ] {
            assert_eq!(via_address(via), address.map(|text| text.parse().unwrap()), "{via}");
        }
    }

    #[test]
    fn a_hundred_thousand_entries_are_searched() {
        let allow = (0..100_000_u32)
            .map(|i| Entry::parse(&Ipv4Addr::from(0x0a00_0000 + i * 2).to_string()).unwrap())
            .collect();
        let list = AccessList::new(true, false, allow, vec![]);
        assert!(matches!(
            by(&list, "10.3.13.62"),
            DecidedBy::AllowEntry { index: 99_999, .. }
        ));
        assert_eq!(by(&list, "10.3.13.61"), DecidedBy::NoMatch);
    }
}
