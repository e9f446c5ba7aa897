//! Registrations on disk: a worker that died knows where the phones are before it hears of anybody.
//!
//! ```text
//! bindings/snapshot    all addresses of record at some moment, replaced atomically
//! bindings/journal     changes since, in order
//! ```
//!
//! Both are records (see `record`) of encoded [`WatchBindingsResponse`]s. A change says all bindings of an address of record
//! and the later one wins, so that a change that is in both, or twice, does no harm, and the order of the two files after
//! a crash does not matter. A message with a revision says that everything up to it is in the files: the control plane
//! is asked for the changes since. Nothing is synced but the snapshot: a machine that died without the last changes has
//! an older revision too, and asks for more.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message as _;
use trunkline_proto::dataplane::v1::WatchBindingsResponse;
use trunkline_shared::binding::{Aor, AorBindings};
use trunkline_shared::wire::encode_aor_bindings;

use super::bindings::decode;
use super::{file, record};
use crate::env::bindings::BindingStore;

const DIRECTORY: &str = "bindings";
/// The journal is folded into the snapshot when it is longer than this and than the snapshot. Folding 10,000 phones takes
/// 30 ms and a sync; at 2,000 refreshes a second it comes round every 45 s, and a start reads the journal in 0.2 s.
const FOLD: u64 = 32 << 20;
/// Addresses of record in one record of a snapshot: at most some 100 KiB, each may have 50 bindings.
const PER_RECORD: usize = 20;

/// The files, and the table they are a copy of. Calls do file I/O.
#[derive(Debug)]
pub struct BindingJournal {
    snapshot_path: PathBuf,
    store: Arc<BindingStore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    journal: File,
    journal_len: u64,
    snapshot_len: u64,
    revision: i64,
    /// A change in the table could not be written.
    incomplete: bool,
}

impl BindingJournal {
    /// Opens the files, merges what still holds at `now` into `store`, and begins a new journal.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(state_dir: &Path, store: Arc<BindingStore>, now: SystemTime) -> io::Result<BindingJournal> {
        let dir = state_dir.join(DIRECTORY);
        file::create_private_dir(&dir)?;
        let snapshot_path = dir.join("snapshot");
        let journal_path = dir.join("journal");
        let mut read = Read::default();
        for path in [&snapshot_path, &journal_path] {
            if let Some(content) = file::read_if_there(path)? {
                read.take(path, &content);
            }
        }
        let live = read.aors.values().filter(|view| view.live(now).next().is_some());
        let restored = live.filter(|view| store.merge(view)).count();
        if restored > 0 {
            tracing::info!(registrations = restored, "registrations loaded from disk");
        }
        let state = State {
            journal: file::open_private(&journal_path)?,
            journal_len: 0,
            snapshot_len: 0,
            revision: read.revision,
            incomplete: false,
        };
        let journal = BindingJournal {
            snapshot_path,
            store,
            state: Mutex::new(state),
        };
        journal.fold()?;
        Ok(journal)
    }

    /// Revision of the control plane up to which everything is here; 0: ask for all.
    pub fn revision(&self) -> i64 {
        self.lock().revision
    }

    /// Notes changes that are in the table already. With a `revision`, everything up to it is noted then.
    ///
    /// # Errors
    /// Whatever the file system says; the next call writes the whole table first.
    pub fn append(&self, changes: &[AorBindings], revision: Option<i64>) -> io::Result<()> {
        let mut octets = Vec::new();
        for part in changes.chunks(PER_RECORD) {
            push(&mut octets, part.iter().map(|change| encode(change).into()), None);
        }
        if revision.is_some() {
            push(&mut octets, std::iter::empty(), revision);
        }
        self.write(&octets, revision)
    }

    /// Notes changes (encoded `AorBindings`) that are in the table already.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_encoded(&self, changes: &[&[u8]]) -> io::Result<()> {
        let mut octets = Vec::with_capacity(changes.iter().map(|change| change.len() + 8).sum());
        for part in changes.chunks(PER_RECORD) {
            push(
                &mut octets,
                part.iter().map(|change| Bytes::copy_from_slice(change)),
                None,
            );
        }
        self.write(&octets, None)
    }

    /// Puts changes (encoded `AorBindings`) of a process that was killed before it noted them into the table, and notes
    /// them.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn recover(&self, changes: &[&[u8]]) -> io::Result<()> {
        for change in changes {
            match decode(change) {
                Ok(view) => drop(self.store.merge(&view)),
                Err(error) => tracing::warn!(%error, "a registration of a killed process cannot be used"),
            }
        }
        self.append_encoded(changes)
    }

    fn write(&self, octets: &[u8], revision: Option<i64>) -> io::Result<()> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.incomplete, true) || state.journal_len > FOLD.max(state.snapshot_len) {
            self.fold_locked(&mut state)?;
        }
        let at = state.journal_len;
        // At an offset, not at the end: what an interrupted write left behind is overwritten.
        state.journal.write_all_at(octets, at)?;
        state.journal_len += octets.len() as u64;
        state.revision = revision.unwrap_or(state.revision);
        state.incomplete = false;
        Ok(())
    }

    /// Writes the table as a new snapshot and empties the journal.
    ///
    /// # Errors
    /// Whatever the file system says; the old files stay in use then.
    pub fn fold(&self) -> io::Result<()> {
        self.fold_locked(&mut self.lock())
    }

    /// Under the lock, so that whatever was appended before is in the table that is read here, and whatever is appended
    /// after goes to the emptied journal.
    fn fold_locked(&self, state: &mut State) -> io::Result<()> {
        let mut octets = Vec::new();
        for part in self.store.views().chunks(PER_RECORD) {
            push(&mut octets, part.iter().map(|change| encode(change).into()), None);
        }
        push(&mut octets, std::iter::empty(), Some(state.revision));
        file::replace(&self.snapshot_path, &octets)?;
        state.snapshot_len = octets.len() as u64;
        state.journal.set_len(0)?;
        state.journal_len = 0;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Lengths move only after the write they count: the state is whole whenever the lock is free.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends one record of encoded changes, or of a revision; changes too long for one are split.
fn push(octets: &mut Vec<u8>, changes: impl Iterator<Item = Bytes>, revision: Option<i64>) {
    let message = WatchBindingsResponse {
        // A record needs a body; the mark tells a revision from changes.
        complete: revision.is_some(),
        revision: revision.unwrap_or_default(),
        changes: changes.collect(),
        reset: false,
    };
    let changes = &message.changes;
    if record::write(octets, &message.encode_to_vec()).is_err() && changes.len() > 1 {
        let (left, right) = changes.split_at(changes.len() / 2);
        push(octets, left.iter().cloned(), revision);
        push(octets, right.iter().cloned(), revision);
    }
}

fn encode(change: &AorBindings) -> Vec<u8> {
    let mut octets = Vec::new();
    encode_aor_bindings(change, &mut octets);
    octets
}

/// What the files say, folded.
#[derive(Default)]
struct Read {
    aors: HashMap<Aor, AorBindings>,
    revision: i64,
}

impl Read {
    fn take(&mut self, path: &Path, content: &[u8]) {
        let mut reader = record::Reader::new(content);
        for payload in reader.by_ref() {
            let Ok(message) = WatchBindingsResponse::decode(payload) else {
                continue;
            };
            if message.complete {
                self.revision = message.revision;
            }
            for change in message.changes {
                match decode(&change) {
                    Ok(view) => self.merge(view),
                    Err(error) => tracing::warn!(%error, "a registration on disk cannot be used"),
                }
            }
        }
        let lost = content.len() - reader.consumed();
        if lost > 0 {
            tracing::warn!(path = %path.display(), octets = lost, "registrations on disk end in an unfinished write");
        }
    }

    fn merge(&mut self, view: AorBindings) {
        match self.aors.get_mut(&view.aor) {
            Some(known) if view.supersedes(known) => *known = view,
            Some(_) => {}
            None => drop(self.aors.insert(view.aor.clone(), view)),
        }
    }
}

#[cfg(test)]
mod tests;
