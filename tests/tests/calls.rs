//! Phones call each other through a worker.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use trunkline_proto::v1::{CallActivity, TransportProtocol};
use trunkline_tests::cluster::Cluster;
use trunkline_tests::eventually::{BOUND, Stopwatch, eventually};
use trunkline_tests::fixtures::{PHONE, create_trunk, create_users, trunk, users};
use trunkline_tests::sipp::Sipp;

const CALLS: u32 = 1000;
const RATE: u32 = 50;

#[tokio::test]
async fn fifty_calls_a_second_for_twenty_seconds_fail_not_once_and_are_all_recorded() {
    let cluster = Cluster::start().await.unwrap();
    let api = cluster.api().unwrap();
    let callers = users(1, 100);
    let callees = users(101, 1);
    create_trunk(&api, "main", trunk("Main", TransportProtocol::Udp, 8060))
        .await
        .unwrap();
    create_users(&api, "trunks/main", &callers).await.unwrap();
    create_users(&api, "trunks/main", &callees).await.unwrap();
    cluster.synced(0).await.unwrap();

    let target = SocketAddr::new(cluster.sip(0), 8060);
    let (here, there) = (SocketAddr::new(PHONE, 5070), SocketAddr::new(PHONE, 5080));
    Sipp::register(there, target, &callees)
        .run_clean(cluster.dir(), Duration::from_secs(30))
        .await
        .unwrap();
    let mut answering = Sipp::answer(there).start(cluster.dir()).unwrap();
    answering.listening(there).await.unwrap();

    let watch = Stopwatch::start();
    let report = Sipp::call(here, target, &callers, &callees[0], Duration::from_millis(500))
        .calls(CALLS)
        .rate(RATE)
        .run_clean(cluster.dir(), Duration::from_secs(90))
        .await
        .unwrap();
    println!("{CALLS} calls at {RATE}/s in {:.1?}: {report:?}", watch.elapsed());

    // Each call is challenged first: the INVITE that is refused with 407 is no call of its own in the records of answered ones.
    let calls = eventually("every call to be recorded", BOUND, async || {
        let calls = api.list_calls(CallActivity::Ended).await?;
        let answered: Vec<_> = calls.into_iter().filter(|call| call.answer_time.is_some()).collect();
        ensure!(
            answered.len() == CALLS as usize,
            "{} records of answered calls",
            answered.len()
        );
        Ok(answered)
    })
    .await
    .unwrap();
    assert_eq!(api.list_calls(CallActivity::Active).await.unwrap(), []);
    let ids: BTreeSet<_> = calls.iter().map(|call| call.call_id.as_str()).collect();
    assert_eq!(ids.len(), CALLS as usize, "one record for each Call-ID");
    for call in &calls {
        let end = call.end.as_ref().unwrap();
        assert_eq!((end.reason.as_str(), end.sip_status), ("caller_bye", 200), "{call:?}");
        assert_eq!(
            (call.inbound_trunk.as_str(), call.outbound_trunk.as_str()),
            ("trunks/main", "trunks/main")
        );
        assert_eq!(call.worker, cluster.worker_name(0));
        assert_eq!(call.attempts.len(), 1, "{call:?}");
        assert_eq!(call.media.len(), 2, "{call:?}");
        assert!(
            call.media
                .iter()
                .all(|leg| leg.codec == "PCMA/8000" && leg.srtp_suite.is_empty()),
            "{call:?}"
        );
        assert!(
            callers.iter().any(|user| user.name == call.authenticated_user),
            "{call:?}"
        );
        assert!(call.end_time.is_some() && call.ring_time.is_some(), "{call:?}");
    }
    answering.stop().unwrap();
    cluster.finish().await.unwrap();
}
