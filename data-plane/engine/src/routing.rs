//! Where a request goes: route, targets, contacts and lines, in the order they are tried.

use std::collections::VecDeque;
use std::sync::Arc;

use trunkline_shared::binding::Aor;
use trunkline_shared::call::AttemptTarget;
use trunkline_shared::language::Language;
use trunkline_shared::line::{Line, weighted_order};
use trunkline_shared::name::RouteId;
use trunkline_shared::property::RetryMatch;
use trunkline_shared::reject::Reject;
use trunkline_shared::route::{Target as RouteTarget, TargetKind};
use trunkline_shared::snapshot::Snapshot;
use trunkline_shared::trunk::Trunk;
use trunkline_sip::message::Request;

use rand_core::Rng;

use crate::identify::Listeners;
use crate::inbound::user_of;
use crate::io::{Contact, Env, Now};

/// Targets that are tried at the same time.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub targets: Vec<Target>,
    /// Whether this goes on with the search among the contacts of one address of record (RFC 3261 §16.6: by q), which any
    /// failure but a 6xx does. Otherwise the lists of the trunk that failed decide (rows 17, 18).
    pub continues_search: bool,
}

/// One place to send the request to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Trunk it goes out by.
    pub trunk: Arc<Trunk>,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A registered phone.
    Phone(Box<Contact>),
    /// A line, with the user part it gets.
    Line(Arc<Line>, String),
}

impl Target {
    pub(crate) fn attempt_target(&self) -> AttemptTarget {
        match &self.kind {
            Kind::Phone(_) => AttemptTarget::Phones(self.trunk.id.clone()),
            Kind::Line(line, _) => AttemptTarget::Line(line.name.clone()),
        }
    }
}

/// The decision about a request.
#[derive(Debug)]
pub(crate) struct Plan {
    pub route: Option<RouteId>,
    pub language: Option<Language>,
    pub groups: VecDeque<Group>,
}

/// Who asks.
pub(crate) struct Query<'a> {
    pub snapshot: &'a Snapshot,
    pub listeners: &'a Listeners,
    pub env: &'a dyn Env,
    pub now: Now,
    pub inbound: &'a Trunk,
}

/// Finds the targets of a request by its Request-URI: the first route that matches, else the phones of its own trunk.
pub(crate) fn plan<R: Rng + ?Sized>(query: &Query<'_>, request: &Request, rng: &mut R) -> Result<Plan, Reject> {
    let uri = request.uri();
    if !matches!(uri.scheme().to_ascii_lowercase().as_str(), "sip" | "sips" | "tel") {
        return Err(Reject::UnsupportedUriScheme);
    }
    let user = user_of(&uri).ok_or(Reject::NoRoute)?;
    let host = uri.sip().map(|sip| sip.host().to_string()).unwrap_or_default();
    let route = query.snapshot.route(&query.inbound.id, &user, &host);
    let own = uri
        .sip()
        .is_none_or(|sip| query.listeners.is_own_domain(query.inbound, &sip));
    let default;
    let targets: &[RouteTarget] = match route {
        Some(route) => &route.targets,
        // Without a route nothing leaves for a domain that is not ours: the edge is no open relay.
        None if !own => return Err(Reject::NoRoute),
        None => {
            default = [RouteTarget::phones_of(query.inbound.id.clone())];
            &default
        }
    };
    let mut finder = Finder {
        query,
        rng,
        user: &user,
        groups: VecDeque::new(),
        nothing: Reject::NoRoute,
    };
    for target in targets {
        finder.expand(target);
    }
    if finder.groups.is_empty() {
        return Err(finder.nothing);
    }
    let groups = finder.groups;
    Ok(Plan {
        route: route.map(|route| route.id.clone()),
        language: route.and_then(|route| route.language.clone()),
        groups,
    })
}

struct Finder<'a, R: ?Sized> {
    query: &'a Query<'a>,
    rng: &'a mut R,
    user: &'a str,
    groups: VecDeque<Group>,
    /// What to answer when there is no target at all: the most telling reason met.
    nothing: Reject,
}

impl<R: Rng + ?Sized> Finder<'_, R> {
    fn expand(&mut self, target: &RouteTarget) {
        let snapshot = self.query.snapshot;
        let Some(trunk) = snapshot.trunk(target.kind.trunk()) else {
            return;
        };
        let user = target.rewrite(self.user);
        match &target.kind {
            TargetKind::Phones(_) => self.phones(trunk, user),
            TargetKind::Line(name) => {
                if let Some(line) = snapshot.line(name).filter(|line| line.enabled) {
                    self.line(trunk, line, user);
                }
            }
            TargetKind::Lines(id) => {
                let rng = &mut *self.rng;
                for line in weighted_order(snapshot.lines_of(id), |below| rng.next_u32() % below.max(1)) {
                    self.line(trunk, &line, user.clone());
                }
            }
        }
    }

    /// Contacts by q, equal ones together (RFC 3261 §16.6).
    fn phones(&mut self, trunk: &Arc<Trunk>, user: String) {
        let aor = Aor {
            trunk: trunk.id.clone(),
            user: user.into(),
        };
        let mut contacts = self.query.env.contacts(&aor);
        contacts.retain(|contact| contact.binding.is_live(self.query.now.wall));
        if contacts.is_empty() {
            // Who the users of a trunk are is known only where they have to authenticate.
            let digest = &trunk.inbound_digest;
            let known =
                !digest.enabled || digest.allow_foreign_aor || self.query.snapshot.knows_user(&trunk.id, &aor.user);
            self.nothing = if known {
                Reject::NotRegistered
            } else {
                Reject::UnknownUser
            };
            return;
        }
        contacts.sort_by_key(|contact| std::cmp::Reverse(contact.binding.q_thousandths));
        for (index, equal) in contacts
            .chunk_by(|a, b| a.binding.q_thousandths == b.binding.q_thousandths)
            .enumerate()
        {
            let target = |contact: &Contact| Target {
                trunk: Arc::clone(trunk),
                kind: Kind::Phone(Box::new(contact.clone())),
            };
            self.groups.push_back(Group {
                targets: equal.iter().map(target).collect(),
                continues_search: index > 0,
            });
        }
    }

    fn line(&mut self, trunk: &Arc<Trunk>, line: &Arc<Line>, user: String) {
        let target = Target {
            trunk: Arc::clone(trunk),
            kind: Kind::Line(Arc::clone(line), user),
        };
        self.groups.push_back(Group {
            targets: vec![target],
            continues_search: false,
        });
    }
}

/// Whether a failure of a target leads to the next one of the route (rows 17 and 18, settings page §4).
pub(crate) fn leads_to_next(trunk: &Trunk, status: u16, cause: Option<u8>) -> bool {
    let reason = trunk.retryable_reasons.contains(status);
    // What the caller has to act on itself is passed up, whatever the lists say.
    if matches!(status, 300..=399 | 401 | 407 | 422) {
        return false;
    }
    // "Busy everywhere" and its like end the search unless they are listed themselves.
    if status >= 600 {
        return reason;
    }
    let Some(cause) = cause.map(|cause| trunk.retryable_causes.contains(cause.into())) else {
        return reason;
    };
    match trunk.properties.retry_match() {
        RetryMatch::Any => reason || cause,
        RetryMatch::All => reason && cause,
    }
}

/// Which of two final failures is passed up (RFC 3261 §16.7 step 6): lower is better.
pub(crate) fn rank(status: u16) -> u16 {
    match status {
        600.. => 0,
        // Those that tell the caller what to do come before others of their class.
        401 | 407 | 415 | 420 | 484 => 400,
        408 => 499,
        503 => 599,
        _ => status / 100 * 100 + 50,
    }
}

#[cfg(test)]
mod tests {
    use trunkline_shared::codes::CodeList;
    use trunkline_shared::name::TrunkId;
    use trunkline_shared::property::{CustomProperties, CustomProperty, PropertyValue};

    use super::*;

    fn trunk(reasons: &str, causes: &str, all: bool) -> Trunk {
        let mut trunk = Trunk::with_defaults(TrunkId::new("t").unwrap(), "T");
        trunk.retryable_reasons = CodeList::reasons(reasons).unwrap();
        trunk.retryable_causes = CodeList::causes(causes).unwrap();
        if all {
            let property = CustomProperty::new("retry.match", PropertyValue::Text("ALL".into())).unwrap();
            trunk.properties = CustomProperties::new(vec![property]).unwrap();
        }
        trunk
    }

    #[test]
    fn the_retry_table_of_the_settings_page() {
        for (reasons, causes, all, status, cause, expected) in [
            ("500-599", "34", false, 503, None, true),
            ("500-599", "34", false, 404, None, false),
            ("500-599", "34", false, 503, Some(34), true),
            ("500-599", "34", false, 404, Some(1), false),
            ("500-599", "34", false, 404, Some(34), true),
            ("500-599", "34", false, 503, Some(17), true),
            ("500-599", "34", true, 404, Some(34), false),
            ("500-599", "34", true, 503, Some(17), false),
            ("500-599", "34", true, 503, Some(34), true),
            ("500-599", "34", true, 503, None, true),
            ("400-699", "1-127", false, 401, None, false),
            ("400-699", "1-127", false, 407, Some(34), false),
            ("400-699", "1-127", false, 422, None, false),
            ("400-699", "1-127", false, 302, None, false),
            ("500-599", "1-127", false, 603, Some(21), false),
            ("603", "", false, 603, None, true),
            ("", "", false, 500, Some(34), false),
            ("500-599", "34", false, 408, None, false),
        ] {
            let trunk = trunk(reasons, causes, all);
            assert_eq!(
                leads_to_next(&trunk, status, cause),
                expected,
                "{reasons} {causes} {all} {status} {cause:?}"
            );
        }
    }

    #[test]
    fn a_6xx_beats_all_and_then_the_lowest_class_wins() {
        let mut statuses = [503, 500, 486, 404, 407, 302, 603, 408];
        statuses.sort_by_key(|status| rank(*status));
        assert_eq!(statuses[0], 603);
        assert_eq!(statuses[1], 302);
        assert_eq!(statuses[2], 407);
        assert_eq!(statuses[5..], [408, 500, 503]);
    }
}
