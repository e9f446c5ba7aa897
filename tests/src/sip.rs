//! One SIP request over UDP, and its final answer; who has which port.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A socket that asks.
#[derive(Debug)]
pub struct Prober {
    socket: UdpSocket,
    target: SocketAddr,
    sent: u32,
}

impl Prober {
    /// Asks `target` from an ephemeral port of `local`.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub async fn new(local: std::net::IpAddr, target: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(local, 0))
            .await
            .context("bind a probe")?;
        socket.connect(target).await?;
        Ok(Self {
            socket,
            target,
            sent: 0,
        })
    }

    /// Sends OPTIONS to the target itself; returns the status of the final answer.
    ///
    /// # Errors
    /// When there is none within a second, or it is to something else.
    pub async fn options(&mut self) -> Result<u16> {
        self.sent += 1;
        let local = self.socket.local_addr()?;
        let (target, sent) = (self.target, self.sent);
        let call_id = format!("{sent}-{}", local.port());
        let request = format!(
            "OPTIONS sip:{target} SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bK{call_id}\r\nMax-Forwards: 70\r\n\
             From: <sip:probe@{local}>;tag={sent}\r\nTo: <sip:{target}>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n\
             Content-Length: 0\r\n\r\n"
        );
        self.socket.send(request.as_bytes()).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let len = timeout(Duration::from_secs(1), self.socket.recv(&mut buffer))
                .await
                .context("no answer")??;
            let answer = std::str::from_utf8(&buffer[..len])?;
            ensure!(answer.starts_with("SIP/2.0 "), "not an answer: {answer}");
            if !answer.contains(&call_id) {
                continue;
            }
            let status: u16 = answer["SIP/2.0 ".len()..].get(..3).context("no status")?.parse()?;
            if status >= 200 {
                return Ok(status);
            }
        }
    }
}

/// Whether somebody on this machine has this UDP socket. Trying to bind it would take it from who is about to.
///
/// # Errors
/// When the kernel's table cannot be read.
pub fn is_bound(local: std::net::SocketAddrV4) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/net/udp").context("read /proc/net/udp")?;
    // The address as the host's integer, in hexadecimal.
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(local.ip().octets()), local.port());
    Ok(table
        .lines()
        .any(|line| line.split_ascii_whitespace().nth(1) == Some(&*wanted)))
}
