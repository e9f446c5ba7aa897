//! Differentiated services code points (RFC 2474), rows 16 and 27.

use std::fmt;

/// Why a number is no DSCP setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is outside 0-63, and -1 stands for the system's default")]
pub struct DscpError(pub i32);

/// A DSCP, 0-63, or "leave the system's default".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dscp(Option<u8>);

impl Dscp {
    /// Leaves what the system sets.
    pub const SYSTEM_DEFAULT: Self = Self(None);
    /// Class selector 3: the default of signalling (row 16).
    pub const CS3: Self = Self(Some(24));
    /// Expedited forwarding (RFC 3246): the default of media (row 27).
    pub const EF: Self = Self(Some(46));

    /// 0-63, or -1 for the system's default.
    pub fn new(value: i32) -> Result<Self, DscpError> {
        match u8::try_from(value) {
            Ok(value @ 0..=63) => Ok(Self(Some(value))),
            _ if value == -1 => Ok(Self::SYSTEM_DEFAULT),
            _ => Err(DscpError(value)),
        }
    }

    /// The code point; `None` for the system's default.
    pub const fn value(self) -> Option<u8> {
        self.0
    }

    /// The setting as a number: 0-63 or -1.
    pub fn setting(self) -> i32 {
        self.0.map_or(-1, i32::from)
    }

    /// Value of `IP_TOS` and `IPV6_TCLASS`: the code point in the upper six bits, ECN zero (RFC 3168 §5).
    pub fn tos(self) -> Option<u8> {
        self.0.map(|value| value << 2)
    }

    /// Name of the per-hop behaviour, when the code point has one (RFC 2474, 2597, 3246, 5865, 8622).
    pub const fn phb(self) -> Option<&'static str> {
        Some(match self.0 {
            Some(0) => "CS0",
            Some(1) => "LE",
            Some(8) => "CS1",
            Some(10) => "AF11",
            Some(12) => "AF12",
            Some(14) => "AF13",
            Some(16) => "CS2",
            Some(18) => "AF21",
            Some(20) => "AF22",
            Some(22) => "AF23",
            Some(24) => "CS3",
            Some(26) => "AF31",
            Some(28) => "AF32",
            Some(30) => "AF33",
            Some(32) => "CS4",
            Some(34) => "AF41",
            Some(36) => "AF42",
            Some(38) => "AF43",
            Some(40) => "CS5",
            Some(44) => "VOICE-ADMIT",
            Some(46) => "EF",
            Some(48) => "CS6",
            Some(56) => "CS7",
            Some(_) | None => return None,
        })
    }
}

/// Hex, decimal, binary and name as the settings page shows them: `18 (24, 011000) CS3`.
impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(value) = self.0 else {
            return f.write_str("system default");
        };
        write!(f, "{value:02X} ({value}, {value:06b})")?;
        self.phb().map_or(Ok(()), |name| write!(f, " {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_on_the_page() {
        for (value, shown, tos) in [
            (24, "18 (24, 011000) CS3", Some(96)),
            (46, "2E (46, 101110) EF", Some(184)),
            (0, "00 (0, 000000) CS0", Some(0)),
            (63, "3F (63, 111111)", Some(252)),
            (-1, "system default", None),
        ] {
            let dscp = Dscp::new(value).unwrap();
            assert_eq!(
                (dscp.to_string().as_str(), dscp.tos(), dscp.setting()),
                (shown, tos, value)
            );
        }
    }

    #[test]
    fn out_of_range_is_refused() {
        for value in [-2, 64, 256, 280, i32::MAX, i32::MIN] {
            assert_eq!(Dscp::new(value), Err(DscpError(value)));
        }
    }
}
