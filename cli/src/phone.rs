//! A small SIP phone: registers with digest, calls or answers, talks in a tone and listens for another.
//!
//! It is a user agent of its own on the project's SIP and media crates, with none of the edge's code in its way, and it is what
//! `trunkline check` proves an installation with. One phone is one [`Phone`], used from one task.
//!
//! Pure: [`request`] (messages), [`dialog`] (state of a call), [`session`] (SDP), [`ear`] (what was heard). With sockets:
//! [`transport`], [`agent`] (transactions), [`audio`] (RTP).

mod agent;
mod audio;
mod call;
mod dialog;
mod ear;
mod error;
mod registration;
mod request;
mod session;
mod transport;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use trunkline_shared::secret::Secret;
use trunkline_sip::digest::{Algorithm, ClientDigest};
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::{Request, Response};
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::transaction::ServerTransactionId;
use trunkline_sip::write::{ResponseBuilder, WriteError};

pub use audio::AudioReport;
pub use call::{CallReport, Talk};
pub use ear::Heard;
pub use error::PhoneError;
pub use registration::Registered;
pub use transport::{Server, tls_config};

use agent::{Agent, Incoming};
use request::{Draft, Identity};

/// Methods the phone understands.
const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS";

/// Who the phone is.
#[derive(Debug, Clone)]
pub struct Account {
    /// User part of the address of record, and the digest user name.
    pub user: String,
    /// Digest password.
    pub password: Secret,
}

/// One phone.
pub struct Phone {
    account: Account,
    identity: Identity,
    agent: Agent,
    /// Call-ID and CSeq of this phone's REGISTERs (RFC 3261 §10.2).
    register: (String, u32),
    /// The nonce of the last REGISTER, used again with the next count.
    register_digest: Option<ClientDigest>,
    /// Call-ID of the last call placed, and its ACK: sent again with every 2xx that comes again (RFC 3261 §13.2.2.4).
    last_ack: Option<(String, Bytes)>,
}

/// A request with its final response.
struct Exchange {
    response: Response,
    /// The request as it was answered, credentials included.
    draft: Draft,
    /// From the first request to the first 18x.
    ringing: Option<Duration>,
    /// Algorithm of the digest, when one was asked for.
    algorithm: Option<Algorithm>,
}

impl Phone {
    /// Opens the transport to `server`; nothing is sent over UDP, a TLS connection is established and verified.
    ///
    /// # Errors
    /// [`PhoneError::Connect`] when the server cannot be reached or its certificate is not accepted.
    pub async fn open(account: Account, server: &Server) -> Result<Self, PhoneError> {
        let agent = Agent::open(server).await?;
        let identity = Identity::new(&account.user, server.address(), agent.local(), server.protocol());
        let register = (request::token(), 0);
        Ok(Self {
            account,
            identity,
            agent,
            register,
            register_digest: None,
            last_ack: None,
        })
    }

    /// User part of the phone's address of record.
    pub fn user(&self) -> &str {
        &self.account.user
    }

    /// The phone's own signalling address.
    pub fn local(&self) -> SocketAddr {
        self.agent.local()
    }

    /// Stays reachable until `until` is: the answers of what has ended may have to be repeated.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn attend(&mut self, until: impl Future) -> Result<(), PhoneError> {
        let mut until = std::pin::pin!(until);
        loop {
            tokio::select! {
                _ = &mut until => return Ok(()),
                incoming = self.agent.next() => self.decline(incoming?)?,
            }
        }
    }

    /// Sends a request and waits for its final response, answering one challenge, or a second when the nonce was stale.
    async fn exchange(&mut self, mut draft: Draft, digest: &mut Option<ClientDigest>) -> Result<Exchange, PhoneError> {
        let started = tokio::time::Instant::now();
        let mut ringing = None;
        let mut algorithm = None;
        let mut challenges = 0;
        loop {
            if let Some(digest) = digest {
                let (user, password) = (&self.account.user, self.account.password.expose());
                algorithm = Some(digest.algorithm());
                draft.credentials = Some(digest.authorize(user, password, &draft.method, &draft.uri, &mut rand::rng()));
            }
            let response = self.send(&draft, started, &mut ringing).await?;
            let challenged = matches!(
                response.status(),
                StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            );
            if !challenged {
                return Ok(Exchange {
                    response,
                    draft,
                    ringing,
                    algorithm,
                });
            }
            let fresh = ClientDigest::from_challenge(&response)?;
            challenges += 1;
            // The first may be for a nonce kept from before, the second for one that went stale on the way.
            if challenges > 1 && (challenges > 2 || !fresh.is_stale()) {
                return Err(PhoneError::Credentials {
                    realm: fresh.realm().to_owned(),
                });
            }
            *digest = Some(fresh);
            draft.cseq += 1;
        }
    }

    /// One client transaction.
    async fn send(
        &mut self,
        draft: &Draft,
        started: tokio::time::Instant,
        ringing: &mut Option<Duration>,
    ) -> Result<Response, PhoneError> {
        let sent = self.agent.request(draft, &self.identity)?;
        loop {
            match self.agent.next().await? {
                Incoming::Response(id, response) if id == sent => {
                    if !response.status().is_provisional() {
                        return Ok(response);
                    }
                    if response.status() != StatusCode::TRYING {
                        ringing.get_or_insert_with(|| started.elapsed());
                    }
                }
                Incoming::Unanswered(id) if id == sent => {
                    return Err(PhoneError::NoResponse {
                        method: draft.method.clone(),
                    });
                }
                other => self.decline(other)?,
            }
        }
    }

    /// Answers what belongs to nothing the phone is waiting for.
    fn decline(&mut self, incoming: Incoming) -> Result<(), PhoneError> {
        let (id, request) = match incoming {
            Incoming::Request(id, request) => (id, request),
            Incoming::Response(_, response) => {
                if *response.cseq_method() == Method::Invite
                    && let Some((call_id, ack)) = &self.last_ack
                    && response.call_id() == call_id
                {
                    self.agent.send_directly(ack);
                }
                return Ok(());
            }
            // What was given up, and what has ended, asks for no answer.
            Incoming::Ack(_) | Incoming::Unanswered(_) => return Ok(()),
        };
        let status = match request.method() {
            Method::Options => StatusCode::OK,
            _ if request.to_tag().is_some() => StatusCode::CALL_DOES_NOT_EXIST,
            Method::Invite => StatusCode::BUSY_HERE,
            _ => StatusCode::METHOD_NOT_ALLOWED,
        };
        self.respond(id, &request, status, &request::token(), None).map(drop)
    }

    /// Sends a response and returns it: a 2xx to INVITE is repeated by the caller until the ACK comes.
    fn respond(
        &mut self,
        id: ServerTransactionId,
        request: &Request,
        status: StatusCode,
        tag: &str,
        body: Option<Bytes>,
    ) -> Result<Bytes, PhoneError> {
        let bytes = self.build_response(request, status, tag, body)?;
        self.agent.respond(id, status, bytes.clone());
        Ok(bytes)
    }

    fn build_response(
        &self,
        request: &Request,
        status: StatusCode,
        tag: &str,
        body: Option<Bytes>,
    ) -> Result<Bytes, WriteError> {
        let mut builder = ResponseBuilder::new(request, status)
            .to_tag(tag)
            .header(HeaderName::Allow, ALLOW);
        if request.method().creates_dialog() {
            builder = builder.header(HeaderName::Contact, self.identity.contact());
        }
        if let Some(body) = body {
            builder = builder.body("application/sdp", body);
        }
        builder.build()
    }
}

#[cfg(test)]
mod tests;
