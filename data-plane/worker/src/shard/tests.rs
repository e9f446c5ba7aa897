//! A worker's signalling over real sockets: what arrives is answered.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use trunkline_shared::name::TrunkId;
use trunkline_shared::tls::{TlsIdentity, TlsVersion};
use trunkline_shared::trunk::Transport;

use super::testing::{PATIENCE, World, options, snapshot, trunk};

/// Sends one request and gives the first bytes of the answer.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 4096];
    let length = timeout(PATIENCE, stream.read(&mut answer)).await.expect("in time");
    answer.truncate(length.expect("received"));
    String::from_utf8(answer).expect("text")
}

fn identity(trunk: &str, address: &str) -> TlsIdentity {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![address.to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").der().to_vec();
    TlsIdentity {
        trunk: TrunkId::new(trunk).expect("an id"),
        certificate_chain: vec![certificate.clone()],
        private_key: key.serialize_der().into(),
        trusted_ca: vec![certificate],
    }
}

#[tokio::test]
async fn options_are_answered_over_udp_and_tcp_whichever_shard_owns_them() {
    let trunks = vec![
        trunk("datagrams", Transport::Udp, 8060),
        trunk("streams", Transport::Tcp, 8060),
    ];
    let mut world = World::start("127.0.61.1", snapshot(1, trunks, Vec::new()));
    world.bound(2).await;
    let to = "127.0.61.1:8060";
    let phone = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let mut connection = TcpStream::connect(to).await.expect("accepted");
    // Eight Call-IDs: both shards own some, and the connection lives on one of them.
    for serial in 0..8 {
        phone
            .send_to(options("UDP", to, &format!("u{serial}")).as_bytes(), to)
            .await
            .expect("sent");
        let mut answer = vec![0; 4096];
        let received = timeout(PATIENCE, phone.recv_from(&mut answer)).await.expect("in time");
        let (length, from) = received.expect("received");
        assert_eq!(from.to_string(), to);
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");

        let answer = ask(&mut connection, &options("TCP", to, &format!("t{serial}"))).await;
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
    }
    let connections = Arc::clone(&world.surroundings.parts.connections);
    assert_eq!(connections.len(), 1);
    connections.close_unless(|_| false);
    let end = timeout(PATIENCE, connection.read(&mut [0; 1])).await.expect("in time");
    assert_eq!(end.expect("an orderly end"), 0);
}

#[tokio::test]
async fn mutual_authentication_takes_effect_with_the_next_handshake_and_no_session_is_resumed_around_it() {
    let (host, to) = ("127.0.61.2", "127.0.61.2:8061");
    let identity = identity("secure", host);
    let mut trunk = trunk("secure", Transport::Tls, 8061);
    trunk.tls.version = TlsVersion::V1_2Or1_3;
    let mut world = World::start(host, snapshot(1, vec![trunk.clone()], vec![identity.clone()]));
    world.bound(1).await;

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(identity.trusted_ca[0].clone()))
        .expect("an anchor");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let stranger = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stranger = TlsConnector::from(Arc::new(stranger));
    let name = || ServerName::try_from(host).expect("an address");
    let dial = || async { TcpStream::connect(to).await.expect("accepted") };

    let mut connection = stranger.connect(name(), dial().await).await.expect("a handshake");
    let answer = ask(&mut connection, &options("TLS", to, "a")).await;
    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");

    trunk.tls.mutual_auth = true;
    let table = Arc::clone(&world.surroundings.parts.tls);
    let before = table.of(&trunk.id).expect("made").server;
    let next = snapshot(2, vec![trunk.clone()], vec![identity]);
    world.surroundings.snapshots.send_replace(Arc::new(next));
    let changed = async {
        while table.of(&trunk.id).is_some_and(|tls| Arc::ptr_eq(&tls.server, &before)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, changed).await.expect("in time");
    // With TLS 1.3 the client has finished before the server refuses: the refusal arrives instead of an answer.
    let refused = match stranger.connect(name(), dial().await).await {
        Err(_) => true,
        Ok(mut connection) => {
            let _ = connection.write_all(options("TLS", to, "b").as_bytes()).await;
            let read = timeout(PATIENCE, connection.read(&mut [0; 1])).await.expect("in time");
            !matches!(read, Ok(length) if length > 0)
        }
    };
    assert!(refused, "a client without a certificate");

    let known = TlsConnector::from(table.of(&trunk.id).expect("made").client);
    let mut connection = known.connect(name(), dial().await).await.expect("a handshake");
    let answer = ask(&mut connection, &options("TLS", to, "c")).await;
    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
}

#[tokio::test]
async fn a_certificate_that_arrives_later_opens_the_listener() {
    let host = "127.0.61.3";
    let trunk = trunk("secure", Transport::Tls, 8061);
    let mut world = World::start(host, snapshot(1, vec![trunk.clone()], Vec::new()));
    let report = world.next_report().await;
    assert!(report.listeners.is_empty());
    assert!(
        matches!(&report.states[0].error, Some(("TLS_IDENTITY_MISSING", _))),
        "{report:?}"
    );
    let report = world
        .configure(snapshot(2, vec![trunk], vec![identity("secure", host)]))
        .await;
    assert_eq!((report.listeners.len(), report.states[0].error.clone()), (1, None));
}
