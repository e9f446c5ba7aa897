//! The file a run ends up in, `bench/results/<date>.json`.
//!
//! One object for each row, flat, so that `jq` and people find things: the median is under the plain name, and `_min`, `_median`
//! and `_max` stand beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::sample::{Sample, Spread, Unit};

/// All that a day's runs on one machine found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Day, `2026-11-29`.
    pub date: String,
    /// Processor, cores, kernel, memory and how the cores were shared out.
    pub machine: String,
    /// One for each workload.
    pub rows: Vec<Row>,
}

/// One workload, both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name of the workload.
    pub work: String,
    /// What is done, at which rate, and what a unit is.
    pub description: String,
    /// What the cost is counted in.
    pub unit: Unit,
    /// Programs of the peer with their versions, when it does this work.
    pub peer_name: Option<String>,
    /// The peer's figures.
    pub peer: Option<Figures>,
    /// Ours.
    pub ours: Figures,
    /// Commit that was measured.
    pub commit: String,
    /// When, UTC.
    pub time: String,
}

/// What the rounds of one side say together.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Cost per unit of work.
    pub cost: Spread,
    /// Medians by process.
    pub parts: BTreeMap<String, f64>,
    /// Median of the generators' CPU per unit of work, microseconds.
    pub generator: f64,
    /// Median of the units of work per second.
    pub rate: f64,
    /// Units of work of all rounds.
    pub units: u64,
    /// Rounds.
    pub rounds: u64,
    /// Medians of what else was seen.
    pub seen: BTreeMap<String, f64>,
}

impl Figures {
    /// The figures of `samples`; `None` when there are none.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let median = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value)).map(|spread| spread.median);
        let by_name = |map: fn(&Sample) -> &BTreeMap<String, f64>| -> BTreeMap<String, f64> {
            let mut values: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
            for (name, value) in samples.iter().flat_map(map) {
                values.entry(name).or_default().push(*value);
            }
            values
                .into_iter()
                .filter_map(|(name, values)| Some((name.clone(), Spread::of(values)?.median)))
                .collect()
        };
        Some(Self {
            cost: Spread::of(samples.iter().map(|sample| sample.cost))?,
            parts: by_name(|sample| &sample.parts),
            generator: median(|sample| sample.generator)?,
            rate: median(|sample| sample.rate)?,
            units: samples.iter().map(|sample| sample.units).sum(),
            rounds: samples.len() as u64,
            seen: by_name(|sample| &sample.seen),
        })
    }

    fn write(&self, side: &str, unit: Unit, row: &mut Map<String, Value>) {
        let name = suffix(unit);
        row.insert(format!("{side}_{name}"), json!(round(self.cost.median)));
        for (which, value) in [
            ("min", self.cost.min),
            ("median", self.cost.median),
            ("max", self.cost.max),
        ] {
            row.insert(format!("{side}_{name}_{which}"), json!(round(value)));
        }
        row.insert(format!("{side}_parts"), rounded(&self.parts));
        row.insert(format!("{side}_generator_cpu_us"), json!(round(self.generator)));
        row.insert(format!("{side}_rate"), json!(round(self.rate)));
        row.insert(format!("{side}_units"), json!(self.units));
        row.insert(format!("{side}_rounds"), json!(self.rounds));
        row.insert(format!("{side}_wall"), rounded(&self.seen));
    }

    fn read(side: &str, unit: Unit, row: &Map<String, Value>) -> Result<Self> {
        let name = suffix(unit);
        let number = |key: String| -> Result<f64> {
            let value = row.get(&key).and_then(Value::as_f64);
            value.with_context(|| format!("{key} is no number"))
        };
        let map = |key: String| -> Result<BTreeMap<String, f64>> {
            let value = row.get(&key).cloned().unwrap_or_default();
            serde_json::from_value(value).with_context(|| format!("{key} is no map of numbers"))
        };
        let count = |key: String| row.get(&key).and_then(Value::as_u64).unwrap_or(0);
        Ok(Self {
            cost: Spread {
                min: number(format!("{side}_{name}_min"))?,
                median: number(format!("{side}_{name}_median"))?,
                max: number(format!("{side}_{name}_max"))?,
            },
            parts: map(format!("{side}_parts"))?,
            generator: number(format!("{side}_generator_cpu_us"))?,
            rate: number(format!("{side}_rate"))?,
            units: count(format!("{side}_units")),
            rounds: count(format!("{side}_rounds")),
            seen: map(format!("{side}_wall"))?,
        })
    }
}

impl Row {
    /// Peer divided by us, of the medians: above 1 we need less.
    pub fn ratio(&self) -> Option<f64> {
        let peer = self.peer.as_ref()?.cost.median;
        (self.ours.cost.median > 0.0).then(|| peer / self.ours.cost.median)
    }

    fn to_json(&self) -> Value {
        let mut row = Map::new();
        row.insert("work".to_owned(), json!(self.work));
        row.insert("description".to_owned(), json!(self.description));
        row.insert("unit".to_owned(), json!(self.unit));
        row.insert("peer".to_owned(), json!(self.peer_name));
        match &self.peer {
            Some(peer) => peer.write("peer", self.unit, &mut row),
            None => {
                row.insert(format!("peer_{}", suffix(self.unit)), Value::Null);
            }
        }
        self.ours.write("our", self.unit, &mut row);
        row.insert("ratio".to_owned(), json!(self.ratio().map(round)));
        row.insert("commit".to_owned(), json!(self.commit));
        row.insert("time".to_owned(), json!(self.time));
        Value::Object(row)
    }

    fn from_json(value: &Value) -> Result<Self> {
        let row = value.as_object().context("a row is no object")?;
        let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
        let unit = serde_json::from_value(row.get("unit").cloned().unwrap_or_default())?;
        let peer_name = text("peer");
        Ok(Self {
            work: text("work").context("a row without a name")?,
            description: text("description").unwrap_or_default(),
            unit,
            peer: match peer_name {
                Some(_) => Some(Figures::read("peer", unit, row)?),
                None => None,
            },
            peer_name,
            ours: Figures::read("our", unit, row)?,
            commit: text("commit").unwrap_or_default(),
            time: text("time").unwrap_or_default(),
        })
    }
}

impl Report {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is not there or not a report.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let rows = value.get("rows").and_then(Value::as_array).context("no rows")?;
        Ok(Self {
            date: text("date").context("no date")?,
            machine: text("machine").context("no machine")?,
            rows: rows.iter().map(Row::from_json).collect::<Result<_>>()?,
        })
    }

    /// Writes a file, and its folder.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, path: &Path) -> Result<()> {
        let rows: Vec<_> = self.rows.iter().map(Row::to_json).collect();
        let value = json!({ "date": self.date, "machine": self.machine, "rows": rows });
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(&value)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Puts `row` in place of the one of the same work, or at the end.
    pub fn replace(&mut self, row: Row) {
        match self.rows.iter_mut().find(|present| present.work == row.work) {
            Some(present) => *present = row,
            None => self.rows.push(row),
        }
    }
}

/// Suffix of the fields of a unit.
fn suffix(unit: Unit) -> &'static str {
    match unit {
        Unit::CpuMicroseconds => "cpu_us",
        Unit::Bytes => "bytes",
        Unit::Milliseconds => "ms",
    }
}

/// Three decimals: more is noise.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn rounded(map: &BTreeMap<String, f64>) -> Value {
    let rounded: BTreeMap<_, _> = map.iter().map(|(name, value)| (name, round(*value))).collect();
    json!(rounded)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(work: &str, unit: Unit, peer: Option<f64>, ours: f64) -> Row {
        let figures = |cost: f64| Figures {
            cost: Spread {
                min: cost * 0.9,
                median: cost,
                max: cost * 1.25,
            },
            parts: BTreeMap::from([("worker".to_owned(), cost)]),
            generator: 12.5,
            rate: 2000.0,
            units: 60_000,
            rounds: 3,
            seen: BTreeMap::from([("response_ms".to_owned(), 0.5)]),
        };
        Row {
            work: work.to_owned(),
            description: "as a test".to_owned(),
            unit,
            peer_name: peer.map(|_| "kamailio 5.6.3".to_owned()),
            peer: peer.map(figures),
            ours: figures(ours),
            commit: "abc".to_owned(),
            time: "12:00".to_owned(),
        }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = Report {
            date: "2026-11-29".to_owned(),
            machine: "two cores".to_owned(),
            rows: vec![
                row("register-udp", Unit::CpuMicroseconds, Some(40.0), 16.0),
                row("memory-call", Unit::Bytes, Some(11_000.0), 4_000.0),
                row("config-acl", Unit::Milliseconds, None, 120.0),
            ],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results/day.json");
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report);
        let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(value["rows"][0]["ratio"], 2.5);
        assert_eq!(value["rows"][0]["peer_cpu_us"], 40.0);
        assert_eq!(value["rows"][1]["our_bytes"], 4000.0);
        assert_eq!(value["rows"][2]["peer_ms"], Value::Null);
    }

    #[test]
    fn a_row_takes_the_place_of_the_one_before_it() {
        let first = row("call-udp", Unit::CpuMicroseconds, Some(100.0), 50.0);
        let second = row("call-udp", Unit::CpuMicroseconds, Some(100.0), 40.0);
        let mut report = Report {
            date: String::new(),
            machine: String::new(),
            rows: vec![first],
        };
        report.replace(second.clone());
        report.replace(row("call-tcp", Unit::CpuMicroseconds, Some(1.0), 1.0));
        assert_eq!(report.rows.len(), 2);
        assert_eq!(report.rows[0], second);
    }

    #[test]
    fn figures_are_medians_of_the_rounds() {
        let sample = |cost: f64| Sample {
            cost,
            parts: BTreeMap::from([("worker".to_owned(), cost)]),
            generator: cost * 2.0,
            rate: 100.0,
            units: 10,
            seen: BTreeMap::new(),
        };
        let figures = Figures::of(&[sample(1.0), sample(9.0), sample(2.0)]).unwrap();
        assert_eq!((figures.cost.median, figures.cost.max, figures.units), (2.0, 9.0, 30));
        assert_eq!((figures.parts["worker"], figures.generator), (2.0, 4.0));
        assert_eq!(Figures::of(&[]), None);
    }
}
