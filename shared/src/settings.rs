//! Settings beyond the trunks: of the installation, and what every worker needs to know.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

/// Settings of the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Row 50: captures cannot be enabled, and running ones stop.
    pub pci_dss_enabled: bool,
    /// How long ended calls are kept, 1 h-3650 days.
    pub call_retention: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pci_dss_enabled: false,
            call_retention: Duration::from_secs(90 * 86_400),
        }
    }
}

/// A key that signs digest nonces: 32 octets, wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct NonceKey(Zeroizing<[u8; 32]>);

impl NonceKey {
    /// Takes the key.
    pub fn new(octets: [u8; 32]) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The key itself.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<set>")
    }
}

/// What every worker needs to know beside the trunks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerSettings {
    /// Current key first, then those still accepted; the same on all workers, so that any of them knows a nonce.
    pub nonce_keys: Vec<NonceKey>,
    /// Row 50.
    pub pci_dss_enabled: bool,
    /// Refuse new work, keep the running.
    pub drain: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_never_shown() {
        let settings = WorkerSettings {
            nonce_keys: vec![NonceKey::new([7; 32])],
            ..WorkerSettings::default()
        };
        assert_eq!(
            format!("{settings:?}"),
            "WorkerSettings { nonce_keys: [<set>], pci_dss_enabled: false, drain: false }"
        );
    }
}
