//! Two workers share what they know and can be taken out of service one by one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use trunkline_proto::v1::{CallActivity, DrainWorkerRequest, ResumeWorkerRequest, TransportProtocol};
use trunkline_tests::cluster::Cluster;
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::fixtures::{PHONE, create_trunk, create_users, trunk, users};
use trunkline_tests::http;
use trunkline_tests::sip::Prober;
use trunkline_tests::sipp::Sipp;

const PORT: u16 = 8060;
const RUN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_phone_that_registered_at_one_worker_is_called_through_the_other() {
    let cluster = Cluster::with_workers(2).await.unwrap();
    let api = cluster.api().unwrap();
    let (callers, callees) = (users(1, 5), users(101, 1));
    create_trunk(&api, "main", trunk("Main", TransportProtocol::Udp, PORT))
        .await
        .unwrap();
    create_users(&api, "trunks/main", &callers).await.unwrap();
    create_users(&api, "trunks/main", &callees).await.unwrap();
    for worker in [0, 1] {
        cluster.synced(worker).await.unwrap();
    }
    let at = |worker| SocketAddr::new(cluster.sip(worker), PORT);
    let (here, there) = (SocketAddr::new(PHONE, 5070), SocketAddr::new(PHONE, 5080));
    Sipp::register(there, at(0), &callees)
        .run_clean(cluster.dir(), RUN)
        .await
        .unwrap();
    let mut answering = Sipp::answer(there).start(cluster.dir()).unwrap();
    answering.listening(there).await.unwrap();
    eventually("the other worker to learn of the phone", BOUND, async || {
        let (_, metrics) = http::get(cluster.worker_metrics(1), "/metrics").await?;
        ensure!(metric(&metrics, "trunkline_worker_registrations")? == 1.0, "{metrics}");
        Ok(())
    })
    .await
    .unwrap();

    let talk = Duration::from_millis(200);
    Sipp::call(here, at(1), &callers, &callees[0], talk)
        .run_clean(cluster.dir(), RUN)
        .await
        .unwrap();
    let calls = eventually("the records", BOUND, async || {
        let ended = api.list_calls(CallActivity::Ended).await?;
        let answered: Vec<_> = ended.into_iter().filter(|call| call.answer_time.is_some()).collect();
        ensure!(answered.len() == callers.len(), "{} records", answered.len());
        Ok(answered)
    })
    .await
    .unwrap();
    assert!(
        calls.iter().all(|call| call.worker == cluster.worker_name(1)),
        "{calls:?}"
    );
    answering.stop().unwrap();
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_drained_worker_refuses_new_work_until_it_is_resumed_and_the_other_takes_no_notice() {
    let cluster = Cluster::with_workers(2).await.unwrap();
    let api = cluster.api().unwrap();
    create_trunk(&api, "main", trunk("Main", TransportProtocol::Udp, PORT))
        .await
        .unwrap();
    let at = |worker| SocketAddr::new(cluster.sip(worker), PORT);
    let mut drained = Prober::new(PHONE, at(0)).await.unwrap();
    let mut other = Prober::new(PHONE, at(1)).await.unwrap();
    expect(&mut drained, 200).await;
    expect(&mut other, 200).await;

    let name = cluster.worker_name(0);
    api.workers()
        .drain_worker(DrainWorkerRequest { name: name.clone() })
        .await
        .unwrap();
    expect(&mut drained, 503).await;
    assert!(api.worker(&name).await.unwrap().draining);
    assert_eq!(other.options().await.unwrap(), 200);
    api.workers()
        .resume_worker(ResumeWorkerRequest { name: name.clone() })
        .await
        .unwrap();
    expect(&mut drained, 200).await;
    assert!(!api.worker(&name).await.unwrap().draining);
    cluster.finish().await.unwrap();
}

async fn expect(probe: &mut Prober, status: u16) {
    eventually(&format!("status {status}"), BOUND, async || {
        let got = probe.options().await?;
        ensure!(got == status, "{got}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Value of a metric without labels.
fn metric(text: &str, name: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.ok_or_else(|| anyhow::anyhow!("no {name} in {text}"))?.parse()?)
}
