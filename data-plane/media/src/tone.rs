//! A sine to send and a Goertzel filter to recognise it: how the built-in test phones prove that audio passed.

use std::f32::consts::TAU;

/// Generates a sine wave, continuous over calls.
#[derive(Debug, Clone)]
pub struct ToneGenerator {
    step: f32,
    phase: f32,
    amplitude: f32,
}

impl ToneGenerator {
    /// A tone of `frequency` Hz at `sample_rate` Hz with the given peak amplitude (0..=32,767).
    pub fn new(frequency: f32, sample_rate: u32, amplitude: i16) -> Self {
        Self {
            step: TAU * frequency / sample_rate as f32,
            phase: 0.0,
            amplitude: f32::from(amplitude),
        }
    }

    /// The next sample.
    pub fn next_sample(&mut self) -> i16 {
        let sample = self.amplitude * self.phase.sin();
        self.phase = (self.phase + self.step) % TAU;
        sample as i16
    }
}

impl Iterator for ToneGenerator {
    type Item = i16;

    /// Never ends.
    fn next(&mut self) -> Option<i16> {
        Some(self.next_sample())
    }
}

/// Measures one frequency in blocks of samples by Goertzel's algorithm.
#[derive(Debug, Clone)]
pub struct ToneDetector {
    coefficient: f32,
    block: u32,
    count: u32,
    previous: (f32, f32),
    energy: f32,
}

/// What one block of samples held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ToneMeasurement {
    /// Share of the block's energy at the frequency, 0.0..=1.0 (a pure tone that fits the block well is near 1).
    pub purity: f32,
    /// Root mean square of the whole block, in sample units.
    pub rms: f32,
}

impl ToneMeasurement {
    /// Whether the block is the tone and little else: most of the energy at the frequency, and not silence.
    pub fn is_tone(&self) -> bool {
        self.purity > 0.8 && self.rms > 100.0
    }
}

impl ToneDetector {
    /// A detector for `frequency` Hz at `sample_rate` Hz over blocks of `block` samples (at least 1). The filter is about
    /// `sample_rate / block` Hz wide; a block of a whole number of periods measures best.
    pub fn new(frequency: f32, sample_rate: u32, block: u32) -> Self {
        let coefficient = 2.0 * (TAU * frequency / sample_rate as f32).cos();
        Self {
            coefficient,
            block: block.max(1),
            count: 0,
            previous: (0.0, 0.0),
            energy: 0.0,
        }
    }

    /// Takes a sample; a measurement comes with the last of each block.
    pub fn push(&mut self, sample: i16) -> Option<ToneMeasurement> {
        let sample = f32::from(sample);
        self.energy += sample * sample;
        let (last, before) = self.previous;
        self.previous = (sample + self.coefficient * last - before, last);
        self.count += 1;
        if self.count < self.block {
            return None;
        }
        let (last, before) = self.previous;
        let power = last * last + before * before - self.coefficient * last * before;
        let length = self.block as f32;
        // A sine of amplitude A gives a power of (A N / 2)^2 and an energy of A^2 N / 2.
        let purity = if self.energy > 0.0 {
            (2.0 * power / (length * self.energy)).clamp(0.0, 1.0)
        } else {
            0.0
        };
        let measurement = ToneMeasurement {
            purity,
            rms: (self.energy / length).sqrt(),
        };
        (self.count, self.previous, self.energy) = (0, (0.0, 0.0), 0.0);
        Some(measurement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::Law;

    fn measure(frequency: f32, samples: impl Iterator<Item = i16>) -> Vec<ToneMeasurement> {
        let mut detector = ToneDetector::new(frequency, 8000, 400);
        samples.take(4000).filter_map(|sample| detector.push(sample)).collect()
    }

    #[test]
    fn a_tone_through_either_law_is_recognised_in_every_block() {
        for law in [Law::Mu, Law::A] {
            let line = ToneGenerator::new(1000.0, 8000, 8000).map(|sample| law.decode(law.encode(sample)));
            let measurements = measure(1000.0, line);
            assert_eq!(measurements.len(), 10);
            for measurement in measurements {
                assert!(measurement.is_tone(), "{law:?} {measurement:?}");
                assert!(
                    (measurement.rms - 8000.0 / 2f32.sqrt()).abs() < 100.0,
                    "{measurement:?}"
                );
            }
        }
    }

    #[test]
    fn another_tone_silence_and_noise_are_not() {
        for measurement in measure(1000.0, ToneGenerator::new(440.0, 8000, 8000)) {
            assert!(!measurement.is_tone(), "{measurement:?}");
        }
        for measurement in measure(1000.0, std::iter::repeat(0)) {
            assert!(!measurement.is_tone(), "{measurement:?}");
        }
        // A linear congruential sequence: white enough for a filter 20 Hz wide.
        let mut state = 1u32;
        let noise = std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as i16
        });
        for measurement in measure(1000.0, noise) {
            assert!(!measurement.is_tone(), "{measurement:?}");
        }
    }
}
