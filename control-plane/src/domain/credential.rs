//! Digest credentials: hashes for the workers are computed here, whenever name, password or realm change.

use std::collections::HashSet;

use trunkline_proto::v1;
use trunkline_shared::wire;

use super::{
    Error, FieldViolation, Page, changed_fields,
    check::Findings,
    ha1,
    mutation::{Begin, Mutation, check_etag, random_id},
    trunk::realm,
};
use crate::{
    identity::Caller,
    store::{
        AuditRecord, Store, WriteTx,
        credential::{self, Secrets},
        trunk,
    },
};

const MESSAGE: &str = "trunkline.v1.DigestCredential";
const PASSWORD_FIELD: &str = "password";
/// Credentials created by one call.
const MAX_BATCH: usize = 1000;

/// Creates a credential.
///
/// # Errors
/// [`Error::Invalid`] with everything that is wrong; [`Error::NotFound`] for the trunk; [`Error::AlreadyExists`] for
/// name and user name.
pub async fn create(
    store: &Store,
    caller: &Caller,
    request: v1::CreateDigestCredentialRequest,
) -> Result<v1::CreateDigestCredentialResponse, Error> {
    let mut findings = Findings::default();
    let credential = check_create(&mut findings, &request, &request.parent);
    let credential = findings.settle(credential)?;
    let (id, dry) = (&request.request_id, request.validate_only);
    let mut mutation = match Mutation::begin(store, caller, "CreateDigestCredential", &request, id, dry).await? {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let trunk = parent(&mut mutation.tx, &request.parent).await?;
    let (stored, changed) = insert(&mut mutation.tx, &trunk, &credential).await?;
    let name = stored.name.clone();
    let response = v1::CreateDigestCredentialResponse {
        digest_credential: Some(stored),
    };
    mutation.finish(&name, changed, response).await
}

/// Creates many credentials of one trunk, all or none.
///
/// # Errors
/// As [`create`]; fields are named `requests[index].…`. The requests' own `validate_only` and `request_id` must be
/// unset: there is one outcome for all.
pub async fn batch_create(
    store: &Store,
    caller: &Caller,
    request: v1::BatchCreateDigestCredentialsRequest,
) -> Result<v1::BatchCreateDigestCredentialsResponse, Error> {
    let mut findings = Findings::default();
    let parent_name = findings.create_parent(&request.parent);
    if request.requests.is_empty() || request.requests.len() > MAX_BATCH {
        let text = format!("must hold 1 to {MAX_BATCH} requests");
        findings.fields().push(FieldViolation::new("requests", text));
    }
    let mut credentials = Vec::with_capacity(request.requests.len().min(MAX_BATCH));
    let (mut names, mut usernames) = (HashSet::new(), HashSet::new());
    for (index, item) in request.requests.iter().take(MAX_BATCH).enumerate() {
        let mut own = Findings::default();
        for (field, set) in [
            ("validate_only", item.validate_only),
            ("request_id", !item.request_id.is_empty()),
        ] {
            if set {
                own.fields()
                    .push(FieldViolation::new(field, "must not be set in a batch"));
            }
        }
        if !item.parent.is_empty() && item.parent != request.parent {
            own.fields().push(FieldViolation::new(
                "parent",
                "must be empty or the parent of the batch",
            ));
        }
        if let Some(credential) = check_create(&mut own, item, parent_name) {
            if !names.insert(credential.name.clone()) {
                own.fields().push(FieldViolation::new(
                    "digest_credential_id",
                    "is used twice in the batch",
                ));
            }
            if !usernames.insert(credential.username.clone()) {
                own.fields().push(FieldViolation::new(
                    "digest_credential.username",
                    "is used twice in the batch",
                ));
            }
            credentials.push(credential);
        }
        findings.absorb(&format!("requests[{index}]."), own);
    }
    findings.settle(Some(()))?;
    let begun = Mutation::begin(store, caller, "BatchCreateDigestCredentials", &request, "", false).await?;
    let mut mutation = match begun {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let trunk = parent(&mut mutation.tx, &request.parent).await?;
    let mut response = v1::BatchCreateDigestCredentialsResponse::default();
    for credential in &credentials {
        let (stored, changed) = insert(&mut mutation.tx, &trunk, credential).await?;
        mutation.tx.audit(AuditRecord::ok(
            caller,
            "BatchCreateDigestCredentials",
            &stored.name,
            changed,
        ));
        response.digest_credentials.push(stored);
    }
    mutation.finish(&request.parent, Vec::new(), response).await
}

/// One credential, without its password.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(store: &Store, name: &str) -> Result<v1::DigestCredential, Error> {
    let mut findings = Findings::default();
    findings.credential_name("name", name);
    findings.settle(Some(()))?;
    let mut view = store.read().await?;
    Ok(credential::find(view.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message)
}

/// A page of the credentials of a trunk, or of all with the parent `trunks/-`.
///
/// # Errors
/// [`Error::Invalid`]; [`Error::NotFound`] for the trunk.
pub async fn list(
    store: &Store,
    request: &v1::ListDigestCredentialsRequest,
) -> Result<v1::ListDigestCredentialsResponse, Error> {
    const LIST: &str = "ListDigestCredentials";
    let cipher = store.cipher();
    let parent = &request.parent;
    let mut findings = Findings::default();
    let all = findings.parent(parent);
    let page = Page::read(
        cipher,
        LIST,
        parent,
        request.page_size,
        &request.page_token,
        findings.fields(),
    );
    findings.settle(Some(()))?;
    let mut view = store.read().await?;
    let prefix = if all {
        "trunks".to_owned()
    } else {
        format!("{parent}/credentials")
    };
    if !all && trunk::find(view.conn(), parent).await?.is_none() {
        return Err(Error::not_found(parent));
    }
    let stored = credential::list(view.conn(), &prefix, &page.after, page.fetch()).await?;
    let mut digest_credentials: Vec<v1::DigestCredential> = stored.into_iter().map(|stored| stored.message).collect();
    let next_page_token = page.cut(cipher, LIST, parent, &mut digest_credentials, |credential| {
        credential.name.clone()
    });
    Ok(v1::ListDigestCredentialsResponse {
        digest_credentials,
        next_page_token,
    })
}

/// Changes a credential.
///
/// # Errors
/// As [`create`]; [`Error::StaleEtag`].
pub async fn update(
    store: &Store,
    caller: &Caller,
    request: v1::UpdateDigestCredentialRequest,
) -> Result<v1::UpdateDigestCredentialResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    let patch = findings.required("digest_credential", request.digest_credential.clone());
    if let Some(patch) = &patch {
        findings.credential_name("digest_credential.name", &patch.name);
    }
    let patch = findings.settle(patch)?;
    let (id, dry) = (&request.request_id, request.validate_only);
    let mut mutation = match Mutation::begin(store, caller, "UpdateDigestCredential", &request, id, dry).await? {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let name = patch.name.clone();
    let tx = &mut mutation.tx;
    let current = credential::find(tx.conn(), &name)
        .await?
        .ok_or_else(|| Error::not_found(&name))?
        .message;
    check_etag(&name, &patch.etag, &current.etag)?;

    let cipher = tx.cipher();
    let stored_password = credential::password(tx.conn(), &cipher, &name)
        .await?
        .ok_or_else(|| Error::not_found(&name))?;
    let mut findings = Findings::default();
    let base = v1::DigestCredential {
        password: stored_password.as_str().to_owned(),
        ..current.clone()
    };
    let merged = findings.masked(wire::apply_mask_credential(&base, patch, request.update_mask.as_ref()));
    let wanted = merged.and_then(|merged| findings.credential(merged));
    let wanted = findings.settle(wanted)?;
    let trunk = parent(tx, trunk_of(&name)).await?;
    check_username(tx, &trunk.name, &wanted).await?;

    let mut changed = changed_fields(MESSAGE, &without_password(&current), &without_password(&wanted));
    changed.extend((wanted.password != *stored_password).then(|| PASSWORD_FIELD.to_owned()));
    if changed.is_empty() {
        let response = v1::UpdateDigestCredentialResponse {
            digest_credential: Some(current),
        };
        return mutation.finish(&name, changed, response).await;
    }
    let ha1 = ha1::compute(&wanted.username, realm(&trunk), &wanted.password);
    let secrets = Secrets {
        password: &wanted.password,
        realm: realm(&trunk),
        ha1: &ha1,
    };
    let stored = credential::update(tx, &wanted, secrets).await?.message;
    let response = v1::UpdateDigestCredentialResponse {
        digest_credential: Some(stored),
    };
    mutation.finish(&name, changed, response).await
}

/// Removes a credential.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::StaleEtag`].
pub async fn delete(
    store: &Store,
    caller: &Caller,
    request: v1::DeleteDigestCredentialRequest,
) -> Result<v1::DeleteDigestCredentialResponse, Error> {
    let mut findings = Findings::default();
    findings.request_id(&request.request_id);
    findings.credential_name("name", &request.name);
    findings.settle(Some(()))?;
    let (id, dry) = (&request.request_id, request.validate_only);
    let mut mutation = match Mutation::begin(store, caller, "DeleteDigestCredential", &request, id, dry).await? {
        Begin::New(mutation) => mutation,
        Begin::Answered(response) => return Ok(response),
    };
    let name = &request.name;
    let tx = &mut mutation.tx;
    let current = credential::find(tx.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message;
    check_etag(name, &request.etag, &current.etag)?;
    credential::delete(tx, name).await?;
    mutation
        .finish(name, Vec::new(), v1::DeleteDigestCredentialResponse {})
        .await
}

/// The password in clear. The audit row is stored before the password is answered.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn reveal_password(
    store: &Store,
    caller: &Caller,
    name: &str,
) -> Result<v1::RevealDigestCredentialPasswordResponse, Error> {
    let mut findings = Findings::default();
    findings.credential_name("name", name);
    findings.settle(Some(()))?;
    let mut tx = store.write().await?;
    let cipher = tx.cipher();
    let password = credential::password(tx.conn(), &cipher, name)
        .await?
        .ok_or_else(|| Error::not_found(name))?;
    let fields = vec![PASSWORD_FIELD.to_owned()];
    tx.audit(AuditRecord::ok(caller, "RevealDigestCredentialPassword", name, fields));
    tx.commit().await?;
    Ok(v1::RevealDigestCredentialPasswordResponse {
        password: password.as_str().to_owned(),
    })
}

fn check_create(
    findings: &mut Findings,
    request: &v1::CreateDigestCredentialRequest,
    parent: &str,
) -> Option<v1::DigestCredential> {
    findings.request_id(&request.request_id);
    let parent = findings.create_parent(parent);
    let id = findings.id("digest_credential_id", &request.digest_credential_id, || {
        random_id("credential")
    });
    let name = format!("{parent}/credentials/{id}");
    let raw = findings.required("digest_credential", request.digest_credential.clone())?;
    findings.credential(v1::DigestCredential { name, ..raw })
}

async fn parent(tx: &mut WriteTx, name: &str) -> Result<v1::Trunk, Error> {
    Ok(trunk::find(tx.conn(), name)
        .await?
        .ok_or_else(|| Error::not_found(name))?
        .message)
}

async fn insert(
    tx: &mut WriteTx,
    trunk: &v1::Trunk,
    credential: &v1::DigestCredential,
) -> Result<(v1::DigestCredential, Vec<String>), Error> {
    if credential::find(tx.conn(), &credential.name).await?.is_some() {
        return Err(Error::exists(&credential.name));
    }
    check_username(tx, &trunk.name, credential).await?;
    let realm = realm(trunk);
    let ha1 = ha1::compute(&credential.username, realm, &credential.password);
    let secrets = Secrets {
        password: &credential.password,
        realm,
        ha1: &ha1,
    };
    let stored = credential::insert(tx, &trunk.name, credential, secrets).await?;
    let mut changed = changed_fields(MESSAGE, &v1::DigestCredential::default(), &without_password(credential));
    changed.push(PASSWORD_FIELD.to_owned());
    Ok((stored.message, changed))
}

async fn check_username(tx: &mut WriteTx, trunk: &str, credential: &v1::DigestCredential) -> Result<(), Error> {
    let holder = credential::username_holder(tx.conn(), trunk, &credential.username, &credential.name).await?;
    let Some(holder) = holder else { return Ok(()) };
    let description = format!("{holder} has the same user name");
    Err(Error::AlreadyExists {
        reason: "USERNAME_IN_USE",
        resource: holder,
        fields: vec![FieldViolation::new("username", &description)],
        description,
    })
}

/// `trunks/a` of `trunks/a/credentials/b`; the name was checked.
fn trunk_of(name: &str) -> &str {
    name.split_once("/credentials/").map_or(name, |(trunk, _)| trunk)
}

fn without_password(credential: &v1::DigestCredential) -> v1::DigestCredential {
    // What follows from the password is named by the password.
    v1::DigestCredential {
        password: String::new(),
        has_password: false,
        ..credential.clone()
    }
}
