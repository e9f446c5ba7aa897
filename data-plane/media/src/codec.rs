//! The audio codecs a trunk may list, and the two payload formats that travel beside them.
//!
//! Nothing here encodes or decodes audio: these are the names, clock rates and payload type numbers of
//! RFC 3551 §4.5 and §6, RFC 7587 §7 (opus), RFC 4733 §2 (telephone-event) and RFC 3389 §4 (CN).

use std::fmt;
use std::str::FromStr;

/// The highest RTP payload type number (seven bits, RFC 3550 §5.1).
pub const MAX_PAYLOAD_TYPE: u8 = 127;

/// The dynamic payload type range of RFC 3551 §3.
pub const DYNAMIC_PAYLOAD_TYPES: std::ops::RangeInclusive<u8> = 96..=127;

/// An audio codec a trunk's preferred codec list can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// opus, always `opus/48000/2` in SDP whatever is really sent (RFC 7587 §7).
    Opus,
    /// G.711 µ-law, payload type 0.
    Pcmu,
    /// G.711 A-law, payload type 8.
    Pcma,
    /// G.722, payload type 9; its RTP clock is 8000 although it samples at 16000 (RFC 3551 §4.5.2).
    G722,
    /// G.729 and G.729A, payload type 18.
    G729,
}

impl Codec {
    /// Every codec, in no order of preference.
    pub const ALL: [Codec; 5] = [Codec::Opus, Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::G729];

    /// The encoding name as written in `a=rtpmap` (registered spelling).
    pub const fn encoding_name(self) -> &'static str {
        match self {
            Codec::Opus => "opus",
            Codec::Pcmu => "PCMU",
            Codec::Pcma => "PCMA",
            Codec::G722 => "G722",
            Codec::G729 => "G729",
        }
    }

    /// The RTP clock rate in Hz, as written in `a=rtpmap`.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Codec::Opus => 48_000,
            Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::G729 => 8_000,
        }
    }

    /// The channel count written in `a=rtpmap`; `None` where the parameter is left out (one channel).
    pub const fn channels(self) -> Option<u8> {
        match self {
            Codec::Opus => Some(2),
            Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::G729 => None,
        }
    }

    /// The static payload type of RFC 3551 §6; `None` for opus.
    pub const fn static_payload_type(self) -> Option<u8> {
        match self {
            Codec::Opus => None,
            Codec::Pcmu => Some(0),
            Codec::Pcma => Some(8),
            Codec::G722 => Some(9),
            Codec::G729 => Some(18),
        }
    }

    /// The codec a bare static payload type stands for (RFC 3551 §6); `None` for every other number.
    pub fn from_static_payload_type(payload_type: u8) -> Option<Codec> {
        Codec::ALL
            .into_iter()
            .find(|codec| codec.static_payload_type() == Some(payload_type))
    }

    /// Recognises the name and clock rate of an `a=rtpmap`, ignoring case.
    ///
    /// Lenient where phones are known to be wrong: `G722/16000` is G.722 (many take the sampling rate for the
    /// RTP clock) and opus is taken without its `/2`. More channels than the codec has is another format.
    pub fn from_rtpmap(encoding: &str, clock_rate: u32, channels: Option<u8>) -> Option<Codec> {
        let codec = Codec::ALL
            .into_iter()
            .find(|codec| codec.encoding_name().eq_ignore_ascii_case(encoding))?;
        let clock_fits = clock_rate == codec.clock_rate() || (codec == Codec::G722 && clock_rate == 16_000);
        let channels_fit = channels.unwrap_or(1) == 1 || channels == codec.channels();
        (clock_fits && channels_fit).then_some(codec)
    }

    /// The `a=rtpmap` value after the payload type, `PCMU/8000` or `opus/48000/2`.
    pub const fn rtpmap(self) -> &'static str {
        match self {
            Codec::Opus => "opus/48000/2",
            Codec::Pcmu => "PCMU/8000",
            Codec::Pcma => "PCMA/8000",
            Codec::G722 => "G722/8000",
            Codec::G729 => "G729/8000",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encoding_name())
    }
}

/// The text named no codec of [`Codec::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown codec; known are opus, PCMU, PCMA, G722 and G729")]
pub struct UnknownCodec;

impl FromStr for Codec {
    type Err = UnknownCodec;

    /// Reads an encoding name or a media type (`pcmu`, `audio/PCMU`), ignoring case.
    ///
    /// # Errors
    /// [`UnknownCodec`] for anything else.
    fn from_str(text: &str) -> Result<Self, UnknownCodec> {
        let name = match text.split_once('/') {
            Some((kind, name)) if kind.eq_ignore_ascii_case("audio") => name,
            Some(_) => return Err(UnknownCodec),
            None => text,
        };
        Codec::ALL
            .into_iter()
            .find(|codec| codec.encoding_name().eq_ignore_ascii_case(name))
            .ok_or(UnknownCodec)
    }
}

/// What one RTP payload type of an audio stream carries, as far as the edge handles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadFormat {
    /// Audio.
    Audio(Codec),
    /// Named telephone events at this clock rate in Hz (RFC 4733 §2.1: it follows the audio's clock).
    TelephoneEvent {
        /// 8000 beside the telephony codecs, 48000 beside opus.
        clock_rate: u32,
    },
    /// Comfort noise, `CN/8000`, payload type 13 (RFC 3389 §4).
    ComfortNoise,
}

/// The static payload type of comfort noise at 8000 Hz (RFC 3551 §6).
pub const COMFORT_NOISE_PAYLOAD_TYPE: u8 = 13;

impl PayloadFormat {
    /// Recognises an `a=rtpmap`; `None` for a format the edge does not carry.
    ///
    /// Telephone events are taken at 8000 and 48000 Hz only, comfort noise at 8000 Hz only: the clock rates of
    /// the codecs above.
    pub fn from_rtpmap(encoding: &str, clock_rate: u32, channels: Option<u8>) -> Option<PayloadFormat> {
        if encoding.eq_ignore_ascii_case("telephone-event") {
            return matches!(clock_rate, 8_000 | 48_000).then_some(PayloadFormat::TelephoneEvent { clock_rate });
        }
        if encoding.eq_ignore_ascii_case("CN") {
            return (clock_rate == 8_000).then_some(PayloadFormat::ComfortNoise);
        }
        Codec::from_rtpmap(encoding, clock_rate, channels).map(PayloadFormat::Audio)
    }

    /// What a bare static payload type stands for without an `a=rtpmap` (RFC 3551 §6).
    pub fn from_static_payload_type(payload_type: u8) -> Option<PayloadFormat> {
        if payload_type == COMFORT_NOISE_PAYLOAD_TYPE {
            return Some(PayloadFormat::ComfortNoise);
        }
        Codec::from_static_payload_type(payload_type).map(PayloadFormat::Audio)
    }

    /// The static payload type, where the format has one.
    pub const fn static_payload_type(self) -> Option<u8> {
        match self {
            PayloadFormat::Audio(codec) => codec.static_payload_type(),
            PayloadFormat::TelephoneEvent { .. } => None,
            PayloadFormat::ComfortNoise => Some(COMFORT_NOISE_PAYLOAD_TYPE),
        }
    }

    /// The codec, when this is audio.
    pub const fn codec(self) -> Option<Codec> {
        match self {
            PayloadFormat::Audio(codec) => Some(codec),
            PayloadFormat::TelephoneEvent { .. } | PayloadFormat::ComfortNoise => None,
        }
    }

    /// The RTP clock rate in Hz.
    pub const fn clock_rate(self) -> u32 {
        match self {
            PayloadFormat::Audio(codec) => codec.clock_rate(),
            PayloadFormat::TelephoneEvent { clock_rate } => clock_rate,
            PayloadFormat::ComfortNoise => 8_000,
        }
    }
}

impl fmt::Display for PayloadFormat {
    /// Writes the `a=rtpmap` value after the payload type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PayloadFormat::Audio(codec) => f.write_str(codec.rtpmap()),
            PayloadFormat::TelephoneEvent { clock_rate } => write!(f, "telephone-event/{clock_rate}"),
            PayloadFormat::ComfortNoise => f.write_str("CN/8000"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case_with_or_without_the_media_type() {
        for codec in Codec::ALL {
            let name = codec.encoding_name();
            assert_eq!(name.to_lowercase().parse(), Ok(codec));
            assert_eq!(format!("AUDIO/{}", name.to_uppercase()).parse(), Ok(codec));
        }
        assert_eq!("video/pcmu".parse::<Codec>(), Err(UnknownCodec));
        assert_eq!("pcm".parse::<Codec>(), Err(UnknownCodec));
        assert_eq!("".parse::<Codec>(), Err(UnknownCodec));
    }

    #[test]
    fn static_payload_types_are_those_of_rfc_3551() {
        let table = [(0, Codec::Pcmu), (8, Codec::Pcma), (9, Codec::G722), (18, Codec::G729)];
        for payload_type in 0..=MAX_PAYLOAD_TYPE {
            let expected = table
                .iter()
                .find(|(number, _)| *number == payload_type)
                .map(|(_, codec)| *codec);
            assert_eq!(Codec::from_static_payload_type(payload_type), expected);
        }
        assert_eq!(
            PayloadFormat::from_static_payload_type(13),
            Some(PayloadFormat::ComfortNoise)
        );
    }

    #[test]
    fn the_written_rtpmap_is_recognised_again() {
        for codec in Codec::ALL {
            let mut parts = codec.rtpmap().split('/');
            let name = parts.next().unwrap();
            let clock = parts.next().unwrap().parse().unwrap();
            let channels = parts.next().map(|text| text.parse().unwrap());
            assert_eq!(
                (name, clock, channels),
                (codec.encoding_name(), codec.clock_rate(), codec.channels())
            );
            assert_eq!(Codec::from_rtpmap(name, clock, channels), Some(codec));
        }
    }

    #[test]
    fn known_wrong_rtpmaps_are_understood_and_others_are_not() {
        assert_eq!(Codec::from_rtpmap("g722", 16_000, None), Some(Codec::G722));
        assert_eq!(Codec::from_rtpmap("OPUS", 48_000, None), Some(Codec::Opus));
        assert_eq!(Codec::from_rtpmap("PCMU", 8_000, Some(1)), Some(Codec::Pcmu));
        assert_eq!(Codec::from_rtpmap("PCMU", 8_000, Some(2)), None);
        assert_eq!(Codec::from_rtpmap("PCMU", 16_000, None), None);
        assert_eq!(PayloadFormat::from_rtpmap("CN", 16_000, None), None);
        assert_eq!(PayloadFormat::from_rtpmap("telephone-event", 16_000, None), None);
    }
}
