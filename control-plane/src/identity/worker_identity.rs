//! What a worker's certificate says of it.

use x509_parser::extensions::GeneralName;

const WORKER_URI: &str = "trunkline:worker:";
const ENROLLMENT_URI: &str = "trunkline:enrollment:";

/// Identity in a worker's client certificate: two URI alternative names (RFC 5280 §4.2.1.6).
///
/// The enrollment tells two workers apart that had the same id one after the other: a deleted worker's certificate
/// does not come back to life when its id is given to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerIdentity {
    /// Worker id, without `workers/`.
    pub worker: String,
    /// Random id of the enrollment.
    pub enrollment: String,
}

impl WorkerIdentity {
    /// The URIs that carry it.
    pub fn uris(&self) -> [String; 2] {
        [
            format!("{WORKER_URI}{}", self.worker),
            format!("{ENROLLMENT_URI}{}", self.enrollment),
        ]
    }

    /// Reads it from a certificate that was verified against the managed CA; `None` when it is not a worker's.
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let uri = |prefix: &str| {
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(prefix).map(str::to_owned),
                _ => None,
            })
        };
        Some(Self {
            worker: uri(WORKER_URI)?,
            enrollment: uri(ENROLLMENT_URI)?,
        })
    }
}
