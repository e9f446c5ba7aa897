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

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::intake::{Entry, Kind, Left};
use super::{file, record};

/// First octets of a segment; the digit is the version of the format.
const MAGIC: [u8; 8] = *b"TKSPOOL1";
/// Magic, boot id, first sequence number, CRC.
const SEGMENT_HEADER: u64 = 8 + 16 + 8 + 4;
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

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    generation: u64,
    boot: Uuid,
    first: u64,
    /// Sequence number after its last report.
    next: u64,
    /// Octets of its whole records, header included.
    len: u64,
}

/// Everything of the oldest spool up to here is stored by the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    boot: Uuid,
    sequence: u64,
}

/// The next report to read: its segment by first sequence number and generation, and where it starts.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    generation: u64,
    first: u64,
    offset: u64,
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

impl Segment {
    /// What a killed process left, as a spool.
    fn of_remains(dir: &Path, generation: u64, left: &Left) -> io::Result<Segment> {
        let mut segment = Self::create(segment_path(dir, generation, 1), generation, remains_of(left.boot), 1)?;
        let mut octets = Vec::new();
        for report in left.records.entries() {
            let start = octets.len();
            octets.resize(start + record::HEADER, 0);
            encode_report(&mut octets, segment.next, &report);
            if record::close(&mut octets, start).is_ok() {
                segment.next += 1;
            }
        }
        segment.file.write_all_at(&octets, segment.len)?;
        segment.len += octets.len() as u64;
        Ok(segment)
    }

    fn create(path: PathBuf, generation: u64, boot: Uuid, first: u64) -> io::Result<Segment> {
        let mut header = Vec::with_capacity(SEGMENT_HEADER as usize);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(boot.as_bytes());
        header.extend_from_slice(&first.to_le_bytes());
        header.extend_from_slice(&record::crc32c(&header).to_le_bytes());
        let file = file::open_private(&path)?;
        file.set_len(0)?;
        file.write_all_at(&header, 0)?;
        Ok(Segment {
            path,
            file,
            generation,
            boot,
            first,
            next: first,
            len: SEGMENT_HEADER,
        })
    }

    /// Opens a segment of an older spool; `None` when nothing of it can be used, and then it is gone.
    fn open(path: PathBuf, generation: u64, first: u64) -> io::Result<Option<Segment>> {
        let content = std::fs::read(&path)?;
        let Some(boot) = parse_header(&content, first) else {
            // A process that died while it began the segment wrote no report to it.
            if content.len() > SEGMENT_HEADER as usize {
                tracing::error!(path = %path.display(), octets = content.len(), "spool segment is damaged and dropped");
            }
            std::fs::remove_file(&path)?;
            return Ok(None);
        };
        let mut reader = record::Reader::new(&content[SEGMENT_HEADER as usize..]);
        let mut next = first;
        let mut len = SEGMENT_HEADER;
        while let Some(payload) = reader.next() {
            if sequence_of(payload) != Some(next) {
                break;
            }
            next += 1;
            len = SEGMENT_HEADER + reader.consumed() as u64;
        }
        let cut = content.len() as u64 - len;
        if cut > 0 {
            tracing::warn!(path = %path.display(), octets = cut, "spool segment ends in an unfinished write");
        }
        let file = file::open_private(&path)?;
        Ok(Some(Segment {
            path,
            file,
            generation,
            boot,
            first,
            next,
            len,
        }))
    }

    fn is_at(&self, cursor: &Cursor) -> bool {
        (self.generation, self.first) == (cursor.generation, cursor.first)
    }

    fn start(&self) -> Cursor {
        Cursor {
            generation: self.generation,
            first: self.first,
            offset: SEGMENT_HEADER,
            sequence: self.first,
        }
    }

    /// Reads on from the cursor, which is in this segment and before its end; from `tail` when it is there.
    fn read(&self, cursor: &mut Cursor, tail: Option<&Tail>, reports: usize, octets: usize) -> io::Result<Vec<Bytes>> {
        let rest = (self.len - cursor.offset) as usize;
        let limit = octets
            .clamp(record::HEADER, record::HEADER + record::MAX_PAYLOAD)
            .min(rest);
        let chunk = match tail {
            Some(tail) => {
                let records = &tail.records[(cursor.offset - tail.offset) as usize..];
                let needed = record::Reader::new(records).next_len().unwrap_or(limit).max(limit);
                Bytes::copy_from_slice(&records[..needed.min(records.len())])
            }
            None => self.read_file(cursor.offset, limit, rest)?.into(),
        };
        let mut reader = record::Reader::new(&chunk);
        let mut batch = Vec::new();
        while batch.len() < reports
            && let Some(payload) = reader.next()
        {
            let Some(sequence) = sequence_of(payload) else { break };
            cursor.sequence = sequence + 1;
            batch.push(chunk.slice_ref(payload));
        }
        cursor.offset += reader.consumed() as u64;
        if batch.is_empty() {
            // It was whole when it was written or opened.
            let lost = self.next - cursor.sequence;
            tracing::error!(path = %self.path.display(), lost, "spool segment was damaged on disk; reports are lost");
            *cursor = Cursor {
                offset: self.len,
                sequence: self.next,
                ..*cursor
            };
        }
        Ok(batch)
    }

    /// `limit` octets, or the next record when it is longer.
    fn read_file(&self, offset: u64, limit: usize, rest: usize) -> io::Result<Vec<u8>> {
        let mut chunk = vec![0; limit];
        self.file.read_exact_at(&mut chunk, offset)?;
        if let Some(needed) = record::Reader::new(&chunk)
            .next_len()
            .filter(|needed| *needed > chunk.len() && *needed <= rest)
        {
            chunk.resize(needed, 0);
            self.file.read_exact_at(&mut chunk, offset)?;
        }
        Ok(chunk)
    }

    fn says_only_that_it_began(&self) -> bool {
        self.next == 1
            || self
                .read(&mut self.start(), None, 1, 1)
                .is_ok_and(|reports| reports.first().is_some_and(|report| is_boot(report)))
    }
}

/// Field numbers of `Report` in the contract, shifted by three, with the wire type: a number, or octets.
const SEQUENCE: u8 = 1 << 3;
const TIME: u8 = 2 << 3 | 2;
const BOOTED: u8 = (Kind::Booted as u8) << 3 | 2;

/// Appends an encoded `Report` of the contract.
fn encode_report(out: &mut Vec<u8>, sequence: u64, report: &Entry<'_>) {
    out.push(SEQUENCE);
    varint(out, sequence);
    let at = out.len();
    out.extend_from_slice(&[TIME, 0, 1 << 3]);
    varint(out, report.time.as_secs());
    out.push(2 << 3);
    varint(out, report.time.subsec_nanos().into());
    // At most 17 octets: its length is one octet.
    out[at + 1] = (out.len() - at - 2) as u8;
    out.push((report.kind as u8) << 3 | 2);
    varint(out, report.message.len() as u64);
    out.extend_from_slice(report.message);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Sequence number of an encoded report, which is its first field.
fn sequence_of(report: &[u8]) -> Option<u64> {
    let mut sequence = 0;
    for (at, octet) in report.strip_prefix(&[SEQUENCE])?.iter().enumerate().take(10) {
        sequence |= u64::from(octet & 0x7f) << (7 * at);
        if octet & 0x80 == 0 {
            return Some(sequence);
        }
    }
    None
}

/// Whether an encoded report says that a process began: number, time, and that.
fn is_boot(report: &[u8]) -> bool {
    let number = report.iter().skip(1).position(|octet| octet & 0x80 == 0);
    let event = number
        .and_then(|end| report.get(end + 2..))
        .and_then(|rest| rest.get(2 + usize::from(*rest.get(1)?)..));
    event.is_some_and(|event| event.first() == Some(&BOOTED))
}

fn segment_path(dir: &Path, generation: u64, first: u64) -> PathBuf {
    dir.join(format!("{generation:010}-{first:020}.{EXTENSION}"))
}

fn parse_name(path: &Path) -> Option<(u64, u64)> {
    if path.extension()? != EXTENSION {
        return None;
    }
    let (generation, first) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((generation.parse().ok()?, first.parse().ok()?))
}

fn parse_header(content: &[u8], first: u64) -> Option<Uuid> {
    let header = content.get(..SEGMENT_HEADER as usize)?;
    let (fields, crc) = header.split_at(header.len() - 4);
    let sound = fields.starts_with(&MAGIC) && crc == record::crc32c(fields).to_le_bytes();
    let same = fields[24..] == first.to_le_bytes();
    (sound && same).then(|| Uuid::from_slice(&fields[8..24]).ok()).flatten()
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
