//! Matching, absorbing, refusing: what the layer adds to the machines.

use super::*;
use crate::method::Method;
use crate::status::StatusCode;
use crate::timer::Reliability::{Reliable, Unreliable};
use crate::transaction::*;
use crate::uri::Host;

type Layer = Transactions<&'static str>;

const PEER: &str = "192.0.2.1:5060";

fn layer(capacity: u32) -> Layer {
    Transactions::new(
        TransactionsConfig {
            capacity,
            ..TransactionsConfig::default()
        },
        [3, 5],
    )
}

fn key<'a>(method: &'a Method, branch: &'a str) -> RequestKey<'a> {
    RequestKey {
        method,
        branch: branch.as_bytes(),
        host: Host::Name("client.example"),
        port: Some(5060),
        rfc2543: Rfc2543Key {
            request_uri: b"sip:bob@example.com",
            from_tag: b"a",
            call_id: b"c@d",
            cseq: 1,
            top_via: b"SIP/2.0/UDP client.example:5060",
        },
    }
}

fn receive(layer: &mut Layer, now: Instant, method: &Method, branch: &str) -> RequestOutcome {
    layer.handle_request(now, key(method, branch), PEER, Unreliable)
}

fn receive_new(layer: &mut Layer, now: Instant, method: &Method, branch: &str) -> ServerTransactionId {
    match receive(layer, now, method, branch) {
        RequestOutcome::New(id) => id,
        other => panic!("{method} should be new, is {other:?}"),
    }
}

fn send(layer: &mut Layer, now: Instant, method: &Method, branch: &str) -> Result<ClientTransactionId, SendError> {
    let bytes = Bytes::copy_from_slice(method.as_str().as_bytes());
    let (branch, destination) = (branch.as_bytes(), PEER);
    layer.send_request(
        now,
        ClientRequest {
            method,
            branch,
            bytes,
            destination,
            reliability: Unreliable,
        },
    )
}

fn answer(layer: &mut Layer, now: Instant, method: &Method, branch: &str, status: StatusCode) -> ResponseOutcome {
    let key = ResponseKey {
        method,
        branch: branch.as_bytes(),
    };
    layer.handle_response(now, key, status, |invite| {
        assert_eq!(invite, "INVITE", "the ACK is built from the INVITE as sent");
        Some(bytes("ACK"))
    })
}

fn sent(layer: &mut Layer) -> Vec<Bytes> {
    std::iter::from_fn(|| layer.poll_transmit())
        .map(|transmit| transmit.bytes)
        .collect()
}

fn events(layer: &mut Layer) -> Vec<Event> {
    std::iter::from_fn(|| layer.poll_event()).collect()
}

#[test]
fn a_retransmitted_invite_gets_the_last_response_again() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Invite, "z9hG4bK1");
    assert_eq!(
        receive(&mut layer, now, &Method::Invite, "z9hG4bK1"),
        RequestOutcome::Absorbed
    );
    assert_eq!(sent(&mut layer), Vec::<Bytes>::new(), "nothing to repeat yet");
    layer.respond(now, id, StatusCode::TRYING, bytes("100")).unwrap();
    layer.respond(now, id, StatusCode::RINGING, bytes("180")).unwrap();
    assert_eq!(sent(&mut layer), ["100", "180"]);
    assert_eq!(
        receive(&mut layer, now, &Method::Invite, "z9hG4bK1"),
        RequestOutcome::Absorbed
    );
    assert_eq!(sent(&mut layer), ["180"]);
    layer.respond(now, id, StatusCode::BUSY_HERE, bytes("486")).unwrap();
    assert_eq!(
        receive(&mut layer, now, &Method::Invite, "z9hG4bK1"),
        RequestOutcome::Absorbed
    );
    assert_eq!(sent(&mut layer), ["486", "486"]);
    assert_eq!(
        (layer.stats().requests_absorbed, layer.stats().answers_retransmitted),
        (3, 2)
    );
}

#[test]
fn an_invite_retransmitted_after_2xx_is_absorbed_in_silence() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Invite, "z9hG4bK1");
    layer.respond(now, id, StatusCode::OK, bytes("200")).unwrap();
    assert_eq!(sent(&mut layer), ["200"]);
    assert_eq!(
        receive(&mut layer, now, &Method::Invite, "z9hG4bK1"),
        RequestOutcome::Absorbed
    );
    assert_eq!(sent(&mut layer), Vec::<Bytes>::new());
    layer.respond(now, id, StatusCode::OK, bytes("200")).unwrap();
    assert_eq!(
        sent(&mut layer),
        ["200"],
        "a 2xx retransmitted by the UAS passes (RFC 6026 §7.1)"
    );
    assert_eq!(
        layer.respond(now, id, StatusCode::BUSY_HERE, bytes("486")),
        Err(RespondError::AlreadyFinal),
        "nothing but 2xx after a 2xx"
    );
}

#[test]
fn an_ack_for_2xx_reaches_the_transaction_user_on_either_branch() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Invite, "z9hG4bK1");
    layer.respond(now, id, StatusCode::OK, bytes("200")).unwrap();
    assert_eq!(
        receive(&mut layer, now, &Method::Ack, "z9hG4bK2"),
        RequestOutcome::Ack(None)
    );
    assert_eq!(
        receive(&mut layer, now, &Method::Ack, "z9hG4bK1"),
        RequestOutcome::Ack(Some(id))
    );
}

#[test]
fn an_ack_for_a_failure_ends_in_the_transaction() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Invite, "z9hG4bK1");
    layer.respond(now, id, StatusCode::BUSY_HERE, bytes("486")).unwrap();
    assert_eq!(
        receive(&mut layer, now, &Method::Ack, "z9hG4bK1"),
        RequestOutcome::Absorbed
    );
    assert_eq!(
        receive(&mut layer, now, &Method::Ack, "z9hG4bK1"),
        RequestOutcome::Absorbed
    );
    layer.handle_timeout(now + seconds(5.0));
    assert_eq!(
        events(&mut layer),
        [Event::Terminated(TransactionId::Server(id))],
        "timer I is T4"
    );
    assert!(layer.is_empty());
}

#[test]
fn an_ack_before_any_final_response_is_absorbed() {
    let (now, mut layer) = (epoch(), layer(8));
    receive_new(&mut layer, now, &Method::Invite, "z9hG4bK1");
    assert_eq!(
        receive(&mut layer, now, &Method::Ack, "z9hG4bK1"),
        RequestOutcome::Absorbed
    );
}

#[test]
fn a_cancel_finds_its_invite() {
    let (now, mut layer) = (epoch(), layer(8));
    let invite = receive_new(&mut layer, now, &Method::Invite, "z9hG4bK1");
    let RequestOutcome::Cancel {
        transaction,
        invite: found,
    } = receive(&mut layer, now, &Method::Cancel, "z9hG4bK1")
    else {
        panic!("a CANCEL is told as such")
    };
    assert_eq!(found, Some(invite));
    assert!(layer.is_pending(invite));
    layer
        .respond(now, transaction, StatusCode::OK, bytes("200 CANCEL"))
        .unwrap();
    layer
        .respond(now, invite, StatusCode::REQUEST_TERMINATED, bytes("487"))
        .unwrap();
    assert!(!layer.is_pending(invite));
    assert_eq!(sent(&mut layer), ["200 CANCEL", "487"]);
    assert_eq!(
        receive(&mut layer, now, &Method::Cancel, "z9hG4bK1"),
        RequestOutcome::Absorbed
    );
    assert_eq!(sent(&mut layer), ["200 CANCEL"]);
}

#[test]
fn a_cancel_without_invite_is_told_apart() {
    let (now, mut layer) = (epoch(), layer(8));
    let outcome = receive(&mut layer, now, &Method::Cancel, "z9hG4bK1");
    assert!(
        matches!(outcome, RequestOutcome::Cancel { invite: None, .. }),
        "{outcome:?}"
    );
}

#[test]
fn requests_without_the_cookie_are_matched_by_rfc_2543() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Invite, "1");
    assert_eq!(receive(&mut layer, now, &Method::Invite, ""), RequestOutcome::Absorbed);
    layer.respond(now, id, StatusCode::BUSY_HERE, bytes("486")).unwrap();
    assert_eq!(receive(&mut layer, now, &Method::Ack, ""), RequestOutcome::Absorbed);
    let mut next = key(&Method::Invite, "1");
    next.rfc2543.cseq = 2;
    assert!(
        matches!(
            layer.handle_request(now, next, PEER, Unreliable),
            RequestOutcome::New(_)
        ),
        "another CSeq"
    );
}

#[test]
fn the_ack_of_a_failure_is_built_once_and_repeated() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = send(&mut layer, now, &Method::Invite, "z9hG4bK1").unwrap();
    assert_eq!(
        answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::BUSY_HERE),
        ResponseOutcome::Deliver(id)
    );
    assert_eq!(
        answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::BUSY_HERE),
        ResponseOutcome::Absorbed
    );
    assert_eq!(sent(&mut layer), ["INVITE", "ACK", "ACK"]);
    layer.handle_timeout(now + seconds(32.0));
    assert_eq!(events(&mut layer), [Event::Terminated(TransactionId::Client(id))]);
}

#[test]
fn a_failure_whose_ack_cannot_be_built_changes_nothing() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = send(&mut layer, now, &Method::Invite, "z9hG4bK1").unwrap();
    let key = ResponseKey {
        method: &Method::Invite,
        branch: b"z9hG4bK1",
    };
    assert_eq!(
        layer.handle_response(now, key, StatusCode::BUSY_HERE, |_| None),
        ResponseOutcome::Absorbed
    );
    assert!(layer.request(id).is_some(), "still calling");
}

#[test]
fn every_2xx_reaches_the_transaction_user() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = send(&mut layer, now, &Method::Invite, "z9hG4bK1").unwrap();
    for _ in 0..3 {
        let outcome = answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::OK);
        assert_eq!(outcome, ResponseOutcome::Deliver(id));
    }
    assert_eq!(
        answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::BUSY_HERE),
        ResponseOutcome::Absorbed,
        "no failure after a 2xx"
    );
    layer.handle_timeout(now + seconds(32.0));
    assert_eq!(
        answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::OK),
        ResponseOutcome::Unmatched,
        "timer M is over"
    );
}

#[test]
fn a_response_is_matched_by_branch_and_cseq_method() {
    let (now, mut layer) = (epoch(), layer(8));
    let invite = send(&mut layer, now, &Method::Invite, "z9hG4bK1").unwrap();
    let cancel = send(&mut layer, now, &Method::Cancel, "z9hG4bK1").unwrap();
    assert_eq!(
        answer(&mut layer, now, &Method::Cancel, "z9hG4bK1", StatusCode::OK),
        ResponseOutcome::Deliver(cancel)
    );
    assert_eq!(
        answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::RINGING),
        ResponseOutcome::Deliver(invite)
    );
    assert_eq!(
        answer(&mut layer, now, &Method::Bye, "z9hG4bK1", StatusCode::OK),
        ResponseOutcome::Unmatched
    );
    assert_eq!(layer.stats().responses_unmatched, 1);
}

#[test]
fn a_cancel_waits_for_a_provisional_response() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = send(&mut layer, now, &Method::Invite, "z9hG4bK1").unwrap();
    assert_eq!(layer.cancel(now, id), Cancel::AfterProvisional);
    assert_eq!(
        layer.cancel(now, id),
        Cancel::AfterProvisional,
        "asking twice is harmless"
    );
    assert_eq!(
        answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::TRYING),
        ResponseOutcome::Deliver(id)
    );
    assert_eq!(events(&mut layer), [Event::CancelDue(id)]);
    assert_eq!(layer.request(id), Some(&bytes("INVITE")));
    assert_eq!(layer.cancel(now, id), Cancel::NotPossible, "one CANCEL");
    layer.handle_timeout(now + seconds(32.0));
    let end = [Event::Timeout(id), Event::Terminated(TransactionId::Client(id))];
    assert_eq!(
        events(&mut layer),
        end,
        "a peer that ignores the CANCEL (RFC 3261 §9.1)"
    );
}

#[test]
fn a_cancel_after_a_provisional_response_goes_at_once() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = send(&mut layer, now, &Method::Invite, "z9hG4bK1").unwrap();
    let _ = answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::RINGING);
    assert_eq!(layer.cancel(now, id), Cancel::Now(bytes("INVITE")));
    assert_eq!(
        answer(
            &mut layer,
            now,
            &Method::Invite,
            "z9hG4bK1",
            StatusCode::REQUEST_TERMINATED
        ),
        ResponseOutcome::Deliver(id)
    );
    assert_eq!(layer.cancel(now, id), Cancel::NotPossible);
}

#[test]
fn only_an_invite_can_be_cancelled() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = send(&mut layer, now, &Method::Options, "z9hG4bK1").unwrap();
    assert_eq!(layer.cancel(now, id), Cancel::NotPossible);
}

#[test]
fn timer_c_is_restarted_by_101_to_199_but_not_by_100() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = send(&mut layer, now, &Method::Invite, "z9hG4bK1").unwrap();
    let _ = answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::TRYING);
    let _ = answer(
        &mut layer,
        now + seconds(100.0),
        &Method::Invite,
        "z9hG4bK1",
        StatusCode::TRYING,
    );
    assert_eq!(layer.poll_timeout(), Some(now + seconds(181.0)));
    let _ = answer(
        &mut layer,
        now + seconds(100.0),
        &Method::Invite,
        "z9hG4bK1",
        StatusCode::RINGING,
    );
    assert_eq!(layer.poll_timeout(), Some(now + seconds(281.0)));
    layer.handle_timeout(now + seconds(281.0));
    assert_eq!(events(&mut layer), [Event::TimerC(id)]);
    assert!(layer.request(id).is_some(), "the CANCEL is built from it");
    layer.handle_timeout(now + seconds(313.0));
    assert_eq!(
        events(&mut layer),
        [Event::Timeout(id), Event::Terminated(TransactionId::Client(id))]
    );
}

#[test]
fn no_408_and_no_early_100_to_a_non_invite() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Options, "z9hG4bK1");
    let respond = |layer: &mut Layer, status| layer.respond(now, id, status, bytes("response"));
    assert_eq!(
        respond(&mut layer, StatusCode::REQUEST_TIMEOUT),
        Err(RespondError::RequestTimeout)
    );
    assert_eq!(
        respond(&mut layer, StatusCode::TRYING),
        Err(RespondError::Provisional),
        "too early"
    );
    layer.handle_timeout(now + seconds(3.5));
    assert_eq!(events(&mut layer), [Event::TryingDue(id)]);
    assert_eq!(
        respond(&mut layer, StatusCode::RINGING),
        Err(RespondError::Provisional),
        "100 only"
    );
    assert_eq!(respond(&mut layer, StatusCode::TRYING), Ok(()));
    assert_eq!(respond(&mut layer, StatusCode::OK), Ok(()));
    assert_eq!(respond(&mut layer, StatusCode::OK), Err(RespondError::AlreadyFinal));
}

#[test]
fn a_request_nobody_answers_ends_after_64_t1() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Options, "z9hG4bK1");
    layer.handle_timeout(now + seconds(3.5));
    layer.handle_timeout(now + seconds(32.0));
    let end = [
        Event::TryingDue(id),
        Event::Unanswered(id),
        Event::Terminated(TransactionId::Server(id)),
    ];
    assert_eq!(events(&mut layer), end);
    assert_eq!(
        layer.respond(now, id, StatusCode::OK, bytes("200")),
        Err(RespondError::Gone),
        "RFC 4320 §4.2"
    );
}

#[test]
fn a_full_table_lets_go_of_answered_requests_first() {
    let (now, mut layer) = (epoch(), layer(2));
    for branch in ["z9hG4bK1", "z9hG4bK2"] {
        let id = receive_new(&mut layer, now, &Method::Register, branch);
        layer.respond(now, id, StatusCode::OK, bytes("200")).unwrap();
    }
    // The oldest goes, the other one still absorbs its retransmissions.
    receive_new(&mut layer, now, &Method::Invite, "z9hG4bK3");
    assert_eq!(
        receive(&mut layer, now, &Method::Register, "z9hG4bK2"),
        RequestOutcome::Absorbed
    );
    receive_new(&mut layer, now, &Method::Invite, "z9hG4bK4");
    assert_eq!((layer.stats().let_go, layer.len()), (2, 2));
    assert_eq!(
        receive(&mut layer, now, &Method::Register, "z9hG4bK5"),
        RequestOutcome::Overloaded,
        "what waits for its answer stays"
    );
}

#[test]
fn a_full_table_refuses_new_work_but_lets_calls_end() {
    let (now, mut layer) = (epoch(), layer(2));
    receive_new(&mut layer, now, &Method::Invite, "z9hG4bK1");
    send(&mut layer, now, &Method::Invite, "z9hG4bK2").unwrap();
    assert_eq!(
        receive(&mut layer, now, &Method::Invite, "z9hG4bK3"),
        RequestOutcome::Overloaded
    );
    assert_eq!(
        send(&mut layer, now, &Method::Invite, "z9hG4bK3"),
        Err(SendError::Overloaded)
    );
    assert_eq!(
        receive(&mut layer, now, &Method::Invite, "z9hG4bK1"),
        RequestOutcome::Absorbed,
        "not new work"
    );
    assert!(
        matches!(
            receive(&mut layer, now, &Method::Bye, "z9hG4bK4"),
            RequestOutcome::New(_)
        ),
        "the reserve"
    );
    assert_eq!(
        receive(&mut layer, now, &Method::Bye, "z9hG4bK5"),
        RequestOutcome::Overloaded,
        "is finite"
    );
    assert_eq!(layer.stats().overloaded, 3);
    assert_eq!(layer.len(), 3);
}

#[test]
fn a_branch_is_used_once_per_method() {
    let (now, mut layer) = (epoch(), layer(8));
    send(&mut layer, now, &Method::Invite, "z9hG4bK1").unwrap();
    assert_eq!(
        send(&mut layer, now, &Method::Invite, "z9hG4bK1"),
        Err(SendError::BranchInUse)
    );
    assert_eq!(send(&mut layer, now, &Method::Ack, "z9hG4bK2"), Err(SendError::Ack));
    assert_eq!(sent(&mut layer), ["INVITE"], "a refused request is not sent");
}

#[test]
fn a_transport_error_ends_a_client_and_spares_an_invite_server() {
    let (now, mut layer) = (epoch(), layer(8));
    let client = TransactionId::Client(send(&mut layer, now, &Method::Options, "z9hG4bK1").unwrap());
    let server = TransactionId::Server(receive_new(&mut layer, now, &Method::Invite, "z9hG4bK1"));
    layer.handle_transport_error(now, client);
    layer.handle_transport_error(now, client);
    assert_eq!(
        events(&mut layer),
        [Event::TransportError(client), Event::Terminated(client)],
        "told once"
    );
    layer.handle_transport_error(now, server);
    assert_eq!(events(&mut layer), [Event::TransportError(server)]);
    assert_eq!(layer.len(), 1);
}

#[test]
fn an_abandoned_request_is_new_when_it_comes_again() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Register, "z9hG4bK1");
    layer.abandon(TransactionId::Server(id));
    assert_eq!(events(&mut layer), [Event::Terminated(TransactionId::Server(id))]);
    assert_eq!(layer.poll_timeout(), None);
    receive_new(&mut layer, now, &Method::Register, "z9hG4bK1");
}

#[test]
fn nothing_lingers_on_a_reliable_transport_after_a_failure() {
    let (now, mut layer) = (epoch(), layer(8));
    let request = ClientRequest {
        method: &Method::Invite,
        branch: b"z9hG4bK1",
        bytes: bytes("INVITE"),
        destination: PEER,
        reliability: Reliable,
    };
    let id = layer.send_request(now, request).unwrap();
    let _ = answer(&mut layer, now, &Method::Invite, "z9hG4bK1", StatusCode::BUSY_HERE);
    assert_eq!(sent(&mut layer), ["INVITE", "ACK"]);
    assert_eq!(events(&mut layer), [Event::Terminated(TransactionId::Client(id))]);
    assert!(layer.is_empty());
}

#[test]
fn retransmissions_stop_when_nobody_drains_the_queue() {
    let (now, mut layer) = (epoch(), layer(8));
    let id = receive_new(&mut layer, now, &Method::Options, "z9hG4bK1");
    layer.respond(now, id, StatusCode::OK, bytes("200")).unwrap();
    for _ in 0..10_000 {
        let _ = receive(&mut layer, now, &Method::Options, "z9hG4bK1");
    }
    assert_eq!(sent(&mut layer).len(), TRANSMIT_QUEUE);
    assert_eq!(layer.stats().retransmissions_dropped, 10_001 - TRANSMIT_QUEUE as u64);
}

#[test]
fn a_transaction_is_small() {
    let size = std::mem::size_of::<Transaction<u32>>();
    assert!(
        size <= 96,
        "{size} bytes beside its key, its timers and the message it keeps"
    );
}
