//! CPU time of processes, with all their threads and the children they forked.
//!
//! `/proc/<pid>/stat` counts in ticks of 10 ms. A process's own CPU clock (clock_getcpuclockid(3)) counts what the scheduler
//! does, in nanoseconds, user and kernel time together, with that of threads that have ended, and so is used here;
//! `/proc/<pid>/task/<tid>/schedstat`, the same clock by thread, gives the split. Time in soft interrupts goes to whoever ran when
//! they came (a kernel without IRQ_TIME_ACCOUNTING), which is why loads are compared at equal rates and on equal cores only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};

/// CPU time of named processes at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Nanoseconds by name and id of the process.
    processes: BTreeMap<(String, u32), u64>,
    /// By name of process and thread id.
    threads: BTreeMap<(String, u32), Thread>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Thread {
    name: String,
    nanoseconds: u64,
}

/// Processes under one name, found by their ids and those of their descendants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meter {
    roots: Vec<(String, u32)>,
}

impl Meter {
    /// A meter of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a process and whatever it forks; several may share a name.
    #[must_use]
    pub fn with(mut self, name: &str, pid: u32) -> Self {
        self.roots.push((name.to_owned(), pid));
        self
    }

    /// The processes under each name, descendants included.
    ///
    /// # Errors
    /// When one of the processes is gone.
    pub fn processes(&self) -> Result<Vec<(String, u32)>> {
        let mut found = Vec::new();
        for (name, root) in &self.roots {
            let mut open = vec![*root];
            let mut seen = BTreeSet::new();
            while let Some(pid) = open.pop() {
                if seen.insert(pid) {
                    open.extend(children(pid).with_context(|| format!("{name} ({pid}) is gone"))?);
                    found.push((name.clone(), pid));
                }
            }
        }
        Ok(found)
    }

    /// Reads the clocks.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn read(&self) -> Result<Reading> {
        let (mut processes, mut threads) = (BTreeMap::new(), BTreeMap::new());
        for (name, pid) in self.processes()? {
            let used = cpu_clock(pid).with_context(|| format!("{name} ({pid}) is gone"))?;
            processes.insert((name.clone(), pid), used);
            let path = format!("/proc/{pid}/task");
            for entry in fs::read_dir(&path).with_context(|| format!("{name} ({pid}) is gone"))? {
                let entry = entry?;
                let Ok(thread) = entry.file_name().to_string_lossy().parse() else {
                    continue;
                };
                // A thread may end between the listing and here.
                if let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) {
                    let run = text.split_ascii_whitespace().next().context("an empty schedstat")?;
                    let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                    let reading = Thread {
                        name: comm.trim().to_owned(),
                        nanoseconds: run.parse()?,
                    };
                    threads.insert((name.clone(), thread), reading);
                }
            }
        }
        Ok(Reading { processes, threads })
    }
}

impl Reading {
    /// Microseconds used since `before`, by name.
    ///
    /// # Errors
    /// When a process of `before` has ended: its last part would be missing.
    pub fn since(&self, before: &Self) -> Result<BTreeMap<String, f64>> {
        for (name, process) in before.processes.keys() {
            ensure!(
                self.processes.contains_key(&(name.clone(), *process)),
                "a process of {name} ended inside the window"
            );
        }
        let mut used = BTreeMap::new();
        for (key, now) in &self.processes {
            let then = before.processes.get(key).copied().unwrap_or(0);
            *used.entry(key.0.clone()).or_insert(0.0) += now.saturating_sub(then) as f64 / 1000.0;
        }
        Ok(used)
    }

    /// Microseconds used since `before` by threads of one name that are still there, as `process/thread`; of processes that have
    /// names for them.
    pub fn by_thread(&self, before: &Self) -> BTreeMap<String, f64> {
        let mut used = BTreeMap::new();
        for (key, now) in &self.threads {
            let then = before.threads.get(key).map_or(0, |then| then.nanoseconds);
            let used = used.entry(format!("{}/{}", key.0, now.name)).or_insert(0.0);
            *used += now.nanoseconds.saturating_sub(then) as f64 / 1000.0;
        }
        let named = |name: &str| {
            let process = name.split('/').next().unwrap_or_default();
            let mut threads = self.threads.iter().filter(|((owner, _), _)| owner == process);
            let first = threads.next().map(|(_, thread)| &thread.name);
            threads.any(|(_, thread)| Some(&thread.name) != first)
        };
        used.retain(|name, used| *used > 0.0 && named(name));
        used
    }
}

/// CPU time of a process so far, in nanoseconds, threads that have ended included.
#[expect(
    unsafe_code,
    reason = "the CPU clock of another process, which no crate of ours reads"
)]
fn cpu_clock(pid: u32) -> Result<u64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write one value of the type they are given a pointer to.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    ensure!(!failed, "the process has no clock");
    Ok(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}

/// Processes forked by any thread of `pid`.
fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path().join("children");
        // A thread may end between the listing and here.
        if let Ok(list) = fs::read_to_string(path) {
            found.extend(
                list.split_ascii_whitespace()
                    .filter_map(|word| word.parse::<u32>().ok()),
            );
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_a_child_of_a_child_burns_is_counted() {
        // The inner loop runs until its input ends; its parent waits for it.
        let mut shell = Command::new("sh")
            .args([
                "-c",
                "(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; read x); true",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let meter = Meter::new().with("shell", shell.id());
        let before = meter.read().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.as_mut().unwrap()), &mut line).unwrap();
        assert_eq!(line, "done\n");
        let used = meter.read().unwrap().since(&before).unwrap();
        assert!(used["shell"] > 10_000.0, "{used:?}");
        drop(shell.stdin.take());
        shell.wait().unwrap();
        meter.read().unwrap_err();
    }
}
