//! Two scripts: place a call and end it, or take a call and wait for its end.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};
use trunkline_sip::message::Request;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::timer::{Backoff, TimerConfig};
use trunkline_sip::transaction::ServerTransactionId;

use super::agent::Incoming;
use super::audio::{Audio, AudioReport, Ports};
use super::dialog::Dialog;
use super::registration::refused;
use super::request::{Draft, branch, token};
use super::session::{Agreed, Offer, answer};
use super::transport::Protocol;
use super::{Phone, PhoneError};

/// What to say, what to hear, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    /// Frequency sent, in Hz.
    pub send: f32,
    /// Frequency expected, in Hz.
    pub expect: f32,
    /// How long the caller talks; the callee talks until it is hung up on.
    pub duration: Duration,
}

/// One side of a call that was talked and ended.
#[derive(Debug, Clone, PartialEq)]
pub struct CallReport {
    /// Its Call-ID.
    pub call_id: String,
    /// From the first INVITE to the 200 sent or received.
    pub setup: Duration,
    /// From the first INVITE to the first 18x; caller only.
    pub ringing: Option<Duration>,
    /// The audio.
    pub audio: AudioReport,
}

impl Phone {
    /// Calls a user of the server, talks, and hangs up.
    ///
    /// # Errors
    /// The call was refused, ended early, or its media could not be agreed on.
    pub async fn call(&mut self, user: &str, talk: &Talk) -> Result<CallReport, PhoneError> {
        let ports = Ports::bind(self.local().ip()).await?;
        let offer = Offer::new(ports.address(), self.is_secure(), &mut rand::rng());
        let started = Instant::now();
        let uri = self.identity.request_uri(user);
        let mut invite = Draft::new(Method::Invite, uri, &self.identity, user, &token(), 1);
        invite.body = Some(offer.body.clone());
        let exchange = self.exchange(invite, &mut None).await?;
        let setup = started.elapsed();
        let response = &exchange.response;
        if !response.status().is_success() {
            return Err(refused(Method::Invite, response));
        }
        let mut dialog = Dialog::of_caller(&exchange.draft, response)?;
        let mut ack = dialog.request(Method::Ack);
        // RFC 3261 §13.2.2.4: the ACK carries the credentials of the INVITE.
        ack.credentials = exchange.draft.credentials.clone();
        let ack = ack.build(&self.identity, &branch())?;
        self.agent.send_directly(&ack);
        self.last_ack = Some((dialog.call_id().to_owned(), ack));
        // From here on the call exists: whatever fails, it is ended.
        let spoken = match offer.answered(response.body()) {
            Ok(agreed) => {
                self.talk(Audio::start(ports, agreed, talk.send, talk.expect), talk, &dialog)
                    .await
            }
            Err(error) => Err(error),
        };
        let ended = self.hang_up(&mut dialog).await;
        let audio = spoken?.finish();
        ended?;
        Ok(CallReport {
            call_id: dialog.call_id().to_owned(),
            setup,
            ringing: exchange.ringing,
            audio,
        })
    }

    /// Waits up to `patience` for a call, answers it at once, and talks until the caller hangs up.
    ///
    /// # Errors
    /// No call came, it was never acknowledged or never ended, or its media could not be agreed on.
    pub async fn answer(&mut self, talk: &Talk, patience: Duration) -> Result<CallReport, PhoneError> {
        let waited = timeout(patience, self.next_invite()).await;
        let (id, invite) = waited.map_err(|_| PhoneError::Missing {
            what: "call",
            waited: patience,
        })??;
        let started = Instant::now();
        let tag = token();
        self.respond(id, &invite, StatusCode::RINGING, &tag, None)?;
        let ports = Ports::bind(self.local().ip()).await?;
        let (body, agreed) = match answer(ports.address(), self.is_secure(), invite.body(), &mut rand::rng()) {
            Ok(answered) => answered,
            Err(error) => {
                self.respond(id, &invite, StatusCode::NOT_ACCEPTABLE_HERE, &tag, None)?;
                self.agent.flush().await?;
                return Err(error);
            }
        };
        let dialog = Dialog::of_callee(&invite, &tag)?;
        let accepted = self.respond(id, &invite, StatusCode::OK, &tag, Some(body))?;
        self.acknowledged(&accepted, &dialog).await?;
        let setup = started.elapsed();
        let audio = self.talk_until_bye(agreed, ports, talk, &dialog).await?;
        Ok(CallReport {
            call_id: dialog.call_id().to_owned(),
            setup,
            ringing: None,
            audio,
        })
    }

    fn is_secure(&self) -> bool {
        self.identity.protocol() == Protocol::Tls
    }

    /// Talks for the time given; ends early only with an error.
    async fn talk(&mut self, mut audio: Audio, talk: &Talk, dialog: &Dialog) -> Result<Audio, PhoneError> {
        let end = Instant::now() + talk.duration;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(end) => return Ok(audio),
                step = audio.step() => step?,
                incoming = self.agent.next() => match incoming? {
                    Incoming::Request(id, request) if is_bye(&request, dialog) => {
                        self.accept_bye(id, &request).await?;
                        return Err(PhoneError::EndedEarly);
                    }
                    other => self.decline(other)?,
                },
            }
        }
    }

    /// Ends the call; that it is gone already is as good.
    async fn hang_up(&mut self, dialog: &mut Dialog) -> Result<(), PhoneError> {
        let bye = dialog.request(Method::Bye);
        let exchange = self.exchange(bye, &mut None).await?;
        match exchange.response.status() {
            status if status.is_success() || status == StatusCode::CALL_DOES_NOT_EXIST => Ok(()),
            _ => Err(refused(Method::Bye, &exchange.response)),
        }
    }

    async fn accept_bye(&mut self, id: ServerTransactionId, bye: &Request) -> Result<(), PhoneError> {
        self.respond(id, bye, StatusCode::OK, &token(), None)?;
        self.agent.flush().await
    }

    async fn next_invite(&mut self) -> Result<(ServerTransactionId, Request), PhoneError> {
        loop {
            match self.agent.next().await? {
                Incoming::Request(id, request) if *request.method() == Method::Invite && request.to_tag().is_none() => {
                    return Ok((id, request));
                }
                other => self.decline(other)?,
            }
        }
    }

    /// Waits for the ACK, repeating the 2xx until it comes (RFC 3261 §13.3.1.4).
    async fn acknowledged(&mut self, accepted: &Bytes, dialog: &Dialog) -> Result<(), PhoneError> {
        let timers = TimerConfig::default();
        let end = Instant::now() + timers.transaction_timeout();
        let mut backoff = Backoff::capped(timers.t1(), timers.t2());
        let mut repeat = Instant::now() + backoff.interval();
        loop {
            tokio::select! {
                incoming = self.agent.next() => match incoming? {
                    Incoming::Ack(ack) if dialog.owns(&ack) => return Ok(()),
                    Incoming::Request(id, request) if is_bye(&request, dialog) => {
                        self.accept_bye(id, &request).await?;
                        return Err(PhoneError::EndedEarly);
                    }
                    other => self.decline(other)?,
                },
                () = sleep_until(end) => {
                    return Err(PhoneError::Missing { what: "ACK", waited: timers.transaction_timeout() });
                }
                () = sleep_until(repeat) => {
                    self.agent.send_directly(accepted);
                    backoff = backoff.next();
                    repeat += backoff.interval();
                }
            }
        }
    }

    async fn talk_until_bye(
        &mut self,
        agreed: Agreed,
        ports: Ports,
        talk: &Talk,
        dialog: &Dialog,
    ) -> Result<AudioReport, PhoneError> {
        let mut audio = Audio::start(ports, agreed, talk.send, talk.expect);
        // Time for the caller's BYE to be sent again and again.
        let patience = talk.duration + TimerConfig::default().transaction_timeout();
        let end = Instant::now() + patience;
        loop {
            tokio::select! {
                step = audio.step() => step?,
                incoming = self.agent.next() => match incoming? {
                    Incoming::Request(id, request) if is_bye(&request, dialog) => {
                        self.accept_bye(id, &request).await?;
                        return Ok(audio.finish());
                    }
                    other => self.decline(other)?,
                },
                () = sleep_until(end) => return Err(PhoneError::Missing { what: "BYE", waited: patience }),
            }
        }
    }
}

fn is_bye(request: &Request, dialog: &Dialog) -> bool {
    *request.method() == Method::Bye && dialog.owns(request)
}
