//! The settings of the installation.

use trunkline_proto::v1;
use trunkline_shared::wire;

use super::{
    Error, changed_fields,
    check::Findings,
    mutation::{Begin, Mutation, check_etag},
    trunk::clear_captures,
};
use crate::{
    identity::Caller,
    store::{AuditRecord, ReadTx, Store, etag, settings},
};

const MESSAGE: &str = "trunkline.v1.Settings";

/// The settings in force.
///
/// # Errors
/// [`Error::Invalid`] for another name.
pub async fn get(store: &Store, name: &str) -> Result<v1::Settings, Error> {
    if !name.is_empty() && name != settings::NAME {
        return Err(Error::field("name", "must be `settings` or empty"));
    }
    Ok(in_force(&mut store.read().await?).await?)
}

/// The settings of one view of the store.
///
/// # Errors
/// When the store cannot be read.
pub async fn in_force(view: &mut ReadTx) -> Result<v1::Settings, crate::store::StoreError> {
    Ok(settings::find(view.conn())
        .await?
        .map_or_else(defaults, |stored| stored.message))
}

/// Changes the settings. Turning PCI DSS on takes off the captures of every trunk in the same transaction.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong; [`Error::StaleEtag`].
pub async fn update(
    store: &Store,
    caller: &Caller,
    request: v1::UpdateSettingsRequest,
) -> Result<v1::UpdateSettingsResponse, Error> {
    const ACTION: &str = "UpdateSettings";
    let mut findings = Findings::default();
    let patch = findings.required("settings", request.settings.clone());
    if patch
        .as_ref()
        .is_some_and(|patch| !patch.name.is_empty() && patch.name != settings::NAME)
    {
        findings.field("settings.name", "must be `settings` or empty");
    }
    let patch = findings.settle(patch)?;
    let mut mutation = match Mutation::begin(store, caller, ACTION, &request, "", request.validate_only).await? {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let tx = &mut mutation.tx;
    let current = settings::find(tx.conn())
        .await?
        .map_or_else(defaults, |stored| stored.message);
    check_etag(settings::NAME, &patch.etag, &current.etag)?;
    let mut findings = Findings::default();
    let merged = findings.masked(wire::apply_mask_settings(&current, patch, request.update_mask.as_ref()));
    let wanted = merged.and_then(|merged| findings.settings(merged));
    let wanted = findings.settle(wanted)?;
    let changed = changed_fields(MESSAGE, &current, &wanted);
    if changed.is_empty() {
        let response = v1::UpdateSettingsResponse {
            settings: Some(current),
        };
        return mutation.finish(settings::NAME, changed, response).await;
    }
    if wanted.pci_dss_enabled() && !current.pci_dss_enabled() {
        for trunk in clear_captures(tx).await? {
            let fields = ["diagnostics.media_capture", "diagnostics.protocol_capture"]
                .map(str::to_owned)
                .to_vec();
            tx.audit(AuditRecord::ok(caller, ACTION, &trunk, fields));
        }
    }
    let stored = settings::put(tx, &wanted).await?;
    let response = v1::UpdateSettingsResponse {
        settings: Some(stored.message),
    };
    mutation.finish(settings::NAME, changed, response).await
}

/// Settings nobody has changed yet.
fn defaults() -> v1::Settings {
    v1::Settings {
        name: settings::NAME.to_owned(),
        pci_dss_enabled: Some(false),
        call_retention: Some(prost_types::Duration {
            seconds: 90 * 24 * 3600,
            nanos: 0,
        }),
        etag: etag(0),
        update_time: None,
    }
}
