//! The data-plane worker of Trunkline.

use std::process::ExitCode;

use clap::Parser;
use trunkline_shared::runtime::telemetry;
use trunkline_worker::app;
use trunkline_worker::options::Options;
use trunkline_worker::trace::CallTraces;

fn main() -> ExitCode {
    let options = Options::parse();
    // The control thread: enrollment, configuration, metrics. Shards and media have threads of their own.
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("trunkline-worker: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let telemetry = match telemetry::init("trunkline-worker", &options.telemetry()) {
            Ok(guard) => guard,
            Err(error) => {
                eprintln!("trunkline-worker: start telemetry: {error}");
                return ExitCode::FAILURE;
            }
        };
        let traces = CallTraces::new(telemetry.tracer("trunkline-worker"));
        match app::run(options, traces).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "worker failed");
                ExitCode::FAILURE
            }
        }
    })
}
