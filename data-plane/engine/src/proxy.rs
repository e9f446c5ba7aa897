//! Requests that are no calls: OPTIONS to us, MESSAGE and SUBSCRIBE to phones, and what follows within their dialogs.
//!
//! A request outside of dialogs is forked like an INVITE, without media and without retry lists. Where it makes a dialog, the
//! Record-Route carries the flows of both sides, so that no state is kept for it here.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use trunkline_shared::reject::Reject;
use trunkline_sip::digest::Role;
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::Response;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;

use crate::auth::Verdict;
use crate::call::Leg;
use crate::call::launch::{Whereabouts, consumed_realm, line_way, request_uri_of};
use crate::engine::{Cx, Engine};
use crate::forward::{Departure, Return, Via, branch as new_branch, write_request, write_response};
use crate::inbound::{ClientUse, Inbound, ServerRole};
use crate::io::{Destination, Effect, Flow, ResolveId};
use crate::metrics::Counter;
use crate::refuse::Refusal;
use crate::routing::{Group, Target, rank};
use crate::token::{DialogMark, Token};

/// Serial number of a request passed on; shares the number space of calls.
pub(crate) type ProxyKey = u64;

/// A request outside of calls that waits for its final response.
#[derive(Debug)]
pub(crate) struct Proxy {
    inbound: Arc<Inbound>,
    groups: VecDeque<Group>,
    targets: Vec<Target>,
    /// Branches without a final response.
    pending: usize,
    best: Option<Best>,
    loop_hash: u64,
}

#[derive(Debug)]
enum Best {
    Response(Box<Response>),
    Local(Reject),
}

impl Best {
    fn status(&self) -> u16 {
        match self {
            Self::Response(response) => response.status().as_u16(),
            Self::Local(reject) => reject.status(),
        }
    }
}

/// Methods we serve when a request is for us (RFC 3261 §20.5).
const ALLOW: &str =
    "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, PRACK, UPDATE, INFO, REFER, SUBSCRIBE, NOTIFY, MESSAGE, PUBLISH";

impl Engine {
    /// A request outside of dialogs that is neither INVITE nor REGISTER.
    pub(crate) fn receive_other(&mut self, cx: Cx<'_>, inbound: &Arc<Inbound>) {
        let for_us = self.is_for_us(inbound);
        let role = if for_us { Role::UserAgent } else { Role::Proxy };
        if let Err(denial) = self.admit(cx, inbound, role) {
            return self.deny(cx, inbound, &denial);
        }
        if for_us {
            return self.serve_as_user_agent(cx, inbound);
        }
        let planned = self
            .check_forwardable(inbound)
            .and_then(|loop_hash| Ok((loop_hash, self.plan(cx, inbound)?)));
        match planned {
            Ok((loop_hash, plan)) => {
                let key = self.next_serial();
                let inbound = Arc::clone(inbound);
                let proxy = Proxy {
                    inbound,
                    groups: plan.groups,
                    targets: Vec::new(),
                    pending: 0,
                    best: None,
                    loop_hash,
                };
                cx.env.count(Counter::RequestsProxied);
                self.keep_proxy(key, proxy);
                self.next_proxy_group(cx, key);
            }
            Err(refusal) => self.refuse(cx, inbound, &refusal),
        }
    }

    /// A Request-URI of our own without a user, or one that reached its last hop here (RFC 3261 §11: OPTIONS may be answered).
    fn is_for_us(&self, inbound: &Inbound) -> bool {
        let request = &inbound.request;
        let uri = request.uri();
        let own = uri
            .sip()
            .is_some_and(|sip| self.listeners.is_own_domain(&inbound.trunk, &sip));
        let spent = *request.method() == Method::Options && request.max_forwards() == Some(0);
        own && (uri.user().is_none_or(str::is_empty) || spent)
    }

    fn serve_as_user_agent(&mut self, cx: Cx<'_>, inbound: &Inbound) {
        if let Err(refusal) = crate::registrar::check_extensions(&inbound.request, HeaderName::Require, &[]) {
            return self.refuse(cx, inbound, &refusal);
        }
        if *inbound.request.method() == Method::Options {
            return self.reply_with(cx, inbound, StatusCode::OK, |builder| {
                builder
                    .header(HeaderName::Allow, ALLOW)
                    .header(HeaderName::Accept, "application/sdp")
                    .header(HeaderName::Supported, "path")
            });
        }
        let mut refusal = Refusal::new(Reject::MethodNotAllowed).header(HeaderName::Allow, ALLOW);
        if matches!(inbound.request.method(), Method::Extension(_)) {
            refusal.status = Some(StatusCode::NOT_IMPLEMENTED);
        }
        self.refuse(cx, inbound, &refusal);
    }

    /// A request within a dialog that is no call of ours (any more): its Route says which flow it goes over.
    ///
    /// Nothing is known of the dialog but what the token vouches for, so the sender has to pass the gates again: a To tag
    /// and an old Route are no way around them.
    pub(crate) fn pass_outside_call(&mut self, cx: Cx<'_>, inbound: &Arc<Inbound>) {
        let request = &inbound.request;
        if let Err(denial) = self.check_source(inbound) {
            return self.deny(cx, inbound, &denial);
        }
        if request.max_forwards() == Some(0) {
            return self.refuse(cx, inbound, &Reject::TooManyHops.into());
        }
        let (own, _) = self.own_routes(inbound);
        let last = request
            .addresses(HeaderName::Route)
            .map_while(Result::ok)
            .take(own)
            .last();
        let token = last.and_then(|route| self.tokens.read(route.uri().sip()?.user()?));
        let is_of_dialog = |mark: DialogMark| {
            let tags = [request.from_tag(), request.to_tag()];
            let mut tags = tags.into_iter().flatten();
            tags.any(|tag| mark == DialogMark::new(request.call_id(), tag))
        };
        let flow = match token {
            Some(Token::Flow(flow, mark)) if lives_outside_calls(request.method()) && is_of_dialog(mark) => flow,
            _ => return self.refuse(cx, inbound, &Reject::NoDialog.into()),
        };
        if let Verdict::Refused(refusal) = self.authenticate(cx, inbound, Role::Proxy) {
            return self.refuse(cx, inbound, &refusal);
        }
        let Some(trunk) = self.snapshot.trunk(&flow.trunk).map(Arc::clone) else {
            return self.refuse(cx, inbound, &Reject::FlowFailed.into());
        };
        let advertised = self.listeners.advertised_for_flow(&flow);
        let leg = Leg {
            trunk,
            way: flow_way(flow),
            advertised,
        };
        let next = request
            .addresses(HeaderName::Route)
            .map_while(Result::ok)
            .nth(own)
            .map(|route| route.uri());
        // The port may be another one, the host is the one the token vouches for.
        let way = self.hop(&leg, Some(&next.unwrap_or(request.uri())));
        let way = if way.remote().ip() == leg.way.remote().ip() {
            way
        } else {
            leg.way.clone()
        };
        let key = self.next_serial();
        let departure = Departure {
            pop_routes: own,
            consumed_realm: consumed_realm(&inbound.trunk),
            ..Departure::default()
        };
        let proxy = Proxy {
            inbound: Arc::clone(inbound),
            groups: VecDeque::new(),
            targets: Vec::new(),
            pending: 0,
            best: None,
            loop_hash: 0,
        };
        cx.env.count(Counter::RequestsProxied);
        self.keep_proxy(key, proxy);
        if self.send_proxied(cx, key, 0, &leg, way, &departure).is_err() {
            self.proxies.remove(&key);
            self.refuse(cx, inbound, &Reject::Overloaded.into());
        }
    }

    fn keep_proxy(&mut self, key: ProxyKey, proxy: Proxy) {
        if let Some(entry) = self.servers.get_mut(&proxy.inbound.server) {
            entry.role = ServerRole::Proxied(key);
        }
        self.proxies.insert(key, proxy);
    }

    /// Its client has given up: nobody waits for an answer any more.
    pub(crate) fn forget_proxy(&mut self, key: ProxyKey) {
        if self.proxies.remove(&key).is_some() {
            self.resolves.retain(|_, (owner, _)| *owner != key);
        }
    }

    fn next_proxy_group(&mut self, cx: Cx<'_>, key: ProxyKey) {
        loop {
            let Some(proxy) = self.proxies.get_mut(&key) else {
                return;
            };
            let Some(group) = proxy.groups.pop_front() else { break };
            for target in group.targets.into_iter().take(self.config.max_branches) {
                self.start_proxy_branch(cx, key, target);
            }
            if self.proxies.get(&key).is_none_or(|proxy| proxy.pending > 0) {
                return;
            }
        }
        self.finish_proxy(cx, key);
    }

    fn start_proxy_branch(&mut self, cx: Cx<'_>, key: ProxyKey, target: Target) {
        let whereabouts = if target.trunk.in_service() {
            self.locate(&target)
        } else {
            Whereabouts::Lost
        };
        let Some(proxy) = self.proxies.get_mut(&key) else {
            return;
        };
        let index = proxy.targets.len() as u32;
        proxy.targets.push(target);
        match whereabouts {
            Whereabouts::Known(way) => self.launch_proxy_branch(cx, key, index, way),
            Whereabouts::Named(host, port, transport) => {
                proxy.pending += 1;
                let id = ResolveId(self.next_serial());
                self.resolves.insert(id, (key, index));
                self.effect(Effect::Resolve {
                    id,
                    host,
                    port,
                    transport,
                });
            }
            Whereabouts::Lost => self.note_proxy_failure(key, Best::Local(Reject::FlowFailed)),
        }
    }

    /// A name was looked up for a request that is no call.
    pub(crate) fn proxy_resolved(&mut self, cx: Cx<'_>, key: ProxyKey, index: u32, addresses: Option<Vec<SocketAddr>>) {
        let Some(proxy) = self.proxies.get_mut(&key) else {
            return;
        };
        proxy.pending = proxy.pending.saturating_sub(1);
        let first = addresses.and_then(|addresses| addresses.first().copied());
        let way = first
            .zip(proxy.targets.get(index as usize))
            .map(|(address, target)| line_way(target, address));
        match way {
            Some(way) => self.launch_proxy_branch(cx, key, index, way),
            None => self.note_proxy_failure(key, Best::Local(Reject::TargetUnreachable)),
        }
        self.proxy_settled(cx, key);
    }

    fn launch_proxy_branch(&mut self, cx: Cx<'_>, key: ProxyKey, index: u32, way: Destination) {
        let Some(proxy) = self.proxies.get(&key) else { return };
        let target = &proxy.targets[index as usize];
        let trunk = Arc::clone(&target.trunk);
        let inbound = Arc::clone(&proxy.inbound);
        let (request_uri, routes) = request_uri_of(target);
        let advertised = match &way {
            Destination::Flow(flow) => Some(self.listeners.advertised_for_flow(flow)),
            Destination::Peer { transport, remote, .. } => {
                self.listeners.advertised_for_peer(&trunk.id, *transport, *remote)
            }
        };
        let Some(advertised) = advertised else {
            return self.note_proxy_failure(key, Best::Local(Reject::TargetUnreachable));
        };
        let far = Leg {
            trunk,
            way: way.clone(),
            advertised,
        };
        let departure = Departure {
            request_uri: Some(request_uri),
            pop_routes: self.own_routes(&inbound).0,
            routes,
            record_routes: self.dialog_routes(&inbound, &far),
            consumed_realm: consumed_realm(&inbound.trunk),
            ..Departure::default()
        };
        if self.send_proxied(cx, key, index, &far, way, &departure).is_err() {
            self.note_proxy_failure(key, Best::Local(Reject::Overloaded));
        }
    }

    /// Record-Route of requests that make a dialog: each value names the flow to the side it faces (RFC 5626 §5.2).
    fn dialog_routes(&self, inbound: &Inbound, far: &Leg) -> Vec<String> {
        if !matches!(
            inbound.request.method(),
            Method::Subscribe | Method::Refer | Method::Notify
        ) {
            return Vec::new();
        }
        let near = Leg {
            trunk: Arc::clone(&inbound.trunk),
            way: Destination::Flow(inbound.flow.clone()),
            advertised: self.listeners.advertised_for_flow(&inbound.flow),
        };
        let Some(far_flow) = self.flow_of(far) else {
            return Vec::new();
        };
        let tag = inbound.request.from_tag().unwrap_or_default();
        let mark = DialogMark::new(inbound.request.call_id(), tag);
        let near_token = Token::Flow(inbound.flow.clone(), mark);
        self.record_routes(&Token::Flow(far_flow, mark), &near_token, far, &near)
    }

    fn flow_of(&self, leg: &Leg) -> Option<Flow> {
        match &leg.way {
            Destination::Flow(flow) => Some(flow.clone()),
            Destination::Peer {
                trunk,
                transport,
                remote,
                ..
            } => Some(Flow {
                trunk: trunk.clone(),
                transport: *transport,
                local: self.listeners.local_for_peer(trunk, *remote)?,
                remote: *remote,
                connection: None,
            }),
        }
    }

    fn send_proxied(
        &mut self,
        cx: Cx<'_>,
        key: ProxyKey,
        index: u32,
        leg: &Leg,
        way: Destination,
        departure: &Departure<'_>,
    ) -> Result<(), Reject> {
        let proxy = self.proxies.get(&key).ok_or(Reject::Internal)?;
        let inbound = Arc::clone(&proxy.inbound);
        let branch = new_branch(&mut *self.rng, proxy.loop_hash);
        let via = Via {
            transport: way.transport(),
            sent_by: leg.advertised,
            branch,
        };
        let bytes =
            write_request(&inbound.request, inbound.stamp, &via, departure).map_err(|_| Reject::MessageTooLarge)?;
        let owner = ClientUse::Proxied {
            proxy: key,
            branch: index,
        };
        self.send_request(cx, inbound.request.method(), &via.branch, bytes, way, owner)
            .map_err(|_| Reject::Overloaded)?;
        if let Some(proxy) = self.proxies.get_mut(&key) {
            proxy.pending += 1;
        }
        Ok(())
    }

    pub(crate) fn proxy_response(&mut self, cx: Cx<'_>, key: ProxyKey, _branch: u32, response: &Response) {
        // RFC 4320 §4.1: no provisional response to a non-INVITE is passed on.
        if response.status().is_provisional() {
            return;
        }
        let Some(proxy) = self.proxies.get_mut(&key) else {
            return;
        };
        proxy.pending = proxy.pending.saturating_sub(1);
        if response.status().is_success() {
            let server = proxy.inbound.server;
            self.proxies.remove(&key);
            if let Ok(bytes) = write_response(response, &Return::default()) {
                self.respond(cx, server, response.status(), bytes);
            }
            return;
        }
        if response.status().as_u16() >= 600 {
            // RFC 3261 §16.7 step 5: no more targets are tried.
            proxy.groups.clear();
        }
        self.note_proxy_failure(key, Best::Response(Box::new(response.clone())));
        self.proxy_settled(cx, key);
    }

    pub(crate) fn proxy_failed(&mut self, cx: Cx<'_>, key: ProxyKey, _branch: u32, reject: Reject) {
        if let Some(proxy) = self.proxies.get_mut(&key) {
            proxy.pending = proxy.pending.saturating_sub(1);
        }
        self.note_proxy_failure(key, Best::Local(reject));
        self.proxy_settled(cx, key);
    }

    fn note_proxy_failure(&mut self, key: ProxyKey, failure: Best) {
        let Some(proxy) = self.proxies.get_mut(&key) else {
            return;
        };
        let is_better = proxy
            .best
            .as_ref()
            .is_none_or(|best| rank(failure.status()) < rank(best.status()));
        if is_better {
            proxy.best = Some(failure);
        }
    }

    fn proxy_settled(&mut self, cx: Cx<'_>, key: ProxyKey) {
        if self.proxies.get(&key).is_some_and(|proxy| proxy.pending == 0) {
            self.next_proxy_group(cx, key);
        }
    }

    fn finish_proxy(&mut self, cx: Cx<'_>, key: ProxyKey) {
        let Some(proxy) = self.proxies.remove(&key) else { return };
        match proxy.best {
            // RFC 4320 §4.2: a 408 to a non-INVITE always comes too late.
            Some(Best::Local(Reject::TargetTimeout)) => {}
            Some(Best::Response(response)) if response.status() == StatusCode::REQUEST_TIMEOUT => {}
            // A 503 would make the client avoid us instead of the target (RFC 3261 §16.7 step 6).
            Some(Best::Response(response)) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                self.reply(cx, &proxy.inbound, StatusCode::SERVER_INTERNAL_ERROR);
            }
            Some(Best::Response(response)) => {
                if let Ok(bytes) = write_response(&response, &Return::default()) {
                    self.respond(cx, proxy.inbound.server, response.status(), bytes);
                }
            }
            Some(Best::Local(reject)) => self.refuse(cx, &proxy.inbound, &reject.into()),
            None => self.refuse(cx, &proxy.inbound, &Reject::NotRegistered.into()),
        }
    }
}

/// Methods of dialogs that are no calls, and what may be sent along within them. An INVITE, or what belongs to one, of a call
/// nobody here knows is none of them.
fn lives_outside_calls(method: &Method) -> bool {
    matches!(
        method,
        Method::Subscribe | Method::Notify | Method::Refer | Method::Message | Method::Info | Method::Options
    )
}

/// A flow of a token as a way: without a connection a reliable transport needs a new one.
fn flow_way(flow: Flow) -> Destination {
    let Flow {
        trunk,
        transport,
        remote,
        connection,
        ..
    } = &flow;
    if connection.is_none() && crate::io::TransportExt::reliable(*transport) {
        return Destination::Peer {
            trunk: trunk.clone(),
            transport: *transport,
            remote: *remote,
            tls_name: None,
        };
    }
    Destination::Flow(flow)
}
