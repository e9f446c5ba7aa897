//! Which core does what: the system under test on the first, the generators on the second.
//!
//! Affinity is inherited, so that a child is pinned by pinning the thread that starts it. The benchmark runs on one thread and
//! moves itself: to the core of the system under test while it starts that, and back to the generators' afterwards.

use std::fs;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The cores of both sides of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Those of the system under test.
    pub system: Vec<usize>,
    /// Those of the generators and of the benchmark itself.
    pub generator: Vec<usize>,
}

impl Cores {
    /// The first core for the system and the second for the generators; on a machine with one core, both share it.
    ///
    /// # Errors
    /// When the kernel does not say which cores there are.
    pub fn of_this_machine() -> Result<Self> {
        let cores = allowed()?;
        let first = *cores.first().context("an empty list of cores")?;
        let second = cores.get(1).copied().unwrap_or(first);
        Ok(Self {
            system: vec![first],
            generator: vec![second],
        })
    }

    /// Every core for both: for runs in which nothing is compared.
    ///
    /// # Errors
    /// As [`Cores::of_this_machine`].
    pub fn shared() -> Result<Self> {
        let cores = allowed()?;
        Ok(Self {
            system: cores.clone(),
            generator: cores,
        })
    }

    /// Whether the two do not disturb each other.
    pub fn apart(&self) -> bool {
        self.system.iter().all(|core| !self.generator.contains(core))
    }

    /// What this thread starts from now on runs where the system under test does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start_system(&self) -> Result<()> {
        pin(&self.system)
    }

    /// This thread and what it starts from now on run where the generators do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start_generator(&self) -> Result<()> {
        pin(&self.generator)
    }
}

/// The cores this process may use.
fn allowed() -> Result<Vec<usize>> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .context("no list of cores in /proc/self/status")?;
    parse(list.trim())
}

fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).with_context(|| format!("pin to the cores {cores:?}"))
}

/// `0-1,4` as the kernel writes it.
fn parse(list: &str) -> Result<Vec<usize>> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.parse::<usize>()
                .with_context(|| format!("{list} is no list of cores"))
        };
        cores.extend(number(first)?..=number(last)?);
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cores_is_read() {
        assert_eq!(parse("0").unwrap(), [0]);
        assert_eq!(parse("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert!(parse("").is_err());
    }

    #[test]
    fn a_thread_is_where_it_was_pinned() {
        let cores = Cores::of_this_machine().unwrap();
        cores.start_generator().unwrap();
        let here = fs::read_to_string("/proc/thread-self/status").unwrap();
        let list = here
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap();
        assert_eq!(parse(list.trim()).unwrap(), cores.generator);
    }
}
