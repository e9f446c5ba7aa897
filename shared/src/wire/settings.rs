//! Settings of the installation and of workers.

use trunkline_proto::{dataplane::v1 as dataplane, v1};
use zeroize::Zeroize;

use super::check::{Findings, Violations, duration_to_wire};
use crate::settings::{NonceKey, Settings, WorkerSettings};

/// Name of the singleton.
const NAME: &str = "settings";
/// Most nonce keys a worker keeps: the current one and those still accepted.
const MAX_NONCE_KEYS: usize = 8;

impl TryFrom<v1::Settings> for Settings {
    type Error = Violations;

    fn try_from(raw: v1::Settings) -> Result<Self, Violations> {
        settings(raw)
    }
}

/// Checks the settings as written and answers them with every default filled in; etag and time are passed through.
pub fn effective_settings(raw: v1::Settings) -> Result<v1::Settings, Violations> {
    let (etag, update_time) = (raw.etag.clone(), raw.update_time);
    let settings = settings(raw)?;
    Ok(v1::Settings {
        etag,
        update_time,
        ..settings_to_wire(&settings)
    })
}

/// Checks the settings message and fills in every default. An empty name is taken for the only one there is.
pub fn settings(raw: v1::Settings) -> Result<Settings, Violations> {
    let v1::Settings {
        name,
        pci_dss_enabled,
        call_retention,
        etag: _,
        update_time: _,
    } = raw;
    let mut f = Findings::default();
    if !name.is_empty() && name != NAME {
        f.field("name", "must be `settings`");
    }
    let default = Settings::default();
    let call_retention = f.duration(
        "call_retention",
        call_retention,
        default.call_retention,
        3600..=3650 * 86_400,
    );
    f.settle(Settings {
        pci_dss_enabled: pci_dss_enabled.unwrap_or(default.pci_dss_enabled),
        call_retention,
    })
}

/// The message with every effective value; etag and time are the caller's.
pub fn settings_to_wire(settings: &Settings) -> v1::Settings {
    let Settings {
        pci_dss_enabled,
        call_retention,
    } = settings;
    v1::Settings {
        name: NAME.into(),
        pci_dss_enabled: Some(*pci_dss_enabled),
        call_retention: Some(duration_to_wire(*call_retention)),
        etag: String::new(),
        update_time: None,
    }
}

/// Reads what every worker needs to know. Nonce keys must have 32 octets.
pub fn worker_settings(raw: dataplane::WorkerSettings) -> Result<WorkerSettings, Violations> {
    let dataplane::WorkerSettings {
        mut nonce_keys,
        pci_dss_enabled,
        drain,
    } = raw;
    let mut f = Findings::default();
    f.at_most("nonce_keys", &nonce_keys, MAX_NONCE_KEYS);
    let keys = f.each("nonce_keys", &nonce_keys, |key| {
        <[u8; 32]>::try_from(&key[..])
            .map(NonceKey::new)
            .map_err(|_| "must have 32 octets")
    });
    nonce_keys.iter_mut().for_each(Zeroize::zeroize);
    f.settle(WorkerSettings {
        nonce_keys: keys,
        pci_dss_enabled,
        drain,
    })
}

/// The message of worker settings, keys and all.
pub fn worker_settings_to_wire(settings: &WorkerSettings) -> dataplane::WorkerSettings {
    let WorkerSettings {
        nonce_keys,
        pci_dss_enabled,
        drain,
    } = settings;
    dataplane::WorkerSettings {
        nonce_keys: nonce_keys.iter().map(|key| key.expose().to_vec()).collect(),
        pci_dss_enabled: *pci_dss_enabled,
        drain: *drain,
    }
}
