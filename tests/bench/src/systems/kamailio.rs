//! Kamailio, by `peers/kamailio.cfg`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::fixtures::{REALM, User};
use trunkline_tests::process::{Process, output};

use super::credentials;
use super::rtpengine::Rtpengine;
use crate::cpu::Meter;
use crate::workload::{Bench, Transport};

/// Pools, in MiB: shared, and of each process. Large enough for every workload; only what is touched counts as memory.
const SHARED_MIB: &str = "2048";
const PRIVATE_MIB: &str = "64";

/// What it is to do.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Transport of its listener.
    pub transport: Transport,
    /// Address and port of its listener.
    pub listen: SocketAddr,
    /// Who may register.
    pub users: &'a [User],
    /// Where media is anchored, if it is.
    pub media: Option<&'a Rtpengine>,
    /// Whether callers speak SRTP; the called never do.
    pub srtp: bool,
}

/// A running Kamailio.
#[derive(Debug)]
pub struct Kamailio {
    process: Process,
    control: PathBuf,
    listen: SocketAddr,
}

impl Kamailio {
    /// Starts it on the cores of the system under test and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(bench: &Bench, setup: &Setup<'_>) -> Result<Self> {
        Self::start_with(bench, setup, &[]).await
    }

    /// As [`Kamailio::start`], with further names its configuration knows: `LINE`, `CALLEE_SRTP`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_with(bench: &Bench, setup: &Setup<'_>, names: &[&str]) -> Result<Self> {
        let dir = bench.fresh_dir("kamailio")?;
        credentials::write(&dir.join("credentials"), setup.users)?;
        let control = dir.join("control");
        // One child for each core and socket: more of them only wait for each other's locks.
        let children = bench.cores.system.len();
        let mut command = Command::new("kamailio");
        command.arg("-f").arg(bench.home.join("peers/kamailio.cfg"));
        command.args(["-DD", "-x", "fm", "-X", "fm", "-m", SHARED_MIB, "-M", PRIVATE_MIB]);
        command.arg("-Y").arg(&dir);
        let quoted = |text: &str| format!("\"{text}\"");
        let mut define = |name: &str, value: &str| {
            command.arg("-A").arg(format!("{name}={value}"));
        };
        define("LISTEN", &format!("{}:{}", setup.transport.uri_token(), setup.listen));
        define("CHILDREN", &children.to_string());
        define("REALM", REALM);
        define("REALM_TEXT", &quoted(REALM));
        define("CONTROL", &quoted(&format!("unix:{}", control.display())));
        define(
            "CREDENTIALS",
            &quoted(&format!("text://{}", dir.join("credentials").display())),
        );
        if let Some(media) = setup.media {
            define("RTPENGINE", &quoted(&format!("udp:{}", media.control())));
        }
        if setup.srtp {
            define("SRTP", "1");
        }
        for name in names {
            define(name, "1");
        }
        bench.cores.start_system()?;
        let process = Process::start("kamailio", &mut command, &dir.join("kamailio.log"))?;
        bench.cores.start_generator()?;
        let mut kamailio = Self {
            process,
            control,
            listen: setup.listen,
        };
        eventually("kamailio to answer", BOUND, async || {
            if let Some(status) = kamailio.process.status()? {
                return Ok(Err(anyhow::anyhow!(
                    "kamailio ended with {status}: {}",
                    kamailio.process.log()
                )));
            }
            kamailio.command(&["core.uptime"])?;
            Ok(Ok(()))
        })
        .await??;
        Ok(kamailio)
    }

    /// Where it listens.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// All of its processes.
    pub fn meter(&self) -> Meter {
        Meter::new().with("kamailio", self.process.id())
    }

    /// A count of its statistics, such as `usrloc.location_contacts`.
    ///
    /// # Errors
    /// When it does not keep it.
    pub fn statistic(&self, name: &str) -> Result<u64> {
        let said = self.command(&["stats.fetchn", name])?;
        said.lines()
            .find_map(|line| line.trim().split_once(':'))
            .and_then(|(_, value)| value.trim().parse().ok())
            .with_context(|| format!("no statistic {name} in {said}"))
    }

    /// Contacts it holds.
    ///
    /// # Errors
    /// When it does not say.
    pub fn contacts(&self) -> Result<u64> {
        self.statistic("usrloc.location_contacts")
    }

    /// Calls that are up.
    ///
    /// # Errors
    /// When it does not say.
    pub fn calls(&self) -> Result<u64> {
        self.statistic("dialog.active_dialogs")
    }

    /// Transactions it keeps.
    ///
    /// # Errors
    /// When it does not say.
    pub fn transactions(&self) -> Result<u64> {
        let said = self.command(&["tm.stats"])?;
        said.lines()
            .find_map(|line| line.trim().strip_prefix("current:"))
            .and_then(|value| value.trim().parse().ok())
            .with_context(|| format!("no count of transactions in {said}"))
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end, or its log holds an error.
    pub async fn finish(mut self) -> Result<()> {
        // Read before the end: its processes complain when the first of them has gone.
        let log = self.process.log();
        self.process.terminate(BOUND).await?;
        let bad: Vec<_> = log
            .lines()
            .filter(|line| {
                ["ERROR:", "CRITICAL:", "ALERT:", "BUG:"]
                    .iter()
                    .any(|word| line.contains(word))
            })
            .take(20)
            .collect();
        if !bad.is_empty() {
            bail!("kamailio had errors:\n{}", bad.join("\n"));
        }
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Result<String> {
        let socket = format!("unix:{}", self.control.display());
        let args = ["-s", &socket].into_iter().chain(words.iter().copied());
        let said = output("kamcmd", args)?;
        ensure!(!said.starts_with("error"), "kamcmd: {said}");
        Ok(said)
    }
}
impl Drop for Kamailio {
    /// Killing the first of its processes, which is what follows, would leave the others behind.
    fn drop(&mut self) {
        if !matches!(self.process.status(), Ok(None)) {
            return;
        }
        for (_, id) in self.meter().processes().unwrap_or_default() {
            if let Some(id) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        }
    }
}
