//! `trunkline`: start an edge on this machine, and prove that calls pass.
#![allow(
    clippy::disallowed_methods,
    reason = "a program that runs processes and phones owns its clock"
)]

mod api;
mod check;
mod columns;
mod examples;
mod options;
mod phone;
mod state;
mod up;
mod workers;

use std::process::ExitCode;

use clap::Parser as _;

use options::{Command, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Up(options) => up::run(&options).await,
        Command::Check(options) => check::run(&options).await,
        Command::Examples(options) => examples::run(&options).await,
        Command::Workers(options) => workers::run(&options).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trunkline: {error:#}");
            ExitCode::FAILURE
        }
    }
}
