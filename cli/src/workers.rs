//! `trunkline workers`: who is there, and in step.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{MissedTickBehavior, interval, timeout};
use trunkline_proto::v1::{ListWorkersRequest, SyncState, Worker};

use crate::api::Api;
use crate::columns::columns;
use crate::options::WorkersOptions;

/// Longest wait for workers to be in step.
const IN_STEP: Duration = Duration::from_secs(30);
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

const HEAD: [&str; 7] = ["worker", "state", "sync", "revision", "calls", "media", "version"];

/// Prints the workers, and every resource of theirs that is not in step.
///
/// # Errors
/// The API cannot be asked, or the workers waited for are not in step in time.
pub async fn run(options: &WorkersOptions) -> Result<()> {
    let (_, api) = Api::open(&options.access).await?;
    let mut workers = list(&api).await?;
    let wanted = options.wait.unwrap_or(0);
    let waited = async {
        let mut again = interval(POLL);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while in_step(&workers) < wanted {
            again.tick().await;
            workers = list(&api).await?;
        }
        anyhow::Ok(())
    };
    let waited = timeout(IN_STEP, waited).await;
    print!("{}", text(&workers));
    match waited {
        Ok(outcome) => outcome,
        Err(_) => bail!(
            "{} of {wanted} workers are connected and in step after {} s",
            in_step(&workers),
            IN_STEP.as_secs()
        ),
    }
}

async fn list(api: &Api) -> Result<Vec<Worker>> {
    let mut workers = Vec::new();
    let mut request = ListWorkersRequest::default();
    loop {
        let response = api.workers().list_workers(request.clone()).await;
        let page = response.context("list workers")?.into_inner();
        workers.extend(page.workers);
        if page.next_page_token.is_empty() {
            return Ok(workers);
        }
        request.page_token = page.next_page_token;
    }
}

fn in_step(workers: &[Worker]) -> usize {
    workers
        .iter()
        .filter(|worker| worker.connected && worker.sync_state() == SyncState::Synced)
        .count()
}

fn text(workers: &[Worker]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(workers.iter().map(row));
    let mut out = columns(&rows);
    for worker in workers {
        for resource in &worker.resources {
            let state = sync(resource.state());
            out.push_str(&format!("  {}: {} is {state}", worker.name, resource.resource));
            if !resource.error.is_empty() {
                out.push_str(&format!(": {}", resource.error));
            }
            out.push('\n');
        }
    }
    out
}

fn row(worker: &Worker) -> [String; HEAD.len()] {
    let state = match (worker.connected, worker.draining) {
        (false, _) => "away",
        (true, true) => "draining",
        (true, false) => "connected",
    };
    [
        worker.name.clone(),
        state.to_owned(),
        sync(worker.sync_state()).to_owned(),
        format!("{}/{}", worker.applied_revision, worker.current_revision),
        worker.active_calls.to_string(),
        worker.media_tier.clone(),
        worker.version.clone(),
    ]
}

fn sync(state: SyncState) -> &'static str {
    state.as_str_name().trim_start_matches("SYNC_STATE_")
}

#[cfg(test)]
mod tests {
    use trunkline_proto::v1::ResourceSync;

    use super::*;

    fn worker(name: &str, connected: bool, state: SyncState) -> Worker {
        Worker {
            name: format!("workers/{name}"),
            connected,
            sync_state: state.into(),
            applied_revision: 7,
            current_revision: 8,
            active_calls: 3,
            ..Worker::default()
        }
    }

    #[test]
    fn only_connected_workers_with_everything_accepted_are_in_step() {
        let workers = [
            worker("a", true, SyncState::Synced),
            worker("b", false, SyncState::Synced),
            worker("c", true, SyncState::Stale),
            worker("d", true, SyncState::Error),
        ];
        assert_eq!(in_step(&workers), 1);
    }

    #[test]
    fn a_line_says_state_sync_revisions_and_calls() {
        let mut draining = worker("b", true, SyncState::Stale);
        draining.draining = true;
        let text = text(&[
            worker("a", true, SyncState::Synced),
            draining,
            worker("c", false, SyncState::Stale),
        ]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], HEAD);
        assert_eq!(lines[1], ["workers/a", "connected", "SYNCED", "7/8", "3"]);
        assert_eq!(lines[2][..3], ["workers/b", "draining", "STALE"]);
        assert_eq!(lines[3][..3], ["workers/c", "away", "STALE"]);
    }

    #[test]
    fn what_a_worker_refused_is_shown_with_its_reason() {
        let mut refusing = worker("a", true, SyncState::Error);
        refusing.resources = vec![ResourceSync {
            resource: "trunks/main".into(),
            state: SyncState::Error.into(),
            error: "address in use".into(),
            ..ResourceSync::default()
        }];
        assert!(text(&[refusing]).ends_with("  workers/a: trunks/main is ERROR: address in use\n"));
    }
}
