//! Who this worker is: enrolled once with a join token, then by a short-lived certificate that renews itself.
//!
//! ```text
//! identity/ca.pem       authorities of the control plane
//! identity/worker.pem   private key and certificate chain in one file, so that a renewal replaces both at once
//! identity/worker       resource name; written last: with it the identity is whole
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use trunkline_proto::dataplane::v1::enrollment_service_client::EnrollmentServiceClient;
use trunkline_proto::dataplane::v1::{EnrollRequest, RenewRequest, WorkerCertificate};
use trunkline_shared::name::{NameError, WorkerId};
use x509_parser::pem::Pem;

use super::backoff::{self, Backoff};
use super::file;
use super::link::{Credentials, Link, LinkError};
use crate::options::Options;

const DIRECTORY: &str = "identity";
const CA_FILE: &str = "ca.pem";
const WORKER_FILE: &str = "worker.pem";
const NAME_FILE: &str = "worker";
/// Enrolling and renewing are one small request each.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The clock is looked at this often while waiting for a renewal: it may be set, and machines are suspended.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// Why there is no identity, or no new one.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("access {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// A file of the identity is missing or says nothing useful.
    #[error("{} is not usable; remove the directory to enroll anew", .0.display())]
    Damaged(PathBuf),
    /// Not enrolled, and nothing to enroll with.
    #[error("this worker is not enrolled: give --ca-file and --join-token-file")]
    NotEnrolled,
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The control plane refused.
    #[error("the control plane refused: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
    /// The control plane did not answer in time.
    #[error("the control plane did not answer in time")]
    Timeout,
    /// A key or a request could not be made.
    #[error("make a certificate request")]
    Request(#[from] rcgen::Error),
    /// The answer lacks something or cannot be read.
    #[error("the control plane's answer has no usable {0}")]
    Answer(&'static str),
    /// The name in the answer is no worker's.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl IdentityError {
    /// Whether trying again with the same settings may help. A token may be replaced in its file, a file may be about to
    /// be written by a control plane that is starting.
    fn is_passing(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Link(LinkError::Transport(_)) | Self::Timeout => true,
            Self::Refused(status) => status.code() != Code::InvalidArgument,
            _ => false,
        }
    }
}

/// The worker's identity; it owns the files and the renewal.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    worker: WorkerId,
    credentials: watch::Sender<Arc<Credentials>>,
    renew_after: SystemTime,
    not_after: SystemTime,
    link: Link,
    /// To enroll again with when the certificate ran out before it could be renewed.
    join: Option<Join>,
}

/// What enrolling takes.
#[derive(Debug, Clone)]
struct Join {
    control: String,
    ca_file: PathBuf,
    token_file: PathBuf,
    worker_id: String,
}

impl Join {
    fn of(options: &Options) -> Option<Join> {
        Some(Join {
            control: options.control.clone(),
            ca_file: options.ca_file.clone()?,
            token_file: options.join_token_file.clone()?,
            worker_id: options.worker_id.clone(),
        })
    }
}

impl Identity {
    /// Loads the identity, without any network, or enrolls, waiting for the control plane as long as it takes. A
    /// certificate that has ended is no obstacle: the worker serves by what is on its disk and enrolls again when it can.
    ///
    /// # Errors
    /// Nothing to enroll with, damaged files, a refusal that trying again cannot change.
    pub async fn load_or_enroll(options: &Options) -> anyhow::Result<Identity> {
        let dir = options.state_dir.join(DIRECTORY);
        let join = Join::of(options);
        let stored = match load(&dir).context("load the worker's identity")? {
            Some(stored) => stored,
            None => {
                let join = join.as_ref().ok_or(IdentityError::NotEnrolled)?;
                enroll_patiently(&dir, join)
                    .await
                    .context("enroll with the control plane")?
            }
        };
        let Stored {
            worker,
            credentials,
            renew_after,
            not_after,
        } = stored;
        let (credentials, receiver) = watch::channel(Arc::new(credentials));
        let link = Link::new(&options.control, receiver)?;
        Ok(Identity {
            dir,
            worker,
            credentials,
            renew_after,
            not_after,
            link,
            join,
        })
    }

    /// This worker's id.
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// Connections with the certificate of the moment they are opened.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// Renews the certificate whenever it is due, until `shutdown`.
    pub async fn keep_renewed(mut self, shutdown: CancellationToken) {
        // Nobody is left to do anything for: the select below ends both ways.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.renew_forever() => {}
        }
    }

    async fn renew_forever(&mut self) {
        let mut backoff = Backoff::default();
        loop {
            while let Ok(wait) = self.renew_after.duration_since(SystemTime::now()) {
                tokio::time::sleep(wait.min(CLOCK_CHECK)).await;
            }
            match self.replace_certificate().await {
                Ok(()) => {
                    backoff.reset();
                    tracing::info!(worker = %self.worker, "certificate renewed");
                }
                Err(error) => {
                    self.log_failed_renewal(&error);
                    tokio::time::sleep(backoff.delay(rand::random()).max(backoff::CEILING / 5)).await;
                }
            }
        }
    }

    fn log_failed_renewal(&self, cause: &(dyn std::error::Error + 'static)) {
        if self.has_ended() {
            tracing::error!(
                error = cause,
                "the worker's certificate has ended and could not be replaced"
            );
        } else {
            tracing::warn!(error = cause, "certificate not renewed");
        }
    }

    fn has_ended(&self) -> bool {
        self.not_after <= SystemTime::now()
    }

    async fn replace_certificate(&mut self) -> Result<(), IdentityError> {
        let stored = match (&self.join, self.has_ended()) {
            (Some(join), true) => {
                let mut join = join.clone();
                if join.worker_id.is_empty() {
                    join.worker_id = self.worker.to_string();
                }
                let stored = enroll(&self.dir, &join).await?;
                if stored.worker != self.worker {
                    // The shards know the old one until the next start; only the control connection changes.
                    tracing::warn!(old = %self.worker, new = %stored.worker, "enrolled again, under another id");
                }
                stored
            }
            _ => renew(&self.dir, &self.worker, &self.link).await?,
        };
        self.renew_after = stored.renew_after;
        self.not_after = stored.not_after;
        self.credentials.send_replace(Arc::new(stored.credentials));
        Ok(())
    }
}

struct Stored {
    worker: WorkerId,
    credentials: Credentials,
    renew_after: SystemTime,
    not_after: SystemTime,
}

/// What is on disk; `None` when the worker was never enrolled.
fn load(dir: &Path) -> Result<Option<Stored>, IdentityError> {
    let Some(name) = read(&dir.join(NAME_FILE))? else {
        return Ok(None);
    };
    let worker = WorkerId::parse_name(name.trim())?;
    let part = |file: &str| {
        let path = dir.join(file);
        read(&path)?.ok_or(IdentityError::Damaged(path))
    };
    let (ca_pem, identity_pem) = (part(CA_FILE)?, part(WORKER_FILE)?);
    let (from, until) = validity(&identity_pem).ok_or_else(|| IdentityError::Damaged(dir.join(WORKER_FILE)))?;
    let credentials = Credentials {
        ca_pem,
        identity_pem: Some(identity_pem),
    };
    // Two thirds of the validity, as the contract has it.
    let renew_after = from + until.duration_since(from).unwrap_or_default() * 2 / 3;
    Ok(Some(Stored {
        worker,
        credentials,
        renew_after,
        not_after: until,
    }))
}

async fn enroll_patiently(dir: &Path, join: &Join) -> Result<Stored, IdentityError> {
    let mut backoff = Backoff::default();
    loop {
        match enroll(dir, join).await {
            Ok(stored) => {
                tracing::info!(worker = %stored.worker, "enrolled");
                return Ok(stored);
            }
            Err(error) if error.is_passing() => {
                tracing::warn!(error = &error as &dyn std::error::Error, "not enrolled yet");
                tokio::time::sleep(backoff.delay(rand::random())).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn enroll(dir: &Path, join: &Join) -> Result<Stored, IdentityError> {
    let required = |path: &Path| {
        let missing = || IdentityError::File {
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        read(path)?
            .filter(|content| !content.trim().is_empty())
            .ok_or_else(missing)
    };
    let ca_pem = required(&join.ca_file)?;
    let join_token = required(&join.token_file)?.trim().to_owned();
    let (key_pem, certificate_request_der) = request()?;
    let bootstrap = Credentials {
        ca_pem,
        identity_pem: None,
    };
    let link = Link::new(&join.control, watch::channel(Arc::new(bootstrap)).1)?;
    let call = async {
        let mut client = EnrollmentServiceClient::new(link.connect().await?);
        let request = EnrollRequest {
            join_token,
            certificate_request_der,
            hostname: hostname(),
            worker_id: join.worker_id.clone(),
        };
        Ok::<_, IdentityError>(client.enroll(request).await.map_err(Box::new)?.into_inner())
    };
    let answer = timeout(CALL_TIMEOUT, call)
        .await
        .map_err(|_| IdentityError::Timeout)??;
    let worker = WorkerId::parse_name(&answer.worker)?;
    let certificate = answer.certificate.ok_or(IdentityError::Answer("certificate"))?;
    store(dir, worker, certificate, &key_pem)
}

async fn renew(dir: &Path, worker: &WorkerId, link: &Link) -> Result<Stored, IdentityError> {
    let (key_pem, certificate_request_der) = request()?;
    let call = async {
        let mut client = EnrollmentServiceClient::new(link.connect().await?);
        let request = RenewRequest {
            certificate_request_der,
        };
        Ok::<_, IdentityError>(client.renew(request).await.map_err(Box::new)?.into_inner())
    };
    let answer = timeout(CALL_TIMEOUT, call)
        .await
        .map_err(|_| IdentityError::Timeout)??;
    let certificate = answer.certificate.ok_or(IdentityError::Answer("certificate"))?;
    store(dir, worker.clone(), certificate, &key_pem)
}

/// A new key (PKCS #8, PEM) and a request for it. Every certificate has a key of its own.
fn request() -> Result<(String, Vec<u8>), IdentityError> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

fn store(dir: &Path, worker: WorkerId, certificate: WorkerCertificate, key_pem: &str) -> Result<Stored, IdentityError> {
    let WorkerCertificate {
        chain_pem,
        ca_pem,
        not_after,
        renew_after,
    } = certificate;
    let identity_pem = format!("{key_pem}\n{chain_pem}");
    let (_, until) = validity(&identity_pem).ok_or(IdentityError::Answer("certificate chain"))?;
    if Pem::iter_from_buffer(ca_pem.as_bytes()).flatten().next().is_none() {
        return Err(IdentityError::Answer("authority"));
    }
    let time = |stamp: Option<prost_types::Timestamp>| stamp.and_then(|stamp| SystemTime::try_from(stamp).ok());
    let renew_after = time(renew_after).ok_or(IdentityError::Answer("renewal time"))?;
    let at = |path: PathBuf| move |source| IdentityError::File { path, source };
    file::create_private_dir(dir).map_err(at(dir.to_owned()))?;
    for (name, content) in [
        (CA_FILE, ca_pem.as_str()),
        (WORKER_FILE, &identity_pem),
        (NAME_FILE, &worker.name()),
    ] {
        let path = dir.join(name);
        file::replace(&path, content.as_bytes()).map_err(at(path))?;
    }
    let credentials = Credentials {
        ca_pem,
        identity_pem: Some(identity_pem),
    };
    Ok(Stored {
        worker,
        credentials,
        renew_after,
        not_after: time(not_after).unwrap_or(until),
    })
}

/// Begin and end of the first certificate in a text.
fn validity(pem: &str) -> Option<(SystemTime, SystemTime)> {
    let leaf = Pem::iter_from_buffer(pem.as_bytes())
        .flatten()
        .find(|pem| pem.label == "CERTIFICATE")?;
    let certificate = leaf.parse_x509().ok()?;
    let time = |seconds: i64| Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some((
        time(validity.not_before.timestamp())?,
        time(validity.not_after.timestamp())?,
    ))
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    let content = file::read_if_there(path).map_err(|source| IdentityError::File {
        path: path.to_owned(),
        source,
    })?;
    content
        .map(|content| String::from_utf8(content).map_err(|_| IdentityError::Damaged(path.to_owned())))
        .transpose()
}

/// The name the kernel has; empty when it has none.
pub(super) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
