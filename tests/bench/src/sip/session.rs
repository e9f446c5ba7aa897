//! The SDP of one audio stream, with a key by security descriptions (RFC 4568) or without.

use std::net::{IpAddr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use trunkline_media::SrtpSuite;
use trunkline_media::sdes::CryptoLine;
use trunkline_media::sdp::{self, Protocol};
use trunkline_media::srtp::SrtpKey;
use trunkline_media::suite::SuiteSpelling;

/// One side's description of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Where it wants its packets.
    pub address: SocketAddrV4,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What it protects its packets with.
    pub crypto: Option<CryptoLine>,
}

impl Session {
    /// An offer: secure with a fresh key of `suite`, or plain.
    pub fn offer(address: SocketAddrV4, suite: Option<SrtpSuite>) -> Self {
        Self {
            address,
            protocol: suite.map_or(Protocol::RtpAvp, |_| Protocol::RtpSavp),
            crypto: suite.map(|suite| CryptoLine::generate(1, suite, SuiteSpelling::Iana, &mut rand::rng())),
        }
    }

    /// The answer to this description: the same protocol, a fresh key under the same tag.
    pub fn answer(&self, address: SocketAddrV4) -> Self {
        let fresh =
            |line: &CryptoLine| CryptoLine::generate(line.tag, line.suite(), SuiteSpelling::Iana, &mut rand::rng());
        Self {
            address,
            protocol: self.protocol,
            crypto: self.crypto.as_ref().map(fresh),
        }
    }

    /// The key, if the stream is secure.
    pub fn key(&self) -> Option<&SrtpKey> {
        self.crypto.as_ref().map(CryptoLine::key)
    }

    /// Reads a body that should be secure with `suite`, or plain; of several crypto lines the first of that suite counts.
    ///
    /// # Errors
    /// When it is not that: one accepted audio stream with an IPv4 address and, with a suite, a usable key of it.
    pub fn parse(body: &[u8], suite: Option<SrtpSuite>) -> Result<Self> {
        let description = sdp::parse(body).context("the body is no SDP")?;
        let media = description.media().first().context("no stream in the SDP")?;
        ensure!(media.is_audio() && media.port != 0, "the stream is refused or no audio");
        let ip = description.connection_for(0).and_then(sdp::Connection::ip);
        let Some(IpAddr::V4(ip)) = ip else {
            anyhow::bail!("no IPv4 address for the stream");
        };
        let secure = matches!(media.protocol, Protocol::RtpSavp | Protocol::RtpSavpf);
        let crypto = description
            .media_attributes(0)
            .filter(|attribute| attribute.is("crypto"))
            .filter_map(|attribute| CryptoLine::parse(attribute.value?).ok())
            .find(|line| Some(line.suite()) == suite);
        ensure!(
            secure == suite.is_some() && secure == crypto.is_some(),
            "{} without a key of the suite that should be used",
            media.protocol_text
        );
        Ok(Self {
            address: SocketAddrV4::new(ip, media.port),
            protocol: media.protocol,
            crypto,
        })
    }

    /// Writes the body.
    pub fn to_body(&self) -> String {
        let (ip, port) = (self.address.ip(), self.address.port());
        let protocol = self.protocol.token().unwrap_or("RTP/AVP");
        let crypto = self
            .crypto
            .as_ref()
            .map_or_else(String::new, |line| format!("a=crypto:{line}\r\n"));
        format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} {protocol} 0\r\n\
             a=rtpmap:0 PCMU/8000\r\na=ptime:20\r\na=sendrecv\r\n{crypto}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 10_000);

    #[test]
    fn a_session_is_read_as_it_was_written() {
        for suite in [None, Some(SrtpSuite::AesCm128HmacSha1_80)] {
            let offer = Session::offer(HERE, suite);
            let read = Session::parse(offer.to_body().as_bytes(), suite).unwrap();
            assert_eq!(read, offer);
            let answer = read.answer(HERE);
            assert_eq!(answer.key().is_some(), suite.is_some());
            assert!(suite.is_none() || answer.key() != offer.key(), "keys are per direction");
        }
    }

    #[test]
    fn a_refused_stream_and_a_secure_one_without_a_key_are_errors() {
        let suite = Some(SrtpSuite::AesCm128HmacSha1_80);
        let plain = Session::offer(HERE, None).to_body();
        Session::parse(plain.replace("m=audio 10000", "m=audio 0").as_bytes(), None).unwrap_err();
        Session::parse(plain.replace("RTP/AVP", "RTP/SAVP").as_bytes(), suite).unwrap_err();
        Session::parse(plain.as_bytes(), suite).unwrap_err();
        let secure = Session::offer(HERE, Some(SrtpSuite::AesCm128HmacSha1_32)).to_body();
        Session::parse(secure.as_bytes(), suite).unwrap_err();
    }
}
