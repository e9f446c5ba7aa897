//! The phone as the one that is called.

use std::time::{Duration, Instant};

use bytes::Bytes;
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::Request;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::transaction::{RequestKey, RequestOutcome, ServerTransactionId, TransactionId};
use trunkline_sip::write::ResponseBuilder;

use super::{Auto, Dialog, Due, Phone, contact_of, values};

impl Phone {
    pub(super) fn receive_request(&mut self, now: Instant, request: Request) {
        let reliability = self.reliability();
        match self
            .transactions
            .handle_request(now, RequestKey::of(&request), (), reliability)
        {
            RequestOutcome::New(server) => {
                self.requests.push(request.clone());
                self.serve(now, server, &request);
            }
            RequestOutcome::Ack(_) => {
                self.due
                    .retain(|(_, due)| !matches!(due, Due::Again { call_id, .. } if call_id == request.call_id()));
                self.requests.push(request);
            }
            RequestOutcome::Cancel { transaction, invite } => {
                self.requests.push(request.clone());
                self.respond(now, transaction, &request, 200, "x", &[], None);
                if self.ignores_cancel {
                    return;
                }
                if let Some(at) = self.ringing.iter().position(|(server, ..)| Some(*server) == invite) {
                    let (server, invite, tag) = self.ringing.remove(at);
                    self.due.retain(|(_, due)| !matches!(due, Due::Answer(_)));
                    self.respond(now, server, &invite, 487, &tag, &[], None);
                }
            }
            RequestOutcome::Absorbed => {}
            RequestOutcome::Overloaded => panic!("a phone is never overloaded"),
        }
    }

    fn serve(&mut self, now: Instant, server: ServerTransactionId, request: &Request) {
        if *request.method() == Method::Invite && request.to_tag().is_none() {
            return self.serve_invite(now, server, request);
        }
        let tag = self.tag();
        match request.method() {
            Method::Invite if matches!(self.auto, Auto::Refuse(..)) => {
                if let Auto::Refuse(status, _) = self.auto {
                    self.respond(now, server, request, status, &tag, &[], None);
                }
            }
            Method::Invite | Method::Update if !request.body().is_empty() => {
                let offer = String::from_utf8_lossy(request.body()).into_owned();
                let direction = if offer.contains("a=sendonly") {
                    "recvonly"
                } else {
                    "sendrecv"
                };
                self.version += 1;
                let body = self.sdp(direction);
                self.answer_with(
                    now,
                    server,
                    request,
                    &tag,
                    Some(body),
                    *request.method() == Method::Invite,
                );
            }
            Method::Bye => {
                for dialog in self
                    .dialogs
                    .iter_mut()
                    .filter(|dialog| dialog.call_id == request.call_id())
                {
                    dialog.ended = true;
                }
                self.respond(now, server, request, 200, &tag, &[], None);
            }
            Method::Options => {
                let body = self.sdp("sendrecv");
                self.respond(now, server, request, 200, &tag, &[], Some(body));
            }
            Method::Prack => {
                let body = (!request.body().is_empty()).then(|| self.sdp("recvonly"));
                self.respond(now, server, request, 200, &tag, &[], body);
                if let Some(index) = self.ringing.len().checked_sub(1) {
                    self.answer_now(now, index);
                }
            }
            Method::Refer | Method::Subscribe => {
                self.respond(now, server, request, 202, &tag, &[("Expires", "60".into())], None);
            }
            _ => {
                self.respond(now, server, request, 200, &tag, &[], None);
            }
        }
    }

    fn serve_invite(&mut self, now: Instant, server: ServerTransactionId, request: &Request) {
        let tag = self.tag();
        match self.auto.clone() {
            // Forgotten at once: as if it had never arrived.
            Auto::Silent => self.transactions.abandon(TransactionId::Server(server)),
            Auto::Refuse(status, reason) => {
                let extra: Vec<_> = reason.map(|reason| ("Reason", reason.to_owned())).into_iter().collect();
                self.respond(now, server, request, status, &tag, &extra, None);
            }
            Auto::Ring => {
                self.respond(now, server, request, 180, &tag, &[], None);
                self.ringing.push((server, request.clone(), tag));
            }
            Auto::Answer(after) => {
                self.respond(now, server, request, 180, &tag, &[], None);
                self.ringing.push((server, request.clone(), tag));
                self.due.push((now + after, Due::Answer(self.ringing.len() - 1)));
            }
            Auto::EarlyMedia(after) => {
                let body = self.sdp("sendrecv");
                self.respond(now, server, request, 183, &tag, &[], Some(body));
                self.ringing.push((server, request.clone(), tag));
                self.due.push((now + after, Due::Answer(self.ringing.len() - 1)));
            }
            Auto::Reliable => {
                let body = self.sdp("sendrecv");
                let extra = [("Require", "100rel".to_owned()), ("RSeq", "1".to_owned())];
                self.respond(now, server, request, 183, &tag, &extra, Some(body));
                self.ringing.push((server, request.clone(), tag));
            }
            Auto::Offer | Auto::Mute => {
                self.ringing.push((server, request.clone(), tag));
                self.answer_now(now, self.ringing.len() - 1);
            }
        }
    }

    /// Answers a ringing call.
    pub fn answer_now(&mut self, now: Instant, index: usize) {
        if index >= self.ringing.len() {
            return;
        }
        let (server, request, tag) = self.ringing.remove(index);
        let body = (!matches!(self.auto, Auto::Reliable | Auto::Mute)).then(|| self.sdp("sendrecv"));
        self.answer_with(now, server, &request, &tag, body, true);
        self.dialogs.push(self.dialog_of_uas(&request, &tag));
        self.pump(now);
    }

    fn answer_with(
        &mut self,
        now: Instant,
        server: ServerTransactionId,
        request: &Request,
        tag: &str,
        body: Option<String>,
        acked: bool,
    ) {
        let timer = self
            .session_expires
            .map(|seconds| ("Session-Expires", format!("{seconds};refresher=uac")));
        let extra: Vec<_> = timer.into_iter().collect();
        let bytes = self.respond(now, server, request, 200, tag, &extra, body);
        if acked {
            let interval = Duration::from_millis(500);
            let again = Due::Again {
                call_id: request.call_id().to_owned(),
                bytes,
                interval,
                until: now + Duration::from_secs(32),
            };
            self.due.push((now + interval, again));
        }
    }

    pub fn dialog_of_uas(&self, request: &Request, tag: &str) -> Dialog {
        let text = |name| request.line_text(name).unwrap_or_default().to_owned();
        Dialog {
            call_id: request.call_id().into(),
            local: format!("{};tag={tag}", text(HeaderName::To)),
            remote: text(HeaderName::From),
            local_cseq: 100,
            invite_cseq: request.cseq_number(),
            target: contact_of(request),
            routes: values(request, HeaderName::RecordRoute),
            ended: false,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a response has that many parts")]
    fn respond(
        &mut self,
        now: Instant,
        server: ServerTransactionId,
        request: &Request,
        status: u16,
        tag: &str,
        extra: &[(&str, String)],
        body: Option<String>,
    ) -> Bytes {
        let status = StatusCode::new(status).expect("a status");
        let mut builder = ResponseBuilder::new(request, status).to_tag(tag);
        if status.as_u16() < 300 {
            builder = builder.header(HeaderName::Contact, format_args!("<{}>", self.contact()));
        }
        for (name, value) in extra {
            builder = builder.header(trunkline_sip::header::FieldName::from(*name), value);
        }
        if let Some(body) = body {
            builder = builder.body("application/sdp", body);
        }
        let bytes = builder.build().expect("a valid response");
        let _ = self.transactions.respond(now, server, status, bytes.clone());
        bytes
    }
}
