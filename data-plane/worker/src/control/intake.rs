//! Reports between the shards and the spool thread, in memory that outlives the process.
//!
//! ```text
//! intake-0, intake-1       one is written to by the shards, the other is emptied by the spool thread; then they change
//!    └ magic, boot id, order, octets of the records; then records (see `record`), each a [`Head`] and an encoded message
//! ```
//!
//! Each is a file that is mapped shared: a report is a copy into the page cache and no system call, and a process that is
//! killed leaves there what it had reported. That is what lets the spool thread come by every [`TICK`] only, where a wake-up
//! and two writes for each report cost more than the report. What the file cannot take (it holds far more than comes in a
//! tick; so the disk is slow) waits in memory, where the last report of a subject replaces the one before.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use uuid::Uuid;

use super::spool::Weight;
use super::{file, record};

/// Least time between two turns of the spool thread while reports come in; the first after a pause is taken at once. At 200
/// calls a second a turn cost the two processes 1 ms on a busy machine, whatever was in it: 90 µs a call at 50 ms.
pub const TICK: Duration = Duration::from_millis(100);
/// Octets of one file: 750 calls set up and ended within a tick are half of it.
const FILE: usize = 2 << 20;
/// Subjects whose last report waits in memory: some 150 MB at worst.
const OVERFLOW: usize = 131_072;
/// First octets of a file; the digit is the version of the format.
const MAGIC: [u8; 8] = *b"TKINTAK1";
/// Magic, boot id, order, octets written.
const HEADER: usize = 8 + 16 + 8 + 8;
const WRITTEN_AT: usize = HEADER - 8;

/// What a report says, by the number of its field in the contract's `Report`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A call as it stands.
    Call = 3,
    /// All bindings of an address of record.
    Registration = 4,
    /// The process began.
    Booted = 5,
    /// A digest failure.
    AuthenticationFailure = 6,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        [
            Self::Call,
            Self::Registration,
            Self::Booted,
            Self::AuthenticationFailure,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// A report: what it is of, and its encoded message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry<'a> {
    /// What it says.
    pub kind: Kind,
    /// What its loss would cost.
    pub weight: Weight,
    /// Since 1970.
    pub time: Duration,
    /// First octets of the message that name what it is of; none: it stands for itself. Of two with the same key the later
    /// says everything.
    pub key: &'a [u8],
    /// The encoded message.
    pub message: &'a [u8],
}

/// Kind, weight, length of the key, seconds, nanoseconds.
const HEAD: usize = 1 + 1 + 2 + 8 + 4;

impl<'a> Entry<'a> {
    /// A report made at `time`; `key` octets of the message name its subject.
    pub fn new(kind: Kind, weight: Weight, time: SystemTime, message: &'a [u8], key: usize) -> Self {
        Self {
            kind,
            weight,
            time: time.duration_since(UNIX_EPOCH).unwrap_or_default(),
            key: &message[..key],
            message,
        }
    }

    /// Appends it as a record. A message that fits no record leaves `out` as it was.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), record::Unfit> {
        let start = out.len();
        out.resize(start + record::HEADER, 0);
        out.push(self.kind as u8);
        out.push(u8::from(self.weight == Weight::Heavy));
        out.extend_from_slice(&u16::try_from(self.key.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.time.as_secs().to_le_bytes());
        out.extend_from_slice(&self.time.subsec_nanos().to_le_bytes());
        out.extend_from_slice(self.message);
        record::close(out, start)
    }

    fn read(record: &'a [u8]) -> Option<Self> {
        let (head, message) = record.split_first_chunk::<HEAD>()?;
        let [kind, weight, key @ ..] = head;
        let (key, time) = key.split_first_chunk::<2>()?;
        let (seconds, nanos) = time.split_first_chunk::<8>()?;
        Some(Self {
            kind: Kind::of(*kind)?,
            weight: if *weight == 0 { Weight::Light } else { Weight::Heavy },
            time: Duration::new(
                u64::from_le_bytes(*seconds),
                u32::from_le_bytes(nanos.try_into().ok()?).min(999_999_999),
            ),
            key: message.get(..usize::from(u16::from_le_bytes(*key)))?,
            message,
        })
    }
}

/// Records of reports, in order.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Records(pub Vec<u8>);

impl Records {
    /// Those of some reports.
    #[cfg(test)]
    pub fn of(entries: &[Entry<'_>]) -> Self {
        let mut records = Vec::new();
        for entry in entries {
            entry.write(&mut records).expect("a short message");
        }
        Self(records)
    }

    /// What they say.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        entries(&self.0)
    }
}

fn entries(records: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    record::Reader::new(records).filter_map(Entry::read)
}

/// What a process that was killed left behind.
#[derive(Debug)]
pub struct Left {
    /// That process.
    pub boot: Uuid,
    /// In order; some of it may be in its spool as well.
    pub records: Records,
}

/// Where the shards put their reports.
#[derive(Debug)]
pub struct Intake {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug)]
struct State {
    half: Half,
    /// Records of the last report of each subject since the file was full.
    overflow: HashMap<(Kind, Box<[u8]>), Vec<u8>>,
    closed: bool,
}

/// A report that found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for a report")]
pub struct Refused;

/// What was taken; to be given back to [`Intake::take`] when it is on disk elsewhere.
#[derive(Debug)]
pub struct Taken {
    half: Half,
    overflow: Records,
}

impl Taken {
    /// Reports, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        entries(self.half.records()).chain(self.overflow.entries())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.half.written == 0 && self.overflow.0.is_empty()
    }
}

impl Intake {
    /// What a process that was killed left in the files in `dir`. It stays there until [`Self::create`].
    ///
    /// # Errors
    /// What the file system says.
    pub fn read(dir: &Path) -> io::Result<Option<Left>> {
        let mut left: Vec<(u64, Left)> = Vec::new();
        for number in 0..2 {
            if let Some(content) = file::read_if_there(&path(dir, number))? {
                left.extend(parse(&content));
            }
        }
        left.sort_by_key(|(order, _)| *order);
        Ok(left.into_iter().map(|(_, left)| left).reduce(|mut all, next| {
            // Both are of the same process: it makes both anew when it begins.
            all.records.0.extend(next.records.0);
            all
        }))
    }

    /// Makes the files anew for the process `boot`; what is in them is gone. The second value is for the first
    /// [`Self::take`].
    ///
    /// # Errors
    /// What the file system says; e.g. that there is no room.
    pub fn create(dir: &Path, boot: Uuid) -> io::Result<(Self, Taken)> {
        file::create_private_dir(dir)?;
        let half = Half::create(&path(dir, 0), boot, 1)?;
        let spare = Half::create(&path(dir, 1), boot, 0)?;
        let state = State {
            half,
            overflow: HashMap::new(),
            closed: false,
        };
        let intake = Self {
            state: Mutex::new(state),
            ready: Condvar::new(),
        };
        let taken = Taken {
            half: spare,
            overflow: Records::default(),
        };
        Ok((intake, taken))
    }

    /// Puts a report in. Never waits but for another shard's copy.
    ///
    /// # Errors
    /// [`Refused`]: closed, or beyond every bound.
    pub fn put(&self, entry: &Entry<'_>) -> Result<(), Refused> {
        thread_local! {
            static RECORD: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        RECORD.with_borrow_mut(|record| {
            record.clear();
            entry.write(record).map_err(|_| Refused)?;
            self.put_record(entry, record)
        })
    }

    fn put_record(&self, entry: &Entry<'_>, record: &[u8]) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused);
        }
        let was_empty = state.is_empty();
        let was_full = state.is_full();
        // Once something is in the overflow everything goes there: no subject's reports overtake each other.
        if !state.overflow.is_empty() || !state.half.push(record) {
            let room = state.overflow.len() < OVERFLOW;
            let key = (entry.kind, Box::from(entry.key));
            if entry.key.is_empty() || (!room && !state.overflow.contains_key(&key)) {
                return Err(Refused);
            }
            state.overflow.insert(key, record.to_vec());
        }
        let wake = was_empty || (!was_full && state.is_full());
        drop(state);
        if wake {
            self.ready.notify_all();
        }
        Ok(())
    }

    /// Everything there is, in order; `done`, which is emptied, is used from here on. Waits for something, until `deadline`;
    /// and not before `earliest`, unless there is much. `None` when closed and empty.
    pub fn take(&self, mut done: Taken, earliest: Instant, deadline: Option<Instant>) -> Option<Taken> {
        done.half.clear();
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let is_due = state.closed || state.is_full() || now >= earliest;
            if state.is_empty() && state.closed {
                return None;
            }
            if (!state.is_empty() && is_due) || deadline.is_some_and(|deadline| now >= deadline) {
                break;
            }
            let until = match (state.is_empty(), deadline) {
                (true, None) => None,
                (true, Some(deadline)) => Some(deadline),
                (false, None) => Some(earliest),
                (false, Some(deadline)) => Some(earliest.min(deadline)),
            };
            state = match until {
                Some(until) => {
                    let waited = self.ready.wait_timeout(state, until.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        done.half.set_order(state.half.order + 1);
        let half = std::mem::replace(&mut state.half, done.half);
        let overflow = std::mem::take(&mut state.overflow);
        drop(state);
        Some(Taken {
            half,
            overflow: Records(overflow.into_values().flatten().collect()),
        })
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// Waits for `duration`, or until closed; answers whether it is.
    pub fn pause(&self, duration: Duration) -> bool {
        let waited = self
            .ready
            .wait_timeout_while(self.lock(), duration, |state| !state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each step leaves file and map whole, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.half.written == 0 && self.overflow.is_empty()
    }

    /// Not to wait any longer.
    fn is_full(&self) -> bool {
        self.half.written > FILE / 2 || !self.overflow.is_empty()
    }
}

/// One mapped file. Whoever has it is the only one who writes to it.
#[derive(Debug)]
struct Half {
    map: Mapping,
    written: usize,
    order: u64,
}

impl Half {
    fn create(path: &Path, boot: Uuid, order: u64) -> io::Result<Self> {
        let file = file::open_private(path)?;
        let mut content = vec![0; FILE];
        content[..8].copy_from_slice(&MAGIC);
        content[8..24].copy_from_slice(boot.as_bytes());
        content[24..32].copy_from_slice(&order.to_le_bytes());
        // Written, not just long: a mapped page that finds no room on disk when it is touched would be a signal.
        file.set_len(0)?;
        file.write_all_at(&content, 0)?;
        Ok(Self {
            map: Mapping::new(&file, FILE)?,
            written: 0,
            order,
        })
    }

    fn records(&self) -> &[u8] {
        &self.map.octets()[HEADER..HEADER + self.written]
    }

    /// False when there is no room.
    fn push(&mut self, record: &[u8]) -> bool {
        let at = HEADER + self.written;
        let Some(room) = self.map.octets_mut().get_mut(at..at + record.len()) else {
            return false;
        };
        room.copy_from_slice(record);
        // A process can be killed between any two instructions, but what it did before is done: the record is whole before
        // it counts.
        self.count(self.written + record.len());
        true
    }

    fn clear(&mut self) {
        self.count(0);
    }

    fn count(&mut self, written: usize) {
        compiler_fence(Ordering::SeqCst);
        self.map.octets_mut()[WRITTEN_AT..HEADER].copy_from_slice(&(written as u64).to_le_bytes());
        compiler_fence(Ordering::SeqCst);
        self.written = written;
    }

    /// Of an empty one.
    fn set_order(&mut self, order: u64) {
        self.map.octets_mut()[24..32].copy_from_slice(&order.to_le_bytes());
        self.order = order;
    }
}

fn path(dir: &Path, number: u8) -> PathBuf {
    dir.join(format!("intake-{number}"))
}

/// Order and content of a file; `None` when there is nothing in it. After the death of the machine anything may be there:
/// what the checksums do not vouch for is left out.
fn parse(content: &[u8]) -> Option<(u64, Left)> {
    let (header, rest) = content.split_first_chunk::<HEADER>()?;
    let number = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    if !header.starts_with(&MAGIC) {
        return None;
    }
    let written = usize::try_from(number(WRITTEN_AT)?).ok()?;
    let records = rest.get(..written).filter(|records| !records.is_empty())?;
    let mut reader = record::Reader::new(records);
    reader.by_ref().for_each(drop);
    let left = Left {
        boot: Uuid::from_slice(&header[8..24]).ok()?,
        records: Records(records[..reader.consumed()].to_vec()),
    };
    Some((number(24)?, left))
}

/// A file in memory, shared with the page cache.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory that belongs to this value alone; nothing in it depends on a thread.
#[expect(unsafe_code, reason = "a mapped file")]
unsafe impl Send for Mapping {}

impl Mapping {
    #[expect(unsafe_code, reason = "a mapped file")]
    fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the system's choice overlaps nothing. The file is ours, private, of that
        // length on disk, and nobody shortens it.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, len })
    }

    #[expect(unsafe_code, reason = "a mapped file")]
    fn octets(&self) -> &[u8] {
        // SAFETY: mapped, readable and of this length until `self` is dropped; whoever writes has `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    #[expect(unsafe_code, reason = "a mapped file")]
    fn octets_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `octets`, writable, and `&mut self` is the only way to it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "a mapped file")]
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nothing borrows it any more.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            tracing::warn!(%error, "unmap the report intake");
        }
    }
}

#[cfg(test)]
mod tests;
