//! What a row of the table is.
//!
//! A workload starts the system under test afresh, loads it, measures inside the steady window, checks that the work was really
//! done (contacts stored, calls up, packets arrived) and ends what it started. It runs once per side and round; [`crate::rounds`]
//! alternates the sides, so that a machine that gets slower does so for both.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use trunkline_proto::v1::TransportProtocol;

use crate::affinity::Cores;
use crate::sample::{Sample, Side, Unit};

/// A measurement under way. It need not be `Send`: the runtime has one thread, which is also what makes the affinity of what a
/// measurement starts a matter of one call ([`crate::affinity`]).
pub type Measured<'a> = Pin<Box<dyn Future<Output = Result<Sample>> + 'a>>;

/// One kind of work.
pub trait Workload {
    /// Name of the row, `register-udp`: what `WORK` of `make bench` selects by.
    fn name(&self) -> String;

    /// One line for people: what is done, at which rate, and what a unit is.
    fn description(&self) -> String;

    /// What the cost is counted in.
    fn unit(&self) -> Unit {
        Unit::CpuMicroseconds
    }

    /// Whether the peer does this work too; otherwise its fields are null.
    fn has_peer(&self) -> bool {
        true
    }

    /// Rounds it is worth, when `asked` are asked for.
    fn rounds(&self, asked: u32) -> u32 {
        asked
    }

    /// Does the work once with one side and says what it cost.
    ///
    /// # Errors
    /// When something did not come up, the work was not done, or the load was not what it should have been: a wrong figure is
    /// worse than none.
    fn measure<'a>(&'a self, side: Side, bench: &'a Bench) -> Measured<'a>;
}

/// What all measurements of a run share.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Who runs where.
    pub cores: Cores,
    /// Length of the steady window of rate workloads. CPU clocks are good to a microsecond, so that it is the load's own noise
    /// this is there to smooth.
    pub window: Duration,
    /// Load before the window opens: caches fill, connections open, queues find their level.
    pub warm_up: Duration,
    /// Where logs and generator files of this run go; kept when the run fails.
    pub dir: PathBuf,
    /// Folder of the peers' configuration and of the scenarios: `tests/bench`.
    pub home: PathBuf,
}

impl Bench {
    /// A short window, with files in `dir`.
    pub fn new(cores: Cores, dir: &Path) -> Self {
        Self {
            cores,
            window: Duration::from_secs(8),
            warm_up: Duration::from_secs(3),
            dir: dir.to_owned(),
            home: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        }
    }

    /// A folder of this run for something called `name`, with a number.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn fresh_dir(&self, name: &str) -> Result<PathBuf> {
        let mut number = 0;
        loop {
            let path = self.dir.join(format!("{name}-{number}"));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).with_context(|| format!("make {}", path.display())),
            }
        }
    }
}

/// Transport of a signalling workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP, one connection for each generator.
    Tcp,
}

impl Transport {
    /// As in a URI, and in names of workloads.
    pub fn uri_token(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    /// As the API has it.
    pub fn protocol(self) -> TransportProtocol {
        match self {
            Self::Udp => TransportProtocol::Udp,
            Self::Tcp => TransportProtocol::Tcp,
        }
    }

    /// As SIPp has it: one socket.
    pub fn sipp(self) -> &'static str {
        match self {
            Self::Udp => "u1",
            Self::Tcp => "t1",
        }
    }
}
