//! G.711: µ-law and A-law (ITU-T G.711, RTP payload types 0 and 8 of RFC 3551). Samples are 16-bit linear, 8,000 Hz.

/// Which of the two laws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Law {
    /// PCMU, payload type 0.
    Mu,
    /// PCMA, payload type 8.
    A,
}

impl Law {
    /// The static RTP payload type (RFC 3551 §6).
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::Mu => 0,
            Self::A => 8,
        }
    }

    /// One octet for a sample.
    pub const fn encode(self, sample: i16) -> u8 {
        match self {
            Self::Mu => encode_mu(sample),
            Self::A => encode_a(sample),
        }
    }

    /// The sample of an octet.
    pub const fn decode(self, octet: u8) -> i16 {
        match self {
            Self::Mu => decode_mu(octet),
            Self::A => decode_a(octet),
        }
    }
}

/// Added before the segment is found, so that segments are powers of two (G.711 Table 2, on a 14-bit scale times 4).
const MU_BIAS: i32 = 0x84;

/// The largest magnitude µ-law can express.
const MU_CLIP: i32 = 32_635;

const fn encode_mu(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let mut magnitude = (sample as i32).abs();
    if magnitude > MU_CLIP {
        magnitude = MU_CLIP;
    }
    magnitude += MU_BIAS;
    // The biased magnitude has its leading one in bit 7 to 14.
    let segment = 24 - magnitude.leading_zeros() as i32;
    let step = (magnitude >> (segment + 3)) & 0x0F;
    !(sign | (segment << 4) | step) as u8
}

const fn decode_mu(octet: u8) -> i16 {
    let octet = !octet as i32;
    let segment = (octet >> 4) & 0x07;
    let magnitude = ((((octet & 0x0F) << 3) + MU_BIAS) << segment) - MU_BIAS;
    (if octet & 0x80 != 0 { -magnitude } else { magnitude }) as i16
}

/// Every even bit of an A-law octet is inverted on the line.
const A_TOGGLE: u8 = 0x55;

const fn encode_a(sample: i16) -> u8 {
    // One's complement for negative samples keeps the steps symmetric around zero.
    let (sign, magnitude) = if sample < 0 {
        (0, !(sample as i32))
    } else {
        (0x80, sample as i32)
    };
    let magnitude = magnitude >> 4;
    // The first two segments have the same step; from the third on it doubles.
    let octet = if magnitude < 32 {
        magnitude
    } else {
        let segment = 28 - magnitude.leading_zeros() as i32;
        (segment << 4) | ((magnitude >> (segment - 1)) & 0x0F)
    };
    (octet as u8 | sign) ^ A_TOGGLE
}

const fn decode_a(octet: u8) -> i16 {
    let octet = octet ^ A_TOGGLE;
    let segment = (octet >> 4) & 0x07;
    let step = ((octet & 0x0F) as i32) << 4;
    let magnitude = if segment == 0 {
        step + 8
    } else {
        (step + 0x108) << (segment - 1)
    };
    (if octet & 0x80 != 0 { magnitude } else { -magnitude }) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characteristic_code_words_are_those_of_the_tables() {
        // G.711 Tables 1a to 2b: silence, first step and overload of either sign.
        for (law, sample, octet) in [
            (Law::Mu, 0, 0xFF),
            (Law::Mu, 32_124, 0x80),
            (Law::Mu, -32_124, 0x00),
            (Law::Mu, i16::MAX, 0x80),
            (Law::Mu, i16::MIN, 0x00),
            (Law::A, 8, 0xD5),
            (Law::A, -8, 0x55),
            (Law::A, i16::MAX, 0xAA),
            (Law::A, i16::MIN, 0x2A),
        ] {
            assert_eq!(law.encode(sample), octet, "{law:?} {sample}");
        }
        assert_eq!(
            (Law::Mu.decode(0x80), Law::Mu.decode(0x00), Law::Mu.decode(0xFF)),
            (32_124, -32_124, 0)
        );
        assert_eq!(
            (Law::A.decode(0xAA), Law::A.decode(0x2A), Law::A.decode(0xD5)),
            (32_256, -32_256, 8)
        );
    }

    #[test]
    fn every_code_word_survives_decoding_and_encoding() {
        for law in [Law::Mu, Law::A] {
            for octet in 0..=255u8 {
                let again = law.encode(law.decode(octet));
                // µ-law has two zeros; the negative one comes back as the positive.
                assert!(
                    again == octet || law == Law::Mu && octet == 0x7F && again == 0xFF,
                    "{law:?} {octet:#x}"
                );
            }
        }
    }

    #[test]
    fn the_error_is_within_half_a_step_everywhere() {
        for law in [Law::Mu, Law::A] {
            for sample in (-32_600..=32_600).step_by(7) {
                let error = (i32::from(law.decode(law.encode(sample as i16))) - sample).abs();
                // Steps are 1/16 of the segment's start, 16 at least for A-law's first segment.
                assert!(error <= 8.max(sample.abs() / 32 + 8), "{law:?} {sample}: {error}");
            }
        }
    }
}
