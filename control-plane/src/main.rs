//! `trunkline-control`: parse, start, serve until told to stop, drain.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use tracing::error;
use trunkline_control::{app::App, options::Options};
use trunkline_shared::runtime::{drain::Drain, telemetry};

/// Open requests and streams get this long to end; a second signal cuts it short.
const DRAIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let options = Options::parse();
    let telemetry = telemetry::Options {
        log_format: options.log_format,
        otlp_endpoint: options.otlp_endpoint.clone(),
        ..telemetry::Options::default()
    };
    let _telemetry = match telemetry::init("trunkline-control", &telemetry) {
        Ok(guard) => guard,
        Err(error) => {
            // There is no log yet.
            eprintln!("trunkline-control: {:#}", anyhow::Error::new(error));
            return ExitCode::FAILURE;
        }
    };
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            error!(error = format!("{error:#}"), "the control plane failed");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let drain = Drain::on_signals(DRAIN).context("listen for signals")?;
    let app = App::start(options).await.context("start the control plane")?;
    let failed = tokio::select! {
        () = drain.begun() => false,
        () = app.stopped() => true,
    };
    app.stop(drain.expired()).await;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
