//! Registrations.

use std::time::SystemTime;

use trunkline_proto::{dataplane::v1 as dataplane, v1};

use super::check::{Findings, Violations, time_to_wire};
use super::trunk::{transport, transport_to_wire};
use crate::binding::{Aor, AorBindings, Binding};
use crate::name::{TrunkId, WorkerId};
use crate::trunk::Transport;

/// Most bindings taken of one address of record: the registrar's own bound.
const MAX_BINDINGS: usize = 50;

impl TryFrom<dataplane::AorBindings> for AorBindings {
    type Error = Violations;

    fn try_from(raw: dataplane::AorBindings) -> Result<Self, Violations> {
        aor_bindings(raw)
    }
}

impl From<&AorBindings> for dataplane::AorBindings {
    fn from(bindings: &AorBindings) -> Self {
        aor_bindings_to_wire(bindings)
    }
}

/// Reads all bindings of an address of record.
pub fn aor_bindings(raw: dataplane::AorBindings) -> Result<AorBindings, Violations> {
    let dataplane::AorBindings {
        trunk,
        user,
        address_of_record,
        bindings,
        change_time_ms,
    } = raw;
    let mut f = Findings::default();
    let trunk = f.ok("trunk", TrunkId::parse_name(&trunk));
    if user.is_empty() {
        f.field("user", "must be set");
    }
    f.at_most("bindings", &bindings, MAX_BINDINGS);
    let mut live = Vec::with_capacity(bindings.len());
    for (index, raw) in bindings.into_iter().enumerate() {
        match binding_from_wire(raw) {
            Ok(binding) => live.push(binding),
            Err(violations) => f.absorb(&format!("bindings[{index}]."), violations),
        }
    }
    let view = trunk.map(|trunk| AorBindings {
        aor: Aor {
            trunk,
            user: user.into(),
        },
        address_of_record: address_of_record.into(),
        bindings: live,
        change_time_ms,
    });
    f.settle_some(view)
}

/// The message of all bindings of an address of record.
pub fn aor_bindings_to_wire(view: &AorBindings) -> dataplane::AorBindings {
    let AorBindings {
        aor,
        address_of_record,
        bindings,
        change_time_ms,
    } = view;
    dataplane::AorBindings {
        trunk: aor.trunk.name(),
        user: aor.user.to_string(),
        address_of_record: address_of_record.to_string(),
        bindings: bindings.iter().map(binding_to_wire).collect(),
        change_time_ms: *change_time_ms,
    }
}

/// The registration resource of an address of record with the bindings that hold at `now`.
pub fn registration(view: &AorBindings, now: SystemTime) -> v1::Registration {
    v1::Registration {
        name: view.aor.name().to_string(),
        address_of_record: view.address_of_record.to_string(),
        bindings: view.live(now).map(binding_to_wire).collect(),
    }
}

/// Reads one binding.
pub fn binding_from_wire(raw: v1::Binding) -> Result<Binding, Violations> {
    let v1::Binding {
        contact_uri,
        q_thousandths,
        expire_time,
        create_time,
        update_time,
        call_id,
        cseq,
        protocol,
        source_address,
        user_agent,
        worker,
        path,
        instance_id,
    } = raw;
    let mut f = Findings::default();
    if contact_uri.is_empty() {
        f.field("contact_uri", "must be set");
    }
    let q_thousandths = f.number_u16("q_thousandths", q_thousandths, 0..=1000);
    let mut time = |field: &str, raw: Option<prost_types::Timestamp>| {
        if raw.is_none() {
            f.field(field, "must be set");
        }
        f.time(field, raw)
    };
    let times = (
        time("expire_time", expire_time),
        time("create_time", create_time),
        time("update_time", update_time),
    );
    let transport = transport(&mut f, "protocol", protocol);
    if transport.is_none() {
        f.field("protocol", "must be set");
    }
    let source = f.ok("source_address", source_address.parse());
    let worker = if worker.is_empty() {
        None
    } else {
        f.ok("worker", WorkerId::parse_name(&worker))
    };
    let binding = (|| {
        Some(Binding {
            contact_uri: contact_uri.into(),
            q_thousandths,
            expire_time: times.0?,
            create_time: times.1?,
            update_time: times.2?,
            call_id: call_id.into(),
            cseq,
            transport: transport?,
            source: source?,
            user_agent: user_agent.into(),
            worker,
            path: path.into_iter().map(Into::into).collect(),
            instance_id: instance_id.into(),
        })
    })();
    f.settle_some(binding)
}

/// The message of one binding.
pub fn binding_to_wire(binding: &Binding) -> v1::Binding {
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
    let transport: Transport = *transport;
    v1::Binding {
        contact_uri: contact_uri.to_string(),
        q_thousandths: u32::from(*q_thousandths),
        expire_time: Some(time_to_wire(*expire_time)),
        create_time: Some(time_to_wire(*create_time)),
        update_time: Some(time_to_wire(*update_time)),
        call_id: call_id.to_string(),
        cseq: *cseq,
        protocol: transport_to_wire(transport).into(),
        source_address: source.to_string(),
        user_agent: user_agent.to_string(),
        worker: worker.as_ref().map(WorkerId::name).unwrap_or_default(),
        path: path.iter().map(ToString::to_string).collect(),
        instance_id: instance_id.to_string(),
    }
}
