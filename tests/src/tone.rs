//! Tones: made for a phone to say, recognised in what another one heard.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Samples in a second, of all that is made here.
pub const RATE: u32 = 8_000;
const AMPLITUDE: f64 = 9_000.0;

/// Mono 16-bit samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Samples in a second.
    pub rate: u32,
    /// The samples.
    pub samples: Vec<i16>,
}

impl Recording {
    /// A tone of `hz` for so many seconds.
    pub fn tone(hz: f64, seconds: u32) -> Self {
        let count = RATE * seconds;
        let sample = |n: u32| (AMPLITUDE * (TAU * hz * f64::from(n) / f64::from(RATE)).sin()) as i16;
        Self {
            rate: RATE,
            samples: (0..count).map(sample).collect(),
        }
    }

    /// Reads a RIFF WAVE file of one channel of 16-bit PCM.
    ///
    /// # Errors
    /// When it is something else.
    pub fn read(path: &Path) -> Result<Self> {
        let file = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        ensure!(
            file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WAVE"),
            "{} is no WAVE file",
            path.display()
        );
        let mut rate = None;
        let mut rest = &file[12..];
        while let Some((head, body)) = rest.split_at_checked(8) {
            let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            // A recorder that was cut off has not written the length.
            let chunk = &body[..len.min(body.len())];
            match &head[..4] {
                b"fmt " => {
                    let field = |at: usize| u16::from_le_bytes([chunk[at], chunk[at + 1]]);
                    ensure!(chunk.len() >= 16 && field(2) == 1 && field(14) == 16, "not 16-bit mono");
                    rate = Some(u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]));
                }
                b"data" => {
                    let samples = chunk
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .map(|pair| i16::from_le_bytes(*pair))
                        .collect();
                    return Ok(Self {
                        rate: rate.context("data before its format")?,
                        samples,
                    });
                }
                _ => {}
            }
            rest = &body[(len + len % 2).min(body.len())..];
        }
        anyhow::bail!("{} holds no samples", path.display())
    }

    /// Writes a WAVE file.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, path: &Path) -> Result<()> {
        let len = u32::try_from(self.samples.len() * 2)?;
        let mut file = Vec::with_capacity(44 + self.samples.len() * 2);
        file.extend_from_slice(b"RIFF");
        file.extend_from_slice(&(36 + len).to_le_bytes());
        file.extend_from_slice(b"WAVEfmt ");
        file.extend_from_slice(&16u32.to_le_bytes());
        for short in [1u16, 1] {
            file.extend_from_slice(&short.to_le_bytes());
        }
        file.extend_from_slice(&self.rate.to_le_bytes());
        file.extend_from_slice(&(self.rate * 2).to_le_bytes());
        for short in [2u16, 16] {
            file.extend_from_slice(&short.to_le_bytes());
        }
        file.extend_from_slice(b"data");
        file.extend_from_slice(&len.to_le_bytes());
        self.samples
            .iter()
            .for_each(|sample| file.extend_from_slice(&sample.to_le_bytes()));
        fs::write(path, file).with_context(|| format!("write {}", path.display()))
    }

    /// Seconds in which `hz` is nine tenths and more of what is heard.
    pub fn seconds_of(&self, hz: f64) -> f64 {
        let window = (self.rate / 10) as usize;
        let heard = self
            .samples
            .chunks_exact(window)
            .filter(|samples| share(samples, self.rate, hz) >= 0.9);
        heard.count() as f64 / 10.0
    }
}

/// Share of the energy of `samples` that is at `hz`, 0-1 (Goertzel); 0 for silence.
pub fn share(samples: &[i16], rate: u32, hz: f64) -> f64 {
    let energy: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    // Quieter than 60 dB below full scale is silence.
    if energy < samples.len() as f64 * 32.0 * 32.0 {
        return 0.0;
    }
    let coefficient = 2.0 * (TAU * hz / f64::from(rate)).cos();
    let (mut one, mut two) = (0.0, 0.0);
    for sample in samples {
        (one, two) = (f64::from(*sample) + coefficient * one - two, one);
    }
    let power = one * one + two * two - coefficient * one * two;
    power * 2.0 / (energy * samples.len() as f64)
}

/// Samples of A-law octets (ITU-T G.711), to look at what is on the wire.
pub fn decode_pcma(octets: &[u8]) -> Vec<i16> {
    octets
        .iter()
        .map(|octet| {
            let code = octet ^ 0x55;
            let (segment, step) = (code >> 4 & 7, i16::from(code & 15));
            let magnitude = match segment {
                0 => step * 16 + 8,
                _ => (step * 16 + 264) << (segment - 1),
            };
            if code & 0x80 == 0 { -magnitude } else { magnitude }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_itself_and_no_other() {
        let tone = Recording::tone(440.0, 2);
        assert_eq!((tone.seconds_of(440.0), tone.seconds_of(620.0)), (2.0, 0.0));
        let silence = Recording {
            rate: RATE,
            samples: vec![3; 8000],
        };
        assert_eq!(silence.seconds_of(440.0), 0.0);
        let noise = (0..8000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as i16)
            .collect();
        assert_eq!(
            Recording {
                rate: RATE,
                samples: noise
            }
            .seconds_of(440.0),
            0.0
        );
    }

    #[test]
    fn a_file_holds_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tone.wav");
        let tone = Recording::tone(620.0, 1);
        tone.write(&path).unwrap();
        assert_eq!(Recording::read(&path).unwrap(), tone);
    }

    #[test]
    fn a_law_codes_are_those_of_the_recommendation() {
        // Table 1a/G.711: the smallest and largest values of either sign, after the even bits are inverted.
        assert_eq!(decode_pcma(&[0xd5, 0x55, 0xaa, 0x2a]), [8, -8, 32_256, -32_256]);
    }
}
