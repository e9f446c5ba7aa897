//! The command a user runs first.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use trunkline_tests::process::{Process, binary};

/// Ports nobody has now.
fn free_ports<const N: usize>() -> [u16; N] {
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let taken = [(); N].map(|()| {
        let tcp = TcpListener::bind(here).unwrap();
        let udp = UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
        (tcp, udp)
    });
    taken.each_ref().map(|(tcp, _)| tcp.local_addr().unwrap().port())
}

#[tokio::test]
async fn up_configures_a_sample_and_its_test_calls_pass_twice() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let [api, worker, control_metrics, worker_metrics, sip, tls] = free_ports();
    for round in ["first start", "second start"] {
        let mut command = Command::new(binary("trunkline").unwrap());
        command
            .arg("up")
            .arg("--state-dir")
            .arg(&state)
            .args(["--check", "--exit", "--talk", "2"]);
        for (option, port) in [
            ("--api-port", api),
            ("--worker-port", worker),
            ("--control-metrics-port", control_metrics),
            ("--worker-metrics-port", worker_metrics),
            ("--sip-port", sip),
            ("--tls-port", tls),
        ] {
            command.arg(option).arg(port.to_string());
        }
        let log = dir.path().join(format!("{round}.log"));
        let mut up = Process::start("trunkline", &mut command, &log).unwrap();
        let status = up.wait(Duration::from_secs(120)).await.unwrap();
        println!("{round}:\n{}", up.log());
        assert!(status.success(), "{round}: {status}");
        assert!(
            up.log().contains("AES_CM_128_HMAC_SHA1_80"),
            "the check says what it saw"
        );
    }
    let token = state.join("control/admin.token");
    assert_eq!(token.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}
