//! REGISTER (RFC 3261 §10.2).

use std::time::Duration;

use tokio::time::Instant;
use trunkline_sip::digest::Algorithm;
use trunkline_sip::header::{Contact, Expires};
use trunkline_sip::message::Response;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::uri::Uri;

use super::request::Draft;
use super::{Phone, PhoneError};

/// A registration as granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// How long it lasts.
    pub expires: Duration,
    /// Algorithm of the digest; `None` when no password was asked for.
    pub algorithm: Option<Algorithm>,
    /// From the first REGISTER to the 200.
    pub took: Duration,
}

impl Phone {
    /// Registers this phone for `expires`, in whole seconds; the server may grant less.
    ///
    /// # Errors
    /// [`PhoneError::Refused`], [`PhoneError::Credentials`], or the transport failed.
    pub async fn register(&mut self, expires: Duration) -> Result<Registered, PhoneError> {
        let started = Instant::now();
        let seconds = u32::try_from(expires.as_secs()).unwrap_or(u32::MAX);
        let (response, algorithm) = self.send_register(seconds).await?;
        let granted = granted(&response, &self.identity.contact());
        let expires = granted.ok_or(PhoneError::Incomplete {
            what: "the 200 to REGISTER",
            header: "Contact",
        })?;
        Ok(Registered {
            expires,
            algorithm,
            took: started.elapsed(),
        })
    }

    /// Removes the registration.
    ///
    /// # Errors
    /// As [`Phone::register`]; also when the server still lists this phone.
    pub async fn unregister(&mut self) -> Result<(), PhoneError> {
        let (response, _) = self.send_register(0).await?;
        match granted(&response, &self.identity.contact()) {
            None => Ok(()),
            Some(_) => Err(PhoneError::Incomplete {
                what: "the 200 to the removing REGISTER",
                header: "Contact",
            }),
        }
    }

    async fn send_register(&mut self, expires: u32) -> Result<(Response, Option<Algorithm>), PhoneError> {
        let (call_id, cseq) = &self.register;
        let uri = self.identity.registrar();
        let mut draft = Draft::new(
            Method::Register,
            uri,
            &self.identity,
            self.identity.user(),
            call_id,
            cseq + 1,
        );
        draft.expires = Some(expires);
        let mut digest = self.register_digest.take();
        let exchange = self.exchange(draft, &mut digest).await?;
        self.register_digest = digest;
        self.register.1 = exchange.draft.cseq;
        let response = exchange.response;
        if response.status() != StatusCode::OK {
            return Err(refused(Method::Register, &response));
        }
        Ok((response, exchange.algorithm))
    }
}

pub(super) fn refused(method: Method, response: &Response) -> PhoneError {
    PhoneError::Refused {
        method,
        status: response.status(),
        reason: String::from_utf8_lossy(response.reason_phrase()).into_owned(),
    }
}

/// What the server grants the contact `own`; `None` when it is not listed (RFC 3261 §10.2.4).
fn granted(response: &Response, own: &str) -> Option<Duration> {
    let own = Uri::parse(own.trim_matches(['<', '>']).as_bytes()).ok()?;
    let contacts = response.contacts().flatten();
    let address = contacts.filter_map(|contact| match contact {
        Contact::Address(address) if address.uri().is_equivalent(&own) => Some(address),
        _ => None,
    });
    let address = address.last()?;
    let header = response.typed::<Expires>().ok().flatten().map(|expires| expires.0);
    let seconds = address.expires().or(header)?;
    Some(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use trunkline_sip::message::Message;
    use trunkline_sip::parse::{Framing, Limits, Parsed, parse};

    use super::*;

    fn response(fields: &str) -> Response {
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:4000;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:a@b>;tag=2\r\nCall-ID: x\r\nCSeq: 1 REGISTER\r\n{fields}Content-Length: 0\r\n\r\n"
        );
        match parse(Bytes::from(text), Framing::Datagram, &Limits::default()) {
            Parsed::Understood(Message::Response(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_grant_is_that_of_the_own_contact_among_others() {
        let response =
            response("Contact: <sip:a@127.0.0.1:5>;expires=60, <sip:a@127.0.0.1:4000>;expires=120\r\nExpires: 7\r\n");
        assert_eq!(
            granted(&response, "<sip:a@127.0.0.1:4000>"),
            Some(Duration::from_secs(120))
        );
        assert_eq!(granted(&response, "<sip:a@127.0.0.1:6>"), None);
    }

    #[test]
    fn without_a_parameter_the_expires_header_counts() {
        let response = response("Contact: <sip:a@127.0.0.1:4000>\r\nExpires: 90\r\n");
        assert_eq!(
            granted(&response, "<sip:a@127.0.0.1:4000>"),
            Some(Duration::from_secs(90))
        );
    }
}
