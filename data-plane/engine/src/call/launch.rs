//! Branches begin: target to address, address to INVITE (RFC 3261 §16.6).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;
use trunkline_media::relay::LegId;
use trunkline_shared::call::Attempt;
use trunkline_shared::host::Host;
use trunkline_shared::line::Line;
use trunkline_shared::reject::Reject;
use trunkline_shared::trunk::Trunk;
use trunkline_sip::header::NameAddr;
use trunkline_sip::method::Method;
use trunkline_sip::uri::{Uri, escape_user};
use trunkline_sip::write::Text;

use super::{Branch, BranchState, Call, Deadline, Failure, FailureKind, Leg};
use crate::engine::{Cx, Engine};
use crate::forward::{Departure, Via, branch, write_request};
use crate::inbound::{ClientUse, decided};
use crate::io::{
    Contact, Destination, Effect, Flow, ResolveFailed, ResolveId, SessionId, Transport, TransportExt as _,
};
use crate::media::{Media, MediaLeg, PortSource, refusal, sdp_of};
use crate::metrics::Counter;
use crate::refuse::Refusal;
use crate::routing::{Group, Kind, Target};
use crate::token::Token;

/// Where a target is, as far as it is known.
pub(crate) enum Whereabouts {
    /// There.
    Known(Destination),
    /// Behind a name.
    Named(Arc<str>, Option<u16>, Transport),
    /// Its flow is gone, and there is no other way (RFC 5626 §5.3).
    Lost,
}

impl Engine {
    /// Sends the INVITE to the next targets; ends the call when there are none.
    pub(crate) fn try_next_group(&mut self, cx: Cx<'_>, call: &mut Call) {
        while let Some(group) = call.groups.pop_front() {
            call.group_best = None;
            self.close_idle_trunks(cx, call, &group);
            for target in group.targets {
                if call.branches.len() >= self.config.max_branches {
                    break;
                }
                self.start_branch(cx, call, target);
                if call.is_ended() {
                    return;
                }
            }
            if call.has_live_branch() {
                return;
            }
            if !self.goes_on(cx, call) {
                break;
            }
        }
        self.give_up(cx, call);
    }

    fn start_branch(&mut self, cx: Cx<'_>, call: &mut Call, target: Target) {
        let index = call.branches.len() as u32;
        call.record.attempts.push(Attempt {
            target: target.attempt_target(),
            destination: destination_text(&target).into(),
            start_time: cx.now.wall,
            sip_status: 0,
            q850_cause: None,
            decision: None,
        });
        let trunk = Arc::clone(&target.trunk);
        call.branches.push(Branch {
            target,
            leg: None,
            state: BranchState::Done,
            addresses: VecDeque::new(),
            media: None,
            offer: None,
            dialogs: SmallVec::new(),
            attempt: call.record.attempts.len() - 1,
            success: None,
            ack: None,
            cancel_reason: None,
        });
        if let Err(refusal) = self.open_trunk(cx, call, &trunk) {
            return self.fail_branch(cx, call, index, local_failure(&trunk, refusal));
        }
        match self.locate(&call.branches[index as usize].target) {
            Whereabouts::Known(way) => self.launch(cx, call, index, way),
            Whereabouts::Named(host, port, transport) => {
                let id = ResolveId(self.next_serial());
                self.resolves.insert(id, (call.key, index));
                call.branches[index as usize].state = BranchState::Resolving(id);
                self.arm(call, Deadline::Dial(index), Some(cx.now.mono + trunk.max_dial_timeout));
                self.effect(Effect::Resolve {
                    id,
                    host,
                    port,
                    transport,
                });
            }
            Whereabouts::Lost => {
                self.fail_branch(cx, call, index, local_failure(&trunk, Reject::FlowFailed.into()));
            }
        }
    }

    /// Rows 3, 13 and 14 of the outbound trunk, which counts a call once, however many of its phones ring. The slot of the
    /// inbound leg is another one, even of the same trunk.
    fn open_trunk(&mut self, cx: Cx<'_>, call: &mut Call, trunk: &Arc<Trunk>) -> Result<(), Refusal> {
        if !trunk.in_service() {
            return Err(Refusal::new(Reject::OutOfService).by(decided(&trunk.id, "state", "OUT_OF_SERVICE")));
        }
        if call.slots.contains(&trunk.id) {
            return Ok(());
        }
        if let Err(wait) = cx.env.take_call(trunk, cx.now.mono) {
            let by = decided(&trunk.id, "max_call_rate", &trunk.max_call_rate);
            return Err(Refusal::new(Reject::CallRate).after(wait).by(by));
        }
        if !cx.env.acquire_call_slot(trunk) {
            let by = decided(&trunk.id, "max_calls", trunk.max_calls.unwrap_or(0));
            return Err(Refusal::new(Reject::MaxCalls).by(by));
        }
        call.slots.push(trunk.id.clone());
        Ok(())
    }

    /// Pays the slots of trunks back that have nothing left to do with the call.
    fn close_idle_trunks(&self, cx: Cx<'_>, call: &mut Call, next: &Group) {
        let Call { slots, branches, .. } = call;
        slots.retain(|trunk| {
            let is_live = branches
                .iter()
                .any(|branch| branch.is_live() && branch.target.trunk.id == *trunk);
            let keep = is_live || next.targets.iter().any(|target| target.trunk.id == *trunk);
            if !keep {
                cx.env.release_call_slot(trunk);
            }
            keep
        });
    }

    pub(crate) fn locate(&self, target: &Target) -> Whereabouts {
        match &target.kind {
            Kind::Phone(contact) => self.locate_phone(&target.trunk, contact),
            Kind::Line(line, _) => locate_line(&target.trunk, line),
        }
    }

    /// A phone is reached over its flow, or, without far-end NAT traversal and by UDP, where its Path or Contact says.
    fn locate_phone(&self, trunk: &Arc<Trunk>, contact: &Contact) -> Whereabouts {
        let binding = &contact.binding;
        let path = binding
            .path
            .first()
            .and_then(|value| NameAddr::parse(value.as_bytes()).ok())
            .map(|path| path.uri());
        let target = path.or_else(|| Uri::parse(binding.contact_uri.as_bytes()).ok());
        let way = match &contact.flow {
            Some(flow) => Destination::Flow(flow.clone()),
            // A connection ends with the process that held it.
            None if binding.transport.reliable() => return Whereabouts::Lost,
            // Another worker's flow: the NAT lets its port in and not ours. One of our own from before a restart is as good
            // as ever, because the listener has the same port. Without far-end NAT traversal the Contact is reachable from
            // anywhere.
            None if trunk.fent && binding.worker.as_ref() != Some(&self.config.worker) => return Whereabouts::Lost,
            None => match self.listeners.local_for_peer(&trunk.id, binding.source) {
                Some(local) => Destination::Flow(Flow {
                    trunk: trunk.id.clone(),
                    transport: binding.transport,
                    local,
                    remote: binding.source,
                    connection: None,
                }),
                None => return Whereabouts::Lost,
            },
        };
        let leg = Leg {
            trunk: Arc::clone(trunk),
            advertised: way.remote(),
            way,
        };
        Whereabouts::Known(self.hop(&leg, target.as_ref()))
    }

    /// A name was looked up.
    pub fn handle_resolved(
        &mut self,
        now: crate::io::Now,
        env: &dyn crate::io::Env,
        id: ResolveId,
        result: Result<Vec<SocketAddr>, ResolveFailed>,
    ) {
        let cx = Cx { now, env };
        if let Some((key, index)) = self.resolves.remove(&id) {
            let found = self.with_call(key, |engine, call| {
                engine.resolved(cx, call, index, id, result.as_ref().ok())
            });
            if found.is_none() {
                self.proxy_resolved(cx, key, index, result.ok());
            }
        }
        self.settle(cx);
    }

    fn resolved(
        &mut self,
        cx: Cx<'_>,
        call: &mut Call,
        index: u32,
        id: ResolveId,
        addresses: Option<&Vec<SocketAddr>>,
    ) {
        let Some(branch) = call
            .branch_mut(index)
            .filter(|branch| branch.state == BranchState::Resolving(id))
        else {
            return;
        };
        branch.state = BranchState::Done;
        branch.addresses = addresses.into_iter().flatten().take(8).copied().collect();
        let trunk = Arc::clone(&branch.target.trunk);
        match branch.addresses.pop_front() {
            Some(address) => {
                let way = line_way(&branch.target, address);
                self.launch(cx, call, index, way);
            }
            None => self.fail_branch(cx, call, index, local_failure(&trunk, Reject::TargetUnreachable.into())),
        }
        self.after_failure(cx, call);
    }

    /// Sends the INVITE of a branch to an address.
    pub(crate) fn launch(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, way: Destination) {
        let trunk = Arc::clone(&call.branches[index as usize].target.trunk);
        let outcome = self.launch_or_refuse(cx, call, index, way);
        if let Err(refusal) = outcome {
            self.fail_branch(cx, call, index, local_failure(&trunk, refusal));
        }
    }

    fn launch_or_refuse(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, way: Destination) -> Result<(), Refusal> {
        let trunk = Arc::clone(&call.branches[index as usize].target.trunk);
        let advertised = match &way {
            Destination::Flow(flow) => self.listeners.advertised_for_flow(flow),
            Destination::Peer { transport, remote, .. } => self
                .listeners
                .advertised_for_peer(&trunk.id, *transport, *remote)
                .ok_or_else(|| Refusal::new(Reject::TargetUnreachable))?,
        };
        let leg = Leg {
            trunk: Arc::clone(&trunk),
            way: way.clone(),
            advertised,
        };
        self.prepare_media(cx, call, index, &leg)?;
        let via = Via {
            transport: way.transport(),
            sent_by: advertised,
            branch: branch(&mut *self.rng, call.loop_hash),
        };
        let invite = call.invite.clone().ok_or_else(|| Refusal::new(Reject::Internal))?;
        let target = &call.branches[index as usize].target;
        let (request_uri, routes) = request_uri_of(target);
        let departure = Departure {
            request_uri: Some(request_uri),
            pop_routes: self.own_routes(&invite).0,
            routes,
            record_routes: self.record_routes(&Token::Call(call.key), &Token::Call(call.key), &leg, &call.caller),
            body: call.branches[index as usize].offer.clone(),
            conversation: trunk.conversation_header.then_some(call.id),
            language: call.record.language.as_ref().map(|language| language.as_str()),
            consumed_realm: consumed_realm(&invite.trunk),
            untrusted: !call.record.authenticated_user.is_empty(),
            ..Departure::default()
        };
        let bytes = write_request(&invite.request, invite.stamp, &via, &departure)
            .map_err(|_| Refusal::new(Reject::MessageTooLarge))?;
        let owner = ClientUse::Branch {
            call: call.key,
            branch: index,
        };
        let client = self
            .send_request(cx, &Method::Invite, &via.branch, bytes, way, owner)
            .map_err(|_| Refusal::new(Reject::Overloaded))?;
        cx.env.count(Counter::AttemptsStarted);
        let branch = &mut call.branches[index as usize];
        branch.leg = Some(leg);
        branch.state = BranchState::Calling(client);
        call.record.outbound_trunk = Some(trunk.id.clone());
        if !call.deadlines.iter().any(|(_, kind)| *kind == Deadline::Dial(index)) {
            self.arm(call, Deadline::Dial(index), Some(cx.now.mono + trunk.max_dial_timeout));
        }
        Ok(())
    }

    /// The offer for this target, made once: another address of the same target gets the same.
    fn prepare_media(&mut self, cx: Cx<'_>, call: &mut Call, index: u32, leg: &Leg) -> Result<(), Refusal> {
        if call.branches[index as usize].media.is_some() {
            return Ok(());
        }
        let serial = self.next_serial();
        let relay = SessionId::new(self.config.shard, serial);
        let caller = self.media_leg(&call.caller);
        let callee = self.media_leg(leg);
        let mut media = Media::new(relay, caller, callee);
        let invite = call.invite.clone().ok_or_else(|| Refusal::new(Reject::Internal))?;
        if let Some(part) = sdp_of(&invite.request)? {
            match media.offer(cx.env, &mut *self.rng, LegId::A, part.sdp()) {
                Ok(offer) => call.branches[index as usize].offer = Some(part.replaced(offer)),
                Err(error) => {
                    let refusal = refusal(error, &media.legs);
                    media.close(cx.env);
                    return Err(refusal);
                }
            }
        }
        call.branches[index as usize].media = Some(media);
        Ok(())
    }

    fn media_leg(&self, leg: &Leg) -> MediaLeg {
        let remote = leg.way.remote();
        let local = match &leg.way {
            Destination::Flow(flow) => flow.local.ip(),
            Destination::Peer { .. } => self
                .listeners
                .local_for_peer(&leg.trunk.id, remote)
                .unwrap_or(leg.advertised)
                .ip(),
        };
        MediaLeg {
            source: PortSource {
                trunk: Arc::clone(&leg.trunk),
                local,
            },
            transport: leg.way.transport(),
            signalling_ip: remote.ip(),
        }
    }

    /// Our Record-Route values, that of the far side first; one is enough when both sides know us by the same address
    /// (RFC 5658 §5).
    pub(crate) fn record_routes(&self, far_token: &Token, near_token: &Token, far: &Leg, near: &Leg) -> Vec<String> {
        let mut values = vec![self.record_route(far_token, far)];
        let same = far.advertised == near.advertised && far.way.transport() == near.way.transport();
        if !same || far_token != near_token {
            values.push(self.record_route(near_token, near));
        }
        values
    }

    fn record_route(&self, token: &Token, leg: &Leg) -> String {
        let user = self.tokens.write(token);
        let transport = leg.way.transport();
        let address = Text::socket(leg.advertised);
        if leg.trunk.uses_sips() && transport == Transport::Tls {
            return ["<sips:", &user, "@", &address, ";lr>"].concat();
        }
        match transport {
            Transport::Udp => ["<sip:", &user, "@", &address, ";lr>"].concat(),
            reliable => [
                "<sip:",
                &user,
                "@",
                &address,
                ";transport=",
                reliable.uri_token(),
                ";lr>",
            ]
            .concat(),
        }
    }
}

/// The realm whose credentials were meant for this trunk.
pub(crate) fn consumed_realm(trunk: &Trunk) -> Option<&str> {
    trunk.inbound_digest.enabled.then_some(&*trunk.inbound_digest.realm)
}

/// Request-URI and Route values a target gets (RFC 3261 §16.6 steps 2 and 6; RFC 3327 §5.4 for the Path).
pub(crate) fn request_uri_of(target: &Target) -> (String, Vec<String>) {
    match &target.kind {
        Kind::Phone(contact) => {
            let routes = contact.binding.path.iter().map(|value| value.to_string()).collect();
            (contact.binding.contact_uri.to_string(), routes)
        }
        Kind::Line(line, user) => (line_uri(&target.trunk, line, user), Vec::new()),
    }
}

fn line_uri(trunk: &Trunk, line: &Line, user: &str) -> String {
    let transport = line.transport_on(trunk);
    let secure = trunk.uses_sips() && transport == Transport::Tls;
    let mut uri = if secure {
        String::from("sips:")
    } else {
        String::from("sip:")
    };
    uri.push_str(&escape_user(user));
    uri.push('@');
    uri.push_str(&line.host.to_string());
    if let Some(port) = line.port {
        uri.push_str(&format!(":{port}"));
    }
    if !secure && transport != Transport::Udp {
        uri.push_str(";transport=");
        uri.push_str(transport.uri_token());
    }
    uri
}

fn locate_line(trunk: &Trunk, line: &Line) -> Whereabouts {
    let transport = line.transport_on(trunk);
    match &line.host {
        Host::Address(ip) => Whereabouts::Known(Destination::Peer {
            trunk: trunk.id.clone(),
            transport,
            remote: SocketAddr::new(*ip, line.port.unwrap_or(transport.default_sip_port())),
            tls_name: None,
        }),
        Host::Name(name) => Whereabouts::Named(Arc::clone(name), line.port, transport),
    }
}

/// The way to one of the addresses of a line.
pub(crate) fn line_way(target: &Target, address: SocketAddr) -> Destination {
    let (transport, tls_name) = match &target.kind {
        Kind::Line(line, _) => {
            let name = match &line.host {
                Host::Name(name) => Some(Arc::clone(name)),
                Host::Address(_) => None,
            };
            (line.transport_on(&target.trunk), name)
        }
        Kind::Phone(contact) => (contact.binding.transport, None),
    };
    let tls_name = tls_name.filter(|_| transport == Transport::Tls);
    Destination::Peer {
        trunk: target.trunk.id.clone(),
        transport,
        remote: address,
        tls_name,
    }
}

pub(crate) fn local_failure(trunk: &Arc<Trunk>, refusal: Refusal) -> Failure {
    Failure {
        status: refusal.status().as_u16(),
        cause: refusal.cause(),
        trunk: Arc::clone(trunk),
        what: FailureKind::Local(Box::new(refusal)),
    }
}

fn destination_text(target: &Target) -> String {
    match &target.kind {
        Kind::Phone(contact) => match Uri::parse(contact.binding.contact_uri.as_bytes()) {
            Ok(uri) => uri.without_password().into_owned(),
            Err(_) => String::new(),
        },
        Kind::Line(line, user) => line_uri(&target.trunk, line, user),
    }
}
