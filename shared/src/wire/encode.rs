//! Reports as octets, straight from the domain: what `prost` makes of the messages of `binding` and `call`, octet for octet,
//! without making them. A registration takes a fifth of the time and no allocation, a call record a third.

use std::fmt::Display;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use super::check::{duration_to_wire, time_to_wire};
use super::trunk::transport_to_wire;
use crate::binding::{AorBindings, Binding};
use crate::call::{Attempt, CallEnd, CallRecord, CallState, DecidedBy, MediaLegRecord};
use crate::name::{RouteId, TrunkId, WorkerId};
use crate::srtp::SrtpSuite;
use trunkline_proto::v1;

/// Appends the encoded `AorBindings` of an address of record; answers how many octets name it: its trunk and its user.
pub fn encode_aor_bindings(view: &AorBindings, out: &mut Vec<u8>) -> usize {
    let AorBindings {
        aor,
        address_of_record,
        bindings,
        change_time_ms,
    } = view;
    let mut w = Fields(out);
    let start = w.0.len();
    w.trunk(1, Some(&aor.trunk));
    w.text(2, &aor.user);
    let named = w.0.len() - start;
    w.text(3, address_of_record);
    for binding in bindings {
        w.message(4, |w| w.binding(binding));
    }
    w.number(5, change_time_ms.cast_unsigned());
    named
}

/// Appends the encoded `Call` of a record; answers how many octets name it: its conversation id.
pub fn encode_call(record: &CallRecord, out: &mut Vec<u8>) -> usize {
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
    let mut w = Fields(out);
    let start = w.0.len();
    w.display(1, format_args!("calls/{id}"));
    let named = w.0.len() - start;
    let state = match state {
        CallState::Trying => v1::CallState::Trying,
        CallState::Ringing => v1::CallState::Ringing,
        CallState::Answered => v1::CallState::Answered,
        CallState::Ended(_) => v1::CallState::Ended,
    };
    w.number(2, state as u64);
    w.worker(3, worker.as_ref());
    w.text(4, call_id);
    w.text(5, from_uri);
    w.text(6, to_uri);
    w.text(7, request_uri);
    w.trunk(8, Some(inbound_trunk));
    w.trunk(9, outbound_trunk.as_ref());
    w.parts(
        10,
        &route
            .as_ref()
            .map_or(["", ""], |route| ["routes/", RouteId::as_str(route)]),
    );
    if let Some(language) = language {
        w.display(11, language);
    }
    w.time(12, Some(*start_time));
    w.time(13, *ring_time);
    w.time(14, *answer_time);
    w.time(15, record.end().map(|end| end.time));
    if let Some(end) = record.end() {
        w.message(16, |w| w.call_end(end));
    }
    for attempt in attempts {
        w.message(17, |w| w.attempt(attempt));
    }
    for leg in media {
        w.message(18, |w| w.media_leg(leg));
    }
    w.text(19, authenticated_user);
    w.display(20, source);
    named
}

/// Fields of a message, appended. A field with its default value is left out, as proto3 has it.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn binding(&mut self, binding: &Binding) {
        let Binding {
            contact_uri,
            q_thousandths,
            expire_time,
            create_time,
            update_time,
            call_id,
            cseq,
            transport,
            source,
            user_agent,
            worker,
            path,
            instance_id,
        } = binding;
        self.text(1, contact_uri);
        self.number(2, u64::from(*q_thousandths));
        self.time(3, Some(*expire_time));
        self.time(4, Some(*create_time));
        self.time(5, Some(*update_time));
        self.text(6, call_id);
        self.number(7, u64::from(*cseq));
        self.number(8, transport_to_wire(*transport) as u64);
        self.display(9, source);
        self.text(10, user_agent);
        self.worker(11, worker.as_ref());
        for value in path {
            self.octets(12, &[value]);
        }
        self.text(13, instance_id);
    }

    fn call_end(&mut self, end: &CallEnd) {
        let CallEnd {
            time: _,
            reason,
            sip_status,
            q850_cause,
            decided_by,
        } = end;
        self.text(1, reason.token());
        self.number(2, u64::from(*sip_status));
        self.number(3, q850_cause.map_or(0, u64::from));
        if let Some(DecidedBy { trunk, setting, value }) = decided_by {
            self.trunk(4, Some(trunk));
            self.text(5, setting);
            self.text(6, value);
        }
    }

    fn attempt(&mut self, attempt: &Attempt) {
        let Attempt {
            target,
            destination,
            start_time,
            sip_status,
            q850_cause,
            decision,
        } = attempt;
        self.display(1, target);
        self.text(2, destination);
        self.time(3, Some(*start_time));
        self.number(4, u64::from(*sip_status));
        self.number(5, q850_cause.map_or(0, u64::from));
        self.text(6, decision.map_or("", |decision| decision.token()));
    }

    fn media_leg(&mut self, leg: &MediaLegRecord) {
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
        self.number(1, u64::from(*caller));
        self.number(2, u64::from(*stream));
        self.text(3, codec);
        self.text(4, srtp_suite.map_or("", SrtpSuite::name));
        self.text(5, path.token());
        self.number(6, *packets_received);
        self.number(7, *octets_received);
        self.number(8, packets_lost.cast_unsigned());
        self.duration(9, *jitter);
        self.number(10, *packets_sent);
        self.number(11, *octets_sent);
        self.number(12, *packets_rejected);
        self.number(13, *dscp_mismatches);
        self.number(14, u64::from(*mos_hundredths));
    }

    fn trunk(&mut self, field: u32, trunk: Option<&TrunkId>) {
        self.parts(field, &trunk.map_or(["", ""], |trunk| ["trunks/", trunk.as_str()]));
    }

    fn worker(&mut self, field: u32, worker: Option<&WorkerId>) {
        self.parts(field, &worker.map_or(["", ""], |worker| ["workers/", worker.as_str()]));
    }

    fn time(&mut self, field: u32, time: Option<SystemTime>) {
        if let Some(time) = time {
            let prost_types::Timestamp { seconds, nanos } = time_to_wire(time);
            self.seconds(field, seconds, nanos);
        }
    }

    fn duration(&mut self, field: u32, duration: Duration) {
        let prost_types::Duration { seconds, nanos } = duration_to_wire(duration);
        self.seconds(field, seconds, nanos);
    }

    fn seconds(&mut self, field: u32, seconds: i64, nanos: i32) {
        self.message(field, |w| {
            w.number(1, seconds.cast_unsigned());
            w.number(2, i64::from(nanos).cast_unsigned());
        });
    }

    fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
    }

    fn text(&mut self, field: u32, text: &str) {
        self.parts(field, &[text]);
    }

    /// One text of some parts.
    fn parts(&mut self, field: u32, parts: &[&str]) {
        if parts.iter().any(|part| !part.is_empty()) {
            self.octets(field, parts);
        }
    }

    fn octets(&mut self, field: u32, parts: &[&str]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(parts.iter().map(|part| part.len() as u64).sum());
        for part in parts {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    /// A text that is never empty.
    fn display(&mut self, field: u32, value: impl Display) {
        // Writing to a vector does not fail.
        self.message(field, |w| drop(write!(w.0, "{value}")));
    }

    fn message(&mut self, field: u32, write: impl FnOnce(&mut Fields<'_>)) {
        self.varint(u64::from(field) << 3 | 2);
        // Most often the length takes one octet.
        self.0.push(0);
        let start = self.0.len();
        write(&mut Fields(self.0));
        let length = self.0.len() - start;
        if length < 0x80 {
            self.0[start - 1] = length as u8;
            return;
        }
        let end = self.0.len();
        let more = if length < 0x4000 {
            1
        } else {
            2 + usize::from(length >= 0x20_0000)
        };
        // Make room for a longer length before the message.
        self.0.resize(end + more, 0);
        self.0.copy_within(start..end, start + more);
        let mut rest = length;
        for octet in &mut self.0[start - 1..start + more] {
            *octet = rest as u8 | 0x80;
            rest >>= 7;
        }
        self.0[start - 1 + more] &= 0x7f;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
