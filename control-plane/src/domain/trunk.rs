//! Trunks.

use prost_types::Timestamp;
use sqlx::SqliteConnection;
use trunkline_proto::v1;
use trunkline_shared::wire::{self, Checks};

use super::{
    Error, FieldViolation, Page, PreconditionViolation, certificate, changed_fields,
    check::Findings,
    ha1,
    mutation::{Begin, Mutation, check_etag, random_id},
};
use crate::{
    identity::Caller,
    store::{
        Store, WriteTx,
        credential::{self, Secrets},
        line, registration, route, settings,
        trunk::{self, Port, SecretWrite},
    },
};

const MESSAGE: &str = "trunkline.v1.Trunk";
const KEY_FIELD: &str = "tls.private_key_pem";
/// How far ahead a capture may end (row 48).
const CAPTURE_HORIZON_S: i64 = 7 * 24 * 3600;
/// Referrers named in a refusal; the rest is counted.
const REFERRERS_SHOWN: u32 = 100;

/// Creates a trunk.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong, [`Error::AlreadyExists`] for name, display name and ports,
/// [`Error::Precondition`] for insecure TLS and captures under PCI DSS.
pub async fn create(
    store: &Store,
    caller: &Caller,
    request: v1::CreateTrunkRequest,
) -> Result<v1::CreateTrunkResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    let id = findings.id("trunk_id", &request.trunk_id, || random_id("trunk"));
    let name = format!("trunks/{id}");
    let raw = findings.required("trunk", request.trunk.clone());
    let trunk = raw.and_then(|raw| {
        findings.trunk(v1::Trunk {
            name: name.clone(),
            ..raw
        })
    });
    findings.fields().extend(trunk.as_ref().and_then(certificate::check));
    let trunk = findings.settle(trunk)?;
    let begun = Mutation::begin(
        store,
        caller,
        "CreateTrunk",
        &request,
        &request.request_id,
        request.validate_only,
    )
    .await?;
    let mut mutation = match begun {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    if trunk::find(mutation.tx.conn(), &name).await?.is_some() {
        return Err(Error::exists(&name));
    }
    check_captures(&mut mutation.tx, &trunk, None).await?;
    check_conflicts(&mut mutation.tx, &trunk).await?;
    let key = private_key(&trunk);
    let mut changed = changed_fields(MESSAGE, &v1::Trunk::default(), &without_key(&trunk));
    changed.extend((!key.is_empty()).then(|| KEY_FIELD.to_owned()));
    let stored = trunk::insert(&mut mutation.tx, &trunk, (!key.is_empty()).then_some(key)).await?;
    mutation
        .finish(
            &name,
            changed,
            v1::CreateTrunkResponse {
                trunk: Some(stored.message),
            },
        )
        .await
}

/// One trunk.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(store: &Store, name: &str) -> Result<v1::Trunk, Error> {
    let mut findings = Findings::default();
    findings.trunk_name("name", name);
    findings.settle(Some(()))?;
    let mut view = store.read().await?;
    Ok(trunk::find(view.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message)
}

/// What the configuration of a stored trunk asks for that deserves a second look.
pub fn warnings(trunk: &v1::Trunk) -> Vec<v1::Warning> {
    // What is stored was checked when it was written, so it reads; a trunk that does not has other troubles.
    wire::trunk(trunk.clone(), &Checks::default())
        .map(|trunk| wire::warnings(&trunk))
        .unwrap_or_default()
}

/// A page of trunks.
///
/// # Errors
/// [`Error::Invalid`] for a bad page size or token.
pub async fn list(store: &Store, request: &v1::ListTrunksRequest) -> Result<v1::ListTrunksResponse, Error> {
    const LIST: &str = "ListTrunks";
    let cipher = store.cipher();
    let mut findings = Findings::default();
    let page = Page::read(
        cipher,
        LIST,
        "",
        request.page_size,
        &request.page_token,
        findings.fields(),
    );
    findings.settle(Some(()))?;
    let mut view = store.read().await?;
    let stored = trunk::list(view.conn(), &page.after, page.fetch()).await?;
    let mut trunks: Vec<v1::Trunk> = stored.into_iter().map(|stored| stored.message).collect();
    let next_page_token = page.cut(cipher, LIST, "", &mut trunks, |trunk| trunk.name.clone());
    Ok(v1::ListTrunksResponse {
        trunks,
        next_page_token,
    })
}

/// Changes a trunk. Changing the realm computes the hashes of its credentials anew in the same transaction.
///
/// # Errors
/// As [`create`]; [`Error::NotFound`]; [`Error::StaleEtag`].
pub async fn update(
    store: &Store,
    caller: &Caller,
    request: v1::UpdateTrunkRequest,
) -> Result<v1::UpdateTrunkResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    let patch = findings.required("trunk", request.trunk.clone());
    if let Some(patch) = &patch {
        findings.trunk_name("trunk.name", &patch.name);
    }
    let patch = findings.settle(patch)?;
    let begun = Mutation::begin(
        store,
        caller,
        "UpdateTrunk",
        &request,
        &request.request_id,
        request.validate_only,
    )
    .await?;
    let mut mutation = match begun {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let name = patch.name.clone();
    let tx = &mut mutation.tx;
    let current = trunk::find(tx.conn(), &name)
        .await?
        .ok_or_else(|| Error::not_found(&name))?
        .message;
    check_etag(&name, &patch.etag, &current.etag)?;

    let cipher = tx.cipher();
    let stored_key = trunk::tls_private_key(tx.conn(), &cipher, &name).await?;
    let stored_key = stored_key.as_ref().map_or("", |key| key.as_str());
    let mut findings = Findings::default();
    let base = with_key(&current, stored_key);
    let merged = findings.masked(wire::apply_mask_trunk(&base, patch, request.update_mask.as_ref()));
    let merged = merged.map(|merged| without_orphaned_key(&base, merged));
    let wanted = merged.and_then(|merged| findings.trunk(merged));
    findings.fields().extend(wanted.as_ref().and_then(certificate::check));
    let wanted = findings.settle(wanted)?;
    check_captures(tx, &wanted, Some(&current)).await?;
    check_conflicts(tx, &wanted).await?;

    let key = private_key(&wanted);
    let key_changed = key != stored_key;
    let mut changed = changed_fields(MESSAGE, &current, &without_key(&wanted));
    changed.extend(key_changed.then(|| KEY_FIELD.to_owned()));
    if changed.is_empty() {
        return mutation
            .finish(&name, changed, v1::UpdateTrunkResponse { trunk: Some(current) })
            .await;
    }
    if realm(&wanted) != realm(&current) {
        rehash_credentials(tx, &name, realm(&wanted)).await?;
    }
    let write = match (key_changed, key.is_empty()) {
        (false, _) => SecretWrite::Keep,
        (true, false) => SecretWrite::Set(key),
        (true, true) => SecretWrite::Clear,
    };
    let stored = trunk::update(tx, &wanted, write).await?;
    mutation
        .finish(
            &name,
            changed,
            v1::UpdateTrunkResponse {
                trunk: Some(stored.message),
            },
        )
        .await
}

/// Removes a trunk and its registrations; with `force` also its lines and credentials. Routes are never removed with
/// it: they may lead elsewhere too.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::StaleEtag`]; [`Error::Precondition`] `RESOURCE_IN_USE` naming what refers to it.
pub async fn delete(
    store: &Store,
    caller: &Caller,
    request: v1::DeleteTrunkRequest,
) -> Result<v1::DeleteTrunkResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    findings.trunk_name("name", &request.name);
    findings.settle(Some(()))?;
    // The registrations that go with it are those reported until now.
    let held = store.hold_settled().await?;
    let begun = Mutation::begin(
        store,
        caller,
        "DeleteTrunk",
        &request,
        &request.request_id,
        request.validate_only,
    )
    .await?;
    let mut mutation = match begun {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let name = &request.name;
    let tx = &mut mutation.tx;
    let current = trunk::find(tx.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message;
    check_etag(name, &request.etag, &current.etag)?;

    let children = if request.force { u32::MAX } else { REFERRERS_SHOWN };
    let lines = line::list(tx.conn(), &format!("{name}/lines"), "", children).await?;
    let credentials = credential::list(tx.conn(), &format!("{name}/credentials"), "", children).await?;
    let mut referrers = route::referrers(tx.conn(), name, REFERRERS_SHOWN).await?;
    if !request.force {
        referrers.extend(lines.iter().map(|line| line.message.name.clone()));
        referrers.extend(credentials.iter().map(|credential| credential.message.name.clone()));
    }
    in_use(name, referrers)?;
    for line in lines {
        line::delete(tx, &line.message.name).await?;
    }
    for credential in credentials {
        credential::delete(tx, &credential.message.name).await?;
    }
    registration::clear_trunk(tx, name).await?;
    trunk::delete(tx, name).await?;
    let deleted = mutation.finish(name, Vec::new(), v1::DeleteTrunkResponse {}).await?;
    held.registrations_changed();
    Ok(deleted)
}

/// Takes the captures of every trunk off: PCI DSS allows none (row 50). Answers the names of the trunks it changed.
pub(super) async fn clear_captures(tx: &mut WriteTx) -> Result<Vec<String>, Error> {
    let mut cleared = Vec::new();
    for stored in trunk::all(tx.conn()).await? {
        let mut trunk = stored.message;
        let Some(diagnostics) = &mut trunk.diagnostics else {
            continue;
        };
        if diagnostics.media_capture() || diagnostics.protocol_capture() {
            *diagnostics = v1::DiagnosticsSettings {
                media_capture: Some(false),
                protocol_capture: Some(false),
                media_capture_until: None,
                protocol_capture_until: None,
            };
            trunk::update(tx, &trunk, SecretWrite::Keep).await?;
            cleared.push(trunk.name);
        }
    }
    Ok(cleared)
}

/// Refuses when something still refers to `name`.
pub(super) fn in_use(name: &str, referrers: Vec<String>) -> Result<(), Error> {
    if referrers.is_empty() {
        return Ok(());
    }
    let violation = |referrer: String| PreconditionViolation {
        kind: "RESOURCE_IN_USE".to_owned(),
        description: format!("{referrer} refers to {name}"),
        subject: referrer,
    };
    let violations = referrers.into_iter().map(violation).collect();
    Err(Error::Precondition {
        reason: "RESOURCE_IN_USE".to_owned(),
        violations,
    })
}

/// Realm of a trunk's challenges; empty when it has none.
pub(super) fn realm(trunk: &v1::Trunk) -> &str {
    trunk.inbound_digest.as_ref().map_or("", |digest| digest.realm.as_str())
}

async fn rehash_credentials(tx: &mut WriteTx, trunk: &str, realm: &str) -> Result<(), Error> {
    let cipher = tx.cipher();
    for stored in credential::list(tx.conn(), &format!("{trunk}/credentials"), "", u32::MAX).await? {
        let credential = stored.message;
        let Some(password) = credential::password(tx.conn(), &cipher, &credential.name).await? else {
            continue;
        };
        let ha1 = ha1::compute(&credential.username, realm, &password);
        credential::update(
            tx,
            &credential,
            Secrets {
                password: &password,
                realm,
                ha1: &ha1,
            },
        )
        .await?;
    }
    Ok(())
}

/// Rows 46-50: an end for every capture, in the future when it is set or moved, and none at all under PCI DSS.
async fn check_captures(tx: &mut WriteTx, trunk: &v1::Trunk, before: Option<&v1::Trunk>) -> Result<(), Error> {
    let Some(diagnostics) = &trunk.diagnostics else {
        return Ok(());
    };
    let before = before.and_then(|before| before.diagnostics).unwrap_or_default();
    let captures = [
        (
            "diagnostics.media_capture",
            diagnostics.media_capture(),
            diagnostics.media_capture_until,
            before.media_capture(),
            before.media_capture_until,
        ),
        (
            "diagnostics.protocol_capture",
            diagnostics.protocol_capture(),
            diagnostics.protocol_capture_until,
            before.protocol_capture(),
            before.protocol_capture_until,
        ),
    ];
    let now_s = tx.now_ms().div_euclid(1000);
    let mut findings = Findings::default();
    for (field, on, until, was_on, was_until) in captures {
        // What runs already may run out: only what this write sets is measured against the clock.
        if on && (!was_on || until != was_until) {
            check_end(&format!("{field}_until"), until, now_s, findings.fields());
        }
    }
    findings.settle(Some(()))?;

    let pci = settings::find(tx.conn())
        .await?
        .is_some_and(|settings| settings.message.pci_dss_enabled());
    let refused: Vec<PreconditionViolation> = captures
        .into_iter()
        .filter(|(_, on, ..)| pci && *on)
        .map(|(field, ..)| PreconditionViolation {
            kind: "PCI_DSS_ENABLED".to_owned(),
            subject: field.to_owned(),
            description: "captures cannot be enabled while PCI DSS is on".to_owned(),
        })
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(Error::Precondition {
        reason: "PCI_DSS_ENABLED".to_owned(),
        violations: refused,
    })
}

fn check_end(field: &str, until: Option<Timestamp>, now_s: i64, violations: &mut Vec<FieldViolation>) {
    let text = match until {
        None => "must be set to enable the capture",
        Some(until) if until.seconds <= now_s => "must be in the future",
        Some(until) if until.seconds > now_s + CAPTURE_HORIZON_S => "must be at most 7 days ahead",
        Some(_) => return,
    };
    // The checks without a clock may have said the same already.
    if violations.iter().all(|violation| violation.field != field) {
        violations.push(FieldViolation::new(field, text));
    }
}

/// Display name and ports belong to one trunk at a time; all collisions are named at once.
async fn check_conflicts(tx: &mut WriteTx, trunk: &v1::Trunk) -> Result<(), Error> {
    let conn = tx.conn();
    let holder = trunk::display_name_holder(conn, &trunk.display_name, &trunk.name).await?;
    let (ports, port_holder) = port_collisions(conn, trunk).await?;
    let mut fields = Vec::new();
    if let Some(holder) = &holder {
        fields.push(FieldViolation::new(
            "display_name",
            format!("{holder} has the same display name"),
        ));
    }
    fields.extend(ports);
    let (reason, resource) = match (holder, port_holder) {
        (Some(holder), _) => ("DISPLAY_NAME_IN_USE", holder),
        (None, Some(holder)) => ("PORT_IN_USE", holder),
        (None, None) => return Ok(()),
    };
    let description = fields
        .iter()
        .map(|field| field.description.as_str())
        .collect::<Vec<_>>()
        .join("; ");
    Err(Error::AlreadyExists {
        reason,
        resource,
        description,
        fields,
    })
}

async fn port_collisions(
    conn: &mut SqliteConnection,
    trunk: &v1::Trunk,
) -> Result<(Vec<FieldViolation>, Option<String>), Error> {
    let ports = trunk::ports(trunk);
    let mut own = Findings::default();
    for (index, port) in ports.iter().enumerate() {
        let same = |other: &&Port| (other.layer4, other.number) == (port.layer4, port.number);
        if let Some(other) = ports[..index].iter().find(same) {
            own.fields().push(FieldViolation::new(
                port.field,
                format!("is the same port as {}", other.field),
            ));
        }
    }
    own.settle(Some(()))?;
    let mut collisions = Vec::new();
    let mut first = None;
    for port in ports {
        if let Some((holder, setting)) = trunk::port_holder(conn, port, &trunk.name).await? {
            let Port { layer4, number, field } = port;
            let text = format!("{} port {number} is the {setting} of {holder}", layer4.as_str());
            collisions.push(FieldViolation::new(field, text));
            first.get_or_insert(holder);
        }
    }
    Ok((collisions, first))
}

fn private_key(trunk: &v1::Trunk) -> &str {
    trunk.tls.as_ref().map_or("", |tls| tls.private_key_pem.as_str())
}

fn without_key(trunk: &v1::Trunk) -> v1::Trunk {
    with_key(trunk, "")
}

fn with_key(trunk: &v1::Trunk, key: &str) -> v1::Trunk {
    let mut trunk = trunk.clone();
    if let Some(tls) = &mut trunk.tls {
        key.clone_into(&mut tls.private_key_pem);
    }
    trunk
}

/// The stored key goes with its certificate; a key that came without one is left for the checks to refuse.
fn without_orphaned_key(before: &v1::Trunk, mut trunk: v1::Trunk) -> v1::Trunk {
    let stored = private_key(before);
    if let Some(tls) = &mut trunk.tls
        && tls.certificate_pem.is_empty()
        && tls.private_key_pem == stored
    {
        tls.private_key_pem.clear();
    }
    trunk
}
