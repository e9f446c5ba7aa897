//! Phones register.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use trunkline_proto::v1::{TransportProtocol, UnregisterRequest};
use trunkline_tests::cluster::Cluster;
use trunkline_tests::eventually::{BOUND, eventually};
use trunkline_tests::fixtures::{PHONE, create_trunk, create_users, trunk, users};
use trunkline_tests::sipp::Sipp;

#[tokio::test]
async fn a_thousand_phones_register_with_digest_and_are_all_stored() {
    let cluster = Cluster::start().await.unwrap();
    let api = cluster.api().unwrap();
    let users = users(1, 1000);
    create_trunk(&api, "main", trunk("Main", TransportProtocol::Udp, 8060))
        .await
        .unwrap();
    create_users(&api, "trunks/main", &users).await.unwrap();
    cluster.synced(0).await.unwrap();

    let target = SocketAddr::new(cluster.sip(0), 8060);
    let phones = SocketAddr::new(PHONE, 5070);
    let report = Sipp::register(phones, target, &users)
        .run_clean(cluster.dir(), Duration::from_secs(60))
        .await
        .unwrap();
    println!("registered: {report:?}");

    // A count of answers is no proof: what is stored is (field: a generator that says 200 and a table that is full).
    let registrations = eventually("1000 registrations", BOUND, async || {
        let registrations = api.list_registrations("trunks/main").await?;
        ensure!(registrations.len() == 1000, "{} registrations", registrations.len());
        Ok(registrations)
    })
    .await
    .unwrap();
    let names: BTreeSet<_> = registrations
        .iter()
        .map(|registration| registration.name.clone())
        .collect();
    let wanted: BTreeSet<_> = users
        .iter()
        .map(|user| format!("trunks/main/registrations/{}", user.name))
        .collect();
    assert_eq!(names, wanted);
    for registration in &registrations {
        let [binding] = &registration.bindings[..] else {
            panic!("{registration:?}")
        };
        let user = registration.name.rsplit('/').next().unwrap();
        assert_eq!(binding.contact_uri, format!("sip:{user}@{phones}"));
        assert_eq!(binding.source_address, phones.to_string());
        assert_eq!(binding.worker, cluster.worker_name(0));
        assert_eq!(
            (binding.protocol(), binding.user_agent.as_str()),
            (TransportProtocol::Udp, "load-test")
        );
    }

    // A second round refreshes them: still one binding each.
    Sipp::register(phones, target, &users[..100])
        .run_clean(cluster.dir(), Duration::from_secs(30))
        .await
        .unwrap();
    let name = format!("trunks/main/registrations/{}", users[0].name);
    api.registrations()
        .unregister(UnregisterRequest { name: name.clone() })
        .await
        .unwrap();
    eventually("one phone less", BOUND, async || {
        let left = api.list_registrations("trunks/main").await?;
        ensure!(left.len() == 999, "{} registrations", left.len());
        ensure!(
            left.iter().all(|registration| registration.bindings.len() == 1),
            "several bindings"
        );
        ensure!(
            left.iter().all(|registration| registration.name != name),
            "the wrong one"
        );
        Ok(())
    })
    .await
    .unwrap();
    cluster.finish().await.unwrap();
}
