//! Listeners over real sockets, with the shards that read them.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use trunkline_shared::trunk::Transport::{self, Tcp, Udp};

use super::ListenerReport;
use crate::shard::testing::{PATIENCE, World, options, snapshot, trunk};

fn listening(report: &ListenerReport) -> Vec<(String, Transport, u16)> {
    let one = |listener: &trunkline_engine::io::Listener| {
        (listener.trunk.to_string(), listener.transport, listener.local.port())
    };
    report.listeners.iter().map(one).collect()
}

fn errors(report: &ListenerReport) -> Vec<&'static str> {
    let error = |state: &super::ListenerState| state.error.as_ref().map(|(code, _)| *code);
    report.states.iter().filter_map(error).collect()
}

/// Whether an OPTIONS to `to` is answered at all.
async fn answers(to: &str, call_id: &str) -> String {
    let phone = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    phone
        .send_to(options("UDP", to, call_id).as_bytes(), to)
        .await
        .expect("sent");
    let mut answer = [0; 12];
    let received = timeout(PATIENCE, phone.recv_from(&mut answer)).await.expect("in time");
    received.expect("received");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn two_trunks_swap_their_ports_in_one_change_without_an_error() {
    for (host, transport) in [("127.0.62.1", Udp), ("127.0.62.2", Tcp)] {
        let trunks = |first, second| vec![trunk("a", transport, first), trunk("b", transport, second)];
        let mut world = World::start(host, snapshot(1, trunks(8060, 8070), Vec::new()));
        world.bound(2).await;
        let report = world.configure(snapshot(2, trunks(8070, 8060), Vec::new())).await;
        let swapped = [("a".into(), transport, 8070), ("b".into(), transport, 8060)];
        assert_eq!(listening(&report), swapped, "{report:?}");
        assert!(errors(&report).is_empty(), "{report:?}");
    }
}

#[tokio::test]
async fn a_trunk_changes_its_transport_on_the_same_port_at_once() {
    let host = "127.0.62.3";
    let mut world = World::start(host, snapshot(1, vec![trunk("a", Udp, 8060)], Vec::new()));
    world.bound(1).await;
    let report = world
        .configure(snapshot(2, vec![trunk("a", Tcp, 8060)], Vec::new()))
        .await;
    assert_eq!(listening(&report), [("a".into(), Tcp, 8060)]);
    TcpStream::connect((host, 8060)).await.expect("accepted");
    let report = world
        .configure(snapshot(3, vec![trunk("b", Tcp, 8060)], Vec::new()))
        .await;
    assert_eq!(listening(&report), [("b".into(), Tcp, 8060)]);
    assert!(errors(&report).is_empty(), "{report:?}");
}

#[tokio::test]
async fn an_address_in_use_is_the_state_of_its_trunk_alone_and_is_taken_when_it_is_free() {
    for (host, transport) in [("127.0.62.4", Udp), ("127.0.62.5", Tcp)] {
        let address: SocketAddr = format!("{host}:8060").parse().expect("an address");
        let other_program: Box<dyn Send> = match transport {
            Udp => Box::new(UdpSocket::bind(address).await.expect("free")),
            _ => Box::new(TcpListener::bind(address).await.expect("free")),
        };
        let trunks = vec![trunk("a", transport, 8060), trunk("b", transport, 8070)];
        let mut world = World::start(host, snapshot(1, trunks, Vec::new()));
        let report = world.next_report().await;
        assert_eq!(listening(&report), [("b".into(), transport, 8070)]);
        assert_eq!(errors(&report), ["ADDRESS_IN_USE"]);
        drop(other_program);
        let report = world.next_report().await;
        assert_eq!(report.listeners.len(), 2, "{report:?}");
        assert!(errors(&report).is_empty(), "{report:?}");
    }
}

#[tokio::test]
async fn a_retired_datagram_socket_is_still_heard_and_others_are_not_touched() {
    let host = "127.0.62.6";
    let trunks = |port| vec![trunk("a", Udp, port), trunk("b", Udp, 8090)];
    let mut world = World::start(host, snapshot(1, trunks(8060), Vec::new()));
    world.bound(2).await;
    let before = world.reports.borrow().states.to_vec();
    let report = world.configure(snapshot(2, trunks(8070), Vec::new())).await;
    let moved = [("a".into(), Udp, 8070), ("b".into(), Udp, 8090)];
    assert_eq!(listening(&report), moved);
    assert_eq!(report.states.last(), before.last(), "b is bound since the beginning");
    for port in [8060, 8070, 8090] {
        let answer = answers(&format!("{host}:{port}"), &port.to_string()).await;
        assert!(answer.starts_with("SIP/2.0 "), "{answer}");
    }
}
