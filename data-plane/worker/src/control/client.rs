//! The configuration stream: configuration in, what became of it and how we are out.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use trunkline_proto::dataplane::v1::configuration_service_client::ConfigurationServiceClient;
use trunkline_proto::dataplane::v1::stream_configuration_request::Message as ToControl;
use trunkline_proto::dataplane::v1::stream_configuration_response::Message as FromControl;
use trunkline_proto::dataplane::v1::{
    Command, CommandResult, ConfigurationPush, Hello, StreamConfigurationRequest, StreamConfigurationResponse,
    TrunkListener, UnrecognisedProperties, WorkerHeartbeat, WorkerStatus, command,
};
use trunkline_shared::name::ConversationId;
use trunkline_shared::snapshot::Snapshot;

use super::Boot;
use super::backoff::Backoff;
use super::configuration::Configuration;
use super::identity::hostname;
use super::link::{Link, LinkError, MAX_MESSAGE};
use super::watchdog::{Stall, Watchdog};
use crate::metrics::MetricsSet;
use crate::net::listener::ListenerReport;
use crate::relay::Tier;
use crate::shard::input::Shards;

/// Between heartbeats, both ways; the contract's.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream that lived this long had worked.
const SETTLED: Duration = Duration::from_secs(2);
/// How long the control plane has to take our last answer on a stream that we leave.
const LAST_WORD: Duration = Duration::from_millis(500);
/// Messages queued to the control plane; a stream that lets it fill up is dead.
const QUEUE: usize = 64;
/// Commands under way at once, and how long one may take.
const COMMANDS: usize = 256;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// What a stream tells the control plane about.
#[derive(Clone)]
pub struct Sources {
    /// This process.
    pub boot: Boot,
    /// States of the listeners.
    pub listeners: watch::Receiver<ListenerReport>,
    /// Back-end of the media plane in use.
    pub media_tier: Tier,
    /// Where commands go.
    pub shards: Shards,
    /// Calls that are not over.
    pub active_calls: Arc<dyn Fn() -> usize + Send + Sync>,
    /// Counters of the stream.
    pub metrics: Arc<MetricsSet>,
}

/// Keeps the configuration stream open; see [`ControlClient::run`].
pub struct ControlClient {
    link: Link,
    configuration: Configuration,
    sources: Sources,
    heartbeat: Duration,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the control plane did not answer in time")]
    OpenTimeout,
    #[error("the control plane ended it: {}", .0.message())]
    Status(#[from] Box<Status>),
    #[error("the control plane closed it")]
    Closed,
    #[error("nothing was heard for three heartbeats")]
    Silent,
    #[error("the control plane spoke of a newer revision and did not send it")]
    Behind,
    #[error("the control plane does not read")]
    Full,
    /// Not a failure: the next hello tells what is in force now.
    #[error("refused resources are in force now")]
    Recovered,
}

impl StreamEnd {
    /// Value of the metric's label.
    const fn label(&self) -> &'static str {
        match self {
            Self::Link(_) => "connect",
            Self::OpenTimeout => "timeout",
            Self::Status(_) => "status",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Behind => "behind",
            Self::Full => "full",
            Self::Recovered => "recovered",
        }
    }

    /// Says why; `heard` tells a stream that had worked from one that did not open, `away` whether the one before did
    /// not open either.
    fn log(&self, heard: bool, away: bool) {
        let cause = self as &dyn std::error::Error;
        if self.is_refusal() {
            tracing::error!(
                error = cause,
                "the control plane refuses this worker; serving what is on disk"
            );
        } else if heard {
            tracing::info!(error = cause, "configuration stream ended");
        } else if !away {
            tracing::warn!(error = cause, "the control plane is away; serving what is on disk");
        } else {
            tracing::debug!(error = cause, "no configuration stream");
        }
    }

    /// Somebody has to look at this: waiting does not help.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated))
    }
}

impl ControlClient {
    /// A client that puts what it is sent in force in `configuration`.
    pub fn new(link: Link, configuration: Configuration, sources: Sources) -> Self {
        Self {
            link,
            configuration,
            sources,
            heartbeat: HEARTBEAT,
        }
    }

    /// Runs until `shutdown`: opens the stream, presents what is held, applies pushes and answers them, beats, tells of
    /// the listeners, carries out commands. A stream that ends, stalls or falls behind is replaced: at once when it had
    /// worked, later and later when it had not.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::default();
        // Said once, not at every attempt.
        let mut away = false;
        self.sources.metrics.set_applied_revision(self.configuration.revision());
        loop {
            let began = Instant::now();
            let mut heard = false;
            let end = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                end = self.stream(&mut heard) => end,
            };
            self.sources.metrics.set_control_connected(false);
            self.sources.metrics.count_control_stream_end(end.label());
            end.log(heard, away);
            away = !heard;
            // One that works for a moment, again and again, is no reason to hurry.
            if heard && began.elapsed() >= SETTLED && !end.is_refusal() {
                backoff.reset();
            }
            if matches!(end, StreamEnd::Recovered) {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.delay(rand::random())) => {}
            }
        }
    }

    /// One stream, to its end. `heard` becomes true with the first message.
    async fn stream(&mut self, heard: &mut bool) -> StreamEnd {
        match self.open().await {
            Ok((outgoing, mut incoming)) => match self.follow(&outgoing, &mut incoming, heard).await {
                Ok(never) => match never {},
                Err(end) => {
                    if matches!(end, StreamEnd::Recovered) {
                        // Dropped at once, the stream would take the last answer with it.
                        drop(outgoing);
                        let to_its_end = async { while let Ok(Some(_)) = incoming.message().await {} };
                        drop(timeout(LAST_WORD, to_its_end).await);
                    }
                    end
                }
            },
            Err(end) => end,
        }
    }

    async fn open(&self) -> Result<(Outgoing, Streaming<StreamConfigurationResponse>), StreamEnd> {
        let (sender, requests) = mpsc::channel(QUEUE);
        let outgoing = Outgoing(sender);
        outgoing.send(ToControl::Hello(self.hello()))?;
        let open = async {
            let mut client = ConfigurationServiceClient::new(self.link.connect().await?)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            let stream = client
                .stream_configuration(ReceiverStream::new(requests))
                .await
                .map_err(Box::new)?;
            Ok::<_, StreamEnd>(stream.into_inner())
        };
        let incoming = timeout(OPEN_TIMEOUT, open)
            .await
            .map_err(|_| StreamEnd::OpenTimeout)??;
        Ok((outgoing, incoming))
    }

    /// Priorities: what the control plane says; its silence; our heartbeat; our listeners; commands done.
    async fn follow(
        &mut self,
        outgoing: &Outgoing,
        incoming: &mut Streaming<StreamConfigurationResponse>,
        heard: &mut bool,
    ) -> Result<std::convert::Infallible, StreamEnd> {
        let mut watchdog = Watchdog::new(self.heartbeat, Instant::now());
        let mut beat = interval(self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listeners = self.sources.listeners.clone();
        let mut listeners_live = true;
        let mut commands = JoinSet::new();
        let mut told = WorkerStatus::default();
        self.tell_status(&mut told, outgoing)?;
        loop {
            match watchdog.stall(Instant::now()) {
                Some(Stall::Silent) => return Err(StreamEnd::Silent),
                Some(Stall::Behind) => return Err(StreamEnd::Behind),
                None => {}
            }
            tokio::select! {
                biased;
                message = incoming.message() => {
                    let message = message.map_err(Box::new)?.ok_or(StreamEnd::Closed)?.message;
                    if !std::mem::replace(heard, true) {
                        self.sources.metrics.set_control_connected(true);
                        tracing::info!(revision = self.configuration.revision(), "configuration stream open");
                    }
                    match message {
                        Some(FromControl::Push(push)) => {
                            self.apply(push, outgoing).await?;
                            watchdog.handle_push(Instant::now());
                            self.tell_status(&mut told, outgoing)?;
                        }
                        Some(FromControl::Heartbeat(beat)) => {
                            watchdog.handle_heartbeat(beat.revision, self.configuration.revision(), Instant::now());
                        }
                        Some(FromControl::Command(command)) => {
                            watchdog.handle_heard(Instant::now());
                            self.begin_command(command, &mut commands, outgoing)?;
                        }
                        // A kind of message from a newer control plane: it is alive, and that is all we understand.
                        None => watchdog.handle_heard(Instant::now()),
                    }
                }
                () = sleep_until(watchdog.deadline().into()) => {}
                _ = beat.tick() => outgoing.send(ToControl::Heartbeat(self.beat()))?,
                changed = listeners.changed(), if listeners_live => {
                    // Without a reconciler the last states stand.
                    listeners_live = changed.is_ok();
                    self.tell_status(&mut told, outgoing)?;
                }
                Some(done) = commands.join_next() => {
                    if let Ok(result) = done {
                        outgoing.send(ToControl::CommandResult(result))?;
                    }
                }
            }
        }
    }

    async fn apply(&mut self, push: ConfigurationPush, outgoing: &Outgoing) -> Result<(), StreamEnd> {
        let began = Instant::now();
        let (upserts, removals) = (push.upserts.len(), push.removals.len());
        let outcome = self.configuration.apply(push).await;
        let revision = self.configuration.revision();
        for rejection in &outcome.result.rejections {
            let resource = rejection.key.as_ref().map_or("", |key| &key.name);
            tracing::warn!(
                resource,
                version = rejection.version,
                reason = rejection.error,
                "resource refused"
            );
        }
        if upserts + removals > 0 {
            tracing::info!(revision, upserts, removals, took = ?began.elapsed(), "configuration applied");
        }
        self.sources
            .metrics
            .note_push(revision, outcome.result.rejections.len());
        outgoing.send(ToControl::PushResult(outcome.result))?;
        if outcome.recovered {
            Err(StreamEnd::Recovered)
        } else {
            Ok(())
        }
    }

    fn begin_command(
        &self,
        Command { id, command }: Command,
        commands: &mut JoinSet<CommandResult>,
        outgoing: &Outgoing,
    ) -> Result<(), StreamEnd> {
        let refuse = |error: &str| {
            outgoing.send(ToControl::CommandResult(CommandResult {
                id,
                error: error.into(),
            }))
        };
        if commands.len() >= COMMANDS {
            return refuse("RESOURCE_EXHAUSTED");
        }
        match command {
            Some(command::Command::HangUp(hang_up)) => {
                let Some(call) = conversation(&hang_up.call) else {
                    return refuse("INVALID_ARGUMENT");
                };
                let shards = self.sources.shards.clone();
                commands.spawn(async move {
                    let error = match timeout(COMMAND_TIMEOUT, shards.hang_up(call)).await {
                        Ok(true) => "",
                        Ok(false) => "NOT_FOUND",
                        Err(_) => "DEADLINE_EXCEEDED",
                    };
                    CommandResult {
                        id,
                        error: error.into(),
                    }
                });
                Ok(())
            }
            None => refuse("UNIMPLEMENTED"),
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            hostname: hostname(),
            software_version: env!("CARGO_PKG_VERSION").into(),
            boot_id: self.sources.boot.id.to_string(),
            boot_time: Some(self.sources.boot.time.into()),
            held: self.configuration.held(),
            media_tier: self.sources.media_tier.name().into(),
            store_id: self.configuration.store_id(),
        }
    }

    fn beat(&self) -> WorkerHeartbeat {
        WorkerHeartbeat {
            revision: self.configuration.revision(),
            time: Some(SystemTime::now().into()),
            active_calls: u32::try_from((self.sources.active_calls)()).unwrap_or(u32::MAX),
        }
    }

    /// Tells the status when it is another than the one told last on this stream.
    fn tell_status(&self, told: &mut WorkerStatus, outgoing: &Outgoing) -> Result<(), StreamEnd> {
        let status = status(&self.sources.listeners.borrow(), &self.configuration.snapshot());
        if status != *told {
            outgoing.send(ToControl::Status(status.clone()))?;
            *told = status;
        }
        Ok(())
    }
}

/// The way out; never waited for.
struct Outgoing(mpsc::Sender<StreamConfigurationRequest>);

impl Outgoing {
    fn send(&self, message: ToControl) -> Result<(), StreamEnd> {
        let sent = self.0.try_send(StreamConfigurationRequest { message: Some(message) });
        sent.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StreamEnd::Full,
            mpsc::error::TrySendError::Closed(_) => StreamEnd::Closed,
        })
    }
}

fn status(report: &ListenerReport, snapshot: &Snapshot) -> WorkerStatus {
    let listener = |state: &crate::net::listener::ListenerState| {
        let (error_code, error_text) = match &state.error {
            Some((code, text)) => ((*code).to_owned(), text.clone()),
            None => Default::default(),
        };
        TrunkListener {
            trunk: state.trunk.name(),
            address: state.address.to_string(),
            bound: state.error.is_none(),
            error_code,
            error_text,
            state_time: Some(state.since.into()),
        }
    };
    let unrecognised = snapshot.trunks().filter_map(|trunk| {
        let names: Vec<String> = trunk.properties.unrecognised().map(str::to_owned).collect();
        (!names.is_empty()).then(|| UnrecognisedProperties {
            trunk: trunk.id.name(),
            names,
        })
    });
    WorkerStatus {
        listeners: report.states.iter().map(listener).collect(),
        unrecognised: unrecognised.collect(),
    }
}

/// The id alone, or the name of the call.
fn conversation(call: &str) -> Option<ConversationId> {
    ConversationId::parse_name(call).ok().or_else(|| call.parse().ok())
}

#[cfg(test)]
mod tests;
