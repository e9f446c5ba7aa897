//! Two sockets, one of the callers and one of the callees, and the calls between them.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::time::{Instant, Interval, interval_at};
use trunkline_media::SrtpSuite;
use trunkline_sip::header::{Contact, HeaderName};
use trunkline_sip::message::{Message, Request, Response};
use trunkline_sip::method::Method;
use trunkline_sip::parse::{Framing, Limits, Parsed, parse};
use trunkline_sip::status::StatusCode;
use trunkline_sip::write::{INITIAL_MAX_FORWARDS, RequestBuilder, ResponseBuilder, ViaStamp, ack_for_failure};

use super::session::Session;

/// Port of both sockets.
pub const PORT: u16 = 5060;
/// Calls that are set up at the same time: what a set-up costs is another workload's question.
const AT_ONCE: usize = 16;
/// What is not answered is sent again this often (RFC 3261 §17.1.1.2, T1).
const AGAIN: Duration = Duration::from_millis(500);
/// Nothing answered for this long is the end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Largest message.
const DATAGRAM: usize = 8192;

/// How a batch of calls is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where INVITEs are sent.
    pub edge: SocketAddrV4,
    /// User part of the Request-URI.
    pub user: String,
    /// Suite callers offer; plain RTP when `None`.
    pub caller: Option<SrtpSuite>,
    /// Suite callees must be offered; plain RTP when `None`.
    pub callee: Option<SrtpSuite>,
    /// Media addresses of the calls, caller and callee.
    pub media: Vec<[SocketAddrV4; 2]>,
}

/// What both sides of a call know of its stream.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The caller's own description, and what it was answered.
    pub caller: [Session; 2],
    /// The callee's own description, and what it was offered.
    pub callee: [Session; 2],
}

/// The sockets, and the calls that are up.
#[derive(Debug)]
pub struct Phones {
    caller: UdpSocket,
    callee: UdpSocket,
    /// Makes the Call-IDs of one batch differ from those of another.
    batch: u64,
    dialogs: Vec<Dialog>,
}

/// A call that is up, as its caller sees it.
#[derive(Debug, Clone)]
struct Dialog {
    target: String,
    routes: Vec<String>,
    /// From with our tag, and To with theirs.
    from: String,
    to: String,
    call_id: String,
    edge: SocketAddrV4,
}

/// A call that is being set up.
struct Attempt {
    invite: Request,
    offer: Session,
    dialog: Option<Dialog>,
    answer: Option<Session>,
    tried: bool,
}

/// What a callee has said.
struct Answered {
    response: Bytes,
    sessions: [Session; 2],
    to: SocketAddr,
    acknowledged: bool,
}

impl Phones {
    /// Binds both sockets in this thread's network namespace.
    ///
    /// # Errors
    /// When an address is taken or not there.
    pub async fn bind(caller: std::net::Ipv4Addr, callee: std::net::Ipv4Addr) -> Result<Self> {
        Ok(Self {
            caller: UdpSocket::bind((caller, PORT))
                .await
                .context("bind the callers' socket")?,
            callee: UdpSocket::bind((callee, PORT))
                .await
                .context("bind the callees' socket")?,
            batch: rand::random(),
            dialogs: Vec::new(),
        })
    }

    /// Sets up all calls of the plan, in order; they stay up until [`Phones::hang_up`].
    ///
    /// # Errors
    /// When one is refused or not answered, or a session is not what the plan says.
    pub async fn call(&mut self, plan: &Plan) -> Result<Vec<Stream>> {
        self.batch = self.batch.wrapping_add(1);
        let mut attempts: Vec<Attempt> = Vec::with_capacity(plan.media.len());
        let mut answered: HashMap<usize, Answered> = HashMap::new();
        let (mut up, mut progress, mut again) = (0, Instant::now(), every(AGAIN));
        while up < plan.media.len() || answered.values().any(|answered| !answered.acknowledged) {
            while attempts.len() < plan.media.len() && attempts.len() < up + AT_ONCE {
                let attempt = self.invite(plan, attempts.len())?;
                self.caller.send_to(attempt.invite.bytes(), plan.edge).await?;
                attempts.push(attempt);
            }
            match self.receive(&mut again).await? {
                Heard::Caller(Message::Response(response)) => {
                    let Some(call) = self.number_of(response.call_id()) else {
                        continue;
                    };
                    let Some(attempt) = attempts.get_mut(call) else {
                        continue;
                    };
                    let was_up = attempt.dialog.is_some();
                    self.answered(plan, attempt, &response)
                        .await
                        .with_context(|| format!("call {call}"))?;
                    if !was_up && attempt.dialog.is_some() {
                        up += 1;
                        progress = Instant::now();
                    }
                }
                Heard::Callee(Message::Request(request), source) => {
                    let Some(call) = self.number_of(request.call_id()) else {
                        continue;
                    };
                    match request.method() {
                        Method::Invite => {
                            self.ring(plan, call, &request, source, &mut answered)
                                .await
                                .with_context(|| format!("call {call}, called"))?;
                        }
                        Method::Ack => {
                            if let Some(answered) = answered.get_mut(&call) {
                                answered.acknowledged = true;
                            }
                        }
                        other => bail!("the callee of call {call} got {}", other.as_str()),
                    }
                }
                Heard::Caller(Message::Request(request)) => {
                    bail!("a caller got {}", request.method().as_str());
                }
                Heard::Callee(Message::Response(response), _) => {
                    bail!("a callee got {}", response.status());
                }
                Heard::Nothing => {
                    ensure!(
                        progress.elapsed() < PATIENCE,
                        "{up} of {} calls are up and no more come",
                        plan.media.len()
                    );
                    for attempt in attempts.iter().filter(|attempt| !attempt.tried) {
                        self.caller.send_to(attempt.invite.bytes(), plan.edge).await?;
                    }
                    for answered in answered.values().filter(|answered| !answered.acknowledged) {
                        self.callee.send_to(&answered.response, answered.to).await?;
                    }
                }
            }
        }
        let mut streams = Vec::with_capacity(attempts.len());
        for (call, attempt) in attempts.into_iter().enumerate() {
            let callee = answered.remove(&call).context("a call nobody answered is up")?;
            self.dialogs.extend(attempt.dialog);
            streams.push(Stream {
                caller: [attempt.offer, attempt.answer.context("a call without an answer is up")?],
                callee: callee.sessions,
            });
        }
        Ok(streams)
    }

    /// Ends every call that is up, callers first, and waits for the answers.
    ///
    /// # Errors
    /// When one is not answered with 200.
    pub async fn hang_up(&mut self) -> Result<()> {
        let mut dialogs = std::mem::take(&mut self.dialogs);
        dialogs.reverse();
        let mut open: HashMap<String, (Bytes, SocketAddrV4)> = HashMap::new();
        let (mut progress, mut again) = (Instant::now(), every(AGAIN));
        while !dialogs.is_empty() || !open.is_empty() {
            while open.len() < AT_ONCE {
                let Some(dialog) = dialogs.pop() else { break };
                let bye = self.in_dialog(&dialog, &Method::Bye, 2)?;
                self.caller.send_to(&bye, dialog.edge).await?;
                open.insert(dialog.call_id, (bye, dialog.edge));
            }
            match self.receive(&mut again).await? {
                Heard::Caller(Message::Response(response)) if response.cseq_method() == &Method::Bye => {
                    if response.status().as_u16() < 200 {
                        continue;
                    }
                    ensure!(
                        response.status() == StatusCode::OK,
                        "BYE was answered {}",
                        response.status()
                    );
                    open.remove(response.call_id());
                    progress = Instant::now();
                }
                Heard::Callee(Message::Request(request), source) if request.method() == &Method::Bye => {
                    let response = ResponseBuilder::new(&request, StatusCode::OK)
                        .stamp_via(ViaStamp::for_source(&request.top_via(), source))
                        .build()?;
                    self.callee.send_to(&response, source).await?;
                }
                Heard::Nothing => {
                    ensure!(progress.elapsed() < PATIENCE, "{} calls do not end", open.len());
                    for (bye, edge) in open.values() {
                        self.caller.send_to(bye, edge).await?;
                    }
                }
                Heard::Caller(_) | Heard::Callee(..) => {}
            }
        }
        Ok(())
    }

    /// How many calls are up.
    pub fn up(&self) -> usize {
        self.dialogs.len()
    }

    fn invite(&self, plan: &Plan, call: usize) -> Result<Attempt> {
        let offer = Session::offer(plan.media[call][0], plan.caller);
        let local = self.caller.local_addr()?;
        let callee = self.callee.local_addr()?;
        let (batch, user) = (self.batch, &plan.user);
        let invite = RequestBuilder::new(&Method::Invite, format_args!("sip:{user}@{callee}"))
            .header(
                HeaderName::Via,
                format_args!("SIP/2.0/UDP {local};rport;branch=z9hG4bK{batch:x}-{call}"),
            )
            .header(HeaderName::MaxForwards, INITIAL_MAX_FORWARDS)
            .header(HeaderName::From, format_args!("<sip:caller@{local}>;tag=a{call}"))
            .header(HeaderName::To, format_args!("<sip:{user}@{callee}>"))
            .header(HeaderName::CallId, format_args!("{batch:x}-{call}"))
            .header(HeaderName::CSeq, "1 INVITE")
            .header(HeaderName::Contact, format_args!("<sip:caller@{local}>"))
            .body("application/sdp", offer.to_body())
            .build()?;
        let Parsed::Understood(Message::Request(invite)) = parse(invite, Framing::Datagram, &Limits::default()) else {
            bail!("our own INVITE is not understood");
        };
        Ok(Attempt {
            invite,
            offer,
            dialog: None,
            answer: None,
            tried: false,
        })
    }

    /// A response to an INVITE.
    async fn answered(&self, plan: &Plan, attempt: &mut Attempt, response: &Response) -> Result<()> {
        if response.cseq_method() != &Method::Invite {
            return Ok(());
        }
        let status = response.status();
        match status.as_u16() {
            ..200 => attempt.tried = true,
            200..300 => {
                attempt.tried = true;
                if attempt.dialog.is_none() {
                    let answer = Session::parse(response.body(), plan.caller)?;
                    attempt.answer = Some(answer);
                    attempt.dialog = Some(dialog(response, plan.edge)?);
                }
                if let Some(dialog) = &attempt.dialog {
                    let ack = self.in_dialog(dialog, &Method::Ack, 1)?;
                    self.caller.send_to(&ack, plan.edge).await?;
                }
            }
            _ => {
                let ack = ack_for_failure(&attempt.invite, response).build()?;
                self.caller.send_to(&ack, plan.edge).await?;
                let reason = response.line_text(HeaderName::Reason).unwrap_or_default();
                let phrase = String::from_utf8_lossy(response.reason_phrase());
                bail!("refused: {status} {phrase} {reason}");
            }
        }
        Ok(())
    }

    /// An INVITE that reached a callee.
    async fn ring(
        &self,
        plan: &Plan,
        call: usize,
        request: &Request,
        source: SocketAddr,
        answered: &mut HashMap<usize, Answered>,
    ) -> Result<()> {
        if let Some(earlier) = answered.get(&call) {
            self.callee.send_to(&earlier.response, source).await?;
            return Ok(());
        }
        let offer = Session::parse(request.body(), plan.callee)?;
        let own = offer.answer(plan.media.get(call).context("a call we did not make")?[1]);
        let local = self.callee.local_addr()?;
        let response = ResponseBuilder::new(request, StatusCode::OK)
            .to_tag(format!("b{call}"))
            .stamp_via(ViaStamp::for_source(&request.top_via(), source))
            .header(HeaderName::Contact, format_args!("<sip:callee@{local}>"))
            .body("application/sdp", own.to_body())
            .build()?;
        self.callee.send_to(&response, source).await?;
        answered.insert(
            call,
            Answered {
                response,
                sessions: [own, offer],
                to: source,
                acknowledged: false,
            },
        );
        Ok(())
    }

    fn in_dialog(&self, dialog: &Dialog, method: &Method, cseq: u32) -> Result<Bytes> {
        let local = self.caller.local_addr()?;
        let id = &dialog.call_id;
        let mut builder = RequestBuilder::new(method, &dialog.target)
            .header(
                HeaderName::Via,
                format_args!("SIP/2.0/UDP {local};rport;branch=z9hG4bK{id}-{}", method.as_str()),
            )
            .header(HeaderName::MaxForwards, INITIAL_MAX_FORWARDS);
        for route in &dialog.routes {
            builder = builder.header(HeaderName::Route, route);
        }
        Ok(builder
            .header(HeaderName::From, &dialog.from)
            .header(HeaderName::To, &dialog.to)
            .header(HeaderName::CallId, id)
            .header(HeaderName::CSeq, format_args!("{cseq} {}", method.as_str()))
            .build()?)
    }

    /// The number of a call of this batch.
    fn number_of(&self, call_id: &str) -> Option<usize> {
        let (batch, call) = call_id.split_once('-')?;
        (batch == format!("{:x}", self.batch)).then(|| call.parse().ok())?
    }

    /// The next message of either socket; [`Heard::Nothing`] when it is time to send things again.
    async fn receive(&self, again: &mut Interval) -> Result<Heard> {
        let (mut one, mut other) = ([0; DATAGRAM], [0; DATAGRAM]);
        loop {
            let (octets, source, caller) = tokio::select! {
                received = self.caller.recv_from(&mut one) => {
                    let (length, source) = received?;
                    (&one[..length], source, true)
                }
                received = self.callee.recv_from(&mut other) => {
                    let (length, source) = received?;
                    (&other[..length], source, false)
                }
                _ = again.tick() => return Ok(Heard::Nothing),
            };
            match parse(Bytes::copy_from_slice(octets), Framing::Datagram, &Limits::default()) {
                Parsed::Understood(message) if caller => return Ok(Heard::Caller(message)),
                Parsed::Understood(message) => return Ok(Heard::Callee(message, source)),
                Parsed::Answerable(_) => bail!("{source} sent a request that is wrong"),
                Parsed::Drop(_) => {}
            }
        }
    }
}

enum Heard {
    Caller(Message),
    Callee(Message, SocketAddr),
    Nothing,
}

/// The dialog a 200 makes (RFC 3261 §12.1.2): the route set is the Record-Route reversed.
fn dialog(response: &Response, edge: SocketAddrV4) -> Result<Dialog> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let contact = response.contacts().next().context("200 without a Contact")??;
    let Contact::Address(contact) = contact else {
        bail!("200 with a Contact of *");
    };
    let mut routes: Vec<_> = response.values(HeaderName::RecordRoute).map(text).collect();
    routes.reverse();
    Ok(Dialog {
        target: contact.uri().to_string(),
        routes,
        from: text(response.line(HeaderName::From).unwrap_or_default()),
        to: text(response.line(HeaderName::To).unwrap_or_default()),
        call_id: response.call_id().to_owned(),
        edge,
    })
}

fn every(period: Duration) -> Interval {
    interval_at(Instant::now() + period, period)
}
