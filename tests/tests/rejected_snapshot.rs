//! A resource the worker cannot use is refused by name, and what it had goes on.
//!
//! The API lets no such resource through, so the store is damaged behind its back, as a fault in a migration would: two
//! trunks want the same port.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use prost::Message;
use prost_types::FieldMask;
use trunkline_proto::v1::{SyncState, TransportProtocol, Trunk, UpdateTrunkRequest};
use trunkline_tests::cluster::Cluster;
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::fixtures::{PHONE, create_trunk, trunk};
use trunkline_tests::process::output;
use trunkline_tests::sip::Prober;

const TRUNK: &str = "trunks/second";

/// Prints a trunk's message.
const READ: &str = "import sqlite3, sys
row, = sqlite3.connect(sys.argv[1]).execute('SELECT message FROM trunks WHERE name = ?', sys.argv[2:3])
print(row[0].hex())";

/// Replaces it in a revision of its own.
const WRITE: &str = "import sqlite3, sys
store = sqlite3.connect(sys.argv[1])
store.execute('UPDATE revision SET value = value + 1')
(revision,), = store.execute('SELECT value FROM revision')
store.execute('UPDATE trunks SET message = ?, version = ? WHERE name = ?', (bytes.fromhex(sys.argv[3]), revision, sys.argv[2]))
store.execute('INSERT INTO change_log (revision, kind, name, removed) VALUES (?, 1, ?, 0)', (revision, sys.argv[2]))
store.commit()
print(revision)";

#[tokio::test]
async fn a_refused_trunk_is_shown_with_its_reason_and_its_old_version_serves_on() {
    let mut cluster = Cluster::start().await.unwrap();
    let api = cluster.api().unwrap();
    create_trunk(&api, "first", trunk("First", TransportProtocol::Udp, 8060))
        .await
        .unwrap();
    create_trunk(&api, "second", trunk("Second", TransportProtocol::Udp, 8062))
        .await
        .unwrap();
    cluster.synced(0).await.unwrap();
    let at = |port: u16| SocketAddr::new(cluster.sip(0), port);
    let (first_at, second_at, moved_to) = (at(8060), at(8062), at(8064));
    let mut first = Prober::new(PHONE, first_at).await.unwrap();
    let mut second = Prober::new(PHONE, second_at).await.unwrap();
    for probe in [&mut first, &mut second] {
        eventually("an answer", BOUND, async || probe.options().await)
            .await
            .unwrap();
    }
    let held = api.worker(&cluster.worker_name(0)).await.unwrap();
    let accepted = held
        .resources
        .iter()
        .find(|resource| resource.resource == TRUNK)
        .unwrap()
        .accepted_version;

    cluster.stop_control().await.unwrap();
    let store = cluster.control_dir().join("control.db").to_string_lossy().into_owned();
    let python = |script: &str, rest: &[&str]| {
        let args: Vec<_> = ["-c", script, &store].into_iter().chain(rest.iter().copied()).collect();
        output("python3", args).unwrap().trim().to_owned()
    };
    let mut message = Trunk::decode(&unhex(&python(READ, &[TRUNK]))[..]).unwrap();
    assert_eq!(message.listen_port, Some(8062));
    message.listen_port = Some(8060);
    let rejected: i64 = python(WRITE, &[TRUNK, &hex(&message.encode_to_vec())]).parse().unwrap();
    cluster.start_control().await.unwrap();

    let name = cluster.worker_name(0);
    let refused = eventually("the refusal to be shown", BOUND, async || {
        let worker = api.worker(&name).await?;
        ensure!(
            worker.sync_state() == SyncState::Error,
            "{:?}: {:?}",
            worker.sync_state(),
            worker.resources
        );
        let resource = worker.resources.into_iter().find(|resource| resource.resource == TRUNK);
        resource
            .filter(|resource| resource.state() == SyncState::Error)
            .context("another resource")
    })
    .await
    .unwrap();
    assert_eq!(
        (refused.accepted_version, refused.rejected_version),
        (accepted, rejected),
        "{refused:?}"
    );
    assert!(
        refused.error.contains("8060") && refused.error.contains("first"),
        "{refused:?}"
    );
    assert!(refused.error_time.is_some());
    println!("{TRUNK} refused: {}", refused.error);

    // Both trunks go on as they were.
    assert_eq!(
        (first.options().await.unwrap(), second.options().await.unwrap()),
        (200, 200)
    );

    // A version that fits is taken.
    let request = UpdateTrunkRequest {
        trunk: Some(Trunk {
            name: TRUNK.to_owned(),
            listen_port: Some(8064),
            ..Default::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["listen_port".to_owned()],
        }),
        ..Default::default()
    };
    api.trunks().update_trunk(request).await.unwrap();
    cluster.synced(0).await.unwrap();
    let mut moved = Prober::new(PHONE, moved_to).await.unwrap();
    eventually("an answer at the new port", BOUND, async || moved.options().await)
        .await
        .unwrap();
    assert_eq!(first.options().await.unwrap(), 200);
    cluster.finish().await.unwrap();
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().as_chunks::<2>().0;
    pairs
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
