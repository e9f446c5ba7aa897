//! rtpengine in user space, steered by Kamailio or by the benchmark.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use tokio::net::UdpSocket;
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::process::Process;

use crate::cpu::Meter;
use crate::workload::Bench;

/// A running rtpengine.
#[derive(Debug)]
pub struct Rtpengine {
    process: Process,
    control: SocketAddr,
}

impl Rtpengine {
    /// Starts it on the cores of the system under test: media on `media`, the ng protocol on `control`. As many threads as
    /// cores, no kernel module, errors only in the log.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(bench: &Bench, media: IpAddr, control: SocketAddr, ports: (u16, u16)) -> Result<Self> {
        let dir = bench.fresh_dir("rtpengine")?;
        let threads = bench.cores.system.len();
        let mut command = Command::new("rtpengine");
        command.args([
            "--config-file=none",
            "--table=-1",
            "--foreground",
            "--log-stderr",
            "--log-level=3",
        ]);
        command.arg(format!("--interface={media}"));
        command.arg(format!("--listen-ng={control}"));
        command.arg(format!("--port-min={}", ports.0));
        command.arg(format!("--port-max={}", ports.1));
        command.arg(format!("--num-threads={threads}"));
        // Ended calls go at once, as ours do.
        command.arg("--delete-delay=0");
        bench.cores.start_system()?;
        let mut process = Process::start("rtpengine", &mut command, &dir.join("rtpengine.log"))?;
        bench.cores.start_generator()?;
        let asking = UdpSocket::bind((control.ip(), 0)).await?;
        asking.connect(control).await?;
        eventually("rtpengine to answer", BOUND, async || {
            if let Some(status) = process.status()? {
                return Ok(Err(anyhow::anyhow!("rtpengine ended with {status}: {}", process.log())));
            }
            asking.send(b"1 d7:command4:pinge").await?;
            let mut answer = [0; 128];
            let wait = std::time::Duration::from_millis(200);
            let len = tokio::time::timeout(wait, asking.recv(&mut answer)).await??;
            anyhow::ensure!(answer[..len].starts_with(b"1 "), "it says something else");
            Ok(Ok(()))
        })
        .await??;
        Ok(Self { process, control })
    }

    /// Where it takes commands.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// Its process.
    pub fn meter(&self) -> Meter {
        Meter::new().with("rtpengine", self.process.id())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn finish(mut self) -> Result<()> {
        self.process.terminate(BOUND).await
    }
}
