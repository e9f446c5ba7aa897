//! How workers get and keep their certificates.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::CertificateSigningRequestDer;
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};
use trunkline_proto::dataplane::v1::{
    EnrollRequest, EnrollResponse, RenewRequest, RenewResponse, WorkerCertificate,
    enrollment_service_server::EnrollmentService,
};

use super::{
    Authority, Caller, IssuedWorkerCertificate, Peer, PresentedToken, Role, TokenKind, WorkerIdentity,
    authenticate_worker, random_id,
};
use crate::store::{self, AuditRecord, Store, StoreError, WriteTx, join_token, worker};

/// A certificate request for a P-256 or RSA key is well below this.
const MAX_REQUEST: usize = 16 * 1024;
/// Ids `name`, `name-2` … `name-99` are tried; then a random suffix.
const NUMBERED_IDS: u32 = 99;

/// Gives workers their certificates.
#[derive(Debug, Clone)]
pub struct Enrollment {
    store: Store,
    authority: Arc<Authority>,
    validity: Duration,
}

impl Enrollment {
    /// Certificates of `authority`, valid for `validity`.
    pub fn new(store: Store, authority: Arc<Authority>, validity: Duration) -> Self {
        Self {
            store,
            authority,
            validity,
        }
    }

    async fn enroll_worker(&self, request: &EnrollRequest, caller: &Caller) -> Result<EnrollResponse, Status> {
        let EnrollRequest {
            join_token,
            certificate_request_der,
            hostname,
            worker_id,
        } = request;
        // One answer for every cause: a stranger must not learn which tokens exist.
        let refused = || Status::unauthenticated("the join token is not valid");
        let presented = PresentedToken::parse(TokenKind::Join, join_token.trim()).ok_or_else(refused)?;
        let mut tx = self.store.write().await.map_err(unavailable)?;
        let now_ms = tx.now_ms();
        let stored = join_token::find(tx.conn(), presented.id, now_ms)
            .await
            .map_err(unavailable)?;
        if !stored.is_some_and(|hash| presented.matches(&hash)) {
            return Err(refused());
        }
        if !join_token::consume(&mut tx, presented.id).await.map_err(unavailable)? {
            return Err(refused());
        }
        if !worker_id.is_empty() && !is_worker_id(worker_id) {
            return Err(Status::invalid_argument(
                "worker_id: 1-63 characters a-z, 0-9 and hyphen, a letter first",
            ));
        }
        let wished = if worker_id.is_empty() {
            id_from_hostname(hostname)
        } else {
            worker_id.clone()
        };
        let worker = free_id(&mut tx, &wished).await.map_err(unavailable)?;
        let identity = WorkerIdentity {
            worker,
            enrollment: random_id(),
        };
        let issued = self.sign(certificate_request_der, &identity)?;
        let expire_ms = milliseconds(issued.not_after);
        let hostname: String = hostname.chars().filter(|c| !c.is_control()).take(255).collect();
        worker::insert(&mut tx, &identity, &hostname, expire_ms)
            .await
            .map_err(unavailable)?;
        let name = worker::resource_name(&identity.worker);
        tx.audit(AuditRecord::ok(caller, "Enroll", &name, Vec::new()));
        tx.commit().await.map_err(unavailable)?;
        info!(worker = identity.worker, "worker enrolled");
        Ok(EnrollResponse {
            worker: name,
            certificate: Some(self.certificate(issued)),
        })
    }

    async fn renew_certificate(
        &self,
        identity: &WorkerIdentity,
        request: &RenewRequest,
    ) -> Result<RenewResponse, Status> {
        let issued = self.sign(&request.certificate_request_der, identity)?;
        let mut tx = self.store.write().await.map_err(unavailable)?;
        let expire_ms = milliseconds(issued.not_after);
        worker::set_certificate_expiry(&mut tx, &identity.worker, expire_ms)
            .await
            .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)?;
        info!(worker = identity.worker, "worker certificate renewed");
        Ok(RenewResponse {
            certificate: Some(self.certificate(issued)),
        })
    }

    fn sign(&self, request: &[u8], identity: &WorkerIdentity) -> Result<IssuedWorkerCertificate, Status> {
        if request.len() > MAX_REQUEST {
            return Err(Status::invalid_argument("certificate_request_der: longer than 16 KiB"));
        }
        let request = CertificateSigningRequestDer::from(request);
        self.authority
            .issue_worker(&request, identity, self.validity, std::time::SystemTime::now())
            .map_err(|error| {
                warn!(error = &error as &dyn std::error::Error, "certificate request refused");
                Status::invalid_argument("certificate_request_der: not a usable PKCS #10 request")
            })
    }

    fn certificate(&self, issued: IssuedWorkerCertificate) -> WorkerCertificate {
        WorkerCertificate {
            chain_pem: issued.chain_pem,
            ca_pem: self.authority.certificate_pem().to_owned(),
            not_after: Some(issued.not_after.into()),
            renew_after: Some(issued.renew_after.into()),
        }
    }
}

#[tonic::async_trait]
impl EnrollmentService for Enrollment {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let source = request.extensions().get::<Peer>().map(|peer| peer.address.ip());
        let actor = PresentedToken::parse(TokenKind::Join, request.get_ref().join_token.trim())
            .map_or_else(|| "unknown".to_owned(), |token| format!("joinTokens/{}", token.id));
        let caller = Caller {
            actor,
            role: Role::Viewer,
            source,
        };
        Ok(Response::new(self.enroll_worker(request.get_ref(), &caller).await?))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let identity = authenticate_worker(&self.store, request.extensions()).await?;
        Ok(Response::new(
            self.renew_certificate(&identity, request.get_ref()).await?,
        ))
    }
}

async fn free_id(tx: &mut WriteTx, wished: &str) -> Result<String, StoreError> {
    let mut candidate = wished.to_owned();
    for number in 2..=NUMBERED_IDS {
        if worker::find(tx.conn(), &candidate).await?.is_none() {
            return Ok(candidate);
        }
        candidate = with_suffix(wished, &number.to_string());
    }
    Ok(with_suffix(wished, &random_id()))
}

fn with_suffix(id: &str, suffix: &str) -> String {
    // Ids are ASCII: cutting at any index is safe.
    let kept = &id[..id.len().min(63 - suffix.len() - 1)];
    format!("{}-{suffix}", kept.trim_end_matches('-'))
}

fn is_worker_id(id: &str) -> bool {
    id.len() <= 63
        && id.starts_with(|first: char| first.is_ascii_lowercase())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The first label of the host name, made into an id.
fn id_from_hostname(hostname: &str) -> String {
    let label = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let id: String = label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(60)
        .collect();
    let id = id.trim_matches('-');
    match id.chars().next() {
        None => "worker".to_owned(),
        Some(first) if first.is_ascii_lowercase() => id.to_owned(),
        Some(_) => format!("w-{id}"),
    }
}

fn milliseconds(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn unavailable(error: StoreError) -> Status {
    error!(error = &error as &dyn std::error::Error, "enroll a worker");
    match error {
        store::StoreError::Database(_) => Status::unavailable("the store is not available; try again"),
        _ => Status::internal("the store failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_makes_a_worker_id() {
        for (hostname, id) in [
            ("edge-1.example.com", "edge-1"),
            ("Edge_1", "edge-1"),
            ("4f2c9a", "w-4f2c9a"),
            ("", "worker"),
            ("...", "worker"),
            ("é", "worker"),
        ] {
            assert_eq!(id_from_hostname(hostname), id, "{hostname}");
            assert!(is_worker_id(id));
        }
        assert!(is_worker_id(&id_from_hostname(&"x".repeat(300))));
    }

    #[test]
    fn a_suffixed_id_stays_an_id() {
        assert_eq!(with_suffix("edge", "2"), "edge-2");
        let long = with_suffix(&"x".repeat(63), "12");
        assert!(is_worker_id(&long), "{long}");
    }
}
