//! `ConfigurationService`: sockets and clocks around a [`Session`](super::session::Session).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};
use trunkline_proto::dataplane::v1::{
    Command, CommandResult, ControlHeartbeat, HangUp, Hello, StreamConfigurationRequest, StreamConfigurationResponse,
    command, configuration_service_server::ConfigurationService, stream_configuration_request::Message as FromWorker,
    stream_configuration_response::Message as ToWorker,
};

use super::{
    fleet::{Attachment, Fleet, PendingCommand},
    session::Effect,
};
use crate::{
    identity::authenticate_worker,
    metrics::{Metrics, StreamEnd, StreamEndLabels},
    store::{Store, now_ms},
};

/// Messages queued to one worker: a push, some heartbeats and commands. A worker that lets it fill up is let go.
const SEND_QUEUE: usize = 32;
/// First differences made at the same time; after a restart of the control plane all workers come at once.
const CONCURRENT_HELLOS: usize = 4;
/// The catalogue follows the store within milliseconds; beyond this a worker is better served with what there is.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Commands one worker may owe an answer to.
const OUTSTANDING_COMMANDS: usize = 256;

/// Serves the configuration streams.
#[derive(Debug, Clone)]
pub struct ConfigurationStreams {
    store: Store,
    fleet: Fleet,
    admission: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

type Outgoing = mpsc::Sender<Result<StreamConfigurationResponse, Status>>;

impl ConfigurationStreams {
    /// Streams of `fleet`, until `stop` is cancelled; `tasks` tracks them.
    pub fn new(store: Store, fleet: Fleet, stop: CancellationToken, tasks: TaskTracker) -> Self {
        Self {
            store,
            fleet,
            admission: Arc::new(Semaphore::new(CONCURRENT_HELLOS)),
            stop,
            tasks,
        }
    }

    async fn serve(self, worker: String, mut incoming: Streaming<StreamConfigurationRequest>, outgoing: Outgoing) {
        let first = tokio::select! {
            biased;
            () = self.stop.cancelled() => {
                drop(outgoing.try_send(Err(Status::unavailable("the control plane is going down"))));
                return;
            }
            first = timeout(self.fleet.limits().silence, incoming.message()) => first,
        };
        let hello = match first {
            Ok(Ok(Some(StreamConfigurationRequest {
                message: Some(FromWorker::Hello(hello)),
            }))) => hello,
            Ok(Ok(Some(_))) => {
                self.count_end(StreamEnd::Protocol);
                // Nobody is there to read it when this fails.
                drop(outgoing.try_send(Err(Status::failed_precondition("the first message is not a hello"))));
                return;
            }
            Ok(_) => return self.count_end(StreamEnd::PeerLeft),
            Err(_) => {
                self.count_end(StreamEnd::Silent);
                drop(outgoing.try_send(Err(Status::deadline_exceeded("no hello"))));
                return;
            }
        };
        let Some(attachment) = self.attach(&worker, hello).await else {
            return;
        };
        let mut stream = WorkerStream {
            store: &self.store,
            metrics: self.fleet.metrics(),
            attachment,
            outgoing,
            commands: HashMap::new(),
            next_command: 1,
        };
        let (cause, reason) = stream.run(&self.fleet, &self.stop, &mut incoming).await;
        self.fleet.detach(&stream.attachment);
        self.count_end(cause);
        info!(worker, cause = cause.as_str(), reason, "configuration stream ended");
        if let Some(status) = final_status(cause, reason) {
            drop(stream.outgoing.try_send(Err(status)));
        }
    }

    async fn attach(&self, worker: &str, hello: Hello) -> Option<Attachment> {
        // Closed never; and a worker that gives up waiting is noticed by its stream.
        let _permit = self.admission.acquire().await.ok()?;
        // A worker that has just enrolled gets its own settings with the first push, and one that comes back gets the
        // difference to what is, not to what was a moment ago.
        let current = self.store.revision();
        let mut catalogue = self.fleet.subscribe();
        if timeout(
            CATCH_UP,
            catalogue.wait_for(|catalogue| catalogue.revision() >= current),
        )
        .await
        .is_err()
        {
            warn!(worker, revision = current, "the catalogue does not follow the store");
        }
        info!(
            worker,
            hostname = hello.hostname,
            version = hello.software_version,
            held = hello.held.len(),
            "configuration stream opened"
        );
        Some(self.fleet.attach(worker, hello, Instant::now()))
    }

    fn count_end(&self, cause: StreamEnd) {
        self.fleet
            .metrics()
            .streams_ended
            .get_or_create(&StreamEndLabels { cause: cause.as_str() })
            .inc();
    }
}

#[tonic::async_trait]
impl ConfigurationService for ConfigurationStreams {
    type StreamConfigurationStream = ReceiverStream<Result<StreamConfigurationResponse, Status>>;

    async fn stream_configuration(
        &self,
        request: Request<Streaming<StreamConfigurationRequest>>,
    ) -> Result<Response<Self::StreamConfigurationStream>, Status> {
        let identity = authenticate_worker(&self.store, request.extensions()).await?;
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("the control plane is going down"));
        }
        let (outgoing, messages) = mpsc::channel(SEND_QUEUE);
        self.tasks
            .spawn(self.clone().serve(identity.worker, request.into_inner(), outgoing));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// One open stream.
struct WorkerStream<'a> {
    store: &'a Store,
    metrics: &'a Metrics,
    attachment: Attachment,
    outgoing: Outgoing,
    /// Commands the worker has not answered.
    commands: HashMap<u64, oneshot::Sender<Result<(), String>>>,
    next_command: u64,
}

type End = (StreamEnd, &'static str);

impl WorkerStream<'_> {
    /// Priorities: going down; being replaced; time; configuration; commands; what the worker says.
    async fn run(
        &mut self,
        fleet: &Fleet,
        stop: &CancellationToken,
        incoming: &mut Streaming<StreamConfigurationRequest>,
    ) -> End {
        let mut catalogue = fleet.subscribe();
        // What was published between the hello and here counts as news.
        catalogue.mark_changed();
        loop {
            if let Err(end) = self.act(fleet) {
                return end;
            }
            let Some(Some(deadline)) = self.attachment.with_session(|session| session.deadline()) else {
                return (StreamEnd::Superseded, "a newer stream of this worker took over");
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return (StreamEnd::Shutdown, "the control plane is going down"),
                () = self.attachment.superseded.cancelled() => {
                    return (StreamEnd::Superseded, "a newer stream of this worker took over");
                }
                () = sleep_until(deadline.into()) => {
                    self.commands.retain(|_, reply| !reply.is_closed());
                    self.attachment.with_session(|session| session.handle_timeout(Instant::now()));
                }
                changed = catalogue.changed() => {
                    if changed.is_err() {
                        return (StreamEnd::Shutdown, "the control plane is going down");
                    }
                    let next = Arc::clone(&catalogue.borrow_and_update());
                    self.attachment.with_session(|session| session.handle_catalogue(next, Instant::now()));
                }
                Some(command) = self.attachment.commands.recv() => {
                    if let Err(end) = self.send_command(command) {
                        return end;
                    }
                }
                message = incoming.message() => match message {
                    Ok(Some(StreamConfigurationRequest { message: Some(message) })) => self.handle(message),
                    // A kind of message from a newer worker: it is alive, and that is all we understand.
                    Ok(Some(StreamConfigurationRequest { message: None })) => self.heard(),
                    Ok(None) => return (StreamEnd::PeerLeft, "the worker closed the stream"),
                    Err(status) => {
                        debug!(worker = self.attachment.worker(), error = %status, "configuration stream broke");
                        return (StreamEnd::PeerLeft, "the connection broke");
                    }
                }
            }
        }
    }

    /// Does what the session asks for.
    fn act(&mut self, fleet: &Fleet) -> Result<(), End> {
        while let Some(Some(effect)) = self.attachment.with_session(|session| session.poll_effect()) {
            match effect {
                Effect::Push(push) => {
                    debug!(
                        worker = self.attachment.worker(),
                        revision = push.revision,
                        upserts = push.upserts.len(),
                        removals = push.removals.len(),
                        "push"
                    );
                    self.metrics.pushes.inc();
                    self.send(ToWorker::Push(push))?;
                }
                Effect::Heartbeat => {
                    let time = Some(SystemTime::now().into());
                    self.send(ToWorker::Heartbeat(ControlHeartbeat {
                        revision: self.store.revision(),
                        time,
                    }))?;
                }
                Effect::Answered(latency) => self.metrics.push_latency.observe(Metrics::seconds(latency)),
                Effect::Refused(count) => {
                    self.metrics.rejections.inc_by(count as u64);
                    self.log_refusals();
                    fleet.note_refusal();
                }
                Effect::End(cause, reason) => return Err((cause, reason)),
            }
        }
        Ok(())
    }

    fn handle(&mut self, message: FromWorker) {
        self.attachment.heard();
        let now = Instant::now();
        match message {
            FromWorker::Hello(hello) => {
                self.attachment
                    .with_session(|session| session.handle_hello(&hello.store_id, &hello.held, now));
            }
            FromWorker::PushResult(result) => {
                let confirmed = self.attachment.with_session(|session| {
                    session.handle_push_result(&result, now, now_ms());
                    session.confirmed_revision()
                });
                self.attachment.applied(confirmed.unwrap_or(0));
            }
            FromWorker::Heartbeat(heartbeat) => {
                self.attachment.heartbeat(&heartbeat);
                self.heard();
            }
            FromWorker::Status(status) => {
                self.attachment.status(status);
                self.heard();
            }
            FromWorker::CommandResult(CommandResult { id, error }) => {
                self.heard();
                if let Some(reply) = self.commands.remove(&id) {
                    let outcome = if error.is_empty() { Ok(()) } else { Err(error) };
                    // Whoever asked has stopped waiting when this fails.
                    drop(reply.send(outcome));
                }
            }
        }
    }

    fn heard(&self) {
        self.attachment
            .with_session(|session| session.handle_heard(Instant::now()));
    }

    fn send_command(&mut self, PendingCommand { call, reply }: PendingCommand) -> Result<(), End> {
        self.commands.retain(|_, reply| !reply.is_closed());
        if self.commands.len() >= OUTSTANDING_COMMANDS {
            // Dropping the reply tells the caller that the worker cannot be had now.
            return Ok(());
        }
        let id = self.next_command;
        self.next_command += 1;
        self.commands.insert(id, reply);
        self.send(ToWorker::Command(Command {
            id,
            command: Some(command::Command::HangUp(HangUp { call })),
        }))
    }

    /// Never waits: a worker that does not read holds up nothing but its own stream.
    fn send(&self, message: ToWorker) -> Result<(), End> {
        self.outgoing
            .try_send(Ok(StreamConfigurationResponse { message: Some(message) }))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => (StreamEnd::Slow, "the worker does not read"),
                mpsc::error::TrySendError::Closed(_) => (StreamEnd::PeerLeft, "the connection broke"),
            })
    }

    fn log_refusals(&self) {
        let worker = self.attachment.worker();
        self.attachment.with_session(|session| {
            for (key, parked) in session.parked() {
                let (resource, version) = (key.name(), parked.version);
                warn!(
                    worker,
                    resource,
                    version,
                    reason = parked.error,
                    "the worker refuses a resource"
                );
            }
        });
    }
}

/// What the worker is told. One that left is told nothing.
fn final_status(cause: StreamEnd, reason: &'static str) -> Option<Status> {
    match cause {
        StreamEnd::PeerLeft => None,
        StreamEnd::Superseded => Some(Status::aborted(reason)),
        StreamEnd::Silent => Some(Status::deadline_exceeded(reason)),
        StreamEnd::Slow => Some(Status::resource_exhausted(reason)),
        StreamEnd::Protocol => Some(Status::failed_precondition(reason)),
        StreamEnd::Deleted => Some(Status::permission_denied(reason)),
        StreamEnd::Shutdown => Some(Status::unavailable(reason)),
    }
}
