//! Either half may be killed: calls go on, and nothing reported is lost or counted twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use trunkline_proto::v1::{Call, CallActivity, TransportProtocol};
use trunkline_tests::api::Api;
use trunkline_tests::cluster::Cluster;
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::fixtures::{PHONE, User, create_trunk, create_users, trunk, users};
use trunkline_tests::sipp::Sipp;

const PORT: u16 = 8060;
const CALLER: SocketAddr = SocketAddr::new(PHONE, 5070);
const CALLEE: SocketAddr = SocketAddr::new(PHONE, 5080);
const LONG_CALLER: SocketAddr = SocketAddr::new(PHONE, 5075);
const LATECOMER: SocketAddr = SocketAddr::new(PHONE, 5090);
const RUN: Duration = Duration::from_secs(60);

/// A cluster with callers and callees; the callees are registered.
async fn cluster_with_phones() -> (Cluster, Api, Vec<User>, Vec<User>) {
    let cluster = Cluster::start().await.unwrap();
    let api = cluster.api().unwrap();
    let (callers, callees) = (users(1, 20), users(101, 20));
    create_trunk(&api, "main", trunk("Main", TransportProtocol::Udp, PORT))
        .await
        .unwrap();
    create_users(&api, "trunks/main", &callers).await.unwrap();
    create_users(&api, "trunks/main", &callees).await.unwrap();
    cluster.synced(0).await.unwrap();
    let target = SocketAddr::new(cluster.sip(0), PORT);
    Sipp::register(CALLEE, target, &callees)
        .run_clean(cluster.dir(), RUN)
        .await
        .unwrap();
    (cluster, api, callers, callees)
}

#[tokio::test]
async fn calls_and_registrations_go_on_while_the_control_plane_is_dead_and_arrive_once() {
    let (mut cluster, api, callers, callees) = cluster_with_phones().await;
    let target = SocketAddr::new(cluster.sip(0), PORT);
    let dir = cluster.dir().to_owned();
    let mut answering = Sipp::answer(CALLEE).start(&dir).unwrap();
    answering.listening(CALLEE).await.unwrap();

    // Sixty calls of three seconds, ten a second: some are up, some are being set up and some are to come.
    let calls = 60;
    let running = Sipp::call(CALLER, target, &callers, &callees[0], Duration::from_secs(3))
        .calls(calls)
        .rate(10);
    let running = running.start(&dir).unwrap();
    eventually("calls under way", BOUND, async || {
        let active = api.list_calls(CallActivity::Active).await?.len();
        ensure!(active >= 10, "{active} active calls");
        Ok(())
    })
    .await
    .unwrap();
    cluster.kill_control().unwrap();

    // New phones and new calls, with nobody above the worker.
    let late = users(1, 10);
    Sipp::register(LATECOMER, target, &late)
        .run_clean(&dir, RUN)
        .await
        .unwrap();
    let report = running.finish(RUN).await.unwrap();
    assert_eq!((report.successful, report.failed), (calls, 0));
    let more = 20;
    let again = Sipp::call(CALLER, target, &callers, &callees[0], Duration::from_millis(200))
        .calls(more)
        .rate(20);
    again.run_clean(&dir, RUN).await.unwrap();

    cluster.start_control().await.unwrap();
    recorded(&api, (calls + more) as usize, 0).await;
    let registrations = eventually("the late phones", BOUND, async || {
        let registrations = api.list_registrations("trunks/main").await?;
        ensure!(
            registrations.len() == callees.len() + late.len(),
            "{} registrations",
            registrations.len()
        );
        Ok(registrations)
    })
    .await
    .unwrap();
    assert!(
        registrations
            .iter()
            .all(|registration| registration.bindings.len() == 1)
    );
    answering.stop().unwrap();
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_killed_worker_boots_from_its_disk_and_takes_calls_with_the_control_plane_dead() {
    let (mut cluster, api, callers, callees) = cluster_with_phones().await;
    let target = SocketAddr::new(cluster.sip(0), PORT);
    let dir = cluster.dir().to_owned();
    let mut answering = Sipp::answer(CALLEE).start(&dir).unwrap();
    answering.listening(CALLEE).await.unwrap();
    let burst = Sipp::call(CALLER, target, &callers, &callees[0], Duration::from_millis(200))
        .calls(20)
        .rate(20);
    burst.run_clean(&dir, RUN).await.unwrap();

    let talking = Sipp::call(LONG_CALLER, target, &callers[..1], &callees[0], RUN)
        .start(&dir)
        .unwrap();
    eventually("a call that will not end by itself", BOUND, async || {
        let active = api.list_calls(CallActivity::Active).await?;
        ensure!(active.len() == 1 && active[0].answer_time.is_some(), "{active:?}");
        Ok(())
    })
    .await
    .unwrap();

    cluster.kill_control().unwrap();
    // Reports of these calls have no one to go to before the worker dies too.
    burst.run_clean(&dir, RUN).await.unwrap();
    cluster.kill_worker(0).unwrap();
    talking.stop().unwrap();
    cluster.start_worker(0).await.unwrap();
    // It knows the trunk, its users and where the phones are.
    burst.run_clean(&dir, RUN).await.unwrap();
    let late = users(1, 5);
    Sipp::register(LATECOMER, target, &late)
        .run_clean(&dir, RUN)
        .await
        .unwrap();

    cluster.start_control().await.unwrap();
    cluster.synced(0).await.unwrap();
    recorded(&api, 60, 1).await;
    eventually("every registration once", BOUND, async || {
        let registrations = api.list_registrations("trunks/main").await?;
        ensure!(
            registrations.len() == callees.len() + late.len(),
            "{} registrations",
            registrations.len()
        );
        ensure!(
            registrations
                .iter()
                .all(|registration| registration.bindings.len() == 1),
            "{registrations:?}"
        );
        Ok(())
    })
    .await
    .unwrap();
    answering.stop().unwrap();
    cluster.finish().await.unwrap();
}

/// Answered calls are recorded as ended, each once: so many by their callers, so many with the worker that had them; none
/// is still active.
async fn recorded(api: &Api, by_caller: usize, lost: usize) {
    let count = by_caller + lost;
    let calls = eventually(&format!("{count} records"), BOUND, async || {
        let active = api.list_calls(CallActivity::Active).await?;
        ensure!(active.is_empty(), "{} still active", active.len());
        let ended = api.list_calls(CallActivity::Ended).await?;
        let answered: Vec<Call> = ended.into_iter().filter(|call| call.answer_time.is_some()).collect();
        ensure!(answered.len() >= count, "{} records", answered.len());
        Ok(answered)
    })
    .await
    .unwrap();
    let mut by_call_id: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    let mut by_reason: BTreeMap<&str, usize> = BTreeMap::new();
    for call in &calls {
        by_call_id.entry(&call.call_id).or_default().push(call);
        *by_reason.entry(&call.end.as_ref().unwrap().reason).or_default() += 1;
    }
    let twice: Vec<_> = by_call_id.values().filter(|records| records.len() > 1).collect();
    assert!(twice.is_empty(), "recorded twice: {twice:#?}");
    let wanted = [("caller_bye", by_caller), ("worker_lost", lost)]
        .into_iter()
        .filter(|(_, count)| *count > 0);
    assert_eq!(by_reason, wanted.collect());
}
