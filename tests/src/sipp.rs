//! SIPp: many phones at once, by the scenarios of `tests/scenarios`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::eventually::{BOUND, eventually};
use crate::fixtures::{REALM, User};
use crate::process::Process;
use crate::sip::is_bound;

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Sipp {
    scenario: PathBuf,
    local: SocketAddr,
    target: Option<SocketAddr>,
    calls: u32,
    rate: u32,
    rows: Vec<String>,
    keys: Vec<(&'static str, String)>,
    digest_uri: Option<String>,
    /// Calls at a time.
    open: u32,
    /// Further arguments.
    args: Vec<String>,
}

/// How a run went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Scenarios gone through to the end.
    pub successful: u32,
    /// Scenarios that ended otherwise.
    pub failed: u32,
    /// Messages sent again.
    pub retransmissions: u32,
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    process: Process,
    dir: PathBuf,
    statistics: PathBuf,
    errors: PathBuf,
}

impl Sipp {
    /// Registers users, all with a contact at `local`.
    pub fn register(local: SocketAddr, target: SocketAddr, users: &[User]) -> Self {
        let mut sipp = Self::new("register", local, Some(target));
        sipp.calls = u32::try_from(users.len()).expect("a few thousand");
        sipp.rows = users
            .iter()
            .map(|user| {
                format!(
                    "{0};[authentication username={0} password={1}]",
                    user.name, user.password
                )
            })
            .collect();
        sipp
    }

    /// Calls from `callers`, in turn, to `callee`, each with digest; every call talks for `talk`.
    ///
    /// One callee for all: SIPp computes digests for one URI, and a digest for another one than the Request-URI is refused.
    pub fn call(local: SocketAddr, target: SocketAddr, callers: &[User], callee: &User, talk: Duration) -> Self {
        let mut sipp = Self::new("call", local, Some(target));
        let row = |User { name, password }: &User| {
            format!(
                "{name};{0};[authentication username={name} password={password}]",
                callee.name
            )
        };
        sipp.rows = callers.iter().map(row).collect();
        sipp.calls = u32::try_from(callers.len()).expect("a few thousand");
        sipp.keys = vec![("talk", talk.as_millis().to_string())];
        sipp.digest_uri = Some(format!("{}@{target}", callee.name));
        sipp
    }

    /// Answers calls at `local` until it is ended.
    pub fn answer(local: SocketAddr) -> Self {
        Self::new("answer", local, None)
    }

    fn new(scenario: &str, local: SocketAddr, target: Option<SocketAddr>) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        Self::scenario(&folder.join(format!("{scenario}.xml")), local, target)
    }

    /// Plays a scenario of somebody else's; without a target it answers until it is ended.
    pub fn scenario(scenario: &Path, local: SocketAddr, target: Option<SocketAddr>) -> Self {
        Self {
            scenario: scenario.to_owned(),
            local,
            target,
            calls: 0,
            rate: 200,
            rows: Vec::new(),
            keys: Vec::new(),
            digest_uri: None,
            open: 2000,
            args: Vec::new(),
        }
    }

    /// Rows of the file that a scenario takes its fields from, in turn.
    pub fn rows(mut self, rows: Vec<String>) -> Self {
        self.rows = rows;
        self
    }

    /// At most so many calls at a time.
    pub fn open(mut self, open: u32) -> Self {
        self.open = open;
        self
    }

    /// Further arguments of the command line.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// So many calls in all, instead of one for each user; the users take turns.
    pub fn calls(mut self, calls: u32) -> Self {
        self.calls = calls;
        self
    }

    /// So many new calls a second.
    pub fn rate(mut self, rate: u32) -> Self {
        self.rate = rate;
        self
    }

    /// Starts it; what it writes goes to `dir`.
    ///
    /// # Errors
    /// When SIPp is not there.
    pub fn start(&self, dir: &Path) -> Result<Running> {
        let scenario = self.scenario.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("sipp-{scenario}-{}-{}", self.local.ip(), self.local.port());
        let runs = fs::read_dir(dir)?.filter_map(Result::ok).filter(|entry| {
            let file = entry.file_name();
            file.to_string_lossy().starts_with(&name)
        });
        let dir = dir.join(format!("{name}-{}", runs.count()));
        fs::create_dir(&dir)?;
        let (statistics, errors) = (dir.join("statistics.csv"), dir.join("errors.log"));
        let mut command = Command::new("sipp");
        command.arg("-sf").arg(&self.scenario);
        // What it writes under names of its own lies beside the rest.
        command.current_dir(&dir);
        command.args(["-i", &self.local.ip().to_string(), "-p", &self.local.port().to_string()]);
        command.args(["-mi", &self.local.ip().to_string(), "-nostdin", "-key", "realm", REALM]);
        command
            .arg("-trace_stat")
            .arg("-fd")
            .arg("1")
            .arg("-stf")
            .arg(&statistics);
        command.arg("-trace_err").arg("-error_file").arg(&errors);
        for (key, value) in &self.keys {
            command.args(["-key", key, value]);
        }
        if let Some(uri) = &self.digest_uri {
            command.args(["-auth_uri", uri]);
        }
        if !self.rows.is_empty() {
            let mut file = String::from("SEQUENTIAL\n");
            for row in &self.rows {
                let _ = writeln!(file, "{row}");
            }
            let path = dir.join("users.csv");
            fs::write(&path, file)?;
            command.arg("-inf").arg(path);
        }
        command.args(&self.args);
        if let Some(target) = self.target {
            command.args([
                "-m",
                &self.calls.to_string(),
                "-r",
                &self.rate.to_string(),
                "-l",
                &self.open.to_string(),
            ]);
            command.arg(target.to_string());
        }
        let process = Process::start(&name, &mut command, &dir.join("screen.log"))?;
        Ok(Running {
            process,
            dir,
            statistics,
            errors,
        })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it does not end within `bound`, or without statistics.
    pub async fn run(&self, dir: &Path, bound: Duration) -> Result<Report> {
        self.start(dir)?.finish(bound).await
    }

    /// Runs it to its end, in which nothing may have failed.
    ///
    /// # Errors
    /// When a scenario did not go through.
    pub async fn run_clean(&self, dir: &Path, bound: Duration) -> Result<Report> {
        let running = self.start(dir)?;
        let errors = running.errors.clone();
        let report = running.finish(bound).await?;
        let said = || -> String {
            let text = fs::read_to_string(&errors).unwrap_or_default();
            text.lines().take(40).collect::<Vec<_>>().join("\n")
        };
        ensure!(report.failed == 0, "{report:?}:\n{}", said());
        ensure!(
            report.successful == self.calls,
            "{report:?} of {}:\n{}",
            self.calls,
            said()
        );
        Ok(report)
    }
}

impl Running {
    /// Waits until a UAS has its socket.
    ///
    /// # Errors
    /// When it ended instead.
    pub async fn listening(&mut self, local: SocketAddr) -> Result<()> {
        eventually("SIPp to listen", BOUND, async || {
            if let Some(status) = self.process.status()? {
                return Ok(Err(anyhow::anyhow!("SIPp ended with {status}: {}", self.process.log())));
            }
            let SocketAddr::V4(local) = local else {
                bail!("{local} is no IPv4 address")
            };
            ensure!(is_bound(local)?, "{local} is free");
            Ok(Ok(()))
        })
        .await?
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Folder it writes to.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it had to complain about, as far as it has written it.
    pub fn complaints(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.status()?.is_none())
    }

    /// Size of its statistics: it grows by a line a second.
    pub fn statistics_size(&self) -> u64 {
        fs::metadata(&self.statistics).map_or(0, |metadata| metadata.len())
    }

    /// How it stands now.
    ///
    /// # Errors
    /// Before the first second.
    pub fn report(&self) -> Result<Report> {
        let text = fs::read_to_string(&self.statistics).context("no statistics yet")?;
        let mut lines = text.lines();
        let header = lines.next().context("no statistics yet")?;
        let last = lines.next_back().context("no statistics yet")?;
        let values: HashMap<_, _> = header.split(';').zip(last.split(';')).collect();
        let number = |name: &str| -> Result<u32> {
            let value = values.get(name).with_context(|| format!("no column {name}"))?;
            value.parse().with_context(|| format!("{name} is {value}"))
        };
        Ok(Report {
            successful: number("SuccessfulCall(C)")?,
            failed: number("FailedCall(C)")?,
            retransmissions: number("Retransmissions(C)")?,
        })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not come, or the run was cut short: SIPp says 0 when all went well and 1 when a call failed.
    pub async fn finish(mut self, bound: Duration) -> Result<Report> {
        let status = self.process.wait(bound).await?;
        let errors = || fs::read_to_string(&self.errors).unwrap_or_default();
        ensure!(
            matches!(status.code(), Some(0 | 1)),
            "SIPp ended with {status}: {}",
            errors()
        );
        self.report()
    }

    /// Ends it. Calls it still has are dropped.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn stop(mut self) -> Result<()> {
        self.process.kill()
    }
}
