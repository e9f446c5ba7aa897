//! A child process with a log, ended by its id and by nothing else.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::eventually::eventually;

/// A running child. Dropping it kills it, and shows the end of its log when the test has failed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Lines of a log that are shown when a test fails.
const SHOWN_LINES: usize = 60;

impl Process {
    /// Starts `command`; what it writes is appended to `log`.
    ///
    /// # Errors
    /// When the program or the log cannot be opened.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .context("open the log")?;
        let err = out.try_clone().context("open the log")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let program = command.get_program().to_owned();
        let child = command
            .spawn()
            .with_context(|| format!("start {}", Path::new(&program).display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it has written.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its status, once it has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it is not over within `bound`.
    pub async fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        eventually(&format!("the end of {name}"), bound, async || {
            self.status()?.with_context(|| format!("{name} still runs"))
        })
        .await
    }

    /// kill -9.
    ///
    /// # Errors
    /// When it had ended before, or the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.status()? {
            bail!("{} ended by itself: {status}", self.name);
        }
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// Sends a signal by name: `TERM`, `INT`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&mut self, signal: &str) -> Result<()> {
        if let Some(status) = self.status()? {
            bail!("{} ended by itself: {status}", self.name);
        }
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.child.id().to_string())
            .status()?;
        if !sent.success() {
            bail!("{} cannot be sent SIG{signal}", self.name);
        }
        Ok(())
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not, or not with status 0.
    pub async fn terminate(&mut self, bound: Duration) -> Result<()> {
        self.signal("TERM")?;
        let status = self.wait(bound).await?;
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!(
                "---- end of the log of {} ({} lines)\n{}",
                self.name,
                lines.len(),
                shown.join("\n")
            );
        }
    }
}

/// Runs a tool to its end and returns what it wrote to standard output.
///
/// # Errors
/// When it is not there or fails; its standard error is in the message.
pub fn output<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Folder to take binaries from: another build than the one beside the running program.
const BINARIES: &str = "TRUNKLINE_BIN_DIR";

/// A binary of this workspace, built with the running program: a test in `target/<profile>/deps`, or a binary beside it.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(BINARIES) {
        return Ok(Path::new(&folder).join(name));
    }
    let own = std::env::current_exe().context("find the program's own file")?;
    let folder = own.parent().context("a program lies in a folder")?;
    let profile = if folder.ends_with("deps") {
        folder.parent().context("deps lies in target/<profile>")?
    } else {
        folder
    };
    let path = profile.join(name);
    if !path.is_file() {
        bail!("{} is missing: `cargo build --workspace --bins` first", path.display());
    }
    Ok(path)
}
