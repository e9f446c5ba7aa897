//! What one measurement says, and what several say together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Kamailio, with rtpengine where media is anchored.
    Peer,
    /// Control plane and worker.
    Ours,
}

impl Side {
    /// Its name in logs and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Ours => "ours",
        }
    }
}

/// What the cost of a row is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// CPU time, in microseconds, per unit of work.
    CpuMicroseconds,
    /// Proportional set size, in octets, per unit held.
    Bytes,
    /// Wall time, in milliseconds.
    Milliseconds,
}

/// One measurement of one side.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The figure, in the row's [`Unit`] per unit of work, of the whole system under test.
    pub cost: f64,
    /// The same by process: `kamailio`, `rtpengine`, `worker`, `control`. They add up to `cost` where that is CPU or memory.
    /// With a stroke, `worker/shard-0`: of it by a thread.
    pub parts: BTreeMap<String, f64>,
    /// CPU of the load generators, in microseconds per unit of work; 0 where there is none.
    pub generator: f64,
    /// Units of work per second in the steady window; 0 where there is no rate.
    pub rate: f64,
    /// Units of work the measurement rests on.
    pub units: u64,
    /// What else was seen, by name with its unit: `response_p99_ms`, `lost_packets`, `stored_contacts`.
    pub seen: BTreeMap<String, f64>,
}

/// Smallest, middle and largest of several values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Middle one; between the two middle ones of an even number.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; `None` when there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { min, median, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!(Spread::of([]), None);
        let odd = Spread::of([3.0, 1.0, 10.0]).unwrap();
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 3.0, 10.0));
        assert_eq!(Spread::of([4.0, 2.0]).unwrap().median, 3.0);
    }
}
