//! Routes.

use trunkline_proto::v1;

use super::check::{Findings, Violations};
use super::trunk::host_to_wire;
use crate::name::{RouteId, TrunkId};
use crate::route::{MAX_TARGETS, Route, RouteMatch, Target, TargetKind, UserMatch, UserRegex};

/// Longest user part compared with, in characters.
const MAX_USER: usize = 256;

impl TryFrom<v1::Route> for Route {
    type Error = Violations;

    fn try_from(raw: v1::Route) -> Result<Self, Violations> {
        route(raw)
    }
}

impl From<&Route> for v1::Route {
    fn from(route: &Route) -> Self {
        route_to_wire(route)
    }
}

/// Checks a route as written and answers it with every default filled in; etag and times are passed through.
pub fn effective_route(raw: v1::Route) -> Result<v1::Route, Violations> {
    let (etag, create_time, update_time) = (raw.etag.clone(), raw.create_time, raw.update_time);
    let route = route(raw)?;
    Ok(v1::Route {
        etag,
        create_time,
        update_time,
        ..route_to_wire(&route)
    })
}

/// Checks a route message, compiles its expression and fills in every default. Errors name everything that is wrong.
pub fn route(raw: v1::Route) -> Result<Route, Violations> {
    let v1::Route {
        name,
        display_name,
        priority,
        enabled,
        r#match,
        targets,
        language,
        etag: _,
        create_time: _,
        update_time: _,
    } = raw;
    let mut f = Findings::default();
    let id = f.ok("name", RouteId::parse_name(&name));
    f.text("display_name", &display_name, 0..=128);
    let priority = f.number_u16("priority", priority.unwrap_or(1000), 0..=u16::MAX);
    let matcher = matcher(&mut f, r#match.unwrap_or_default());
    if targets.is_empty() {
        f.field("targets", "must hold at least one target");
    }
    f.at_most("targets", &targets, MAX_TARGETS);
    let targets: Vec<Option<Target>> = targets
        .into_iter()
        .enumerate()
        .map(|(index, raw)| target(&mut f, &format!("targets[{index}]"), raw))
        .collect();
    let language = if language.is_empty() {
        None
    } else {
        f.ok("language", language.parse())
    };
    let route = id.map(|id| Route {
        id,
        display_name: display_name.into(),
        priority,
        enabled: enabled.unwrap_or(true),
        matcher,
        targets: targets.into_iter().flatten().collect(),
        language,
    });
    f.settle_some(route)
}

fn matcher(f: &mut Findings, raw: v1::RouteMatch) -> RouteMatch {
    let v1::RouteMatch {
        inbound_trunk,
        host,
        user,
    } = raw;
    let inbound_trunk = if inbound_trunk.is_empty() {
        None
    } else {
        f.ok("match.inbound_trunk", TrunkId::parse_name(&inbound_trunk))
    };
    let host = if host.is_empty() {
        None
    } else {
        f.ok("match.host", host.parse())
    };
    let user = match user {
        None => UserMatch::Any,
        Some(v1::route_match::User::UserExact(user)) => {
            f.text("match.user_exact", &user, 1..=MAX_USER);
            UserMatch::Exact(user.into())
        }
        Some(v1::route_match::User::UserPrefix(prefix)) => {
            f.text("match.user_prefix", &prefix, 1..=MAX_USER);
            UserMatch::Prefix(prefix.into())
        }
        Some(v1::route_match::User::UserRegex(pattern)) => f
            .ok("match.user_regex", UserRegex::new(&pattern))
            .map_or(UserMatch::Any, UserMatch::Regex),
    };
    RouteMatch {
        inbound_trunk,
        user,
        host,
    }
}

fn target(f: &mut Findings, at: &str, raw: v1::RouteTarget) -> Option<Target> {
    let v1::RouteTarget { strip, prefix, target } = raw;
    let strip = f.number_u16(&format!("{at}.strip"), strip, 0..=64);
    f.text(&format!("{at}.prefix"), &prefix, 0..=64);
    let kind = match target {
        Some(v1::route_target::Target::Phones(trunk)) => f
            .ok(&format!("{at}.phones"), TrunkId::parse_name(&trunk))
            .map(TargetKind::Phones),
        Some(v1::route_target::Target::Line(line)) => f.ok(&format!("{at}.line"), line.parse()).map(TargetKind::Line),
        Some(v1::route_target::Target::Lines(trunk)) => f
            .ok(&format!("{at}.lines"), TrunkId::parse_name(&trunk))
            .map(TargetKind::Lines),
        None => {
            f.field(at, "one of phones, line and lines must be set");
            None
        }
    };
    kind.map(|kind| Target {
        kind,
        strip: usize::from(strip),
        prefix: prefix.into(),
    })
}

/// The message with every effective value; etag and times are the caller's.
pub fn route_to_wire(route: &Route) -> v1::Route {
    let Route {
        id,
        display_name,
        priority,
        enabled,
        matcher,
        targets,
        language,
    } = route;
    let RouteMatch {
        inbound_trunk,
        user,
        host,
    } = matcher;
    let user = match user {
        UserMatch::Any => None,
        UserMatch::Exact(user) => Some(v1::route_match::User::UserExact(user.to_string())),
        UserMatch::Prefix(prefix) => Some(v1::route_match::User::UserPrefix(prefix.to_string())),
        UserMatch::Regex(regex) => Some(v1::route_match::User::UserRegex(regex.as_str().into())),
    };
    v1::Route {
        name: id.name(),
        display_name: display_name.to_string(),
        priority: Some(u32::from(*priority)),
        enabled: Some(*enabled),
        r#match: Some(v1::RouteMatch {
            inbound_trunk: inbound_trunk.as_ref().map(TrunkId::name).unwrap_or_default(),
            host: host.as_ref().map(host_to_wire).unwrap_or_default(),
            user,
        }),
        targets: targets.iter().map(target_to_wire).collect(),
        language: language.as_ref().map(ToString::to_string).unwrap_or_default(),
        etag: String::new(),
        create_time: None,
        update_time: None,
    }
}

fn target_to_wire(target: &Target) -> v1::RouteTarget {
    let Target { kind, strip, prefix } = target;
    let kind = match kind {
        TargetKind::Phones(trunk) => v1::route_target::Target::Phones(trunk.name()),
        TargetKind::Line(line) => v1::route_target::Target::Line(line.to_string()),
        TargetKind::Lines(trunk) => v1::route_target::Target::Lines(trunk.name()),
    };
    v1::RouteTarget {
        strip: u32::try_from(*strip).unwrap_or(u32::MAX),
        prefix: prefix.to_string(),
        target: Some(kind),
    }
}
