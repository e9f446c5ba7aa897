//! The state directory: what is where, and the small files `up` leaves for `check`.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use trunkline_shared::secret::Secret;

use crate::options::AccessOptions;

/// A state directory.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
    ca_file: PathBuf,
    token_file: PathBuf,
}

/// Where a running `up` listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The API.
    pub api: SocketAddr,
    /// The control plane's /metrics.
    pub control_metrics: SocketAddr,
    /// The worker's /metrics.
    pub worker_metrics: SocketAddr,
}

/// A sample phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamplePhone {
    /// Last segment of its trunk's name.
    pub trunk: String,
    /// User name, and user part of its address of record.
    pub user: String,
    /// Digest password.
    pub password: Secret,
}

/// Held while `up` runs; the operating system lets go of it with the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The control plane's part of the directory.
const CONTROL: &str = "control";

const PHONES_HEAD: &str = "# Sample phones: trunk, user, password. Delete a line to have it read anew from the API.\n";

impl State {
    /// The directory as given; nothing is created.
    pub fn new(root: &Path) -> Self {
        Self::of(&AccessOptions::local(root))
    }

    /// The directory with the files that are given elsewhere.
    pub fn of(options: &AccessOptions) -> Self {
        let root = options.state_dir.clone();
        let control = root.join(CONTROL);
        Self {
            ca_file: options.ca_file.clone().unwrap_or_else(|| control.join("ca.pem")),
            token_file: options
                .token_file
                .clone()
                .unwrap_or_else(|| control.join("admin.token")),
            root,
        }
    }

    /// Creates the directory (mode 0700) where it does not exist, and keeps others out of it.
    ///
    /// # Errors
    /// When it cannot be created, or another `up` runs in it.
    pub fn lock(&self) -> Result<Lock> {
        let root = self.root.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .with_context(|| format!("create the state directory {root}"))?;
        let path = self.root.join("lock");
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => bail!("another `trunkline up` runs in {root}"),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    /// State of the control plane.
    pub fn control_dir(&self) -> PathBuf {
        self.root.join(CONTROL)
    }

    /// State of the worker.
    pub fn worker_dir(&self) -> PathBuf {
        self.root.join("worker")
    }

    /// Certificate of the managed authority, written by the control plane.
    pub fn ca_file(&self) -> PathBuf {
        self.ca_file.clone()
    }

    /// The first admin token, written by the control plane.
    pub fn token_file(&self) -> PathBuf {
        self.token_file.clone()
    }

    /// The worker's join token, written by the control plane.
    pub fn join_token_file(&self) -> PathBuf {
        self.control_dir().join("join.token")
    }

    /// Log of one of the processes.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }

    /// Users and passwords of the sample phones.
    pub fn phones_file(&self) -> PathBuf {
        self.root.join("phones")
    }

    fn endpoints_file(&self) -> PathBuf {
        self.root.join("endpoints.json")
    }

    /// Says where this `up` listens.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_endpoints(&self, endpoints: &Endpoints) -> Result<()> {
        write_private(&self.endpoints_file(), &serde_json::to_string_pretty(endpoints)?)
    }

    /// Where the `up` of this directory listens.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn read_endpoints(&self) -> Result<Endpoints> {
        let path = self.endpoints_file();
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "read {} (is `trunkline up` running with this state directory? otherwise give --api, --ca-file and --token-file)",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Writes the sample phones (mode 0600).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_phones(&self, phones: &[SamplePhone]) -> Result<()> {
        let lines = phones
            .iter()
            .map(|SamplePhone { trunk, user, password }| format!("{trunk} {user} {}\n", password.expose()));
        write_private(
            &self.phones_file(),
            &[PHONES_HEAD.to_owned()].into_iter().chain(lines).collect::<String>(),
        )
    }

    /// The sample phones; none when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is not `trunk user password`.
    pub fn read_phones(&self) -> Result<Vec<SamplePhone>> {
        let path = self.phones_file();
        match fs::read_to_string(&path) {
            Ok(text) => parse_phones(&text).with_context(|| format!("read {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

fn parse_phones(text: &str) -> Result<Vec<SamplePhone>> {
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some(trunk), Some(user), Some(password), None) => Ok(SamplePhone {
                    trunk: trunk.to_owned(),
                    user: user.to_owned(),
                    password: Secret::new(password.to_owned()),
                }),
                _ => Err(anyhow!("line {number} is not `trunk user password`")),
            }
        })
        .collect()
}

/// Writes a file only its owner may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn phone(user: &str) -> SamplePhone {
        SamplePhone {
            trunk: "sample-udp".into(),
            user: user.into(),
            password: Secret::new(format!("p-{user}")),
        }
    }

    #[test]
    fn phones_come_back_as_written_and_only_the_owner_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path());
        assert_eq!(state.read_phones().unwrap(), []);
        let phones = [phone("1001"), phone("1002")];
        state.write_phones(&phones).unwrap();
        assert_eq!(state.read_phones().unwrap(), phones);
        assert_eq!(
            fs::metadata(state.phones_file()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!format!("{phones:?}").contains("p-1001"));
    }

    #[test]
    fn files_given_elsewhere_go_before_those_of_the_directory() {
        let mut options = AccessOptions::local(Path::new("var"));
        options.token_file = Some("viewer.token".into());
        let state = State::of(&options);
        assert_eq!(state.token_file(), Path::new("viewer.token"));
        assert_eq!(state.ca_file(), Path::new("var/control/ca.pem"));
        assert_eq!(state.phones_file(), Path::new("var/phones"));
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = parse_phones("# head\nsample-udp 1001 secret\nsample-udp 1002\n").unwrap_err();
        assert_eq!(error.to_string(), "line 3 is not `trunk user password`");
    }

    #[test]
    fn endpoints_come_back_as_written_and_their_absence_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path());
        assert!(format!("{:#}", state.read_endpoints().unwrap_err()).contains("is `trunkline up` running"));
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let endpoints = Endpoints {
            api: address(8443),
            control_metrics: address(9464),
            worker_metrics: address(9465),
        };
        state.write_endpoints(&endpoints).unwrap();
        assert_eq!(state.read_endpoints().unwrap(), endpoints);
    }

    #[test]
    fn a_state_directory_has_one_user_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(&directory.path().join("var"));
        let lock = state.lock().unwrap();
        assert!(state.lock().unwrap_err().to_string().contains("another `trunkline up`"));
        drop(lock);
        state.lock().unwrap();
    }
}
