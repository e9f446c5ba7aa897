//! baresip: a softphone. It says a tone and records what it hears.

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::eventually::{BOUND, eventually};
use crate::fixtures::{PHONE, User};
use crate::process::Process;
use crate::tone::Recording;

/// How a phone is set up.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// Who it registers as.
    pub user: &'a User,
    /// Where.
    pub registrar: SocketAddr,
    /// Over TLS, with mandatory SDES SRTP, trusting this CA; over UDP with plain RTP when `None`.
    pub secure: Option<&'a Path>,
    /// Its ports: SIP here, control two above, media from here on.
    pub port: u16,
    /// The tone it says, in Hz.
    pub tone: f64,
}

/// A running phone.
#[derive(Debug)]
pub struct Baresip {
    process: Process,
    dir: PathBuf,
    control: TcpStream,
    /// Bytes that end in no whole netstring yet.
    partial: Vec<u8>,
    events: VecDeque<Value>,
}

/// Modules of a phone without a sound card: its tone is a file, what it hears goes to another.
const MODULES: &str = "module g711.so\nmodule sndfile.so\nmodule aufile.so\nmodule aubridge.so\nmodule srtp.so\nmodule uuid.so\n\
                       module_app account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n";

impl Baresip {
    /// Starts a phone and waits until it is registered.
    ///
    /// # Errors
    /// When it does not register.
    pub async fn start(parent: &Path, setup: &Setup<'_>) -> Result<Self> {
        let name = format!("baresip-{}", setup.user.name);
        let dir = parent.join(&name);
        fs::create_dir(&dir)?;
        let tone = dir.join("tone.wav");
        Recording::tone(setup.tone, 60).write(&tone)?;
        let control = SocketAddr::new(PHONE, setup.port + 2);
        fs::write(dir.join("config"), config(setup, &dir, &tone, control))?;
        fs::write(dir.join("accounts"), account(setup))?;
        fs::write(dir.join("contacts"), "")?;
        let mut command = Command::new("baresip");
        command.arg("-4").arg("-f").arg(&dir);
        let mut process = Process::start(&name, &mut command, &dir.join("baresip.log"))?;
        let control = eventually(&format!("{name} to listen"), BOUND, async || {
            if let Some(status) = process.status()? {
                return Ok(Err(anyhow::anyhow!("{name} ended with {status}: {}", process.log())));
            }
            Ok(Ok(TcpStream::connect(control).await?))
        })
        .await??;
        let mut phone = Self {
            process,
            dir,
            control,
            partial: Vec::new(),
            events: VecDeque::new(),
        };
        phone.registered().await?;
        Ok(phone)
    }

    /// Calls a SIP URI and waits until it is answered.
    ///
    /// # Errors
    /// When it is not.
    pub async fn call(&mut self, uri: &str) -> Result<()> {
        self.command("dial", uri).await?;
        self.wait_for("CALL_ESTABLISHED").await?;
        Ok(())
    }

    /// Hangs up.
    ///
    /// # Errors
    /// When there is no call.
    pub async fn hang_up(&mut self) -> Result<()> {
        self.command("hangup", "").await?;
        self.wait_for("CALL_CLOSED").await?;
        Ok(())
    }

    /// Waits for an event, `CALL_ESTABLISHED` for one; earlier events are forgotten.
    ///
    /// # Errors
    /// When it does not happen.
    pub async fn wait_for(&mut self, kind: &str) -> Result<Value> {
        loop {
            while let Some(event) = self.events.pop_front() {
                match event["type"].as_str() {
                    Some(found) if found == kind => return Ok(event),
                    Some("REGISTER_FAIL") => bail!("{} is refused: {event}", self.process.name()),
                    Some("CALL_CLOSED") => bail!("{} has lost its call: {event}", self.process.name()),
                    _ => {}
                }
            }
            let read = timeout(BOUND, self.read()).await;
            read.with_context(|| {
                format!(
                    "{}: no {kind} within {BOUND:?}\n{}",
                    self.process.name(),
                    self.process.log()
                )
            })??;
        }
    }

    /// What it heard in its last call; the call must be over.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub async fn heard(&self) -> Result<Recording> {
        eventually("a recording", BOUND, async || {
            let mut files: Vec<_> = fs::read_dir(&self.dir)?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.to_string_lossy().ends_with("-dec.wav"))
                .collect();
            files.sort();
            Recording::read(files.last().context("no file")?)
        })
        .await
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it: it unregisters.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.terminate(BOUND).await
    }

    /// It registers before anybody listens to its events: asked for rather than waited for.
    async fn registered(&mut self) -> Result<()> {
        let name = self.process.name().to_owned();
        let log = || self.process.log();
        eventually(&format!("{name} to register"), BOUND, async || {
            let log = log();
            if log.contains("200 OK") {
                return Ok(Ok(()));
            }
            if let Some(line) = log
                .lines()
                .find(|line| line.contains("Register: ") || line.contains(" 403 "))
            {
                return Ok(Err(anyhow::anyhow!("{name}: {line}")));
            }
            bail!("its log says\n{log}")
        })
        .await?
    }

    async fn command(&mut self, command: &str, params: &str) -> Result<()> {
        let message = json!({ "command": command, "params": params, "token": command }).to_string();
        self.control
            .write_all(format!("{}:{message},", message.len()).as_bytes())
            .await?;
        Ok(())
    }

    /// Reads what is there: events go to the queue, answers to commands must be good.
    async fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        let len = self.control.read(&mut buffer).await?;
        ensure!(
            len > 0,
            "{} has closed its control connection:\n{}",
            self.process.name(),
            self.process.log()
        );
        self.partial.extend_from_slice(&buffer[..len]);
        while let Some((message, rest)) = netstring(&self.partial)? {
            let value: Value = serde_json::from_slice(message)?;
            let rest = rest.to_vec();
            if value["response"] == true {
                ensure!(
                    value["ok"] == true,
                    "{} refuses a command: {value}",
                    self.process.name()
                );
            } else {
                self.events.push_back(value);
            }
            self.partial = rest;
        }
        Ok(())
    }
}

/// `LENGTH:TEXT,` and what follows; `None` when it is not whole.
fn netstring(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    let Some(colon) = bytes.iter().position(|byte| *byte == b':') else {
        return Ok(None);
    };
    let len: usize = std::str::from_utf8(&bytes[..colon])?.parse().context("no netstring")?;
    let rest = &bytes[colon + 1..];
    Ok((rest.len() > len).then(|| (&rest[..len], &rest[len + 1..])))
}

fn config(setup: &Setup<'_>, dir: &Path, tone: &Path, control: SocketAddr) -> String {
    let (dir, tone, first) = (dir.display(), tone.display(), setup.port + 100);
    let trust = setup
        .secure
        .map_or(String::new(), |ca| format!("sip_cafile {}\n", ca.display()));
    format!(
        "poll_method epoll\nsip_listen {PHONE}:{sip}\n{trust}call_local_timeout 120\ncall_max_calls 4\n\
         audio_source aufile,{tone}\naudio_player aubridge,ear\naudio_alert aubridge,bell\nausrc_srate {RATE}\nauplay_srate {RATE}\n\
         ausrc_channels 1\nauplay_channels 1\naudio_level no\nrtp_ports {first}-{last}\nrtcp_mux no\njitter_buffer_delay 5-10\n\
         net_interface {PHONE}\nmodule_path /usr/lib/baresip/modules\n{MODULES}snd_path {dir}\nctrl_tcp_listen {control}\n",
        sip = setup.port,
        last = first + 99,
        RATE = crate::tone::RATE,
    )
}

fn account(setup: &Setup<'_>) -> String {
    let User { name, password } = setup.user;
    let (transport, security) = match setup.secure {
        Some(_) => (";transport=tls", ";mediaenc=srtp-mand"),
        None => (";transport=udp", ""),
    };
    format!(
        "<sip:{name}@{}{transport}>;auth_user={name};auth_pass={password};regint=600;answermode=auto;audio_codecs=PCMA/8000{security}\n",
        setup.registrar
    )
}
