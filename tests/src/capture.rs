//! What goes over the wire, as tshark sees it. Capturing on loopback needs root or the right to it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::eventually::{BOUND, eventually};
use crate::process::{Process, output};

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// A packet of TCP or UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Differentiated services code point, 0-63.
    pub dscp: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Capture {
    /// Captures all from and to `host` on loopback.
    ///
    /// # Errors
    /// When tshark may not, or is not there.
    pub async fn start(dir: &Path, host: IpAddr) -> Result<Self> {
        let file = dir.join("wire.pcapng");
        let mut command = Command::new("tshark");
        command
            .args(["-n", "-i", "lo", "-f", &format!("host {host}"), "-w"])
            .arg(&file);
        let mut process = Process::start("tshark", &mut command, &dir.join("tshark.log"))?;
        eventually("tshark to capture", BOUND, async || {
            if let Some(status) = process.status()? {
                return Ok(Err(anyhow::anyhow!("tshark ended with {status}: {}", process.log())));
            }
            ensure!(
                process.log().contains("Capturing on") && file.exists(),
                "not yet: {}",
                process.log()
            );
            Ok(Ok(()))
        })
        .await??;
        Ok(Self { process, file })
    }

    /// Waits until a packet that `wanted` accepts has reached the file.
    ///
    /// # Errors
    /// When none does.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Result<()> {
        eventually(what, BOUND, async || {
            let packets = self.read("udp || tcp")?;
            ensure!(packets.iter().any(&wanted), "{} packets, none of them", packets.len());
            Ok(())
        })
        .await
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// When tshark does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal("INT")?;
        self.process.wait(BOUND).await?;
        Ok(())
    }

    /// The packets a display filter selects.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, filter: &str) -> Result<Vec<Packet>> {
        let fields = [
            "ip.src",
            "ip.dst",
            "ip.dsfield.dscp",
            "udp.srcport",
            "tcp.srcport",
            "udp.dstport",
            "tcp.dstport",
            "udp.payload",
            "tcp.payload",
        ];
        let mut args: Vec<_> = [
            "-n",
            "-r",
            &self.file.to_string_lossy(),
            "-Y",
            filter,
            "-T",
            "fields",
            "-E",
            "occurrence=l",
        ]
        .map(str::to_owned)
        .into();
        for field in fields {
            args.extend(["-e".to_owned(), field.to_owned()]);
        }
        output("tshark", args)?.lines().map(packet).collect()
    }

    /// Key exchanges and media profiles in the SDP that could be read, i.e. was not inside TLS.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn readable_sdp(&self) -> Result<BTreeSet<String>> {
        let file = self.file.to_string_lossy();
        let args = ["-n", "-r", &file, "-Y", "sdp", "-T", "fields", "-e", "sdp.media"];
        Ok(output("tshark", args)?.lines().map(str::to_owned).collect())
    }
}

fn packet(line: &str) -> Result<Packet> {
    let fields: Vec<_> = line.split('\t').collect();
    let [from, to, dscp, from_udp, from_tcp, to_udp, to_tcp, udp, tcp] = fields[..] else {
        anyhow::bail!("tshark wrote {line}");
    };
    let address = |ip: &str, udp: &str, tcp: &str| -> Result<SocketAddr> {
        let port = if udp.is_empty() { tcp } else { udp };
        Ok(SocketAddr::new(ip.parse()?, port.parse()?))
    };
    Ok(Packet {
        from: address(from, from_udp, from_tcp).with_context(|| line.to_owned())?,
        to: address(to, to_udp, to_tcp).with_context(|| line.to_owned())?,
        dscp: dscp.parse().with_context(|| line.to_owned())?,
        payload: hex(if udp.is_empty() { tcp } else { udp })?,
    })
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<_> = text.bytes().filter(|byte| *byte != b':').collect();
    let octet = |pair: &[u8; 2]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    digits.as_chunks::<2>().0.iter().map(octet).collect()
}
