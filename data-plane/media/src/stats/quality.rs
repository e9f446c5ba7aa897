//! The E-model, reduced to what a relay can measure.

use std::time::Duration;

/// How a codec suffers (ITU-T G.113 Appendix I).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodecImpairment {
    /// Equipment impairment factor Ie at zero loss.
    pub ie: f32,
    /// Packet-loss robustness factor Bpl, above 0.
    pub bpl: f32,
}

impl CodecImpairment {
    /// G.711 with packet loss concealment. Also taken for codecs without a narrowband entry in G.113 (Opus, G.722).
    pub const G711: Self = Self { ie: 0.0, bpl: 25.1 };
    /// G.729A with voice activity detection.
    pub const G729: Self = Self { ie: 11.0, bpl: 19.0 };
}

/// An estimate of conversational quality.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Transmission rating factor R, 0..=93.2 (narrowband).
    pub r_factor: f32,
    /// Mean opinion score MOS-CQE, 1.0..=4.5.
    pub mos: f32,
}

/// R without delay and equipment impairment under G.107's default parameters (G.107 §7.7, Table 2).
const DEFAULT_R: f32 = 93.2;

/// Packetization and the decoder's buffer add this many times the jitter, at least, to the delay.
const JITTER_BUFFER: f32 = 2.0;

/// One packet of 20 ms has to be complete before it is sent.
const PACKETIZATION_MS: f32 = 20.0;

impl Quality {
    /// R = 93.2 - Id - Ie,eff with
    /// Ie,eff = Ie + (95 - Ie) * Ppl / (Ppl + Bpl) (G.107 §7.5, random loss, BurstR = 1) and
    /// Id = 0.024 d + 0.11 (d - 177.3) H(d - 177.3) (Cole and Rosenbluth's reduction of G.107 §7.4),
    /// d = half the round trip + 20 ms + twice the jitter, in ms; MOS from R by G.107 Annex B.
    ///
    /// `loss` is a ratio, 0.0..=1.0. An unknown round trip counts as none: the score is then an upper bound.
    pub fn estimate(codec: CodecImpairment, loss: f32, jitter: Duration, round_trip: Option<Duration>) -> Self {
        let ppl = loss.clamp(0.0, 1.0) * 100.0;
        let ie_eff = codec.ie + (95.0 - codec.ie) * ppl / (ppl + codec.bpl);
        let milliseconds = |duration: Duration| duration.as_secs_f32() * 1000.0;
        let delay =
            round_trip.map_or(0.0, milliseconds) / 2.0 + PACKETIZATION_MS + JITTER_BUFFER * milliseconds(jitter);
        let id = 0.024 * delay + 0.11 * (delay - 177.3).max(0.0);
        let r = (DEFAULT_R - id - ie_eff).max(0.0);
        Self {
            r_factor: r,
            mos: mos(r),
        }
    }
}

/// G.107 Annex B, equation B-4.
fn mos(r: f32) -> f32 {
    if r <= 0.0 {
        1.0
    } else if r >= 100.0 {
        4.5
    } else {
        (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).clamp(1.0, 4.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_r_to_mos_curve_has_the_points_of_g_107_annex_b() {
        // G.107 Table B.1: lower limits of the user satisfaction classes.
        for (r, expected) in [(90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
            assert!((mos(r) - expected).abs() < 0.01, "R {r}: {}", mos(r));
        }
        assert_eq!(mos(0.0), 1.0);
    }

    #[test]
    fn a_clean_call_scores_high_and_loss_delay_and_jitter_each_cost() {
        let ms = Duration::from_millis;
        let clean = Quality::estimate(CodecImpairment::G711, 0.0, ms(0), Some(ms(20)));
        assert!(clean.mos > 4.3 && clean.r_factor > 92.0, "{clean:?}");
        for worse in [
            Quality::estimate(CodecImpairment::G711, 0.05, ms(0), Some(ms(20))),
            Quality::estimate(CodecImpairment::G711, 0.0, ms(100), Some(ms(20))),
            Quality::estimate(CodecImpairment::G711, 0.0, ms(0), Some(ms(600))),
            Quality::estimate(CodecImpairment::G729, 0.0, ms(0), Some(ms(20))),
        ] {
            assert!(worse.r_factor < clean.r_factor - 3.0, "{worse:?}");
        }
        let lost = Quality::estimate(CodecImpairment::G711, 1.0, ms(500), Some(ms(2000)));
        assert_eq!(
            lost,
            Quality {
                r_factor: 0.0,
                mos: 1.0
            }
        );
    }
}
