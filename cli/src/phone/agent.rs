//! Transactions over the transport: what the phone's scripts send requests with and wait on.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use trunkline_sip::message::{Message, Request, Response};
use trunkline_sip::parse::{Limits, Parsed, parse};
use trunkline_sip::status::StatusCode;
use trunkline_sip::transaction::{
    ClientRequest, ClientTransactionId, Event, RequestKey, RequestOutcome, ResponseKey, ResponseOutcome,
    ServerTransactionId, Transactions, TransactionsConfig, ack_for,
};
use trunkline_sip::write::{ResponseBuilder, ViaStamp};

use super::PhoneError;
use super::request::{Draft, Identity, branch, token};
use super::transport::{Protocol, Server, Transport};

/// What the scripts wait for.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A new request.
    Request(ServerTransactionId, Request),
    /// An ACK for a 2xx.
    Ack(Request),
    /// A response to a request of ours; several 2xx to INVITE may come.
    Response(ClientTransactionId, Response),
    /// A request of ours that will get no final response any more.
    Unanswered(ClientTransactionId),
}

/// A transport with its transactions. Nothing happens but inside [`Agent::next`], which is cancel safe.
pub(super) struct Agent {
    transport: Transport,
    protocol: Protocol,
    server: SocketAddr,
    transactions: Transactions<()>,
    ready: VecDeque<Incoming>,
}

impl Agent {
    pub(super) async fn open(server: &Server) -> Result<Self, PhoneError> {
        Ok(Self {
            transport: Transport::open(server).await?,
            protocol: server.protocol(),
            server: server.address(),
            transactions: Transactions::new(TransactionsConfig::default(), rand::random()),
            ready: VecDeque::new(),
        })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.transport.local()
    }

    /// Starts a client transaction.
    pub(super) fn request(&mut self, draft: &Draft, identity: &Identity) -> Result<ClientTransactionId, PhoneError> {
        let branch = branch();
        let bytes = draft.build(identity, &branch)?;
        let request = ClientRequest {
            method: &draft.method,
            branch: branch.as_bytes(),
            bytes,
            destination: (),
            reliability: self.protocol.reliability(),
        };
        Ok(self.transactions.send_request(now(), request)?)
    }

    /// Answers a request. A transaction that is gone needs no answer any more.
    pub(super) fn respond(&mut self, id: ServerTransactionId, status: StatusCode, response: Bytes) {
        let _ = self.transactions.respond(now(), id, status, response);
    }

    /// Sends what no transaction carries: an ACK for a 2xx, or a 2xx once more.
    pub(super) fn send_directly(&mut self, message: &Bytes) {
        self.transport.queue(message);
    }

    /// Sends what is still to be sent.
    pub(super) async fn flush(&mut self) -> Result<(), PhoneError> {
        self.collect();
        self.transport.flush().await
    }

    /// Sends, receives and keeps the timers until there is something to know. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Incoming, PhoneError> {
        loop {
            self.flush().await?;
            if let Some(incoming) = self.ready.pop_front() {
                return Ok(incoming);
            }
            let deadline = self.transactions.poll_timeout().map(Instant::from_std);
            tokio::select! {
                received = self.transport.receive() => self.receive(received?),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.transactions.handle_timeout(now());
                }
            }
        }
    }

    /// Moves messages to the transport and events to the scripts.
    fn collect(&mut self) {
        while let Some(transmit) = self.transactions.poll_transmit() {
            self.transport.queue(&transmit.bytes);
        }
        while let Some(event) = self.transactions.poll_event() {
            // The scripts answer at once and cancel nothing, so that no other event asks for anything.
            if let Event::Timeout(id) | Event::TimerC(id) = event {
                self.ready.push_back(Incoming::Unanswered(id));
            }
        }
    }

    fn receive(&mut self, bytes: Bytes) {
        match parse(bytes, self.protocol.framing(), &Limits::default()) {
            Parsed::Understood(Message::Request(request)) => self.receive_request(request),
            Parsed::Understood(Message::Response(response)) => self.receive_response(response),
            Parsed::Answerable(bad) => {
                if let Ok(response) = bad.response(&token(), self.server) {
                    self.transport.queue(&response);
                }
            }
            Parsed::Drop(_) => {}
        }
    }

    fn receive_request(&mut self, request: Request) {
        let key = RequestKey::of(&request);
        match self
            .transactions
            .handle_request(now(), key, (), self.protocol.reliability())
        {
            RequestOutcome::New(id) => self.ready.push_back(Incoming::Request(id, request)),
            RequestOutcome::Ack(_) => self.ready.push_back(Incoming::Ack(request)),
            // The scripts answer an INVITE at once: a CANCEL comes too late to change anything (RFC 3261 §9.2).
            RequestOutcome::Cancel { transaction, invite } => {
                let status = if invite.is_some() {
                    StatusCode::OK
                } else {
                    StatusCode::CALL_DOES_NOT_EXIST
                };
                let stamp = ViaStamp::for_source(&request.top_via(), self.server);
                let response = ResponseBuilder::new(&request, status)
                    .to_tag(token())
                    .stamp_via(stamp)
                    .build();
                if let Ok(response) = response {
                    self.respond(transaction, status, response);
                }
            }
            RequestOutcome::Absorbed | RequestOutcome::Overloaded => {}
        }
    }

    fn receive_response(&mut self, response: Response) {
        let key = ResponseKey::of(&response);
        let outcome = self
            .transactions
            .handle_response(now(), key, response.status(), ack_for(&response));
        if let ResponseOutcome::Deliver(id) = outcome {
            self.ready.push_back(Incoming::Response(id, response));
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
