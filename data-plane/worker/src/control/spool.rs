//! Reports on disk until the control plane has stored them.
//!
//! ```text
//! spool/0000000007-00000000000000000001.spool     generation 7, first sequence number 1
//!       └ magic, boot id, first sequence, CRC; then records (see `record`) of encoded reports
//! spool/acknowledged                               boot id and sequence number, CRC
//! ```
//!
//! Every process begins a spool of its own, named by its boot id, with sequence number 1, and never appends to an older
//! one: a tail that a dead machine lost cannot make two reports share a number. Older spools are sent first, whole, then
//! ours. What is on disk survives the death of the process with every write and the death of the machine with every
//! [`Spool::sync_handle`]. What a killed process had reported and not written comes as a spool of its own, between its and
//! ours (see [`remains_of`]).
//!
//! The spool is bounded. Beyond three quarters of the bound it refuses what can be missed (see [`Weight`]), at the bound
//! everything; a refused report gets no number and the caller counts it.

mod segment;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use self::segment::{Cursor, SEGMENT_HEADER, Segment, encode_report, segment_path};
use super::intake::{Entry, Left};
use super::{file, record};

const ACKNOWLEDGED: &str = "acknowledged";
const EXTENSION: &str = "spool";

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Octets on disk, all segments.
    pub total: u64,
    /// Octets of one segment; what is acknowledged is removed segment by segment.
    pub segment: u64,
}

impl Default for Limits {
    /// 256 MiB is some 300,000 call records: hours of a busy worker without its control plane.
    fn default() -> Self {
        Self {
            total: 256 << 20,
            segment: 4 << 20,
        }
    }
}

/// What a lost report would cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A later report says the same or more: an unfinished call, a digest failure.
    Light,
    /// An ended call, a registration, a boot.
    Heavy,
}

/// What [`Spool::append`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// Reports now on disk.
    pub accepted: u64,
    /// Reports refused because the spool is full.
    pub refused: u64,
}

/// What is on disk and not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Reports.
    pub reports: u64,
    /// Octets on disk, acknowledged parts of segments included.
    pub octets: u64,
}

/// Reports of one spool, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Id of the spool.
    pub spool: Uuid,
    /// Sequence number of the last one.
    pub last: u64,
    /// Encoded, in order, without gaps unless the disk lost some.
    pub reports: Vec<Bytes>,
}

/// Most octets kept of what was written and not read: a control plane that keeps up is sent them without reading the file.
const TAIL: usize = 1 << 20;
/// In the octets of a spool's id, where its version is: 7 in the boot id of a process and the id of its spool.
const VERSION: usize = 6;

/// Id of the spool of what the process `boot` had reported and not written when it was killed. Always the same, so that
/// it does no harm when this is found out twice.
fn remains_of(boot: Uuid) -> Uuid {
    let mut octets = boot.into_bytes();
    octets[VERSION] = octets[VERSION] & 0x0f | 0x80;
    Uuid::from_bytes(octets)
}

/// Boot id of the process that made the reports of a spool.
pub fn process_of(spool: Uuid) -> Uuid {
    let mut octets = spool.into_bytes();
    if octets[VERSION] & 0xf0 == 0x80 {
        octets[VERSION] = octets[VERSION] & 0x0f | 0x70;
    }
    Uuid::from_bytes(octets)
}

/// See the module. Every call does file I/O and may block.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    limits: Limits,
    boot: Uuid,
    generation: u64,
    /// Oldest first; the last one is written to. Others are removed once acknowledged.
    segments: VecDeque<Segment>,
    acknowledged: Acknowledged,
    acknowledged_file: File,
    /// Whether the mark on disk is behind.
    acknowledged_anew: bool,
    /// Where [`Spool::next_batch`] goes on.
    cursor: Cursor,
    tail: Tail,
}

/// The last records of the last segment, in memory.
#[derive(Debug, Default)]
struct Tail {
    /// Where they are in the segment.
    offset: u64,
    records: Vec<u8>,
}

/// Everything of the oldest spool up to here is stored by the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    boot: Uuid,
    sequence: u64,
}

impl Spool {
    /// Opens the directory and begins the spool of this process. Damaged ends of older spools are cut off; a spool that
    /// says nothing but that its process began is dropped, because ours says that too. `left` is what a killed process had
    /// reported last: it is in the spool when this returns.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(dir: &Path, boot: Uuid, limits: Limits, left: Option<&Left>) -> io::Result<Spool> {
        file::create_private_dir(dir)?;
        let acknowledged_file = file::open_private(&dir.join(ACKNOWLEDGED))?;
        let acknowledged = read_acknowledged(&acknowledged_file);
        let mut segments = VecDeque::new();
        let mut names: Vec<(u64, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if let Some((generation, first)) = parse_name(&path) {
                names.push((generation, first, path));
            }
        }
        names.sort();
        let mut generation = names.last().map_or(1, |(generation, ..)| generation + 1);
        for (generation, first, path) in names {
            if let Some(segment) = Segment::open(path, generation, first)? {
                segments.push_back(segment);
            }
        }
        if let Some(left) = left
            && !segments
                .iter()
                .any(|segment: &Segment| segment.boot == remains_of(left.boot))
        {
            segments.push_back(Segment::of_remains(dir, generation, left)?);
            generation += 1;
        }
        let mut spool = Spool {
            dir: dir.to_owned(),
            limits,
            boot,
            generation,
            segments,
            acknowledged: acknowledged.unwrap_or(Acknowledged { boot, sequence: 0 }),
            acknowledged_file,
            acknowledged_anew: false,
            tail: Tail::default(),
            cursor: Cursor {
                generation,
                first: 1,
                offset: SEGMENT_HEADER,
                sequence: 1,
            },
        };
        spool.drop_spools_without_news()?;
        spool.begin_segment(1)?;
        spool.remove_acknowledged()?;
        spool.rewind();
        Ok(spool)
    }

    /// Writes reports, in order. Each gets the next sequence number.
    ///
    /// # Errors
    /// What the file system says, e.g. that the disk is full: none of these reports is taken then, and the spool is as
    /// before.
    pub fn append(&mut self, reports: &[Entry<'_>]) -> io::Result<Appended> {
        let mut appended = Appended::default();
        let mut octets = Vec::with_capacity(reports.iter().map(|report| report.message.len() + 64).sum());
        let mut next = self.active().next;
        // The reports may be followed by a new segment.
        let before = self.octets() + SEGMENT_HEADER;
        for report in reports {
            let bound = match report.weight {
                Weight::Light => self.limits.total / 4 * 3,
                Weight::Heavy => self.limits.total,
            };
            let start = octets.len();
            octets.resize(start + record::HEADER, 0);
            encode_report(&mut octets, next, report);
            if before + octets.len() as u64 > bound || record::close(&mut octets, start).is_err() {
                octets.truncate(start);
                appended.refused += 1;
                continue;
            }
            next += 1;
            appended.accepted += 1;
        }
        let active = self.active();
        let offset = active.len;
        // At an offset, not at the end: what an interrupted write left behind is overwritten.
        active.file.write_all_at(&octets, offset)?;
        active.len += octets.len() as u64;
        active.next = next;
        let begins_another = active.len >= self.limits.segment;
        self.extend_tail(offset, octets);
        if begins_another && let Err(error) = self.begin_segment(next) {
            // The reports are taken; the segment grows until another can be begun.
            tracing::warn!(%error, "spool segment could not be begun");
        }
        Ok(appended)
    }

    /// What was written goes on being in memory until it is read or too much.
    fn extend_tail(&mut self, offset: u64, octets: Vec<u8>) {
        let Tail { offset: start, records } = &mut self.tail;
        let end = *start + records.len() as u64;
        let is_unread =
            self.segments.back().is_some_and(|active| active.is_at(&self.cursor)) && self.cursor.offset < end;
        if end == offset && is_unread && records.len() + octets.len() <= TAIL {
            records.extend_from_slice(&octets);
        } else {
            self.tail = Tail {
                offset,
                records: octets,
            };
        }
    }

    /// Whether [`Self::next_batch`] needs no file for what it has to answer.
    pub fn reads_from_memory(&self) -> bool {
        let (Some(active), Some(oldest)) = (self.segments.back(), self.segments.front()) else {
            return true;
        };
        active.generation == oldest.generation
            && active.is_at(&self.cursor)
            && (self.cursor.offset >= active.len || self.cursor.offset >= self.tail.offset)
    }

    /// A handle to make everything written so far survive the machine: call `sync_data` on it, without holding the spool.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn sync_handle(&mut self) -> io::Result<File> {
        self.active().file.try_clone()
    }

    /// The next reports to send: at most `reports`, and `octets` unless a single one is longer. `None` when there are no
    /// more, or when those of an older spool have to be acknowledged first.
    ///
    /// # Errors
    /// What the file system says.
    pub fn next_batch(&mut self, reports: usize, octets: usize) -> io::Result<Option<Batch>> {
        loop {
            let Some(index) = self.cursor_segment() else {
                return Ok(None);
            };
            let segment = &self.segments[index];
            if self.cursor.offset >= segment.len {
                // Read to its end; go on with the next one of the same spool.
                let Some(next) = self.segments.get(index + 1) else {
                    return Ok(None);
                };
                if next.generation != self.cursor.generation {
                    return Ok(None);
                }
                self.cursor = next.start();
                continue;
            }
            let spool = segment.boot;
            let is_last = index + 1 == self.segments.len();
            let tail = (is_last && self.cursor.offset >= self.tail.offset).then_some(&self.tail);
            let batch = segment.read(&mut self.cursor, tail, reports, octets)?;
            if !batch.is_empty() {
                let last = self.cursor.sequence - 1;
                return Ok(Some(Batch {
                    spool,
                    last,
                    reports: batch,
                }));
            }
        }
    }

    /// Starts over from the first report that is not acknowledged, as on a new stream.
    pub fn rewind(&mut self) {
        let Some(oldest) = self.segments.front() else { return };
        self.cursor = oldest.start();
        let mut skipped = (oldest.first..oldest.next.min(self.done(oldest) + 1)).count();
        while skipped > 0 {
            match oldest.read(&mut self.cursor, None, skipped, record::MAX_PAYLOAD) {
                Ok(read) if !read.is_empty() => skipped -= read.len(),
                // Sent once more, then: the control plane recognises them.
                _ => break,
            }
        }
    }

    /// The control plane has stored everything of a spool up to `sequence`. An acknowledgement of what was never written, or
    /// of another spool than the oldest, says nothing. No file is touched unless an older spool ends with it: see
    /// [`Self::clean`].
    ///
    /// # Errors
    /// What the file system says; the acknowledgement counts all the same.
    pub fn acknowledge(&mut self, spool: Uuid, sequence: u64) -> io::Result<()> {
        let Some(oldest) = self.segments.front().filter(|oldest| oldest.boot == spool) else {
            return Ok(());
        };
        let written = self
            .segments
            .iter()
            .filter(|segment| segment.boot == spool)
            .map(|segment| segment.next)
            .max();
        if sequence <= self.done(oldest) || written.is_none_or(|next| sequence >= next) {
            return Ok(());
        }
        self.acknowledged = Acknowledged { boot: spool, sequence };
        self.acknowledged_anew = true;
        // The next spool can be sent now.
        if spool == self.boot { Ok(()) } else { self.clean() }
    }

    /// Brings the disk in step with the acknowledgements.
    ///
    /// # Errors
    /// What the file system says.
    pub fn clean(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.acknowledged_anew) {
            return Ok(());
        }
        let noted = write_acknowledged(&self.acknowledged_file, self.acknowledged);
        self.remove_acknowledged().and(noted)
    }

    /// What is left to be sent and acknowledged.
    pub fn backlog(&self) -> Backlog {
        let unacknowledged =
            |segment: &Segment| segment.next - segment.first.max(self.done(segment) + 1).min(segment.next);
        Backlog {
            reports: self.segments.iter().map(unacknowledged).sum(),
            octets: self.octets(),
        }
    }

    /// Last acknowledged sequence number of the spool a segment belongs to.
    fn done(&self, segment: &Segment) -> u64 {
        if segment.boot == self.acknowledged.boot {
            self.acknowledged.sequence
        } else {
            0
        }
    }

    fn octets(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    fn active(&mut self) -> &mut Segment {
        self.segments
            .back_mut()
            .expect("a segment is begun by open and the last one is never removed")
    }

    fn cursor_segment(&self) -> Option<usize> {
        let index = self.segments.iter().position(|segment| segment.is_at(&self.cursor))?;
        // Spools go one after the other, each when the one before is acknowledged.
        (self.segments[index].generation == self.segments.front()?.generation).then_some(index)
    }

    fn begin_segment(&mut self, first: u64) -> io::Result<()> {
        let path = segment_path(&self.dir, self.generation, first);
        let segment = Segment::create(path, self.generation, self.boot, first)?;
        self.segments.push_back(segment);
        self.tail = Tail::default();
        Ok(())
    }

    /// A worker that dies as soon as it begins, again and again, must not fill the directory.
    fn drop_spools_without_news(&mut self) -> io::Result<()> {
        let mut kept = VecDeque::new();
        for segment in std::mem::take(&mut self.segments) {
            let alone = segment.first == 1 && segment.next <= 2 && segment.says_only_that_it_began();
            if alone || segment.first == segment.next {
                std::fs::remove_file(&segment.path)?;
            } else {
                kept.push_back(segment);
            }
        }
        self.segments = kept;
        Ok(())
    }

    fn remove_acknowledged(&mut self) -> io::Result<()> {
        while self.segments.len() > 1 {
            let oldest = &self.segments[0];
            if oldest.boot != self.acknowledged.boot || oldest.next > self.acknowledged.sequence + 1 {
                break;
            }
            std::fs::remove_file(&oldest.path)?;
            let read_here = oldest.is_at(&self.cursor);
            self.segments.pop_front();
            if read_here {
                // Nothing after it was read.
                self.rewind();
            }
        }
        Ok(())
    }
}

fn parse_name(path: &Path) -> Option<(u64, u64)> {
    if path.extension()? != EXTENSION {
        return None;
    }
    let (generation, first) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((generation.parse().ok()?, first.parse().ok()?))
}

fn read_acknowledged(file: &File) -> Option<Acknowledged> {
    let mut content = [0; 28];
    file.read_exact_at(&mut content, 0).ok()?;
    let (fields, crc) = content.split_at(24);
    let (boot, sequence) = fields.split_at(16);
    (crc == record::crc32c(fields).to_le_bytes()).then_some(())?;
    Some(Acknowledged {
        boot: Uuid::from_slice(boot).ok()?,
        sequence: u64::from_le_bytes(sequence.try_into().ok()?),
    })
}

/// Not synced: a mark that is lost costs reports sent twice, which the control plane recognises.
fn write_acknowledged(file: &File, acknowledged: Acknowledged) -> io::Result<()> {
    let mut content = Vec::with_capacity(28);
    content.extend_from_slice(acknowledged.boot.as_bytes());
    content.extend_from_slice(&acknowledged.sequence.to_le_bytes());
    content.extend_from_slice(&record::crc32c(&content).to_le_bytes());
    file.write_all_at(&content, 0)
}

#[cfg(test)]
mod tests;
