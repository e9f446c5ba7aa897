use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::message::Message;
use crate::parse::{Framing, Limits, Parsed, parse};
use crate::transaction::tests::{epoch, seconds};

/// The call of RFC 3261 §24.2 with us in the middle: one proxy before us, two behind us.
///
/// ```text
/// alice --- p1 --- us --- p2 --- p3 --- bob
/// ```
const INVITE: &str = "INVITE sip:bob@biloxi.example SIP/2.0\n\
    Via: SIP/2.0/UDP p1.example;branch=z9hG4bKp1\n\
    Record-Route: <sip:p1.example;lr>\n\
    Max-Forwards: 69\n\
    From: Alice <sip:alice@atlanta.example>;tag=9fxced76sl\n\
    To: Bob <sip:bob@biloxi.example>\n\
    Call-ID: 3848276298220188511@atlanta.example\n\
    CSeq: 2 INVITE\n\
    Contact: <sip:alice@client.atlanta.example;transport=tcp>\n\
    Content-Length: 0\n\n";

const ROUTES: &str = "Record-Route: <sip:p3.example;lr>, <sip:p2.example;lr;x=1>;rr-param=2\n\
    Record-Route: <sip:us.example;lr>, <sip:p1.example;lr>\n";

fn message(text: &str) -> Message {
    let bytes = Bytes::from(text.replace('\n', "\r\n"));
    match parse(bytes, Framing::Datagram, &Limits::default()) {
        Parsed::Understood(message) => message,
        other => panic!("{other:?}\n{text}"),
    }
}

fn request(text: &str) -> Request {
    message(text).request().unwrap().clone()
}

fn response(status: &str, cseq: &str, extra: &str) -> Response {
    let text = format!(
        "SIP/2.0 {status}\nVia: SIP/2.0/UDP us.example;branch=z9hG4bKus\n{extra}\
         From: Alice <sip:alice@atlanta.example>;tag=9fxced76sl\nTo: Bob <sip:bob@biloxi.example>;tag=314159\n\
         Call-ID: 3848276298220188511@atlanta.example\nCSeq: {cseq}\nContent-Length: 0\n\n"
    );
    message(&text).response().unwrap().clone()
}

/// A request within the dialog; Alice's unless the tags are turned round.
fn within(from_callee: bool, cseq: &str, extra: &str) -> Request {
    let (alice, bob) = (
        "<sip:alice@atlanta.example>;tag=9fxced76sl",
        "<sip:bob@biloxi.example>;tag=314159",
    );
    let (from, to) = if from_callee { (bob, alice) } else { (alice, bob) };
    let method = cseq.split(' ').nth(1).unwrap();
    request(&format!(
        "{method} sip:x@y.example SIP/2.0\nVia: SIP/2.0/UDP peer.example;branch=z9hG4bKr\nMax-Forwards: 69\n\
         From: {from}\nTo: {to}\nCall-ID: 3848276298220188511@atlanta.example\nCSeq: {cseq}\n{extra}Content-Length: 0\n\n"
    ))
}

fn is_ours(uri: &Uri<'_>) -> bool {
    uri.as_str().contains("us.example")
}

fn accepted(extra: &str) -> Response {
    response(
        "200 OK",
        "2 INVITE",
        &format!("{ROUTES}Contact: <sip:bob@client.biloxi.example>\n{extra}"),
    )
}

fn dialog() -> Dialog {
    Dialog::establish(epoch(), &request(INVITE), &accepted(""), is_ours).unwrap()
}

fn texts<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Vec<&'a str> {
    values
        .into_iter()
        .map(|value| std::str::from_utf8(value).unwrap())
        .collect()
}

fn originated(dialog: &mut Dialog, to: Side, method: Method) -> Originated {
    dialog.originate(to, method).unwrap()
}

#[test]
fn messages_of_both_directions_name_the_same_dialog() {
    let ids = [within(false, "3 BYE", ""), within(true, "1 BYE", "")].map(|request| DialogId::of(&request).unwrap());
    assert_eq!(ids[0], ids[1]);
    assert_eq!(&ids[0], dialog().id());
    assert_eq!(DialogId::of(&request(INVITE)), None, "not in a dialog");
    assert_ne!(DialogId::new("a", "b", "c"), DialogId::new("a", "b", "d"));
    assert_ne!(DialogId::new("a", "b", "c"), DialogId::new("x", "b", "c"));
}

#[test]
fn the_sender_of_a_request_is_told_by_its_tags() {
    let dialog = dialog();
    assert_eq!(dialog.sender(&within(false, "3 BYE", "")), Some(Side::Caller));
    assert_eq!(dialog.sender(&within(true, "1 BYE", "")), Some(Side::Callee));
    assert_eq!(dialog.sender(&request(INVITE)), None);
}

#[test]
fn each_side_gets_its_part_of_the_route_set() {
    let dialog = dialog();
    assert_eq!(dialog.state(), DialogState::Confirmed);
    assert_eq!(texts(dialog.route_set(Side::Caller)), ["<sip:p1.example;lr>"]);
    assert_eq!(
        texts(dialog.route_set(Side::Callee)),
        ["<sip:p2.example;lr;x=1>;rr-param=2", "<sip:p3.example;lr>"],
        "nearest first, parameters kept"
    );
}

#[test]
fn without_our_record_route_the_contact_is_all_there_is() {
    let stripped = response("200 OK", "2 INVITE", "Contact: <sip:bob@client.biloxi.example>\n");
    let mut dialog = Dialog::establish(epoch(), &request(INVITE), &stripped, is_ours).unwrap();
    let bye = originated(&mut dialog, Side::Callee, Method::Bye);
    assert_eq!(
        (bye.routes.len(), bye.next_hop.as_str()),
        (0, "sip:bob@client.biloxi.example")
    );
}

#[test]
fn only_a_tagged_101_to_299_establishes() {
    let establish = |response: &Response| {
        Dialog::establish(epoch(), &request(INVITE), response, is_ours).map(|dialog| dialog.state())
    };
    assert_eq!(
        establish(&response("180 Ringing", "2 INVITE", "")),
        Ok(DialogState::Early)
    );
    assert_eq!(
        establish(&response("100 Trying", "2 INVITE", "")),
        Err(EstablishError::NotEstablishing)
    );
    assert_eq!(
        establish(&response("486 Busy Here", "2 INVITE", "")),
        Err(EstablishError::NotEstablishing)
    );
    let untagged = message(
        "SIP/2.0 180 Ringing\nVia: SIP/2.0/UDP us.example;branch=z9hG4bKus\nFrom: <sip:a@b>;tag=1\nTo: <sip:c@d>\n\
         Call-ID: 3848276298220188511@atlanta.example\nCSeq: 2 INVITE\nContent-Length: 0\n\n",
    );
    assert_eq!(
        establish(untagged.response().unwrap()),
        Err(EstablishError::NoTag(HeaderName::To))
    );
    let broken = response("180 Ringing", "2 INVITE", "Record-Route: <sip:\n");
    assert!(matches!(establish(&broken), Err(EstablishError::Header(_))));
}

#[test]
fn a_bye_to_the_callee_speaks_for_the_caller() {
    let mut dialog = dialog();
    let bye = originated(&mut dialog, Side::Callee, Method::Bye);
    let text = bye.builder("SIP/2.0/UDP us.example;branch=z9hG4bKbye").build().unwrap();
    assert_eq!(
        std::str::from_utf8(&text).unwrap(),
        "BYE sip:bob@client.biloxi.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP us.example;branch=z9hG4bKbye\r\n\
         Max-Forwards: 70\r\n\
         Route: <sip:p2.example;lr;x=1>;rr-param=2\r\n\
         Route: <sip:p3.example;lr>\r\n\
         From: Alice <sip:alice@atlanta.example>;tag=9fxced76sl\r\n\
         To: Bob <sip:bob@biloxi.example>;tag=314159\r\n\
         Call-ID: 3848276298220188511@atlanta.example\r\n\
         CSeq: 3 BYE\r\n\
         Content-Length: 0\r\n\r\n"
    );
    assert_eq!(bye.next_hop.as_str(), "sip:p2.example;lr;x=1");
}

#[test]
fn a_bye_to_the_caller_speaks_for_the_callee() {
    let mut dialog = dialog();
    let bye = originated(&mut dialog, Side::Caller, Method::Bye);
    assert_eq!(
        bye.request_uri.as_str(),
        "sip:alice@client.atlanta.example;transport=tcp"
    );
    assert_eq!(texts(bye.routes.iter().map(|route| &**route)), ["<sip:p1.example;lr>"]);
    assert_eq!(&*bye.from, b"Bob <sip:bob@biloxi.example>;tag=314159");
    assert_eq!(&*bye.to, b"Alice <sip:alice@atlanta.example>;tag=9fxced76sl");
    assert_eq!(bye.cseq, 1, "the callee has sent no request yet");
}

#[test]
fn a_strict_router_takes_the_place_of_the_target() {
    let invite = request(&INVITE.replace(
        "<sip:p1.example;lr>",
        "<sip:p1.example;method=BYE;x=1?h=v>, <sip:p0.example>",
    ));
    let mut dialog = Dialog::establish(epoch(), &invite, &accepted(""), is_ours).unwrap();
    let bye = originated(&mut dialog, Side::Caller, Method::Bye);
    assert_eq!(
        bye.request_uri.as_str(),
        "sip:p1.example;x=1",
        "RFC 3261 §19.1.1: no method, no headers"
    );
    assert_eq!(bye.next_hop, bye.request_uri);
    assert_eq!(
        texts(bye.routes.iter().map(|route| &**route)),
        ["<sip:p0.example>", "<sip:alice@client.atlanta.example;transport=tcp>"]
    );
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let ringing = response("180 Ringing", "2 INVITE", ROUTES);
    let mut early = Dialog::establish(epoch(), &request(INVITE), &ringing, is_ours).unwrap();
    assert_eq!(
        early.originate(Side::Caller, Method::Bye),
        Err(OriginateError::EarlyBye)
    );
    assert_eq!(
        early.originate(Side::Callee, Method::Bye),
        Err(OriginateError::NoTarget),
        "no Contact in the 180"
    );
    let mut dialog = dialog();
    assert_eq!(
        dialog.originate(Side::Callee, Method::Cancel),
        Err(OriginateError::NotARequestOfItsOwn)
    );
    dialog.terminate();
    assert_eq!(
        dialog.originate(Side::Callee, Method::Bye),
        Err(OriginateError::Terminated)
    );
}

#[test]
fn a_2xx_computes_route_set_and_target_again() {
    let ringing = response(
        "180 Ringing",
        "2 INVITE",
        "Record-Route: <sip:us.example;lr>\nContact: <sip:early@bob>\n",
    );
    let mut dialog = Dialog::establish(epoch(), &request(INVITE), &ringing, is_ours).unwrap();
    assert_eq!(dialog.route_set(Side::Callee).count(), 0);
    assert_eq!(dialog.confirm(epoch(), &accepted(""), is_ours), Ok(Effect::Confirmed));
    assert_eq!(dialog.state(), DialogState::Confirmed);
    assert_eq!(dialog.route_set(Side::Callee).count(), 2);
    assert_eq!(
        dialog.target(Side::Callee).unwrap().as_str(),
        "sip:bob@client.biloxi.example"
    );
    let late = response("200 OK", "2 INVITE", "Contact: <sip:late@bob>\n");
    assert_eq!(
        dialog.confirm(epoch(), &late, is_ours),
        Ok(Effect::Continues),
        "a retransmitted 2xx"
    );
    assert_eq!(
        dialog.target(Side::Callee).unwrap().as_str(),
        "sip:bob@client.biloxi.example"
    );
}

#[test]
fn a_re_invite_moves_both_targets_once_it_is_accepted() {
    let mut dialog = dialog();
    let reinvite = within(true, "101 INVITE", "Contact: <sip:bob@moved>\n");
    assert_eq!(
        dialog.request_passes(Side::Callee, &reinvite),
        Passing {
            order: Order::New,
            cseq: 101
        }
    );
    assert_eq!(
        dialog.target(Side::Callee).unwrap().as_str(),
        "sip:bob@client.biloxi.example",
        "not yet"
    );
    let ok = response("200 OK", "101 INVITE", "Contact: <sip:alice@moved>\n");
    assert_eq!(dialog.response_passes(epoch(), Side::Callee, &ok), Effect::Continues);
    assert_eq!(dialog.target(Side::Callee).unwrap().as_str(), "sip:bob@moved");
    assert_eq!(dialog.target(Side::Caller).unwrap().as_str(), "sip:alice@moved");
}

#[test]
fn a_refused_re_invite_moves_nothing() {
    let mut dialog = dialog();
    dialog.request_passes(Side::Caller, &within(false, "3 INVITE", "Contact: <sip:alice@moved>\n"));
    let refused = response("488 Not Acceptable Here", "3 INVITE", "Contact: <sip:bob@moved>\n");
    assert_eq!(
        dialog.response_passes(epoch(), Side::Caller, &refused),
        Effect::Continues
    );
    assert_eq!(
        dialog.target(Side::Caller).unwrap().as_str(),
        "sip:alice@client.atlanta.example;transport=tcp"
    );
    assert_eq!(
        dialog.target(Side::Callee).unwrap().as_str(),
        "sip:bob@client.biloxi.example"
    );
    assert!(dialog.refreshes.is_empty());
}

#[test]
fn unanswered_refreshes_do_not_pile_up() {
    let mut dialog = dialog();
    for cseq in 3..100 {
        dialog.request_passes(
            Side::Caller,
            &within(false, &format!("{cseq} UPDATE"), "Contact: <sip:alice@moved>\n"),
        );
    }
    assert_eq!(dialog.refreshes.len(), PENDING_REFRESHES);
}

#[test]
fn an_originated_request_shifts_what_follows() {
    let mut dialog = dialog();
    assert_eq!(originated(&mut dialog, Side::Callee, Method::Options).cseq, 3);
    let passing = dialog.request_passes(Side::Caller, &within(false, "3 INVITE", "Contact: <sip:alice@moved>\n"));
    assert_eq!(
        passing,
        Passing {
            order: Order::New,
            cseq: 4
        }
    );
    assert_eq!(
        dialog.forwarded_cseq(Side::Caller, 3),
        4,
        "its ACK, its CANCEL and a RAck"
    );
    assert_eq!(dialog.forwarded_cseq(Side::Caller, 2), 2, "an ACK of the first INVITE");
    assert_eq!(
        dialog.returned_cseq(Side::Caller, 3),
        None,
        "the answer to the OPTIONS ends here"
    );
    assert_eq!(dialog.returned_cseq(Side::Caller, 4), Some(3));
    let ok = response("200 OK", "4 INVITE", "");
    dialog.response_passes(epoch(), Side::Caller, &ok);
    assert_eq!(
        dialog.target(Side::Caller).unwrap().as_str(),
        "sip:alice@moved",
        "matched by the shifted number"
    );
    assert_eq!(originated(&mut dialog, Side::Callee, Method::Bye).cseq, 5);
}

#[test]
fn a_bye_ends_the_dialog_when_it_is_answered() {
    let mut dialog = dialog();
    dialog.request_passes(Side::Caller, &within(false, "3 BYE", ""));
    assert_eq!(dialog.state(), DialogState::Confirmed);
    let challenge = response("407 Proxy Authentication Required", "3 BYE", "");
    assert_eq!(
        dialog.response_passes(epoch(), Side::Caller, &challenge),
        Effect::Continues
    );
    dialog.request_passes(Side::Caller, &within(false, "4 BYE", ""));
    assert_eq!(
        dialog.response_passes(epoch(), Side::Caller, &response("200 OK", "4 BYE", "")),
        Effect::Terminated
    );
    assert_eq!(dialog.state(), DialogState::Terminated);
}

#[test]
fn a_re_invite_to_a_lost_call_fails_it() {
    let mut dialog = dialog();
    let lost = response("481 Call/Transaction Does Not Exist", "3 INVITE", "");
    assert_eq!(dialog.response_passes(epoch(), Side::Caller, &lost), Effect::Failed);
}

#[test]
fn a_failed_dialog_can_still_be_cleaned_up_on_the_other_side() {
    let mut dialog = dialog();
    let lost = response("481 Call/Transaction Does Not Exist", "3 INVITE", "");
    dialog.response_passes(epoch(), Side::Caller, &lost);
    assert_eq!(originated(&mut dialog, Side::Caller, Method::Bye).cseq, 1);
}

#[test]
fn the_session_timer_follows_the_last_2xx() {
    let now = epoch();
    let first = accepted("Session-Expires: 1800;refresher=uac\n");
    let mut dialog = Dialog::establish(now, &request(INVITE), &first, is_ours).unwrap();
    let session = *dialog.session().unwrap();
    assert_eq!(
        (session.refresher(), session.interval()),
        (Side::Caller, seconds(1800.0))
    );
    assert_eq!(session.refresh_at(), now + seconds(900.0));
    assert_eq!(session.expires_at(), now + seconds(1800.0));

    let later = now + seconds(900.0);
    let update = response("200 OK", "1 UPDATE", "Session-Expires: 600;refresher=uac\n");
    dialog.response_passes(later, Side::Callee, &update);
    let session = *dialog.session().unwrap();
    assert_eq!(session.refresher(), Side::Callee, "uac is who sent the UPDATE");
    assert_eq!(session.expires_at(), later + seconds(600.0));

    let by_uas = response("200 OK", "2 UPDATE", "Session-Expires: 1;refresher=uas\n");
    dialog.response_passes(later, Side::Callee, &by_uas);
    let session = *dialog.session().unwrap();
    assert_eq!(
        (session.refresher(), session.interval()),
        (Side::Caller, seconds(90.0)),
        "never below 90 s"
    );

    dialog.response_passes(later, Side::Callee, &response("200 OK", "3 INFO", ""));
    assert!(dialog.session().is_some(), "INFO is no session refresh");
    dialog.response_passes(later, Side::Callee, &response("200 OK", "4 INVITE", ""));
    assert!(
        dialog.session().is_none(),
        "a refresh without Session-Expires ends the timer (RFC 4028 §8.2)"
    );
}

proptest! {
    #[test]
    fn any_sequence_of_messages_leaves_a_usable_dialog(
        steps in prop::collection::vec((any::<bool>(), 0u32..8, 0usize..5, 0usize..6), 0..40)
    ) {
        let methods = ["INVITE", "UPDATE", "INFO", "ACK", "REFER"];
        let statuses = ["100 T", "200 OK", "302 M", "481 G", "491 P", "500 E"];
        let (now, mut dialog) = (epoch(), dialog());
        for (from_callee, cseq, method, status) in steps {
            let side = if from_callee { Side::Callee } else { Side::Caller };
            let cseq = format!("{cseq} {}", methods[method]);
            dialog.request_passes(side, &within(from_callee, &cseq, "Contact: <sip:new@place>\n"));
            dialog.response_passes(now, side, &response(statuses[status], &cseq, ""));
            prop_assert!(dialog.refreshes.len() <= PENDING_REFRESHES);
            prop_assert!(dialog.target(Side::Caller).is_some() && dialog.target(Side::Callee).is_some());
        }
        prop_assert_eq!(dialog.state(), DialogState::Confirmed, "no BYE, no end");
        prop_assert!(dialog.originate(Side::Callee, Method::Bye).is_ok());
    }
}
