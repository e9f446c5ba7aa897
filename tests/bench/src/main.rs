//! `trunkline-bench`: measures, and writes what it found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use trunkline_bench::affinity::Cores;
use trunkline_bench::machine;
use trunkline_bench::report::Report;
use trunkline_bench::rounds::{self, Stamp};
use trunkline_bench::sample::Side;
use trunkline_bench::soak::{self, Plan};
use trunkline_bench::workload::Bench;
use trunkline_bench::{plot, table, workloads};

/// Side by side with Kamailio and rtpengine.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures both sides in turns and writes the results.
    Run {
        /// Workloads, by whole name or by prefix (`call`, `rtp`); all when none is named.
        work: Vec<String>,
        /// Rounds of each side.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Seconds of the steady window.
        #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(2..=600))]
        window: u64,
        /// Seconds of load before it.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
        warm_up: u64,
        /// Folder for `<date>.json` and the table and plot beside it; rows of an earlier run of the day are kept or replaced.
        #[arg(long, default_value = "bench/results")]
        results: PathBuf,
    },
    /// Measures our side only, and writes nothing: for who changes something and wants to see what it does. TRUNKLINE_BIN_DIR names
    /// the folder of the build.
    Probe {
        /// Workloads, as above.
        work: Vec<String>,
        /// Rounds.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Seconds of the steady window.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=600))]
        window: u64,
        /// Seconds of load before it.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
        warm_up: u64,
        /// The peer's side instead.
        #[arg(long)]
        peer: bool,
    },
    /// Calls and registrations for a long time: memory flat, nothing failed, nothing left. Fails when one is not so.
    Soak {
        /// Minutes of load.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        minutes: u64,
        /// Calls a second, with anchored media: half of what this machine carries.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        calls: u32,
        /// Registrations a second, over TCP: half of what this machine carries beside the calls.
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        registrations: u32,
        /// Growth of a process, in KiB a minute, that fails the soak. At a hundred calls a second, 256 is 43 octets a call.
        #[arg(long, default_value_t = 256.0)]
        growth: f64,
        /// Folder for `soak-<date>.json`.
        #[arg(long, default_value = "bench/results")]
        results: PathBuf,
    },
    /// Lists the workloads.
    List,
    /// Prints the table of a results file, or writes it between the markers of a Markdown file.
    Table {
        /// The results.
        results: PathBuf,
        /// The Markdown file.
        #[arg(long)]
        write: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    raise_file_limit()?;
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Run {
            work,
            rounds,
            window,
            warm_up,
            results,
        } => block_on(run(&work, rounds, window, warm_up, &results)),
        Command::Probe {
            work,
            rounds,
            window,
            warm_up,
            peer,
        } => {
            let side = if peer { Side::Peer } else { Side::Ours };
            block_on(probe(&work, side, rounds, window, warm_up))
        }
        Command::Soak {
            minutes,
            calls,
            registrations,
            growth,
            results,
        } => {
            let plan = Plan {
                duration: Duration::from_secs(minutes * 60),
                calls,
                registrations,
                growth,
            };
            block_on(soak(&plan, &results))
        }
        Command::List => {
            for workload in workloads::all() {
                println!("{:24} {}", workload.name(), workload.description());
            }
            Ok(())
        }
        Command::Table { results, write } => {
            let report = Report::read(&results)?;
            match write {
                Some(path) => table::insert(&report, &path),
                None => {
                    print!("{}", table::markdown(&report));
                    Ok(())
                }
            }
        }
    }
}

/// A relay holds sockets for each call, a fleet for each worker; what is started here inherits the limit.
fn raise_file_limit() -> Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).context("raise the limit of open files")
}

/// On one thread: its affinity and its network namespace are what its children inherit.
fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// A folder for logs that stays until [`tempfile::TempDir::disable_cleanup`] is taken back: they say what went wrong.
fn log_dir() -> Result<tempfile::TempDir> {
    let mut dir = tempfile::Builder::new().prefix("trunkline-bench-").tempdir()?;
    dir.disable_cleanup(true);
    println!("logs are in {}", dir.path().display());
    Ok(dir)
}

async fn soak(plan: &Plan, results: &Path) -> Result<()> {
    let cores = Cores::shared()?;
    let machine = machine::describe(&cores)?;
    let (date, _) = machine::now()?;
    let mut dir = log_dir()?;
    let bench = Bench::new(cores, dir.path());
    let outcome = soak::run(&bench, plan).await?;
    let path = results.join(format!("soak-{date}.json"));
    outcome.write(&path, &date, &machine, plan)?;
    print!("{}", outcome.summary());
    println!("written to {}", path.display());
    ensure!(outcome.faults.is_empty(), "{}", outcome.faults.join("; "));
    dir.disable_cleanup(false);
    Ok(())
}

async fn probe(work: &[String], side: Side, rounds: u32, window: u64, warm_up: u64) -> Result<()> {
    let mut dir = log_dir()?;
    let bench = Bench {
        window: Duration::from_secs(window),
        warm_up: Duration::from_secs(warm_up),
        ..Bench::new(Cores::of_this_machine()?, dir.path())
    };
    for workload in workloads::selected(work)? {
        rounds::probe(workload.as_ref(), side, rounds, &bench).await?;
    }
    dir.disable_cleanup(false);
    Ok(())
}

async fn run(work: &[String], rounds: u32, window: u64, warm_up: u64, results: &Path) -> Result<()> {
    let selected = workloads::selected(work)?;
    ensure!(!selected.is_empty(), "there is nothing to measure");
    let cores = Cores::of_this_machine()?;
    let mut dir = log_dir()?;
    let bench = Bench {
        window: Duration::from_secs(window),
        warm_up: Duration::from_secs(warm_up),
        ..Bench::new(cores, dir.path())
    };
    let machine = machine::describe(&bench.cores)?;
    let (date, time) = machine::now()?;
    let path = results.join(format!("{date}.json"));
    let mut report = match Report::read(&path) {
        Ok(report) if report.machine == machine => report,
        _ => Report {
            date,
            machine,
            rows: Vec::new(),
        },
    };
    let stamp = Stamp {
        peer_name: machine::peers()?,
        commit: machine::commit(&bench.home)?,
        time,
    };
    let mut failed = Vec::new();
    for workload in selected {
        match rounds::run(workload.as_ref(), rounds, &bench, &stamp).await {
            Ok(row) => report.replace(row),
            Err(error) => {
                eprintln!("{error:?}");
                // A row of before would pass for one of now.
                report.rows.retain(|row| row.work != workload.name());
                failed.push(workload.name());
            }
        }
        report.write(&path)?;
        std::fs::write(path.with_extension("md"), table::markdown(&report))?;
        std::fs::write(path.with_extension("svg"), plot::svg(&report))?;
    }
    print!("\n{}", table::markdown(&report));
    println!("\nwritten to {}", path.display());
    ensure!(
        failed.is_empty(),
        "not measured: {}; logs are in {}",
        failed.join(", "),
        dir.path().display()
    );
    dir.disable_cleanup(false);
    Ok(())
}
