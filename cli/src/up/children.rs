//! The processes `up` runs: started beside its own executable, watched, and stopped in order.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::state::State;

/// Longest wait for a process to end after SIGTERM: the worker lets calls end for 10 s.
const STOP: Duration = Duration::from_secs(20);
/// Lines of its log shown when a process ends by itself.
const TAIL: usize = 15;

/// A process to be started.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    program: &'static str,
    arguments: Vec<OsString>,
    /// `None`: to standard output.
    log: Option<PathBuf>,
}

/// The processes that run.
#[derive(Debug)]
pub struct Children {
    running: RefCell<Vec<Running>>,
    /// The first that ended.
    ended: watch::Sender<Option<Ended>>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    pid: Pid,
    exit: watch::Receiver<Option<Ended>>,
}

#[derive(Debug, Clone)]
struct Ended {
    name: &'static str,
    /// Exit status in words.
    how: String,
    log: Option<PathBuf>,
}

impl Child {
    /// `name` is what people see; `program` lies beside this executable.
    pub fn new(name: &'static str, program: &'static str, state: &State, verbose: bool) -> Self {
        let log = (!verbose).then(|| state.log_file(name));
        Self {
            name,
            program,
            arguments: Vec::new(),
            log,
        }
    }

    /// Adds an option with its value.
    pub fn argument(mut self, option: &str, value: impl fmt::Display) -> Self {
        self.arguments.extend([option.into(), value.to_string().into()]);
        self
    }

    fn command(&self) -> Result<Command> {
        let own = std::env::current_exe().context("find the own executable")?;
        let program = own.with_file_name(self.program);
        if !program.is_file() {
            bail!(
                "{} is missing; build the workspace, or install it beside {}",
                program.display(),
                own.display()
            );
        }
        let mut command = Command::new(program);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            // A group of its own: Ctrl-C reaches `up` alone, which then stops the processes in order.
            .process_group(0)
            .kill_on_drop(true);
        match &self.log {
            Some(path) => {
                let file = open_log(path).with_context(|| format!("open {}", path.display()))?;
                command.stdout(file.try_clone().context("share the log")?).stderr(file);
            }
            None => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        Ok(command)
    }
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Default for Children {
    fn default() -> Self {
        Self {
            running: RefCell::default(),
            ended: watch::Sender::new(None),
        }
    }
}

impl Children {
    /// Starts a process and watches it.
    ///
    /// # Errors
    /// When it is not there or cannot be started.
    pub fn start(&self, child: Child) -> Result<()> {
        let name = child.name;
        let mut process = child.command()?.spawn().with_context(|| format!("start the {name}"))?;
        let pid = process.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.with_context(|| format!("learn the process id of the {name}"))?;
        if let Some(output) = process.stdout.take() {
            tokio::spawn(show(name, output));
        }
        if let Some(output) = process.stderr.take() {
            tokio::spawn(show(name, output));
        }
        let (own, exit) = watch::channel(None);
        let first = self.ended.clone();
        tokio::spawn(async move {
            let how = describe(process.wait().await);
            let ended = Ended {
                name,
                how,
                log: child.log,
            };
            own.send_replace(Some(ended.clone()));
            first.send_if_modified(|first| {
                let is_first = first.is_none();
                if is_first {
                    *first = Some(ended);
                }
                is_first
            });
        });
        self.running.borrow_mut().push(Running { name, pid, exit });
        Ok(())
    }

    /// Waits until one of the processes ends by itself, and says so with the end of its log.
    pub async fn failure(&self) -> Error {
        let mut ended = self.ended.subscribe();
        let first = ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|ended| ended.clone());
        let Some(Ended { name, how, log }) = first else {
            return anyhow!("the watch over the processes ended");
        };
        let tail = log.map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            format!("; the end of {}:\n{}", path.display(), last_lines(&text, TAIL))
        });
        anyhow!("the {name} ended by itself ({how}){}", tail.unwrap_or_default())
    }

    /// Stops all, the one started last first: the worker's last reports still find the control plane.
    ///
    /// # Errors
    /// When one had to be killed.
    pub async fn stop(self) -> Result<()> {
        let mut killed = Vec::new();
        for mut running in self.running.into_inner().into_iter().rev() {
            if !running.stop().await {
                killed.push(running.name);
            }
        }
        if killed.is_empty() {
            return Ok(());
        }
        bail!(
            "not ended {} s after SIGTERM, and killed: {}",
            STOP.as_secs(),
            killed.join(", ")
        )
    }
}

impl Running {
    /// Whether it ended in time.
    async fn stop(&mut self) -> bool {
        if self.exit.borrow().is_some() {
            return true;
        }
        // It may end at this very moment; then the signal finds nobody.
        let _ = kill_process(self.pid, Signal::TERM);
        if timeout(STOP, self.exit.wait_for(Option::is_some)).await.is_ok() {
            return true;
        }
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = timeout(STOP, self.exit.wait_for(Option::is_some)).await;
        false
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Copies the lines of a process to standard output.
async fn show(name: &'static str, output: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        println!("{name:7} | {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path());
        let error = Child::new("worker", "no-such-program", &state, false)
            .command()
            .unwrap_err()
            .to_string();
        assert!(error.contains("no-such-program is missing"), "{error}");
    }

    #[test]
    fn the_end_of_a_log_is_its_last_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }

    fn running(script: &str) -> Running {
        let mut process = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(process.id().unwrap().cast_signed()).unwrap();
        let (own, exit) = watch::channel(None);
        tokio::spawn(async move {
            let how = describe(process.wait().await);
            own.send_replace(Some(Ended {
                name: "test",
                how,
                log: None,
            }));
        });
        Running {
            name: "test",
            pid,
            exit,
        }
    }

    #[tokio::test]
    async fn a_process_is_asked_to_end_and_how_it_did_is_known() {
        let mut asked = running("exec sleep 1000");
        assert!(asked.stop().await);
        assert!(asked.exit.borrow().as_ref().unwrap().how.contains("signal: 15"));
    }

    #[tokio::test]
    async fn a_process_that_has_ended_is_left_alone() {
        let mut ended = running("exit 3");
        ended.exit.wait_for(Option::is_some).await.unwrap();
        assert!(ended.stop().await);
        assert_eq!(ended.exit.borrow().as_ref().unwrap().how, "exit status: 3");
    }
}
