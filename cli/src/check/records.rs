//! What the API knows of the phones and their calls: reports travel from the worker, so that everything is waited for.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{MissedTickBehavior, interval, timeout};
use trunkline_proto::v1::{
    Call, CallFilter, CallState, ListCallsRequest, ListRegistrationsRequest, MediaLeg, Registration,
};

use super::{End, Observation, Tester};
use crate::api::Api;

/// Longest wait for a report.
const REPORTED: Duration = Duration::from_secs(15);
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);
/// Packets of a call the worker may count differently than the phones: those under way at its ends.
const EDGE_PACKETS: u64 = 10;

/// Waits until the API lists a binding for every phone.
///
/// # Errors
/// When one does not appear.
pub async fn registrations_seen(api: &Api, testers: &[Tester]) -> Result<()> {
    for tester in testers {
        let seen = until(async || Ok(is_registered(api, tester).await?.then_some(()))).await?;
        if seen.is_none() {
            bail!(
                "{} registered on {}, but the API does not show it",
                tester.phone.user(),
                tester.trunk
            );
        }
    }
    Ok(())
}

/// Waits until the API lists no binding of any phone of the check; says which are left.
///
/// # Errors
/// When the API cannot be asked.
pub async fn registrations_gone(api: &Api, testers: &[Tester]) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for tester in testers {
        let gone = until(async || Ok((!is_registered(api, tester).await?).then_some(()))).await?;
        if gone.is_none() {
            left.push(format!(
                "{} unregistered, but the API still shows it",
                tester.phone.user()
            ));
        }
    }
    Ok(left)
}

/// Waits for the record of a call and says what is off about it.
///
/// # Errors
/// When the API cannot be asked.
pub async fn call(api: &Api, seen: &Observation) -> Result<Vec<String>> {
    let name = format!("record of the call {} to {}", seen.caller.user, seen.callee.user);
    let call_id = &seen.caller.report.call_id;
    let found = until(async || {
        let filter = CallFilter {
            call_id: call_id.clone(),
            ..CallFilter::default()
        };
        let request = ListCallsRequest {
            filter: Some(filter),
            ..ListCallsRequest::default()
        };
        let calls = api
            .calls()
            .list_calls(request)
            .await
            .context("list calls")?
            .into_inner()
            .calls;
        Ok(calls.into_iter().find(|call| call.state() == CallState::Ended))
    });
    Ok(match found.await? {
        Some(record) => faults(&record, seen)
            .into_iter()
            .map(|fault| format!("{name}: {fault}"))
            .collect(),
        None => vec![format!("{name}: there is none that has ended")],
    })
}

/// Looks again and again until there is something, or [`REPORTED`] has passed.
async fn until<T>(mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let mut again = interval(POLL);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let found = async {
        loop {
            again.tick().await;
            if let Some(found) = look().await? {
                return Ok(found);
            }
        }
    };
    timeout(REPORTED, found).await.ok().transpose()
}

/// Whether the phone's own binding is listed: a softphone of the same user may have another.
async fn is_registered(api: &Api, tester: &Tester) -> Result<bool> {
    let request = ListRegistrationsRequest {
        parent: format!("trunks/{}", tester.trunk),
        page_size: 1000,
        ..ListRegistrationsRequest::default()
    };
    let response = api
        .registrations()
        .list_registrations(request)
        .await
        .context("list registrations")?;
    let contact = format!("{}@{}", tester.phone.user(), tester.phone.local());
    Ok(has_contact(&response.into_inner().registrations, &contact))
}

fn has_contact(registrations: &[Registration], contact: &str) -> bool {
    registrations
        .iter()
        .flat_map(|registration| &registration.bindings)
        .any(|binding| {
            let uri = binding.contact_uri.trim_start_matches("sip:");
            uri.strip_prefix(contact)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(';'))
        })
}

fn faults(record: &Call, seen: &Observation) -> Vec<String> {
    let mut faults = Vec::new();
    let mut compare = |what: &str, is: &str, should: &str| {
        if is != should {
            faults.push(format!("the {what} is `{is}`, not `{should}`"));
        }
    };
    compare(
        "end reason",
        record.end.as_ref().map_or("", |end| &end.reason),
        "caller_bye",
    );
    compare(
        "inbound trunk",
        &record.inbound_trunk,
        &format!("trunks/{}", seen.caller.trunk),
    );
    compare(
        "outbound trunk",
        &record.outbound_trunk,
        &format!("trunks/{}", seen.callee.trunk),
    );
    compare("authenticated user", &record.authenticated_user, &seen.caller.user);
    if record.answer_time.is_none() {
        faults.push("it has no answer time".to_owned());
    }
    for (end, is_caller) in [(&seen.caller, true), (&seen.callee, false)] {
        match record.media.iter().find(|leg| leg.caller == is_caller) {
            Some(leg) => faults.extend(of_leg(leg, end)),
            None => faults.push(format!("it has no media of {}", end.user)),
        }
    }
    faults
}

/// The worker counts on the other side of the wire: what it received is what the phone sent.
fn of_leg(leg: &MediaLeg, end: &End) -> Vec<String> {
    let mut faults = Vec::new();
    let audio = &end.report.audio;
    let codec = leg.codec.split('/').next().unwrap_or_default();
    if !codec.eq_ignore_ascii_case(audio.codec) {
        faults.push(format!("{} has codec `{}`, not {}", end.user, leg.codec, audio.codec));
    }
    let suite = audio.suite.map_or("", |suite| suite.name());
    if leg.srtp_suite != suite {
        faults.push(format!("{} has suite `{}`, not `{suite}`", end.user, leg.srtp_suite));
    }
    for (what, worker, phone) in [
        ("received from", leg.packets_received, audio.sent),
        ("sent to", leg.packets_sent, audio.received),
    ] {
        if worker.abs_diff(phone) > EDGE_PACKETS {
            faults.push(format!(
                "{worker} packets {what} {}, but the phone counts {phone}",
                end.user
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use trunkline_proto::v1::{Binding, CallEnd};

    use super::super::verdict::tests::observation;
    use super::*;

    fn record() -> Call {
        let leg = |caller, suite: &str| MediaLeg {
            caller,
            codec: "PCMU/8000".into(),
            srtp_suite: suite.into(),
            packets_received: 150,
            packets_sent: 149,
            ..MediaLeg::default()
        };
        Call {
            state: CallState::Ended.into(),
            inbound_trunk: "trunks/sample-udp".into(),
            outbound_trunk: "trunks/sample-tls".into(),
            authenticated_user: "1001".into(),
            answer_time: Some(prost_types::Timestamp::default()),
            end: Some(CallEnd {
                reason: "caller_bye".into(),
                ..CallEnd::default()
            }),
            media: vec![leg(true, ""), leg(false, "AEAD_AES_128_GCM")],
            ..Call::default()
        }
    }

    #[test]
    fn a_record_that_agrees_with_the_phones_has_no_fault() {
        assert_eq!(faults(&record(), &observation()), Vec::<String>::new());
    }

    #[test]
    fn every_disagreement_is_named() {
        type Spoil = fn(&mut Call);
        let cases: [(Spoil, &str); 8] = [
            (|call| call.end = None, "end reason is ``, not `caller_bye`"),
            (|call| call.outbound_trunk.clear(), "outbound trunk"),
            (
                |call| call.authenticated_user = "1002".into(),
                "authenticated user is `1002`",
            ),
            (|call| call.answer_time = None, "no answer time"),
            (|call| drop(call.media.pop()), "no media of 2001"),
            (
                |call| call.media[0].codec = "PCMA/8000".into(),
                "1001 has codec `PCMA/8000`",
            ),
            (|call| call.media[1].srtp_suite.clear(), "2001 has suite ``"),
            (
                |call| call.media[1].packets_received = 100,
                "100 packets received from 2001",
            ),
        ];
        for (spoil, expected) in cases {
            let mut call = record();
            spoil(&mut call);
            let found = faults(&call, &observation());
            assert_eq!(found.len(), 1, "{expected}: {found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn only_the_phones_own_binding_counts() {
        let registration = |uri: &str| Registration {
            bindings: vec![Binding {
                contact_uri: uri.into(),
                ..Binding::default()
            }],
            ..Registration::default()
        };
        let listed = [
            registration("sip:1001@127.0.0.1:40001"),
            registration("sip:2001@127.0.0.1:4000;transport=tls"),
        ];
        assert!(has_contact(&listed, "2001@127.0.0.1:4000"));
        assert!(
            !has_contact(&listed, "1001@127.0.0.1:4000"),
            "another port that starts alike"
        );
        assert!(!has_contact(&[], "1001@127.0.0.1:4000"));
    }
}
