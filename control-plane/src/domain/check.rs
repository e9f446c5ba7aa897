//! What can be found wrong with a request without looking at the system, gathered until it is all there.

use trunkline_proto::v1;
use trunkline_shared::{
    name::{CredentialName, LineName, NameError, RouteId, TrunkId, is_valid_id},
    wire::{self, Violation, ViolationKind, Violations},
};

use super::{Error, FieldViolation, PreconditionViolation, mutation::check_request_id};

/// Everything found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    fields: Vec<FieldViolation>,
    preconditions: Vec<PreconditionViolation>,
}

impl Findings {
    /// Where checks of other modules put what they find.
    pub(super) fn fields(&mut self) -> &mut Vec<FieldViolation> {
        &mut self.fields
    }

    /// Notes a wrong field.
    pub(super) fn field(&mut self, field: &str, description: &str) {
        self.fields.push(FieldViolation::new(field, description));
    }

    /// Takes over what was found in a part of the request, at `prefix`.
    pub(super) fn absorb(&mut self, prefix: &str, other: Self) {
        let Self { fields, preconditions } = other;
        self.fields.extend(
            fields
                .into_iter()
                .map(|FieldViolation { field, description }| FieldViolation {
                    field: format!("{prefix}{field}"),
                    description,
                }),
        );
        self.preconditions
            .extend(preconditions.into_iter().map(|violation| PreconditionViolation {
                subject: format!("{prefix}{}", violation.subject),
                ..violation
            }));
    }

    /// Ends the checks: the value, when nothing is wrong. Wrong fields come before preconditions, and then name these
    /// too, so that one answer tells all.
    pub(super) fn settle<T>(self, value: Option<T>) -> Result<T, Error> {
        let Self {
            mut fields,
            preconditions,
        } = self;
        match value {
            Some(value) if fields.is_empty() && preconditions.is_empty() => Ok(value),
            _ if !fields.is_empty() || preconditions.is_empty() => {
                fields.extend(
                    preconditions
                        .into_iter()
                        .map(|violation| FieldViolation::new(violation.subject, violation.description)),
                );
                Err(Error::Invalid(fields))
            }
            _ => Err(Error::Precondition {
                reason: preconditions[0].kind.clone(),
                violations: preconditions,
            }),
        }
    }

    /// A request id is empty or a UUID.
    pub(super) fn request_id(&mut self, request_id: &str) {
        check_request_id(request_id, &mut self.fields);
    }

    /// The id a resource is to be created under: the caller's, or one the server chooses. A bad one is noted, and
    /// another stands in for it, so that the rest of the request can be checked.
    pub(super) fn id(&mut self, field: &str, id: &str, random: impl FnOnce() -> String) -> String {
        if is_valid_id(id) {
            return id.to_owned();
        }
        if !id.is_empty() {
            self.field(
                field,
                "must be 1-63 characters of a-z, 0-9 and `-`, starting with a letter",
            );
        }
        random()
    }

    /// The resource a request must carry.
    pub(super) fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.field(field, "must be set");
        }
        value
    }

    /// `trunks/{trunk}`.
    pub(super) fn trunk_name(&mut self, field: &str, name: &str) {
        self.name(field, TrunkId::parse_name(name).map(|_| ()));
    }

    /// The trunk a resource is to be created in; a stand-in when the name is bad, as for [`Self::id`].
    pub(super) fn create_parent<'a>(&mut self, parent: &'a str) -> &'a str {
        let before = self.fields.len();
        self.trunk_name("parent", parent);
        if self.fields.len() == before {
            parent
        } else {
            "trunks/unnamed"
        }
    }

    /// `routes/{route}`.
    pub(super) fn route_name(&mut self, field: &str, name: &str) {
        self.name(field, RouteId::parse_name(name).map(|_| ()));
    }

    /// `trunks/{trunk}/lines/{line}`.
    pub(super) fn line_name(&mut self, field: &str, name: &str) {
        self.name(field, name.parse::<LineName>().map(|_| ()));
    }

    /// `trunks/{trunk}/credentials/{credential}`.
    pub(super) fn credential_name(&mut self, field: &str, name: &str) {
        self.name(field, name.parse::<CredentialName>().map(|_| ()));
    }

    /// The parent of a list: `trunks/{trunk}`, or `trunks/-` for all (AIP-159). True for all.
    pub(super) fn parent(&mut self, parent: &str) -> bool {
        let all = parent == "trunks/-";
        if !all {
            self.trunk_name("parent", parent);
        }
        all
    }

    /// The trunk with its effective values.
    pub(super) fn trunk(&mut self, raw: v1::Trunk) -> Option<v1::Trunk> {
        let checked = wire::effective_trunk(raw);
        self.checked(checked)
    }

    /// The line with its effective values.
    pub(super) fn line(&mut self, raw: v1::Line) -> Option<v1::Line> {
        let checked = wire::effective_line(raw);
        self.checked(checked)
    }

    /// The route with its effective values.
    pub(super) fn route(&mut self, raw: v1::Route) -> Option<v1::Route> {
        let checked = wire::effective_route(raw);
        self.checked(checked)
    }

    /// The credential with its effective values, password and all.
    pub(super) fn credential(&mut self, raw: v1::DigestCredential) -> Option<v1::DigestCredential> {
        let checked = wire::effective_credential(raw);
        self.checked(checked)
    }

    /// The settings with their effective values.
    pub(super) fn settings(&mut self, raw: v1::Settings) -> Option<v1::Settings> {
        let checked = wire::effective_settings(raw);
        self.checked(checked)
    }

    /// The result of applying a field mask.
    pub(super) fn masked<T>(&mut self, merged: Result<T, Violations>) -> Option<T> {
        self.checked(merged)
    }

    fn checked<T>(&mut self, result: Result<T, Violations>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(violations) => {
                self.violations(violations);
                None
            }
        }
    }

    fn violations(&mut self, violations: Violations) {
        for Violation {
            field,
            description,
            kind,
            reason,
        } in violations.0
        {
            match kind {
                ViolationKind::InvalidArgument => self.fields.push(FieldViolation { field, description }),
                ViolationKind::FailedPrecondition => self.preconditions.push(PreconditionViolation {
                    kind: reason.to_owned(),
                    subject: field,
                    description,
                }),
            }
        }
    }

    fn name(&mut self, field: &str, parsed: Result<(), NameError>) {
        if let Err(error) = parsed {
            self.field(field, &error.to_string());
        }
    }
}
