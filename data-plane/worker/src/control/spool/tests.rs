use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use prost::Message as _;
use trunkline_proto::dataplane::v1::{AuthenticationFailure, Report, WorkerBooted, report::Event};

use super::super::intake::{Kind, Records};
use super::segment::{is_boot, sequence_of};

use super::*;

const SMALL: Limits = Limits {
    total: 1 << 20,
    segment: 400,
};

fn boot(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// An encoded digest failure of somebody.
fn failure(name: &str) -> Vec<u8> {
    AuthenticationFailure {
        username: name.into(),
        ..AuthenticationFailure::default()
    }
    .encode_to_vec()
}

fn entry(message: &[u8], weight: Weight) -> Entry<'_> {
    let time = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    Entry::new(Kind::AuthenticationFailure, weight, time, message, 0)
}

/// Writes one report of somebody.
fn append_one(spool: &mut Spool, name: &str, weight: Weight) -> Appended {
    spool.append(&[entry(&failure(name), weight)]).unwrap()
}

fn append(spool: &mut Spool, names: &[&str]) {
    let messages: Vec<_> = names.iter().map(|name| failure(name)).collect();
    let reports: Vec<_> = messages.iter().map(|message| entry(message, Weight::Heavy)).collect();
    let appended = spool.append(&reports).unwrap();
    assert_eq!(
        appended,
        Appended {
            accepted: names.len() as u64,
            refused: 0
        }
    );
}

fn report(encoded: &Bytes) -> Report {
    Report::decode(&**encoded).unwrap()
}

fn name(report: &Report) -> &str {
    match &report.event {
        Some(Event::AuthenticationFailure(failure)) => &failure.username,
        other => panic!("{other:?}"),
    }
}

/// Everything there is to send now: boot, sequence and name.
fn sent(spool: &mut Spool) -> Vec<(Uuid, u64, String)> {
    let mut all = Vec::new();
    while let Some(batch) = spool.next_batch(3, 200).unwrap() {
        assert!(!batch.reports.is_empty() && batch.reports.len() <= 3);
        let reports: Vec<Report> = batch.reports.iter().map(report).collect();
        assert_eq!(reports.last().unwrap().sequence, batch.last);
        all.extend(
            reports
                .iter()
                .map(|report| (batch.spool, report.sequence, name(report).to_owned())),
        );
    }
    all
}

fn names(sent: &[(Uuid, u64, String)]) -> Vec<&str> {
    sent.iter().map(|(.., name)| name.as_str()).collect()
}

fn segments(dir: &Path) -> usize {
    let all = std::fs::read_dir(dir).unwrap();
    all.filter(|entry| parse_name(&entry.as_ref().unwrap().path()).is_some())
        .count()
}

#[test]
fn reports_are_numbered_and_read_in_order_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), boot(1), SMALL, None).unwrap();
    let all: Vec<String> = (1..=50).map(|number| format!("user-{number}")).collect();
    for one in &all {
        append(&mut spool, &[one]);
    }
    assert!(segments(dir.path()) > 3, "50 reports of some 40 octets");
    let sent = sent(&mut spool);
    assert_eq!(names(&sent), all);
    assert!(
        sent.iter()
            .zip(1..)
            .all(|((_, sequence, _), wanted)| *sequence == wanted)
    );
    assert_eq!(spool.next_batch(3, 200).unwrap(), None);
    append(&mut spool, &["late"]);
    assert_eq!(spool.next_batch(3, 200).unwrap().unwrap().last, 51);
}

#[test]
fn a_new_stream_begins_after_the_last_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), boot(1), SMALL, None).unwrap();
    append(&mut spool, &["a", "b", "c", "d"]);
    assert_eq!(sent(&mut spool).len(), 4);
    spool.acknowledge(boot(1), 2).unwrap();
    spool.rewind();
    assert_eq!(names(&sent(&mut spool)), ["c", "d"]);
    assert_eq!(spool.backlog().reports, 2);
}

#[test]
fn what_is_acknowledged_leaves_the_disk_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), boot(1), SMALL, None).unwrap();
    for _ in 0..50 {
        append(&mut spool, &["somebody"]);
    }
    spool.acknowledge(boot(1), 50).unwrap();
    spool.clean().unwrap();
    assert_eq!(segments(dir.path()), 1);
    assert_eq!(spool.backlog().reports, 0);
    assert_eq!(sent(&mut spool), []);
    append(&mut spool, &["next"]);
    assert_eq!(sent(&mut spool), [(boot(1), 51, "next".to_owned())]);
}

#[test]
fn a_wrong_acknowledgement_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), boot(1), SMALL, None).unwrap();
    append(&mut spool, &["a", "b"]);
    for (of, sequence) in [(1, 3), (1, u64::MAX), (1, 0), (2, 1)] {
        spool.acknowledge(boot(of), sequence).unwrap();
        assert_eq!(spool.backlog().reports, 2, "{of} {sequence}");
    }
    spool.acknowledge(boot(1), 2).unwrap();
    spool.acknowledge(boot(1), 1).unwrap();
    assert_eq!(spool.backlog().reports, 0, "never backwards");
}

#[test]
fn the_spool_of_a_dead_process_goes_first_and_keeps_its_numbers_and_its_boot() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Spool::open(dir.path(), boot(1), SMALL, None).unwrap();
    append(&mut first, &["a", "b", "c"]);
    first.acknowledge(boot(1), 1).unwrap();
    first.clean().unwrap();
    drop(first);

    let mut second = Spool::open(dir.path(), boot(2), SMALL, None).unwrap();
    append(&mut second, &["d"]);
    assert_eq!(second.backlog().reports, 3);
    let old = [(boot(1), 2, "b".to_owned()), (boot(1), 3, "c".to_owned())];
    assert_eq!(sent(&mut second), old, "ours wait until the old ones are stored");
    second.rewind();
    assert_eq!(sent(&mut second), old);
    second.acknowledge(boot(1), 3).unwrap();
    assert_eq!(sent(&mut second), [(boot(2), 1, "d".to_owned())]);
    second.acknowledge(boot(2), 1).unwrap();
    second.clean().unwrap();
    assert_eq!(second.backlog().reports, 0);
    drop(second);

    let mut third = Spool::open(dir.path(), boot(3), SMALL, None).unwrap();
    assert_eq!(sent(&mut third), [], "everything was acknowledged");
    assert_eq!(segments(dir.path()), 1);
}

#[test]
fn a_write_cut_anywhere_costs_no_report_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), boot(1), Limits::default(), None).unwrap();
    let mut ends = Vec::new();
    for one in ["first", "second", "third"] {
        append(&mut spool, &[one]);
        ends.push(spool.active().len);
    }
    let path = spool.active().path.clone();
    drop(spool);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(path.file_name().unwrap()), &whole[..cut]).unwrap();
        let mut spool = Spool::open(dir.path(), boot(2), Limits::default(), None).unwrap();
        append(&mut spool, &["ours"]);
        let survivors = ends.iter().filter(|end| **end <= cut as u64).count();
        let mut all = sent(&mut spool);
        if survivors > 0 {
            spool.acknowledge(boot(1), survivors as u64).unwrap();
            all.extend(sent(&mut spool));
        }
        let expected: Vec<&str> = ["first", "second", "third"][..survivors]
            .iter()
            .copied()
            .chain(["ours"])
            .collect();
        assert_eq!(names(&all), expected, "cut at {cut}");
    }
}

#[test]
fn a_damaged_octet_costs_what_follows_in_its_segment_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), boot(1), SMALL, None).unwrap();
    for number in 0..30 {
        append(&mut spool, &[&format!("user-{number}")]);
    }
    let first = spool.segments[0].path.clone();
    let second = spool.segments[1].first;
    drop(spool);
    let mut content = std::fs::read(&first).unwrap();
    let last = content.len() - 1;
    content[last] ^= 1;
    std::fs::write(&first, content).unwrap();
    let mut spool = Spool::open(dir.path(), boot(2), SMALL, None).unwrap();
    let sequences: Vec<u64> = sent(&mut spool).iter().map(|(_, sequence, _)| *sequence).collect();
    let expected: Vec<u64> = (1..=30).filter(|sequence| *sequence != second - 1).collect();
    assert_eq!(sequences, expected);
    spool.acknowledge(boot(1), 30).unwrap();
    assert_eq!(spool.backlog().reports, 0);
}

#[test]
fn a_worker_that_dies_at_once_again_and_again_leaves_no_trail() {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..=20 {
        let mut spool = Spool::open(dir.path(), boot(number), SMALL, None).unwrap();
        let booted = WorkerBooted {
            boot_id: boot(number).to_string(),
        }
        .encode_to_vec();
        let entry = Entry::new(Kind::Booted, Weight::Heavy, UNIX_EPOCH, &booted, 0);
        spool.append(&[entry]).unwrap();
    }
    assert_eq!(segments(dir.path()), 1);
}

#[test]
fn a_full_spool_refuses_the_light_first_and_takes_reports_again_when_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        total: 4000,
        segment: 400,
    };
    let mut spool = Spool::open(dir.path(), boot(1), limits, None).unwrap();
    while append_one(&mut spool, "somebody", Weight::Light).accepted == 1 {}
    assert!((2900..=3000).contains(&spool.backlog().octets), "{:?}", spool.backlog());
    let light = spool.backlog().reports;
    while append_one(&mut spool, "somebody", Weight::Heavy).accepted == 1 {}
    assert!(spool.backlog().reports > light);
    assert!(spool.backlog().octets <= 4000);
    let all = spool.backlog().reports;
    assert_eq!(
        append_one(&mut spool, "somebody", Weight::Heavy),
        Appended {
            accepted: 0,
            refused: 1
        }
    );
    spool.acknowledge(boot(1), all).unwrap();
    spool.clean().unwrap();
    assert_eq!(
        append_one(&mut spool, "somebody", Weight::Light),
        Appended {
            accepted: 1,
            refused: 0
        }
    );
    assert_eq!(
        sent(&mut spool).last().map(|(_, sequence, _)| *sequence),
        Some(all + 1),
        "a refused one has no number"
    );
}

#[test]
fn a_report_longer_than_a_batch_goes_alone_and_one_that_fits_no_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(
        dir.path(),
        boot(1),
        Limits {
            total: 8 << 20,
            segment: 4 << 20,
        },
        None,
    )
    .unwrap();
    let long = "x".repeat(5000);
    append(&mut spool, &["a", &long, "b"]);
    assert_eq!(
        append_one(&mut spool, &"x".repeat(record::MAX_PAYLOAD), Weight::Heavy),
        Appended {
            accepted: 0,
            refused: 1
        }
    );
    assert_eq!(names(&sent(&mut spool)), ["a", &long, "b"]);
}

#[test]
fn a_lost_acknowledgement_mark_costs_repetition_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), boot(1), SMALL, None).unwrap();
    append(&mut spool, &["a", "b"]);
    spool.acknowledge(boot(1), 1).unwrap();
    spool.clean().unwrap();
    drop(spool);
    std::fs::write(dir.path().join(ACKNOWLEDGED), b"torn").unwrap();
    let mut spool = Spool::open(dir.path(), boot(2), SMALL, None).unwrap();
    assert_eq!(names(&sent(&mut spool)), ["a", "b"]);
}

#[test]
fn what_is_read_at_once_comes_from_memory_and_is_the_same_as_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits::default();
    let mut spool = Spool::open(dir.path(), boot(1), limits, None).unwrap();
    append(&mut spool, &["a", "b"]);
    append(&mut spool, &["c"]);
    assert!(spool.reads_from_memory());
    let from_memory = sent(&mut spool);
    assert!(spool.reads_from_memory(), "there is nothing to read");
    append(&mut spool, &["d"]);
    assert_eq!(names(&sent(&mut spool)), ["d"]);
    spool.rewind();
    assert!(!spool.reads_from_memory());
    let mut from_disk = sent(&mut spool);
    assert_eq!(from_disk.pop().unwrap().2, "d");
    assert_eq!(from_disk, from_memory);
}

#[test]
fn an_encoded_report_is_that_of_the_contract() {
    for (sequence, time) in [
        (1, Duration::ZERO),
        (300, Duration::new(1_700_000_000, 999_999_999)),
        (u64::MAX, Duration::MAX),
    ] {
        let message = failure("eve");
        let mut encoded = Vec::new();
        let entry = Entry {
            time,
            ..entry(&message, Weight::Light)
        };
        encode_report(&mut encoded, sequence, &entry);
        let report = Report::decode(&*encoded).unwrap();
        assert_eq!((report.sequence, name(&report)), (sequence, "eve"));
        let told = report.time.unwrap();
        assert_eq!(
            (told.seconds as u64, told.nanos as u32),
            (time.as_secs(), time.subsec_nanos())
        );
        assert_eq!(sequence_of(&encoded), Some(sequence));
        assert!(!is_boot(&encoded));
    }
}

#[test]
fn what_a_killed_process_left_goes_between_its_spool_and_ours_under_its_boot_once() {
    let dir = tempfile::tempdir().unwrap();
    let (dead, ours) = (Uuid::now_v7(), Uuid::now_v7());
    let mut spool = Spool::open(dir.path(), dead, SMALL, None).unwrap();
    append(&mut spool, &["a"]);
    drop(spool);
    let records = Records::of(&[entry(&failure("b"), Weight::Light), entry(&failure("c"), Weight::Heavy)]);
    let left = Left { boot: dead, records };
    // The worker dies again before it made its intake anew.
    for number in 2..4 {
        drop(Spool::open(dir.path(), boot(number), SMALL, Some(&left)).unwrap());
    }
    let mut spool = Spool::open(dir.path(), ours, SMALL, Some(&left)).unwrap();
    append(&mut spool, &["d"]);
    assert_eq!(sent(&mut spool), [(dead, 1, "a".to_owned())]);
    spool.acknowledge(dead, 1).unwrap();
    let remains = remains_of(dead);
    assert_eq!(
        sent(&mut spool),
        [(remains, 1, "b".to_owned()), (remains, 2, "c".to_owned())]
    );
    assert_eq!(process_of(remains), dead);
    assert_eq!(process_of(dead), dead);
    spool.acknowledge(remains, 2).unwrap();
    assert_eq!(sent(&mut spool), [(ours, 1, "d".to_owned())]);
}
