//! `CallService`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio_stream::{Stream, wrappers::BroadcastStream, wrappers::errors::BroadcastStreamRecvError};
use tonic::{Code, Request, Response, Status};
use tracing::error;
use trunkline_proto::v1::{self, call_service_server::CallService};

use super::{
    CallFeed, CommandError, State, caller,
    status::{code_name, status},
};
use crate::domain::{self, Error};

#[tonic::async_trait]
impl CallService for State {
    async fn get_call(&self, request: Request<v1::GetCallRequest>) -> Result<Response<v1::GetCallResponse>, Status> {
        let call = domain::call::get(&self.store, &request.get_ref().name)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::GetCallResponse { call: Some(call) }))
    }

    async fn list_calls(
        &self,
        request: Request<v1::ListCallsRequest>,
    ) -> Result<Response<v1::ListCallsResponse>, Status> {
        domain::call::list(&self.store, request.get_ref())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn hang_up_call(
        &self,
        request: Request<v1::HangUpCallRequest>,
    ) -> Result<Response<v1::HangUpCallResponse>, Status> {
        let caller = caller(&request)?;
        let name = &request.get_ref().name;
        let (call, worker) = domain::call::locate(&self.store, name).await.map_err(status)?;
        let outcome = self.live.hang_up(&worker, &call.to_string()).await;
        let outcome = outcome.map_err(|error| status(refusal(&error, name)));
        let code = code_name(outcome.as_ref().map_or_else(Status::code, |()| Code::Ok));
        if let Err(error) = domain::call::note_hang_up(&self.store, &caller, name, code).await {
            error!(
                error = &error as &dyn std::error::Error,
                "note a hang-up in the audit log"
            );
        }
        outcome.map(|()| Response::new(v1::HangUpCallResponse {}))
    }

    type WatchCallsStream = Watch;

    async fn watch_calls(&self, request: Request<v1::WatchCallsRequest>) -> Result<Response<Watch>, Status> {
        let trunk = request.into_inner().trunk;
        domain::call::check_trunk_filter(&trunk).map_err(status)?;
        let feed = self.live.watch_calls().await.map_err(|error| status(error.into()))?;
        Ok(Response::new(Watch::new(feed, trunk)))
    }
}

fn refusal(error: &CommandError, name: &str) -> Error {
    match error {
        CommandError::Away => Error::Unavailable {
            reason: "WORKER_AWAY",
            description: error.to_string(),
        },
        CommandError::TimedOut => Error::Unavailable {
            reason: "WORKER_SILENT",
            description: error.to_string(),
        },
        CommandError::Refused(token) if token == "NOT_FOUND" => {
            Error::precondition("CALL_ENDED", name, "the worker has no such call any more")
        }
        CommandError::Refused(_) => Error::precondition("WORKER_REFUSED", name, error.to_string()),
    }
}

/// The active calls, a mark, then every change. Ends with `RESOURCE_EXHAUSTED` when the client does not keep up: what it
/// missed cannot be made good, so it has to start again.
#[derive(Debug)]
pub struct Watch {
    trunk: String,
    state: WatchState,
}

#[derive(Debug)]
enum WatchState {
    Initial {
        active: std::vec::IntoIter<Arc<v1::Call>>,
        changes: BroadcastStream<Arc<v1::Call>>,
    },
    Changes(BroadcastStream<Arc<v1::Call>>),
    Ended,
}

impl Watch {
    fn new(feed: CallFeed, trunk: String) -> Self {
        let CallFeed { active, changes } = feed;
        let state = WatchState::Initial {
            active: active.into_iter(),
            changes: BroadcastStream::new(changes),
        };
        Self { trunk, state }
    }
}

impl Stream for Watch {
    type Item = Result<v1::WatchCallsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { trunk, state } = &mut *self;
        let wanted =
            |call: &v1::Call| trunk.is_empty() || call.inbound_trunk == *trunk || call.outbound_trunk == *trunk;
        let shown = |call: &Arc<v1::Call>| v1::WatchCallsResponse {
            call: Some(v1::Call::clone(call)),
            initial_done: false,
        };
        loop {
            match state {
                WatchState::Initial { active, .. } => {
                    if let Some(call) = active.find(|call| wanted(call)) {
                        return Poll::Ready(Some(Ok(shown(&call))));
                    }
                    if let WatchState::Initial { changes, .. } = std::mem::replace(state, WatchState::Ended) {
                        *state = WatchState::Changes(changes);
                    }
                    return Poll::Ready(Some(Ok(v1::WatchCallsResponse {
                        call: None,
                        initial_done: true,
                    })));
                }
                WatchState::Changes(changes) => match ready!(Pin::new(changes).poll_next(cx)) {
                    Some(Ok(call)) if wanted(&call) => return Poll::Ready(Some(Ok(shown(&call)))),
                    Some(Ok(_)) => {}
                    Some(Err(BroadcastStreamRecvError::Lagged(missed))) => {
                        *state = WatchState::Ended;
                        let text = format!("the watcher is too slow: {missed} changes were missed; watch again");
                        return Poll::Ready(Some(Err(Status::resource_exhausted(text))));
                    }
                    None => {
                        *state = WatchState::Ended;
                        return Poll::Ready(Some(Err(Status::unavailable("the control plane is going down"))));
                    }
                },
                WatchState::Ended => return Poll::Ready(None),
            }
        }
    }
}
