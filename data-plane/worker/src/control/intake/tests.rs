use std::sync::Arc;

use super::*;

fn intake(dir: &Path) -> (Intake, Taken) {
    Intake::create(dir, Uuid::from_u128(7)).unwrap()
}

/// A report of a subject, which is the first octet.
fn put(intake: &Intake, kind: Kind, message: &[u8]) -> Result<(), Refused> {
    let key = usize::from(kind != Kind::AuthenticationFailure);
    let time = UNIX_EPOCH + Duration::new(5, 7);
    intake.put(&Entry::new(kind, Weight::Heavy, time, message, key))
}

fn take(intake: &Intake, done: Taken) -> Taken {
    intake.take(done, Instant::now(), None).unwrap()
}

fn messages<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<Vec<u8>> {
    entries.map(|entry| entry.message.to_vec()).collect()
}

/// A message that nearly fills the file.
fn large(subject: u8) -> Vec<u8> {
    let mut message = vec![0; record::MAX_PAYLOAD - HEAD];
    message[0] = subject;
    message
}

#[test]
fn reports_come_out_as_they_went_in_by_turns_of_both_files() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, mut done) = intake(dir.path());
    for turn in 0..5 {
        put(&intake, Kind::Call, &[turn, 1]).unwrap();
        put(&intake, Kind::AuthenticationFailure, &[turn]).unwrap();
        done = take(&intake, done);
        let entries: Vec<_> = done.entries().collect();
        assert_eq!(entries.len(), 2);
        let expected = Entry {
            kind: Kind::Call,
            weight: Weight::Heavy,
            time: Duration::new(5, 7),
            key: &[turn],
            message: &[turn, 1],
        };
        assert_eq!(entries[0], expected);
        assert_eq!(entries[1].key, b"");
    }
}

#[test]
fn what_a_killed_process_had_reported_is_found_in_order_and_only_what_was_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Intake::read(dir.path()).unwrap().is_none());
    let (intake, done) = intake(dir.path());
    put(&intake, Kind::Call, b"long gone").unwrap();
    let done = take(&intake, done);
    put(&intake, Kind::Call, b"taken").unwrap();
    put(&intake, Kind::Call, b"with it").unwrap();
    // What was taken before is on disk elsewhere when `done` is given back.
    let taken = take(&intake, done);
    put(&intake, Kind::Registration, b"new").unwrap();
    // Killed: the files are as they are.
    let left = Intake::read(dir.path()).unwrap().unwrap();
    assert_eq!(left.boot, Uuid::from_u128(7));
    assert_eq!(messages(left.records.entries()), [&b"taken"[..], b"with it", b"new"]);
    drop((intake, taken));
    drop(Intake::create(dir.path(), Uuid::from_u128(8)).unwrap());
    assert!(Intake::read(dir.path()).unwrap().is_none(), "begun anew");
}

#[test]
fn of_a_file_that_a_dead_machine_damaged_the_sound_part_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, _done) = intake(dir.path());
    for message in [&b"one"[..], b"two", b"three"] {
        put(&intake, Kind::Call, message).unwrap();
    }
    let name = path(dir.path(), 0);
    let sound = std::fs::read(&name).unwrap();
    let record = record::HEADER + HEAD + 3;
    for octet in 0..HEADER + 2 * record {
        let mut content = sound.clone();
        content[octet] ^= 0x10;
        let found = parse(&content).map_or(Vec::new(), |(_, left)| messages(left.records.entries()));
        let whole = octet.saturating_sub(HEADER) / record;
        if octet >= HEADER {
            assert_eq!(found, [&b"one"[..], b"two"][..whole], "octet {octet}");
        }
    }
    assert!(parse(&sound[..HEADER - 1]).is_none());
    assert!(parse(&[]).is_none());
}

#[test]
fn beyond_the_file_the_last_report_of_a_subject_counts_and_nothing_overtakes() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, done) = intake(dir.path());
    put(&intake, Kind::Call, &large(1)).unwrap();
    put(&intake, Kind::Call, &large(2)).unwrap();
    for message in [b"a1", b"b1", b"a2"] {
        put(&intake, Kind::Call, message).unwrap();
    }
    // The same subject of another kind is another.
    put(&intake, Kind::Registration, b"a1").unwrap();
    assert_eq!(
        put(&intake, Kind::AuthenticationFailure, b"x"),
        Err(Refused),
        "nothing replaces it"
    );
    let taken = take(&intake, done);
    let mut found = messages(taken.entries());
    assert_eq!(found[0], large(1), "in the file");
    found[1..].sort_by_key(|message| (message.len(), message.clone()));
    assert_eq!(found[1..4], [b"a1".to_vec(), b"a2".to_vec(), b"b1".to_vec()]);
    assert_eq!(found[4..], [large(2)]);
    put(&intake, Kind::AuthenticationFailure, b"x").unwrap();
}

#[test]
fn a_turn_comes_at_once_after_a_pause_and_otherwise_not_before_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, done) = intake(dir.path());
    let hour = Duration::from_secs(3600);
    put(&intake, Kind::Call, b"a").unwrap();
    let begun = Instant::now();
    let earliest = begun + Duration::from_millis(20);
    let done = intake.take(done, earliest, None).unwrap();
    assert!(Instant::now() >= earliest);
    // Nothing there: until the deadline.
    let done = intake.take(done, begun, Some(Instant::now())).unwrap();
    assert!(done.is_empty());
    // Much there: at once.
    put(&intake, Kind::Call, &large(1)).unwrap();
    put(&intake, Kind::Call, &large(2)).unwrap();
    let done = intake.take(done, begun + hour, None).unwrap();
    assert!(begun.elapsed() < hour && !done.is_empty());
}

#[test]
fn a_waiting_thread_is_woken_by_a_report_and_by_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (intake, done) = intake(dir.path());
    let intake = Arc::new(intake);
    let (turns, seen) = std::sync::mpsc::channel();
    let thread = std::thread::spawn({
        let intake = Arc::clone(&intake);
        move || {
            let mut done = done;
            while let Some(taken) = intake.take(done, Instant::now(), None) {
                turns.send(messages(taken.entries())).unwrap();
                done = taken;
            }
        }
    });
    for subject in 0..3 {
        put(&intake, Kind::Call, &[subject]).unwrap();
        assert_eq!(seen.recv().unwrap(), [[subject]]);
    }
    intake.close();
    thread.join().unwrap();
    assert_eq!(put(&intake, Kind::Call, b"late"), Err(Refused));
}
