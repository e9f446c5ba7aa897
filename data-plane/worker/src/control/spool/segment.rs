//! One file of the spool, and reports in it as the contract encodes them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::super::intake::{Entry, Kind, Left};
use super::super::{file, record};
use super::{EXTENSION, Tail, remains_of};

/// First octets of a segment; the digit is the version of the format.
const MAGIC: [u8; 8] = *b"TKSPOOL1";
/// Magic, boot id, first sequence number, CRC.
pub(super) const SEGMENT_HEADER: u64 = 8 + 16 + 8 + 4;

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) generation: u64,
    pub(super) boot: Uuid,
    pub(super) first: u64,
    /// Sequence number after its last report.
    pub(super) next: u64,
    /// Octets of its whole records, header included.
    pub(super) len: u64,
}

/// The next report to read: its segment by first sequence number and generation, and where it starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) generation: u64,
    pub(super) first: u64,
    pub(super) offset: u64,
    pub(super) sequence: u64,
}

impl Segment {
    /// What a killed process left, as a spool.
    pub(super) fn of_remains(dir: &Path, generation: u64, left: &Left) -> io::Result<Segment> {
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

    pub(super) fn create(path: PathBuf, generation: u64, boot: Uuid, first: u64) -> io::Result<Segment> {
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
    pub(super) fn open(path: PathBuf, generation: u64, first: u64) -> io::Result<Option<Segment>> {
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

    pub(super) fn is_at(&self, cursor: &Cursor) -> bool {
        (self.generation, self.first) == (cursor.generation, cursor.first)
    }

    pub(super) fn start(&self) -> Cursor {
        Cursor {
            generation: self.generation,
            first: self.first,
            offset: SEGMENT_HEADER,
            sequence: self.first,
        }
    }

    /// Reads on from the cursor, which is in this segment and before its end; from `tail` when it is there.
    pub(super) fn read(
        &self,
        cursor: &mut Cursor,
        tail: Option<&Tail>,
        reports: usize,
        octets: usize,
    ) -> io::Result<Vec<Bytes>> {
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

    pub(super) fn says_only_that_it_began(&self) -> bool {
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
pub(super) fn encode_report(out: &mut Vec<u8>, sequence: u64, report: &Entry<'_>) {
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
pub(super) fn sequence_of(report: &[u8]) -> Option<u64> {
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
pub(super) fn is_boot(report: &[u8]) -> bool {
    let number = report.iter().skip(1).position(|octet| octet & 0x80 == 0);
    let event = number
        .and_then(|end| report.get(end + 2..))
        .and_then(|rest| rest.get(2 + usize::from(*rest.get(1)?)..));
    event.is_some_and(|event| event.first() == Some(&BOOTED))
}

pub(super) fn segment_path(dir: &Path, generation: u64, first: u64) -> PathBuf {
    dir.join(format!("{generation:010}-{first:020}.{EXTENSION}"))
}

fn parse_header(content: &[u8], first: u64) -> Option<Uuid> {
    let header = content.get(..SEGMENT_HEADER as usize)?;
    let (fields, crc) = header.split_at(header.len() - 4);
    let sound = fields.starts_with(&MAGIC) && crc == record::crc32c(fields).to_le_bytes();
    let same = fields[24..] == first.to_le_bytes();
    (sound && same).then(|| Uuid::from_slice(&fields[8..24]).ok()).flatten()
}
