//! Call records.

use std::fmt::Display;
use std::str::FromStr;

use trunkline_proto::v1;

use super::check::{Findings, Violations, duration_to_wire, time_to_wire};
use crate::call::{
    Attempt, AttemptDecision, AttemptTarget, CallEnd, CallRecord, CallState, DecidedBy, EndReason, MediaLegRecord,
    MediaPath,
};
use crate::name::{ConversationId, RouteId, TrunkId, WorkerId};
use crate::srtp::SrtpSuite;

impl TryFrom<v1::Call> for CallRecord {
    type Error = Violations;

    fn try_from(raw: v1::Call) -> Result<Self, Violations> {
        call(raw)
    }
}

impl From<&CallRecord> for v1::Call {
    fn from(record: &CallRecord) -> Self {
        call_to_wire(record)
    }
}

/// Reads a call record.
pub fn call(raw: v1::Call) -> Result<CallRecord, Violations> {
    let v1::Call {
        name,
        state,
        worker,
        call_id,
        from_uri,
        to_uri,
        request_uri,
        inbound_trunk,
        outbound_trunk,
        route,
        language,
        start_time,
        ring_time,
        answer_time,
        end_time,
        end,
        attempts,
        media,
        authenticated_user,
        source_address,
    } = raw;
    let mut f = Findings::default();
    let id = f.ok("name", ConversationId::parse_name(&name));
    let end_time = f.time("end_time", end_time);
    let state = match v1::CallState::try_from(state) {
        Ok(v1::CallState::Trying) => Some(CallState::Trying),
        Ok(v1::CallState::Ringing) => Some(CallState::Ringing),
        Ok(v1::CallState::Answered) => Some(CallState::Answered),
        Ok(v1::CallState::Ended) => match (end, end_time) {
            (Some(end), Some(time)) => call_end(&mut f, end, time).map(CallState::Ended),
            _ => {
                f.field("end", "must be set with end_time when the call is over");
                None
            }
        },
        Ok(v1::CallState::Unspecified) | Err(_) => {
            f.field("state", "must be set");
            None
        }
    };
    let inbound_trunk = f.ok("inbound_trunk", TrunkId::parse_name(&inbound_trunk));
    let worker = optional(&mut f, "worker", &worker, WorkerId::parse_name);
    let outbound_trunk = optional(&mut f, "outbound_trunk", &outbound_trunk, TrunkId::parse_name);
    let route = optional(&mut f, "route", &route, RouteId::parse_name);
    let language = optional(&mut f, "language", &language, FromStr::from_str);
    if start_time.is_none() {
        f.field("start_time", "must be set");
    }
    let start_time = f.time("start_time", start_time);
    let (ring_time, answer_time) = (f.time("ring_time", ring_time), f.time("answer_time", answer_time));
    let attempts: Vec<Attempt> = attempts
        .into_iter()
        .enumerate()
        .filter_map(|(index, raw)| attempt(&mut f, &format!("attempts[{index}]"), raw))
        .collect();
    let media: Vec<MediaLegRecord> = media
        .into_iter()
        .enumerate()
        .filter_map(|(index, raw)| media_leg(&mut f, &format!("media[{index}]"), raw))
        .collect();
    let source = f.ok("source_address", source_address.parse());
    let record = (|| {
        Some(CallRecord {
            id: id?,
            state: state?,
            worker,
            call_id: call_id.into(),
            from_uri: from_uri.into(),
            to_uri: to_uri.into(),
            request_uri: request_uri.into(),
            inbound_trunk: inbound_trunk?,
            outbound_trunk,
            route,
            language,
            start_time: start_time?,
            ring_time,
            answer_time,
            attempts,
            media,
            authenticated_user: authenticated_user.into(),
            source: source?,
        })
    })();
    f.settle_some(record)
}

/// Empty text is an absent value.
fn optional<T, E: Display>(
    f: &mut Findings,
    field: &str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    if text.is_empty() {
        None
    } else {
        f.ok(field, parse(text))
    }
}

/// 0 is an absent cause.
fn cause(f: &mut Findings, field: &str, raw: u32) -> Option<u8> {
    match u8::try_from(raw) {
        Ok(0) => None,
        Ok(cause @ 1..=127) => Some(cause),
        Ok(_) | Err(_) => {
            f.field(field, format!("{raw} is outside 1-127"));
            None
        }
    }
}

fn call_end(f: &mut Findings, raw: v1::CallEnd, time: std::time::SystemTime) -> Option<CallEnd> {
    let v1::CallEnd {
        reason,
        sip_status,
        q850_cause,
        trunk,
        setting,
        value,
    } = raw;
    let reason: Option<EndReason> = f.ok("end.reason", reason.parse());
    let sip_status = f.number_u16("end.sip_status", sip_status, 100..=699);
    let q850_cause = cause(f, "end.q850_cause", q850_cause);
    let trunk = optional(f, "end.trunk", &trunk, TrunkId::parse_name);
    let decided_by = trunk.map(|trunk| DecidedBy {
        trunk,
        setting: setting.into(),
        value: value.into(),
    });
    Some(CallEnd {
        time,
        reason: reason?,
        sip_status,
        q850_cause,
        decided_by,
    })
}

fn attempt(f: &mut Findings, at: &str, raw: v1::CallAttempt) -> Option<Attempt> {
    let v1::CallAttempt {
        target,
        destination,
        start_time,
        sip_status,
        q850_cause,
        decision,
    } = raw;
    let target: Option<AttemptTarget> = f.ok(&format!("{at}.target"), target.parse());
    let start_field = format!("{at}.start_time");
    if start_time.is_none() {
        f.field(&start_field, "must be set");
    }
    let start_time = f.time(&start_field, start_time);
    let sip_status = f.number_u16(&format!("{at}.sip_status"), sip_status, 0..=699);
    let q850_cause = cause(f, &format!("{at}.q850_cause"), q850_cause);
    let decision = optional(f, &format!("{at}.decision"), &decision, AttemptDecision::from_str);
    Some(Attempt {
        target: target?,
        destination: destination.into(),
        start_time: start_time?,
        sip_status,
        q850_cause,
        decision,
    })
}

fn media_leg(f: &mut Findings, at: &str, raw: v1::MediaLeg) -> Option<MediaLegRecord> {
    let v1::MediaLeg {
        caller,
        stream,
        codec,
        srtp_suite,
        path,
        packets_received,
        octets_received,
        packets_lost,
        jitter,
        packets_sent,
        octets_sent,
        packets_rejected,
        dscp_mismatches,
        mos_hundredths,
    } = raw;
    let suite = |name: &str| {
        SrtpSuite::ALL
            .into_iter()
            .find(|suite| suite.name() == name)
            .ok_or("is not a known suite")
    };
    let srtp_suite = optional(f, &format!("{at}.srtp_suite"), &srtp_suite, suite);
    let path: Option<MediaPath> = f.ok(&format!("{at}.path"), path.parse());
    let jitter = f.duration(&format!("{at}.jitter"), jitter, std::time::Duration::ZERO, 0..=3600);
    Some(MediaLegRecord {
        caller,
        stream,
        codec: codec.into(),
        srtp_suite,
        path: path?,
        packets_received,
        octets_received,
        packets_lost,
        jitter,
        packets_sent,
        octets_sent,
        packets_rejected,
        dscp_mismatches,
        mos_hundredths,
    })
}

/// The message of a call record.
pub fn call_to_wire(record: &CallRecord) -> v1::Call {
    let CallRecord {
        id,
        state,
        worker,
        call_id,
        from_uri,
        to_uri,
        request_uri,
        inbound_trunk,
        outbound_trunk,
        route,
        language,
        start_time,
        ring_time,
        answer_time,
        attempts,
        media,
        authenticated_user,
        source,
    } = record;
    let end = record.end();
    v1::Call {
        name: id.name(),
        state: match state {
            CallState::Trying => v1::CallState::Trying,
            CallState::Ringing => v1::CallState::Ringing,
            CallState::Answered => v1::CallState::Answered,
            CallState::Ended(_) => v1::CallState::Ended,
        }
        .into(),
        worker: worker.as_ref().map(WorkerId::name).unwrap_or_default(),
        call_id: call_id.to_string(),
        from_uri: from_uri.to_string(),
        to_uri: to_uri.to_string(),
        request_uri: request_uri.to_string(),
        inbound_trunk: inbound_trunk.name(),
        outbound_trunk: outbound_trunk.as_ref().map(TrunkId::name).unwrap_or_default(),
        route: route.as_ref().map(RouteId::name).unwrap_or_default(),
        language: language.as_ref().map(ToString::to_string).unwrap_or_default(),
        start_time: Some(time_to_wire(*start_time)),
        ring_time: ring_time.map(time_to_wire),
        answer_time: answer_time.map(time_to_wire),
        end_time: end.map(|end| time_to_wire(end.time)),
        end: end.map(end_to_wire),
        attempts: attempts.iter().map(attempt_to_wire).collect(),
        media: media.iter().map(media_leg_to_wire).collect(),
        authenticated_user: authenticated_user.to_string(),
        source_address: source.to_string(),
    }
}

fn end_to_wire(end: &CallEnd) -> v1::CallEnd {
    let CallEnd {
        time: _,
        reason,
        sip_status,
        q850_cause,
        decided_by,
    } = end;
    let (trunk, setting, value) = match decided_by {
        Some(DecidedBy { trunk, setting, value }) => (trunk.name(), setting.to_string(), value.to_string()),
        None => Default::default(),
    };
    v1::CallEnd {
        reason: reason.token().into(),
        sip_status: u32::from(*sip_status),
        q850_cause: q850_cause.map(u32::from).unwrap_or_default(),
        trunk,
        setting,
        value,
    }
}

fn attempt_to_wire(attempt: &Attempt) -> v1::CallAttempt {
    let Attempt {
        target,
        destination,
        start_time,
        sip_status,
        q850_cause,
        decision,
    } = attempt;
    v1::CallAttempt {
        target: target.to_string(),
        destination: destination.to_string(),
        start_time: Some(time_to_wire(*start_time)),
        sip_status: u32::from(*sip_status),
        q850_cause: q850_cause.map(u32::from).unwrap_or_default(),
        decision: decision.map(AttemptDecision::token).unwrap_or_default().into(),
    }
}

fn media_leg_to_wire(leg: &MediaLegRecord) -> v1::MediaLeg {
    let MediaLegRecord {
        caller,
        stream,
        codec,
        srtp_suite,
        path,
        packets_received,
        octets_received,
        packets_lost,
        jitter,
        packets_sent,
        octets_sent,
        packets_rejected,
        dscp_mismatches,
        mos_hundredths,
    } = leg;
    v1::MediaLeg {
        caller: *caller,
        stream: *stream,
        codec: codec.to_string(),
        srtp_suite: srtp_suite.map(SrtpSuite::name).unwrap_or_default().into(),
        path: path.token().into(),
        packets_received: *packets_received,
        octets_received: *octets_received,
        packets_lost: *packets_lost,
        jitter: Some(duration_to_wire(*jitter)),
        packets_sent: *packets_sent,
        octets_sent: *octets_sent,
        packets_rejected: *packets_rejected,
        dscp_mismatches: *dscp_mismatches,
        mos_hundredths: *mos_hundredths,
    }
}
