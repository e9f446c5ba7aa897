//! What a worker does with a push, from the decoded message to the snapshot in force; and what it makes of it for its disk.
//!
//! `cargo bench -p trunkline-shared --features wire`

use divan::{Bencher, black_box};
use prost::Message as _;
use trunkline_proto::dataplane::v1::{ConfigurationPush, Resource, ResourceKey, ResourceType, resource::Body};
use trunkline_proto::v1;
use trunkline_shared::snapshot::Snapshot;
use trunkline_shared::wire;

fn main() {
    divan::main();
}

fn resource(version: i64, trunk: v1::Trunk) -> Resource {
    Resource {
        key: Some(ResourceKey {
            r#type: ResourceType::Trunk.into(),
            name: trunk.name.clone(),
        }),
        version,
        body: Some(Body::Trunk(trunk)),
    }
}

fn push(upserts: Vec<Resource>) -> ConfigurationPush {
    ConfigurationPush {
        nonce: 1,
        revision: 7,
        upserts,
        ..Default::default()
    }
}

/// A trunk with so many addresses and networks in its allow list, spread over the space.
fn trunk(number: u32, entries: u32) -> v1::Trunk {
    let entry = |at: u32| {
        let [a, b, c, d] = at.wrapping_mul(2_654_435_761).to_be_bytes();
        if at.is_multiple_of(4) {
            format!("{a}.{b}.{c}.0/24")
        } else {
            format!("{a}.{b}.{c}.{d}")
        }
    };
    v1::Trunk {
        name: format!("trunks/trunk-{number}"),
        display_name: format!("Trunk {number}"),
        listen_port: Some(1024 + number),
        acl: Some(v1::AccessControl {
            allow: (0..entries).map(entry).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn trunks(count: u32) -> ConfigurationPush {
    push((0..count).map(|number| resource(1, trunk(number, 4))).collect())
}

fn applied(current: &Snapshot, push: ConfigurationPush) -> Snapshot {
    let applied = wire::apply_push(current, push);
    assert!(
        applied.result.rejections.is_empty(),
        "{:?}",
        applied.result.rejections.first()
    );
    applied.snapshot
}

/// One trunk with a long access list.
#[divan::bench(args = [1_000, 10_000, 100_000])]
fn access_list(bencher: Bencher<'_, '_>, entries: u32) {
    let current = applied(&Snapshot::default(), trunks(100));
    let message = push(vec![resource(2, trunk(5, entries))]);
    bencher
        .with_inputs(|| message.clone())
        .bench_values(|push| applied(&current, push));
}

/// All trunks of a large installation at once.
#[divan::bench(args = [1_000, 10_000])]
fn first_push(bencher: Bencher<'_, '_>, count: u32) {
    let message = trunks(count);
    bencher
        .with_inputs(|| message.clone())
        .bench_values(|push| applied(&Snapshot::default(), push));
}

/// One trunk among many.
#[divan::bench(args = [1_000, 10_000])]
fn one_change_among(bencher: Bencher<'_, '_>, count: u32) {
    let current = applied(&Snapshot::default(), trunks(count));
    let message = push(vec![resource(2, trunk(5, 5))]);
    bencher
        .with_inputs(|| message.clone())
        .bench_values(|push| applied(&current, push));
}

/// Trunks that all want the port of another: each is refused.
#[divan::bench(args = [100, 1_000, 4_000])]
fn clashing_ports(bencher: Bencher<'_, '_>, count: u32) {
    let clashing = |number: u32| {
        let trunk = v1::Trunk {
            listen_port: Some(1024 + number / 2),
            ..trunk(number, 4)
        };
        resource(i64::from(number), trunk)
    };
    let message = push((0..count).map(clashing).collect());
    bencher.with_inputs(|| message.clone()).bench_values(|push| {
        let applied = wire::apply_push(&Snapshot::default(), push);
        assert_eq!(applied.result.rejections.len(), count as usize / 2);
        applied
    });
}

/// The copy for the disk.
#[divan::bench(args = [1_000, 10_000])]
fn copy_for_the_disk(bencher: Bencher<'_, '_>, count: u32) {
    let current = applied(&Snapshot::default(), trunks(count));
    bencher.bench(|| black_box(wire::push_of(&current).encode_to_vec()));
}
