//! Which formats both legs may use, and under which payload type numbers.

use crate::codec::{DYNAMIC_PAYLOAD_TYPES, MAX_PAYLOAD_TYPE, PayloadFormat};
use crate::relay::{LegId, PerLeg};

use super::error::{NegotiationError, NegotiationErrorKind};
use super::policy::{DtmfMethod, DtmfPolicy, LegPolicy};
use super::remote::{RemoteFormat, RemoteStream};

/// The events of RFC 4733 §3.2: the sixteen DTMF digits. Written in every description of ours.
pub(super) const DTMF_EVENTS: &str = "0-15";

const EVENTS_8000: PayloadFormat = PayloadFormat::TelephoneEvent { clock_rate: 8_000 };
const EVENTS_48000: PayloadFormat = PayloadFormat::TelephoneEvent { clock_rate: 48_000 };

/// The payload type numbers of one format on one leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LegNumbers {
    /// In our description: what the leg sends with (RFC 3264 §5.1).
    pub receive: u8,
    /// In the leg's description: what we send with.
    pub send: u8,
}

impl LegNumbers {
    pub(super) const fn same(number: u8) -> Self {
        LegNumbers {
            receive: number,
            send: number,
        }
    }
}

/// The formats an offerer and both policies have in common, in the order of the answerer's codec list and with the
/// companions last.
pub(super) fn common(
    remote: &RemoteStream,
    from: LegId,
    policies: PerLeg<&LegPolicy>,
) -> Result<Vec<RemoteFormat>, NegotiationError> {
    let (near, far) = (policies[from], policies[from.other()]);
    // Which list emptied the set decides whose setting the call record names.
    if !remote.codecs().any(|codec| near.codecs.contains(&codec)) {
        return Err(NegotiationErrorKind::NoCommonCodec.on(from));
    }
    let find = |format: PayloadFormat| remote.formats.iter().find(|known| known.format == format).cloned();
    let mut formats: Vec<RemoteFormat> = far
        .codecs
        .iter()
        .filter(|codec| near.codecs.contains(codec))
        .filter_map(|&codec| find(PayloadFormat::Audio(codec)))
        .collect();
    if formats.is_empty() {
        return Err(NegotiationErrorKind::NoCommonCodec.on(from.other()));
    }
    for companion in companions(&formats, policies) {
        formats.extend(find(companion));
    }
    formats.extend(find(PayloadFormat::ComfortNoise));
    Ok(formats)
}

/// The formats of an offer nobody asked for: what both policies allow, in the order of the offered leg's list.
pub(super) fn own(to: LegId, policies: PerLeg<&LegPolicy>) -> Result<Vec<RemoteFormat>, NegotiationError> {
    let mut formats: Vec<PayloadFormat> = policies[to]
        .codecs
        .iter()
        .filter(|codec| policies[to.other()].codecs.contains(codec))
        .map(|&codec| PayloadFormat::Audio(codec))
        .collect();
    if formats.is_empty() {
        return Err(NegotiationErrorKind::NoCommonCodec.on(to));
    }
    let unnumbered = |format| RemoteFormat {
        number: UNNUMBERED,
        format,
        fmtp: None,
    };
    let audio: Vec<RemoteFormat> = formats.iter().copied().map(unnumbered).collect();
    formats.extend(companions(&audio, policies));
    Ok(formats.into_iter().map(unnumbered).collect())
}

/// No payload type number: over the seven bits there are.
const UNNUMBERED: u8 = u8::MAX;

/// The telephone events these legs can carry: none unless both do, since the relay passes events on and cannot make
/// tones of them; at 48000 Hz only beside a codec of that clock (RFC 4733 §2.1).
fn companions(audio: &[RemoteFormat], policies: PerLeg<&LegPolicy>) -> Vec<PayloadFormat> {
    if LegId::BOTH
        .iter()
        .any(|&leg| policies[leg].dtmf.method != DtmfMethod::RtpEvents)
    {
        return Vec::new();
    }
    let has_48000 = audio.iter().any(|format| format.format.clock_rate() == 48_000);
    if has_48000 {
        vec![EVENTS_8000, EVENTS_48000]
    } else {
        vec![EVENTS_8000]
    }
}

/// Every number our descriptions to a leg have used, and for what: within a session a number must not change its
/// meaning (RFC 3264 §8.3.2). At most one entry a number.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Vec<(u8, PayloadFormat)>);

impl Numbers {
    /// Remembers the use of a number; the latest wins.
    pub(super) fn record(&mut self, number: u8, format: PayloadFormat) {
        self.0.retain(|(known, _)| *known != number);
        self.0.push((number, format));
    }

    fn number_of(&self, format: PayloadFormat) -> Option<u8> {
        self.0
            .iter()
            .rev()
            .find(|(_, known)| *known == format)
            .map(|(number, _)| *number)
    }

    fn is_used_for_another(&self, number: u8, format: PayloadFormat) -> bool {
        self.0.iter().any(|(known, used)| *known == number && *used != format)
    }

    /// The numbers for the formats of an offer to this leg, in their order: the one used before, then
    /// the leg's own number for events, then the offerer's so that the relay has nothing to rewrite, then a free one.
    ///
    /// A format with a static number gets that whatever the offerer chose: some phones know no other.
    pub(super) fn assign(&self, formats: &[RemoteFormat], dtmf: DtmfPolicy) -> Vec<u8> {
        // Kept free for events even while none are offered: they may come with a later offer.
        let events = (dtmf.method == DtmfMethod::RtpEvents).then_some(dtmf.payload);
        let mut numbers = vec![UNNUMBERED; formats.len()];
        let take = |numbers: &mut Vec<u8>, index: usize, candidate: Option<u8>| {
            let format = formats[index].format;
            if let Some(number) = candidate
                && numbers[index] == UNNUMBERED
                && number <= MAX_PAYLOAD_TYPE
                && !numbers.contains(&number)
                && !self.is_used_for_another(number, format)
            {
                numbers[index] = number;
            }
        };
        for (index, format) in formats.iter().enumerate() {
            take(
                &mut numbers,
                index,
                self.number_of(format.format).or(format.format.static_payload_type()),
            );
        }
        for (index, format) in formats.iter().enumerate() {
            take(&mut numbers, index, events.filter(|_| format.format == EVENTS_8000));
        }
        let is_dynamic = |number: &u8| DYNAMIC_PAYLOAD_TYPES.contains(number) && Some(*number) != events;
        for (index, format) in formats.iter().enumerate() {
            take(&mut numbers, index, Some(format.number).filter(is_dynamic));
        }
        for index in 0..formats.len() {
            for number in DYNAMIC_PAYLOAD_TYPES.filter(is_dynamic) {
                take(&mut numbers, index, Some(number));
            }
        }
        // A peer that renumbers with every offer uses up the range in the end; then a meaning has to change.
        for index in 0..formats.len() {
            if numbers[index] == UNNUMBERED {
                numbers[index] = DYNAMIC_PAYLOAD_TYPES
                    .rev()
                    .find(|number| !numbers.contains(number))
                    .expect("a description has fewer formats than there are dynamic payload types");
            }
        }
        numbers
    }
}
