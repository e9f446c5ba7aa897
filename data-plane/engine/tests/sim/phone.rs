//! A scripted phone: transactions, dialogs and just enough of a user agent.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trunkline_sip::digest::{Algorithm, ClientDigest};
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::{Message, Request, Response};
use trunkline_sip::method::Method;
use trunkline_sip::parse::{Framing, Limits, Parsed, parse};
use trunkline_sip::timer::Reliability;
use trunkline_sip::transaction::{
    Cancel, ClientRequest, ClientTransactionId, Event, ResponseKey, ResponseOutcome, ServerTransactionId,
    TransactionId, Transactions, TransactionsConfig,
};
use trunkline_sip::write::{RequestBuilder, ack_for_failure, cancel_for};

mod serve;

/// What a phone does with an INVITE by itself.
#[derive(Debug, Clone)]
pub enum Auto {
    /// Rings and answers after this long.
    Answer(Duration),
    /// Rings and does nothing more.
    Ring,
    /// 183 with SDP, then an answer with the same after this long.
    EarlyMedia(Duration),
    /// 183 with SDP and 100rel; the 200 comes without SDP once the PRACK is there.
    Reliable,
    /// Refuses, with a Reason when there is one.
    Refuse(u16, Option<&'static str>),
    /// Says nothing at all.
    Silent,
    /// Answers with an offer (the INVITE had none).
    Offer,
    /// Answers without SDP.
    Mute,
}

/// A dialog as the phone sees it.
#[derive(Debug, Clone)]
pub struct Dialog {
    pub call_id: String,
    pub local: String,
    pub remote: String,
    pub local_cseq: u32,
    pub invite_cseq: u32,
    pub target: String,
    pub routes: Vec<String>,
    pub ended: bool,
}

pub struct Phone {
    pub user: String,
    pub address: SocketAddr,
    pub edge: SocketAddr,
    pub transport: &'static str,
    pub auto: Auto,
    pub password: Option<String>,
    pub algorithm: Option<Algorithm>,
    /// Requests for the transaction user, in order.
    pub requests: Vec<Request>,
    /// Responses for the transaction user, in order.
    pub responses: Vec<Response>,
    pub dialogs: Vec<Dialog>,
    /// Whether in-dialog requests carry the route set.
    pub forgets_routes: bool,
    /// Leaves SDP out of its INVITEs.
    pub delayed_offer: bool,
    /// Offers and answers SRTP.
    pub srtp: bool,
    /// Session-Expires of its answers (RFC 4028), seconds.
    pub session_expires: Option<u32>,
    /// Puts an offer into its PRACKs.
    pub offers_in_prack: bool,
    /// Never acknowledges a 2xx.
    pub never_acks: bool,
    /// Goes on ringing when it is cancelled.
    pub ignores_cancel: bool,
    pub out: VecDeque<Bytes>,
    transactions: Transactions<()>,
    rng: StdRng,
    serial: u32,
    /// INVITEs that ring.
    pub ringing: Vec<(ServerTransactionId, Request, String)>,
    /// Answers due.
    due: Vec<(Instant, Due)>,
    sent: Vec<(ClientTransactionId, Bytes)>,
    /// INVITE in flight, for CANCEL.
    pub inviting: Option<ClientTransactionId>,
    register_call_id: String,
    register_cseq: u32,
    pub version: u32,
}

enum Due {
    Answer(usize),
    /// A 2xx that has no ACK yet (RFC 3261 §13.3.1.4).
    Again {
        call_id: String,
        bytes: Bytes,
        interval: Duration,
        until: Instant,
    },
}

impl Phone {
    pub fn new(user: &str, address: &str, edge: SocketAddr, transport: &'static str, seed: u64) -> Self {
        Self {
            user: user.into(),
            address: address.parse().expect("an address"),
            edge,
            transport,
            auto: Auto::Answer(Duration::from_secs(1)),
            password: None,
            algorithm: None,
            requests: Vec::new(),
            responses: Vec::new(),
            dialogs: Vec::new(),
            forgets_routes: false,
            delayed_offer: false,
            srtp: transport == "TLS",
            session_expires: None,
            offers_in_prack: false,
            never_acks: false,
            ignores_cancel: false,
            out: VecDeque::new(),
            transactions: Transactions::new(TransactionsConfig::default(), [seed, 1]),
            rng: StdRng::seed_from_u64(seed),
            serial: 0,
            ringing: Vec::new(),
            due: Vec::new(),
            sent: Vec::new(),
            inviting: None,
            register_call_id: format!("reg-{user}-{seed}"),
            register_cseq: 0,
            version: 1,
        }
    }

    pub fn transactions(&self) -> usize {
        self.transactions.len()
    }

    /// The host part of the edge in a URI.
    pub fn edge_host(&self) -> String {
        match self.edge.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        }
    }

    fn reliability(&self) -> Reliability {
        if self.transport == "UDP" {
            Reliability::Unreliable
        } else {
            Reliability::Reliable
        }
    }

    pub fn contact(&self) -> String {
        match self.transport {
            "UDP" => format!("sip:{}@{}", self.user, self.address),
            other => format!(
                "sip:{}@{};transport={}",
                self.user,
                self.address,
                other.to_ascii_lowercase()
            ),
        }
    }

    fn via(&mut self) -> (String, String) {
        let branch = format!("z9hG4bK{:016x}", self.rng.next_u64());
        (
            format!("SIP/2.0/{} {};branch={branch};rport", self.transport, self.address),
            branch,
        )
    }

    fn tag(&mut self) -> String {
        format!("{:08x}", self.rng.next_u32())
    }

    pub fn sdp(&self, direction: &str) -> String {
        let (profile, crypto) = if self.srtp {
            let key = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";
            let key = if self.user.len().is_multiple_of(2) {
                key.to_owned()
            } else {
                key.replace('d', "e")
            };
            (
                "RTP/SAVP",
                format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\n"),
            )
        } else {
            ("RTP/AVP", String::new())
        };
        let family = if self.address.is_ipv4() { "IP4" } else { "IP6" };
        format!(
            "v=0\r\no={0} 1 {3} IN {6} {1}\r\ns=-\r\nc=IN {6} {1}\r\nt=0 0\r\nm=audio 4000 {4} 0 8 101\r\n\
             a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n{5}a={2}\r\n",
            self.user,
            self.address.ip(),
            direction,
            self.version,
            profile,
            crypto,
            family
        )
    }

    /// A request outside of dialogs. `extra` are header lines.
    pub fn send(
        &mut self,
        now: Instant,
        method: Method,
        uri: &str,
        to: &str,
        extra: &[(&str, String)],
        body: Option<(&str, String)>,
    ) {
        self.serial += 1;
        let call_id = format!(
            "{}-{}-{:08x}@{}",
            self.user,
            self.serial,
            self.rng.next_u32(),
            self.address.ip()
        );
        let tag = self.tag();
        let from = format!("<sip:{}@{}>;tag={tag}", self.user, self.edge_host());
        self.send_as(now, &method, uri, &call_id, 1, &from, to, extra, body);
    }

    #[allow(clippy::too_many_arguments, reason = "a request has that many parts")]
    pub fn send_as(
        &mut self,
        now: Instant,
        method: &Method,
        uri: &str,
        call_id: &str,
        cseq: u32,
        from: &str,
        to: &str,
        extra: &[(&str, String)],
        body: Option<(&str, String)>,
    ) {
        let (via, branch) = self.via();
        let mut builder = RequestBuilder::new(method, uri)
            .header(HeaderName::Via, via)
            .header(HeaderName::MaxForwards, 70)
            .header(HeaderName::From, from)
            .header(HeaderName::To, to)
            .header(HeaderName::CallId, call_id)
            .header(HeaderName::CSeq, format_args!("{cseq} {method}"))
            .header(HeaderName::Contact, format_args!("<{}>", self.contact()))
            .header(HeaderName::Supported, "100rel, timer");
        for (name, value) in extra {
            builder = builder.header(trunkline_sip::header::FieldName::from(*name), value);
        }
        if let Some((kind, content)) = body {
            builder = builder.body(kind, content);
        }
        let bytes = builder.build().expect("the phone writes valid requests");
        self.start(now, method, &branch, bytes);
    }

    fn start(&mut self, now: Instant, method: &Method, branch: &str, bytes: Bytes) {
        let reliability = self.reliability();
        let request = ClientRequest {
            method,
            branch: branch.as_bytes(),
            bytes: bytes.clone(),
            destination: (),
            reliability,
        };
        let client = self
            .transactions
            .send_request(now, request)
            .expect("room for a transaction");
        if *method == Method::Invite {
            self.inviting = Some(client);
        }
        self.sent.push((client, bytes));
        self.pump(now);
    }

    pub fn register(&mut self, now: Instant, expires: u32) {
        self.register_contact(now, &format!("<{}>;expires={expires}", self.contact()), &[]);
    }

    pub fn register_contact(&mut self, now: Instant, contact: &str, extra: &[(&str, String)]) {
        self.register_cseq += 1;
        let (via, branch) = self.via();
        let aor = format!("<sip:{}@{}>", self.user, self.edge_host());
        let mut builder = RequestBuilder::new(&Method::Register, format!("sip:{}", self.edge))
            .header(HeaderName::Via, via)
            .header(HeaderName::MaxForwards, 70)
            .header(HeaderName::From, format_args!("{aor};tag=r{}", self.register_cseq))
            .header(HeaderName::To, &aor)
            .header(HeaderName::CallId, &self.register_call_id)
            .header(HeaderName::CSeq, format_args!("{} REGISTER", self.register_cseq))
            .header(HeaderName::UserAgent, "scripted");
        if !contact.is_empty() {
            builder = builder.header(HeaderName::Contact, contact);
        }
        for (name, value) in extra {
            builder = builder.header(trunkline_sip::header::FieldName::from(*name), value);
        }
        let bytes = builder.build().expect("a valid REGISTER");
        self.start(now, &Method::Register, &branch, bytes);
    }

    /// An INVITE to a user of the edge.
    pub fn invite(&mut self, now: Instant, user: &str, extra: &[(&str, String)]) {
        let uri = format!("sip:{user}@{}", self.edge);
        let to = format!("<sip:{user}@{}>", self.edge_host());
        let body = (!self.delayed_offer).then(|| ("application/sdp", self.sdp("sendrecv")));
        self.send(now, Method::Invite, &uri, &to, extra, body);
    }

    pub fn cancel(&mut self, now: Instant) {
        let client = self.inviting.expect("an INVITE to cancel");
        if let Cancel::Now(invite) = self.transactions.cancel(now, client) {
            self.send_cancel(now, &invite);
        }
        self.pump(now);
    }

    fn send_cancel(&mut self, now: Instant, invite: &Bytes) {
        let invite = parse_request(invite);
        let bytes = cancel_for(&invite).build().expect("a valid CANCEL");
        let branch = invite.branch().expect("a branch").to_owned();
        self.start(now, &Method::Cancel, &branch, bytes);
    }

    /// A request within the latest dialog that is not over.
    pub fn in_dialog(&mut self, now: Instant, method: Method, extra: &[(&str, String)], body: Option<(&str, String)>) {
        let at = self
            .dialogs
            .iter()
            .rposition(|dialog| !dialog.ended)
            .expect("a live dialog");
        let forgets = self.forgets_routes;
        let dialog = &mut self.dialogs[at];
        dialog.local_cseq += 1;
        let dialog = dialog.clone();
        let mut extra: Vec<(&str, String)> = extra.to_vec();
        if !forgets {
            for route in &dialog.routes {
                extra.push(("Route", route.clone()));
            }
        }
        if method == Method::Bye {
            self.dialogs[at].ended = true;
        }
        if method == Method::Invite {
            self.dialogs[at].invite_cseq = dialog.local_cseq;
        }
        let (target, call_id) = (dialog.target.clone(), dialog.call_id.clone());
        self.send_as(
            now,
            &method,
            &target,
            &call_id,
            dialog.local_cseq,
            &dialog.local,
            &dialog.remote,
            &extra,
            body,
        );
    }

    pub fn bye(&mut self, now: Instant) {
        self.in_dialog(now, Method::Bye, &[], None);
    }

    pub fn reinvite(&mut self, now: Instant, direction: &str) {
        self.version += 1;
        let body = self.sdp(direction);
        self.in_dialog(now, Method::Invite, &[], Some(("application/sdp", body)));
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        self.due
            .iter()
            .map(|(at, _)| *at)
            .chain(self.transactions.poll_timeout())
            .min()
    }

    pub fn timeout(&mut self, now: Instant) {
        self.transactions.handle_timeout(now);
        let mut due = std::mem::take(&mut self.due);
        due.sort_by_key(|(at, _)| *at);
        for (at, what) in due {
            if at > now {
                self.due.push((at, what));
                continue;
            }
            match what {
                Due::Answer(index) => self.answer_now(now, index),
                Due::Again {
                    call_id,
                    bytes,
                    interval,
                    until,
                } => {
                    self.out.push_back(bytes.clone());
                    if at < until {
                        let interval = (interval * 2).min(Duration::from_secs(4));
                        self.due.push((
                            at + interval,
                            Due::Again {
                                call_id,
                                bytes,
                                interval,
                                until,
                            },
                        ));
                    }
                }
            }
        }
        self.pump(now);
    }

    pub fn receive(&mut self, now: Instant, bytes: Bytes) {
        match parse(bytes.clone(), Framing::Datagram, &Limits::default()) {
            Parsed::Understood(Message::Request(request)) => self.receive_request(now, request),
            Parsed::Understood(Message::Response(response)) => self.receive_response(now, &response),
            other => panic!(
                "the edge sent something unreadable: {other:?}\n{}",
                String::from_utf8_lossy(&bytes)
            ),
        }
        self.pump(now);
    }

    fn receive_response(&mut self, now: Instant, response: &Response) {
        let branch = response.branch().unwrap_or_default().to_owned();
        let key = ResponseKey {
            method: response.cseq_method(),
            branch: branch.as_bytes(),
        };
        let build_ack = |invite: &Bytes| ack_for_failure(&parse_request(invite), response).build().ok();
        let outcome = self
            .transactions
            .handle_response(now, key, response.status(), build_ack);
        let ResponseOutcome::Deliver(client) = outcome else {
            return;
        };
        self.responses.push(response.clone());
        let status = response.status().as_u16();
        if *response.cseq_method() == Method::Invite && response.status().is_success() {
            self.confirm(response);
        }
        if *response.cseq_method() == Method::Invite
            && status > 100
            && status < 200
            && response.contains(HeaderName::RSeq)
        {
            self.prack(now, response);
        }
        if matches!(status, 401 | 407) && self.password.is_some() {
            self.answer_challenge(now, client, response);
        }
    }

    /// ACK, and the dialog when it is new.
    fn confirm(&mut self, response: &Response) {
        if self.never_acks {
            return;
        }
        let known = self.dialogs.iter().position(|dialog| {
            dialog.call_id == response.call_id()
                && dialog.remote == response.line_text(HeaderName::To).unwrap_or_default()
        });
        let at = known.unwrap_or_else(|| {
            // A re-INVITE keeps the dialog of the phone that was called: From and To are as there.
            let same = self
                .dialogs
                .iter()
                .position(|d| d.call_id == response.call_id() && !d.ended);
            same.unwrap_or_else(|| {
                self.dialogs.push(dialog_of_uac(response));
                self.dialogs.len() - 1
            })
        });
        let dialog = self.dialogs[at].clone();
        let (via, _) = self.via();
        let mut builder = RequestBuilder::new(&Method::Ack, &dialog.target)
            .header(HeaderName::Via, via)
            .header(HeaderName::MaxForwards, 70)
            .header(HeaderName::From, &dialog.local)
            .header(HeaderName::To, &dialog.remote)
            .header(HeaderName::CallId, &dialog.call_id)
            .header(HeaderName::CSeq, format_args!("{} ACK", response.cseq_number()));
        if !self.forgets_routes {
            for route in &dialog.routes {
                builder = builder.header(HeaderName::Route, route);
            }
        }
        if self.delayed_offer && !response.body().is_empty() && response.cseq_number() == 1 {
            builder = builder.body("application/sdp", self.sdp("sendrecv"));
        }
        self.out.push_back(builder.build().expect("a valid ACK"));
    }

    fn prack(&mut self, now: Instant, response: &Response) {
        let dialog = dialog_of_uac(response);
        let rseq = response.line_text(HeaderName::RSeq).unwrap_or_default();
        let mut extra = vec![("RAck", format!("{rseq} {} INVITE", response.cseq_number()))];
        for route in &dialog.routes {
            extra.push(("Route", route.clone()));
        }
        let cseq = response.cseq_number() + 1;
        self.version += 1;
        let offer = self.offers_in_prack.then(|| ("application/sdp", self.sdp("sendonly")));
        self.send_as(
            now,
            &Method::Prack,
            &dialog.target,
            &dialog.call_id,
            cseq,
            &dialog.local,
            &dialog.remote,
            &extra,
            offer,
        );
    }

    fn answer_challenge(&mut self, now: Instant, client: ClientTransactionId, response: &Response) {
        let Some((_, sent)) = self.sent.iter().find(|(id, _)| *id == client) else {
            return;
        };
        let sent = parse_request(sent);
        if sent.contains(HeaderName::Authorization) || sent.contains(HeaderName::ProxyAuthorization) {
            return;
        }
        let wanted = self.algorithm;
        let Ok(mut digest) = ClientDigest::from_challenge(&only_algorithm(response, wanted)) else {
            return;
        };
        let password = self.password.clone().unwrap_or_default();
        let (name, value) = digest.authorize(&self.user, &password, sent.method(), sent.uri_text(), &mut self.rng);
        let cseq = sent.cseq_number() + 1;
        self.register_cseq = self.register_cseq.max(cseq);
        let text = |header| sent.line_text(header).unwrap_or_default().to_owned();
        let (via, branch) = self.via();
        let method = sent.method().clone();
        let mut builder = RequestBuilder::new(&method, sent.uri_text())
            .header(HeaderName::Via, via)
            .header(HeaderName::MaxForwards, 70)
            .header(HeaderName::From, text(HeaderName::From))
            .header(HeaderName::To, text(HeaderName::To))
            .header(HeaderName::CallId, sent.call_id())
            .header(HeaderName::CSeq, format_args!("{cseq} {method}"))
            .header(HeaderName::Contact, text(HeaderName::Contact))
            .header(name, value);
        for route in values(&sent, HeaderName::Route) {
            builder = builder.header(HeaderName::Route, route);
        }
        if !sent.body().is_empty() {
            builder = builder.body("application/sdp", sent.body_bytes());
        }
        let bytes = builder.build().expect("a valid request");
        self.start(now, &method, &branch, bytes);
    }

    fn pump(&mut self, now: Instant) {
        loop {
            while let Some(transmit) = self.transactions.poll_transmit() {
                self.out.push_back(transmit.bytes);
            }
            let Some(event) = self.transactions.poll_event() else {
                break;
            };
            match event {
                Event::CancelDue(client) | Event::TimerC(client) => {
                    if let Some(invite) = self.transactions.request(client).cloned() {
                        self.send_cancel(now, &invite);
                    }
                }
                Event::Terminated(TransactionId::Client(client)) => {
                    self.sent.retain(|(id, _)| *id != client);
                }
                _ => {}
            }
        }
    }

    /// Status codes of the responses to a method, in order, 100 left out.
    pub fn statuses(&self, method: &Method) -> Vec<u16> {
        let of_method = self
            .responses
            .iter()
            .filter(|response| response.cseq_method() == method);
        of_method
            .map(|response| response.status().as_u16())
            .filter(|status| *status != 100)
            .collect()
    }

    pub fn last(&self, method: &Method) -> Option<&Response> {
        self.responses.iter().rfind(|response| response.cseq_method() == method)
    }

    /// How many requests of a method arrived.
    pub fn got(&self, method: &Method) -> usize {
        self.requests
            .iter()
            .filter(|request| request.method() == method)
            .count()
    }

    pub fn request(&self, method: &Method) -> &Request {
        self.requests
            .iter()
            .rfind(|request| request.method() == method)
            .expect("such a request")
    }
}

/// The challenge with only one of its algorithms: how an old phone sees it.
fn only_algorithm(response: &Response, wanted: Option<Algorithm>) -> Response {
    let Some(wanted) = wanted else { return response.clone() };
    let text = String::from_utf8_lossy(response.bytes()).into_owned();
    let marker = format!("algorithm={},", wanted.as_str());
    let kept: Vec<&str> = text
        .split("\r\n")
        .filter(|line| !line.contains("Authenticate: Digest") || line.contains(&marker))
        .collect();
    match parse(Bytes::from(kept.join("\r\n")), Framing::Datagram, &Limits::default()) {
        Parsed::Understood(Message::Response(response)) => response,
        other => panic!("{other:?}"),
    }
}

pub fn parse_request(bytes: &Bytes) -> Request {
    match parse(bytes.clone(), Framing::Datagram, &Limits::default()) {
        Parsed::Understood(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn values(message: &trunkline_sip::message::Fields, name: HeaderName) -> Vec<String> {
    message
        .values(name)
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect()
}

fn contact_of(message: &trunkline_sip::message::Fields) -> String {
    let contact = message
        .contacts()
        .next()
        .expect("a Contact")
        .expect("a readable Contact");
    contact.address().expect("an address").uri().as_str().to_owned()
}

fn dialog_of_uac(response: &Response) -> Dialog {
    let text = |name| response.line_text(name).unwrap_or_default().to_owned();
    let mut routes = values(response, HeaderName::RecordRoute);
    routes.reverse();
    Dialog {
        call_id: response.call_id().into(),
        local: text(HeaderName::From),
        remote: text(HeaderName::To),
        local_cseq: response.cseq_number() + 1,
        invite_cseq: response.cseq_number(),
        target: contact_of(response),
        routes,
        ended: false,
    }
}
