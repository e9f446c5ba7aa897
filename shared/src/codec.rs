//! Audio codecs of the Preferred Codec List (row 29).

use std::fmt;

/// An audio codec. The order of the variants is no preference; a trunk's list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// RFC 7587.
    Opus,
    /// G.711 µ-law (RFC 3551 §4.5.14).
    Pcmu,
    /// G.711 A-law (RFC 3551 §4.5.14).
    Pcma,
    /// RFC 3551 §4.5.2.
    G722,
    /// RFC 3551 §4.5.6.
    G729,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 5] = [Self::Opus, Self::Pcmu, Self::Pcma, Self::G722, Self::G729];
    /// The default list, in order.
    pub const DEFAULT_LIST: [Self; 3] = [Self::Opus, Self::Pcmu, Self::Pcma];

    /// Encoding name in SDP.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::G729 => "G729",
        }
    }

    /// By encoding name in any letter case, with or without `audio/` before it.
    pub fn parse(name: &str) -> Option<Self> {
        let name = match name.split_once('/') {
            Some((kind, name)) if kind.eq_ignore_ascii_case("audio") => name,
            Some(_) => return None,
            None => name,
        };
        Self::ALL
            .into_iter()
            .find(|codec| codec.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Codec;

    #[test]
    fn names_are_read_in_any_case() {
        assert_eq!(Codec::parse("audio/PCMU"), Some(Codec::Pcmu));
        assert_eq!(Codec::parse("OPUS"), Some(Codec::Opus));
        assert_eq!(
            (Codec::parse("video/opus"), Codec::parse("gsm"), Codec::parse("")),
            (None, None, None)
        );
        assert!(
            Codec::ALL
                .into_iter()
                .all(|codec| Codec::parse(codec.name()) == Some(codec))
        );
    }
}
