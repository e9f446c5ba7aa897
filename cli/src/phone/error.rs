//! What can go wrong on a phone.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use trunkline_media::sdp::SdpError;
use trunkline_media::srtp::SrtpError;
use trunkline_sip::digest::ChallengeError;
use trunkline_sip::header::HeaderError;
use trunkline_sip::method::Method;
use trunkline_sip::status::StatusCode;
use trunkline_sip::stream::StreamError;
use trunkline_sip::transaction::SendError;
use trunkline_sip::write::WriteError;

/// Why a phone could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// No transport to the server.
    #[error("connect to {server}")]
    Connect {
        /// The server.
        server: SocketAddr,
        /// What the network or TLS said.
        #[source]
        source: io::Error,
    },
    /// The transport failed while in use.
    #[error("exchange SIP with the server")]
    Transport(#[source] io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server's stream cannot be cut into messages.
    #[error("read the server's stream")]
    Stream(#[from] StreamError),
    /// A transaction ran out of time (RFC 3261 timer B or F).
    #[error("{method} got no response")]
    NoResponse {
        /// Of the request.
        method: Method,
    },
    /// A final response other than the one hoped for.
    #[error("{method} was refused with {status} {reason}")]
    Refused {
        /// Of the request.
        method: Method,
        /// Of the response.
        status: StatusCode,
        /// Its reason phrase.
        reason: String,
    },
    /// A challenge in a form the phone does not know.
    #[error("answer the digest challenge")]
    Challenge(#[from] ChallengeError),
    /// The same challenge again.
    #[error("user name or password is refused in realm `{realm}`")]
    Credentials {
        /// Of the challenge.
        realm: String,
    },
    /// Something awaited did not come.
    #[error("no {what} within {} s", waited.as_secs())]
    Missing {
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The peer hung up while the phone was talking.
    #[error("the peer hung up early")]
    EndedEarly,
    /// A message lacks what a call needs.
    #[error("{what} has no usable {header}")]
    Incomplete {
        /// The message.
        what: &'static str,
        /// The header field, or the body.
        header: &'static str,
    },
    /// A header field that does not follow its grammar.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The session description cannot be read.
    #[error("read the session description")]
    Sdp(#[from] SdpError),
    /// The session description can be read, but not used.
    #[error("the session description {0}")]
    Session(&'static str),
    /// A message cannot be written.
    #[error("write a message")]
    Write(#[from] WriteError),
    /// The transaction layer refused a request.
    #[error("start a transaction")]
    Send(#[from] SendError),
    /// Media sockets.
    #[error("exchange media")]
    Media(#[source] io::Error),
    /// An outgoing packet could not be protected.
    #[error("protect a packet")]
    Protect(#[source] SrtpError),
}
