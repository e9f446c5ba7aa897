use std::time::Duration;

use tempfile::TempDir;
use trunkline_shared::binding::Binding;
use trunkline_shared::name::{TrunkId, WorkerId};
use trunkline_shared::trunk::Transport;

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn aor(user: &str) -> Aor {
    Aor {
        trunk: TrunkId::new("main").unwrap(),
        user: user.into(),
    }
}

/// One binding that ends in `seconds`, or none.
fn view(user: &str, change_time_ms: i64, seconds: Option<u64>) -> AorBindings {
    let binding = |seconds| Binding {
        contact_uri: format!("sip:{user}@192.0.2.7:5060").into(),
        q_thousandths: 1000,
        expire_time: now() + Duration::from_secs(seconds),
        create_time: now(),
        update_time: now(),
        call_id: "c".into(),
        cseq: 1,
        transport: Transport::Udp,
        source: "192.0.2.7:5060".parse().unwrap(),
        user_agent: "".into(),
        worker: Some(WorkerId::new("w1").unwrap()),
        path: Vec::new(),
        instance_id: "".into(),
    };
    AorBindings {
        aor: aor(user),
        address_of_record: format!("sip:{user}").into(),
        bindings: seconds.map(binding).into_iter().collect(),
        change_time_ms,
    }
}

fn open(dir: &TempDir) -> (BindingJournal, Arc<BindingStore>) {
    let store = Arc::new(BindingStore::default());
    (
        BindingJournal::open(dir.path(), Arc::clone(&store), now()).unwrap(),
        store,
    )
}

fn users(store: &BindingStore) -> Vec<String> {
    let mut users: Vec<String> = store
        .views()
        .iter()
        .filter(|view| !view.bindings.is_empty())
        .map(|view| view.aor.user.to_string())
        .collect();
    users.sort();
    users
}

/// As the engine and the watch do: into the table, then to disk.
fn change(journal: &BindingJournal, store: &BindingStore, view: AorBindings, revision: Option<i64>) {
    assert!(store.merge(&view));
    journal.append(&[view], revision).unwrap();
}

#[test]
fn registrations_and_their_revision_survive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, store) = open(&dir);
    change(&journal, &store, view("alice", 1, Some(60)), Some(5));
    change(&journal, &store, view("bob", 2, Some(60)), None);
    change(&journal, &store, view("carol", 3, Some(60)), Some(8));
    change(&journal, &store, view("bob", 4, None), None);
    drop(journal);
    for _ in 0..2 {
        let (journal, store) = open(&dir);
        assert_eq!(users(&store), ["alice", "carol"]);
        assert_eq!(journal.revision(), 8);
        let contact = &store.contacts(&aor("alice"))[0];
        assert_eq!(contact.binding, view("alice", 1, Some(60)).bindings[0]);
    }
}

#[test]
fn a_registration_that_ended_meanwhile_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, store) = open(&dir);
    change(&journal, &store, view("alice", 1, Some(60)), None);
    change(&journal, &store, view("bob", 1, Some(10)), None);
    drop(journal);
    let store = Arc::new(BindingStore::default());
    BindingJournal::open(dir.path(), Arc::clone(&store), now() + Duration::from_secs(30)).unwrap();
    assert_eq!(users(&store), ["alice"]);
}

#[test]
fn a_journal_cut_anywhere_reads_as_the_changes_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, store) = open(&dir);
    let mut ends = Vec::new();
    for (number, user) in (1..).zip(["alice", "bob", "carol"]) {
        change(&journal, &store, view(user, number, Some(60)), Some(number));
        ends.push(journal.lock().journal_len as usize);
    }
    let whole = std::fs::read(dir.path().join(DIRECTORY).join("journal")).unwrap();
    assert_eq!(whole.len(), *ends.last().unwrap());
    for cut in 0..=whole.len() {
        let mut read = Read::default();
        read.take(Path::new("journal"), &whole[..cut]);
        let survivors = ends.iter().filter(|end| **end <= cut).count();
        // The change comes before its revision: with the revision, the change is there.
        assert_eq!(read.revision as usize, survivors, "cut at {cut}");
        assert!((survivors..=survivors + 1).contains(&read.aors.len()), "cut at {cut}");
    }
}

#[test]
fn folding_keeps_everything_and_a_crash_in_the_middle_of_it_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, store) = open(&dir);
    for number in 0..100 {
        change(
            &journal,
            &store,
            view(&format!("user-{number:03}"), 1, Some(60)),
            Some(number),
        );
    }
    let before = std::fs::read(dir.path().join(DIRECTORY).join("journal")).unwrap();
    change(&journal, &store, view("user-000", 2, None), Some(100));
    journal.fold().unwrap();
    let path = dir.path().join(DIRECTORY).join("journal");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(journal.revision(), 100);
    drop(journal);
    // As if the machine had died between the snapshot and the emptying.
    std::fs::write(&path, before).unwrap();
    let (_, store) = open(&dir);
    assert_eq!(users(&store).len(), 99);
    assert!(
        store.contacts(&aor("user-000")).is_empty(),
        "the later change wins over the older file"
    );
}

#[test]
fn a_change_that_could_not_be_written_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, store) = open(&dir);
    journal.lock().journal = File::open(dir.path().join(DIRECTORY).join("journal")).unwrap();
    assert!(store.merge(&view("alice", 1, Some(60))));
    assert!(
        journal.append(&[view("alice", 1, Some(60))], Some(3)).is_err(),
        "opened for reading only"
    );
    assert_eq!(journal.revision(), 0);
    journal.lock().journal = file::open_private(&dir.path().join(DIRECTORY).join("journal")).unwrap();
    change(&journal, &store, view("bob", 1, Some(60)), Some(4));
    drop(journal);
    let (journal, store) = open(&dir);
    assert_eq!(users(&store), ["alice", "bob"]);
    assert_eq!(journal.revision(), 4);
}
