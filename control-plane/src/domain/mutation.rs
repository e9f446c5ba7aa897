//! What every change of configuration has in common: request ids, `validate_only`, etags, the audit row, the commit.

use prost::Message;
use uuid::Uuid;

use super::{Error, FieldViolation};
use crate::{
    identity::Caller,
    store::{
        AuditRecord, Store, WriteTx,
        request_id::{self, Answer},
    },
};

/// A change under way; dropped, it changes nothing.
pub(super) struct Mutation {
    /// The transaction the change happens in.
    pub(super) tx: WriteTx,
    audit: AuditRecord,
    validate_only: bool,
    key: Option<Key>,
}

/// How a change begins.
pub(super) enum Begin<R> {
    /// It has to be made.
    New(Box<Mutation>),
    /// It was made before under the same request id; this was the answer.
    Answered(R),
}

struct Key {
    request_id: String,
    fingerprint: [u8; 32],
}

impl Mutation {
    /// Begins `action` of `caller`. A request id that was answered within 24 hours gives that answer again, if the
    /// request is the same.
    pub(super) async fn begin<Q: Message, R: Message + Default>(
        store: &Store,
        caller: &Caller,
        action: &'static str,
        request: &Q,
        request_id: &str,
        validate_only: bool,
    ) -> Result<Begin<R>, Error> {
        let mut tx = store.write().await?;
        let key = (!request_id.is_empty() && !validate_only).then(|| Key {
            request_id: request_id.to_owned(),
            fingerprint: store.cipher().fingerprint(action, &request.encode_to_vec()),
        });
        if let Some(key) = &key {
            let now_ms = tx.now_ms();
            let answer = request_id::find(tx.conn(), &caller.actor, action, &key.request_id, now_ms).await?;
            if let Some(answer) = answer {
                if answer.fingerprint != key.fingerprint {
                    return Err(Error::field(
                        "request_id",
                        "was used for another request within 24 hours",
                    ));
                }
                let response = R::decode(answer.response.as_slice()).map_err(|source| {
                    let (kind, name) = ("kept answer", key.request_id.clone());
                    crate::store::StoreError::Decode { kind, name, source }
                })?;
                return Ok(Begin::Answered(response));
            }
        }
        let audit = AuditRecord::ok(caller, action, "", Vec::new());
        Ok(Begin::New(Box::new(Self {
            tx,
            audit,
            validate_only,
            key,
        })))
    }

    /// Ends the change: audited, kept under its request id and committed; or undone, when it was only to be validated.
    pub(super) async fn finish<R: Message>(
        mut self,
        resource: &str,
        changed_fields: Vec<String>,
        response: R,
    ) -> Result<R, Error> {
        if self.validate_only {
            self.tx.rollback().await?;
            return Ok(response);
        }
        if let Some(Key {
            request_id,
            fingerprint,
        }) = &self.key
        {
            let answer = Answer {
                fingerprint: fingerprint.to_vec(),
                response: response.encode_to_vec(),
            };
            let (actor, action) = (&self.audit.actor, &self.audit.action);
            request_id::keep(&mut self.tx, actor, action, request_id, &answer).await?;
        }
        self.tx.audit(AuditRecord {
            resource: resource.to_owned(),
            changed_fields,
            ..self.audit
        });
        self.tx.commit().await?;
        Ok(response)
    }
}

/// A request id is empty or a UUID (AIP-155).
pub(super) fn check_request_id(request_id: &str, violations: &mut Vec<FieldViolation>) {
    if !request_id.is_empty() && Uuid::try_parse(request_id).is_err() {
        violations.push(FieldViolation::new("request_id", "must be a UUID"));
    }
}

/// An etag the caller sends must be the current one (AIP-154).
pub(super) fn check_etag(resource: &str, sent: &str, current: &str) -> Result<(), Error> {
    if sent.is_empty() || sent == current {
        return Ok(());
    }
    Err(Error::StaleEtag {
        resource: resource.to_owned(),
        current: current.to_owned(),
    })
}

/// An id the server chooses, for a resource of kind `prefix`.
pub(super) fn random_id(prefix: &str) -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &random[..12])
}
