//! The one table from refusals to gRPC: canonical code, exactly one `ErrorInfo`, and the violations (AIP-193).

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};
use tracing::error;

use crate::domain::{self, Error};

/// `ErrorInfo.domain` of everything this API refuses.
pub const ERROR_DOMAIN: &str = "trunkline";

/// Details travel in a header field, and clients refuse header lists beyond 8-16 KiB: so many octets of violations are
/// sent (base64 makes a third more of them), the rest is counted in the metadata `violations_omitted`.
const DETAILS_LIMIT: usize = 4096;

/// Turns a refusal into what the caller gets.
pub fn status(error: Error) -> Status {
    let message = error.to_string();
    let mut metadata = HashMap::new();
    let mut details = ErrorDetails::new();
    let (code, reason) = match error {
        Error::Invalid(violations) => {
            bad_request(&mut details, violations, &mut metadata);
            (Code::InvalidArgument, "INVALID_FIELDS".to_owned())
        }
        Error::NotFound { resource } => {
            metadata.insert("resource".to_owned(), resource);
            (Code::NotFound, "RESOURCE_NOT_FOUND".to_owned())
        }
        Error::AlreadyExists {
            reason,
            resource,
            description: _,
            fields,
        } => {
            metadata.insert("resource".to_owned(), resource);
            bad_request(&mut details, fields, &mut metadata);
            (Code::AlreadyExists, reason.to_owned())
        }
        Error::Precondition { reason, violations } => {
            precondition_failure(&mut details, violations, &mut metadata);
            (Code::FailedPrecondition, reason)
        }
        Error::StaleEtag { resource, current } => {
            metadata.insert("resource".to_owned(), resource);
            metadata.insert("current_etag".to_owned(), current);
            (Code::Aborted, "ETAG_MISMATCH".to_owned())
        }
        Error::PermissionDenied { needed } => {
            metadata.insert("needed_role".to_owned(), needed.as_str().to_owned());
            (Code::PermissionDenied, "ROLE_TOO_SMALL".to_owned())
        }
        Error::Unavailable { reason, description: _ } => (Code::Unavailable, reason.to_owned()),
        Error::Store(error) if error.is_busy() => {
            details.set_retry_info(Some(Duration::from_secs(1)));
            (Code::Unavailable, "STORE_BUSY".to_owned())
        }
        Error::Store(error) => {
            // What went wrong inside is for the log; the caller learns that it did.
            error!(error = &error as &dyn std::error::Error, "answer an API request");
            details.set_error_info("INTERNAL", ERROR_DOMAIN, metadata);
            return Status::with_error_details(Code::Internal, "the store failed; see the log", details);
        }
    };
    details.set_error_info(reason, ERROR_DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// Canonical name of a code, as audit entries carry it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn bad_request(
    details: &mut ErrorDetails,
    violations: Vec<domain::FieldViolation>,
    metadata: &mut HashMap<String, String>,
) {
    let size = |violation: &domain::FieldViolation| violation.field.len() + violation.description.len();
    let violations = fitting(violations, size, metadata);
    if !violations.is_empty() {
        let violations = violations
            .into_iter()
            .map(|domain::FieldViolation { field, description }| FieldViolation::new(field, description));
        details.set_bad_request(violations.collect::<Vec<_>>());
    }
}

fn precondition_failure(
    details: &mut ErrorDetails,
    violations: Vec<domain::PreconditionViolation>,
    metadata: &mut HashMap<String, String>,
) {
    let size = |violation: &domain::PreconditionViolation| {
        violation.kind.len() + violation.subject.len() + violation.description.len()
    };
    let violations = fitting(violations, size, metadata).into_iter().map(
        |domain::PreconditionViolation {
             kind,
             subject,
             description,
         }| { PreconditionViolation::new(kind, subject, description) },
    );
    details.set_precondition_failure(violations.collect::<Vec<_>>());
}

/// The violations that fit a header, at least one; notes how many do not.
fn fitting<T>(mut violations: Vec<T>, size: impl Fn(&T) -> usize, metadata: &mut HashMap<String, String>) -> Vec<T> {
    let mut octets = 0;
    let fit = violations
        .iter()
        .take_while(|violation| {
            octets += size(violation) + 8;
            octets <= DETAILS_LIMIT
        })
        .count()
        .max(1);
    if violations.len() > fit {
        metadata.insert("violations_omitted".to_owned(), (violations.len() - fit).to_string());
        violations.truncate(fit);
    }
    violations
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;
    use crate::{identity::Role, store::StoreError};

    fn examples() -> Vec<(Error, Code, &'static str)> {
        let violation = || domain::FieldViolation::new("acl.allow[0]", "is no address");
        vec![
            (
                Error::Invalid(vec![violation()]),
                Code::InvalidArgument,
                "INVALID_FIELDS",
            ),
            (Error::not_found("trunks/a"), Code::NotFound, "RESOURCE_NOT_FOUND"),
            (Error::exists("trunks/a"), Code::AlreadyExists, "RESOURCE_EXISTS"),
            (
                Error::precondition("PCI_DSS_ENABLED", "x", "no"),
                Code::FailedPrecondition,
                "PCI_DSS_ENABLED",
            ),
            (
                Error::StaleEtag {
                    resource: "trunks/a".into(),
                    current: "1".into(),
                },
                Code::Aborted,
                "ETAG_MISMATCH",
            ),
            (
                Error::PermissionDenied { needed: Role::Admin },
                Code::PermissionDenied,
                "ROLE_TOO_SMALL",
            ),
            (
                Error::Unavailable {
                    reason: "WORKER_AWAY",
                    description: "away".into(),
                },
                Code::Unavailable,
                "WORKER_AWAY",
            ),
            (
                Error::Store(StoreError::Database(sqlx::Error::PoolTimedOut)),
                Code::Unavailable,
                "STORE_BUSY",
            ),
            (Error::Store(StoreError::WrongKey), Code::Internal, "INTERNAL"),
        ]
    }

    #[test]
    fn every_refusal_has_its_code_and_one_error_info() {
        for (error, code, reason) in examples() {
            let status = status(error);
            assert_eq!(status.code(), code);
            let info = status.get_details_error_info().expect("an ErrorInfo");
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, ERROR_DOMAIN));
            let infos = status.get_error_details_vec();
            let count = infos
                .iter()
                .filter(|detail| matches!(detail, tonic_types::ErrorDetail::ErrorInfo(_)));
            assert_eq!(count.count(), 1);
        }
    }

    #[test]
    fn a_thousand_violations_still_fit_a_header() {
        let violations =
            (0..1000).map(|index| domain::FieldViolation::new(format!("acl.allow[{index}]"), "is no address"));
        let status = status(Error::Invalid(violations.collect()));
        assert!(status.details().len() < 6000, "{}", status.details().len());
        let sent = status.get_details_bad_request().unwrap().field_violations.len();
        let info = status.get_details_error_info().unwrap();
        let omitted: usize = info.metadata["violations_omitted"].parse().unwrap();
        assert_eq!(sent + omitted, 1000);
        assert!(status.message().len() < 400, "{}", status.message());
    }
}
