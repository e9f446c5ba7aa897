//! A change made over the API is in force on the worker at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use prost_types::FieldMask;
use trunkline_proto::v1::{AccessControl, TransportProtocol, Trunk, TrunkState, UpdateTrunkRequest};
use trunkline_tests::api::Api;
use trunkline_tests::cluster::Cluster;
use trunkline_tests::eventually::{BOUND, Stopwatch, eventually};
use trunkline_tests::fixtures::{PHONE, create_trunk, trunk};
use trunkline_tests::sip::Prober;

const ROUNDS: usize = 9;

#[tokio::test]
async fn access_and_state_of_a_trunk_change_while_requests_come_in() {
    let cluster = Cluster::start().await.unwrap();
    let api = cluster.api().unwrap();
    create_trunk(&api, "main", trunk("Main", TransportProtocol::Udp, 8060))
        .await
        .unwrap();
    cluster.synced(0).await.unwrap();
    let mut probe = Prober::new(PHONE, SocketAddr::new(cluster.sip(0), 8060)).await.unwrap();
    expect(&mut probe, 200).await;

    let allow = |allow: &str| Trunk {
        acl: Some(AccessControl {
            allow: vec![allow.to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let state = |state: TrunkState| Trunk {
        state: state.into(),
        ..Default::default()
    };
    let mut access = Vec::new();
    let mut service = Vec::new();
    for _ in 0..ROUNDS {
        access.push(change(&api, &mut probe, allow("192.0.2.1"), "acl.allow", 403).await);
        access.push(change(&api, &mut probe, allow("127.0.0.0/8"), "acl.allow", 200).await);
        service.push(change(&api, &mut probe, state(TrunkState::OutOfService), "state", 503).await);
        service.push(change(&api, &mut probe, state(TrunkState::InService), "state", 200).await);
    }
    for (what, times) in [("acl.allow", access), ("state", service)] {
        report(what, times);
    }
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_listener_moves_without_touching_the_other_trunk() {
    let cluster = Cluster::start().await.unwrap();
    let api = cluster.api().unwrap();
    create_trunk(&api, "still", trunk("Still", TransportProtocol::Udp, 8070))
        .await
        .unwrap();
    create_trunk(&api, "main", trunk("Main", TransportProtocol::Udp, 8060))
        .await
        .unwrap();
    cluster.synced(0).await.unwrap();
    let at = |port: u16| SocketAddr::new(cluster.sip(0), port);
    let mut still = Prober::new(PHONE, at(8070)).await.unwrap();
    let mut old = Prober::new(PHONE, at(8060)).await.unwrap();
    let mut new = Prober::new(PHONE, at(8062)).await.unwrap();
    expect(&mut still, 200).await;
    expect(&mut old, 200).await;

    let moved = Trunk {
        listen_port: Some(8062),
        ..Default::default()
    };
    update(&api, moved, "listen_port").await;
    expect(&mut new, 200).await;
    // Not one request of the neighbour went unanswered: it is asked once, not until it works.
    assert_eq!(still.options().await.unwrap(), 200);
    // The old socket still listens for what is under way; it gives way to whoever wants the port.
    create_trunk(&api, "next", trunk("Next", TransportProtocol::Udp, 8060))
        .await
        .unwrap();
    cluster.synced(0).await.unwrap();
    expect(&mut old, 200).await;
    for probe in [&mut new, &mut still] {
        assert_eq!(probe.options().await.unwrap(), 200);
    }
    cluster.finish().await.unwrap();
}

/// Time from the request to the API to the first answer that shows the change.
async fn change(api: &Api, probe: &mut Prober, to: Trunk, field: &str, status: u16) -> Duration {
    let watch = Stopwatch::start();
    update(api, to, field).await;
    loop {
        if probe.options().await.unwrap() == status {
            return watch.elapsed();
        }
        assert!(watch.elapsed() < BOUND, "{field} is not in force after {BOUND:?}");
    }
}

async fn update(api: &Api, trunk: Trunk, field: &str) {
    let request = UpdateTrunkRequest {
        trunk: Some(Trunk {
            name: "trunks/main".to_owned(),
            ..trunk
        }),
        update_mask: Some(FieldMask {
            paths: vec![field.to_owned()],
        }),
        ..Default::default()
    };
    api.trunks().update_trunk(request).await.unwrap();
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

/// Printed, not asserted: how fast a loaded machine is says nothing about the product.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what}: in force after {median:.1?} (median of {}), at worst {worst:.1?}",
        times.len()
    );
}
