//! What a phone heard: the tone it should hear, and its own, which it must not.

use trunkline_media::tone::{ToneDetector, ToneMeasurement};

/// Samples per measurement: 100 ms, a whole number of periods of any frequency divisible by 10 Hz.
pub const BLOCK: u32 = 800;
/// Samples per second of G.711.
pub const SAMPLE_RATE: u32 = 8000;

/// Share of a block's energy at the own frequency from which on it counts as an echo: -20 dB.
const ECHO: f32 = 0.01;

/// Measures decoded audio.
#[derive(Debug)]
pub struct Ear {
    expected: ToneDetector,
    own: ToneDetector,
    heard: Heard,
    power: f64,
}

/// The sum of what was heard.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Heard {
    /// Blocks of 100 ms.
    pub blocks: u32,
    /// Those that were the expected tone and little else.
    pub expected: u32,
    /// Those in which the phone's own tone came back.
    pub own: u32,
    /// Level over all blocks in dBov, 0 being the loudest square wave (RFC 6464 §3); `None` without a block.
    pub level: Option<f64>,
}

impl Ear {
    /// Listens for `expected` Hz, and for `own` Hz.
    pub fn new(expected: f32, own: f32) -> Self {
        Self {
            expected: ToneDetector::new(expected, SAMPLE_RATE, BLOCK),
            own: ToneDetector::new(own, SAMPLE_RATE, BLOCK),
            heard: Heard::default(),
            power: 0.0,
        }
    }

    /// Takes a sample.
    pub fn hear(&mut self, sample: i16) {
        // Both detectors have blocks of the same length and end them together.
        if let (Some(expected), Some(own)) = (self.expected.push(sample), self.own.push(sample)) {
            self.count(expected, own);
        }
    }

    /// What was heard so far.
    pub fn heard(&self) -> Heard {
        self.heard
    }

    fn count(&mut self, expected: ToneMeasurement, own: ToneMeasurement) {
        self.power += f64::from(expected.rms).powi(2);
        let heard = &mut self.heard;
        heard.blocks += 1;
        heard.expected += u32::from(expected.is_tone());
        heard.own += u32::from(own.purity > ECHO && own.rms > 1.0);
        let mean_square = self.power / f64::from(heard.blocks);
        heard.level = (mean_square > 0.0).then(|| 10.0 * (mean_square / f64::from(i16::MAX).powi(2)).log10());
    }
}

#[cfg(test)]
mod tests {
    use trunkline_media::g711::Law;
    use trunkline_media::tone::ToneGenerator;

    use super::*;

    fn hear(samples: impl Iterator<Item = i16>) -> Heard {
        let mut ear = Ear::new(440.0, 620.0);
        samples
            .take(SAMPLE_RATE as usize)
            .for_each(|sample| ear.hear(Law::Mu.decode(Law::Mu.encode(sample))));
        ear.heard()
    }

    fn tone(frequency: f32, amplitude: i16) -> ToneGenerator {
        ToneGenerator::new(frequency, SAMPLE_RATE, amplitude)
    }

    #[test]
    fn the_peers_tone_is_recognised_at_its_level() {
        let heard = hear(tone(440.0, 8000));
        assert_eq!((heard.blocks, heard.expected, heard.own), (10, 10, 0));
        assert!((heard.level.unwrap() - -15.26).abs() < 0.1, "{heard:?}");
    }

    #[test]
    fn the_own_tone_is_an_echo_even_under_the_peers() {
        assert_eq!(hear(tone(620.0, 8000)).own, 10);
        let both = tone(440.0, 8000).zip(tone(620.0, 2000)).map(|(peer, own)| peer + own);
        let heard = hear(both);
        assert_eq!((heard.expected, heard.own), (10, 10));
    }

    #[test]
    fn silence_is_neither() {
        let heard = hear(std::iter::repeat(0));
        assert_eq!((heard.blocks, heard.expected, heard.own), (10, 0, 0));
        assert_eq!(heard.level, None);
    }
}
