//! Durations by size: counted in bins whose width grows with the value, so that a quantile is within 1.6 % of the truth.

/// Bins per doubling, as a power of two.
const FINE: u32 = 6;
const BINS: usize = 1 << FINE;

/// Counts of nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    bins: Vec<u64>,
    count: u64,
}

impl Histogram {
    /// Counts one duration, in nanoseconds.
    pub fn add(&mut self, nanoseconds: u64) {
        let bin = bin_of(nanoseconds);
        if bin >= self.bins.len() {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
        self.count += 1;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest duration, in microseconds, that `share` (0 to 1) of all do not exceed; 0 when there are none.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bin, count) in self.bins.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle_of(bin) / 1000.0;
            }
        }
        0.0
    }
}

/// Values below 64 have a bin each; above, the first seven bits of a value name its bin.
fn bin_of(value: u64) -> usize {
    let shift = value.checked_ilog2().unwrap_or(0).saturating_sub(FINE);
    shift as usize * BINS + (value >> shift) as usize
}

fn middle_of(bin: usize) -> f64 {
    let shift = (bin / BINS).saturating_sub(1);
    let lowest = ((bin - shift * BINS) as u64) << shift;
    lowest as f64 + ((1_u64 << shift) - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_a_hundredth_of_its_bins_middle() {
        let mut value = 1_u64;
        while value < 1 << 40 {
            let middle = middle_of(bin_of(value));
            assert!(
                (middle - value as f64).abs() <= value as f64 / 100.0,
                "{value}: {middle}"
            );
            value += 1 + value / 7;
        }
    }

    #[test]
    fn bins_follow_each_other() {
        let bins: Vec<_> = (0..100_000_u64).map(bin_of).collect();
        assert!(bins.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
    }

    #[test]
    fn quantiles_are_read_back() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(0.5), 0.0);
        for value in 1..=1000_u64 {
            histogram.add(value * 1000);
        }
        assert_eq!(histogram.count(), 1000);
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = histogram.quantile_us(share);
            assert!((found - expected).abs() < expected / 50.0, "{share}: {found}");
        }
    }
}
