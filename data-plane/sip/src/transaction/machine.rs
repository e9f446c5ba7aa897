//! The four machines behind one face: the layer speaks of requests and responses, each machine of its own inputs.

use bytes::Bytes;

use super::action::{Actions, Context};
use super::client_invite::{self, ClientInvite};
use super::client_non_invite::{self, ClientNonInvite};
use super::server_invite::{self, ServerInvite};
use super::server_non_invite::{self, ServerNonInvite};
use super::{Cancel, RespondError};
use crate::method::Method;
use crate::status::StatusCode;
use crate::timer::Timer;

/// One transaction of any kind.
#[derive(Debug)]
#[expect(clippy::enum_variant_names, reason = "RFC 3261 §17 names them so")]
pub(super) enum Machine {
    ClientInvite(ClientInvite),
    ClientNonInvite(ClientNonInvite),
    ServerInvite(ServerInvite),
    ServerNonInvite(ServerNonInvite),
}

/// What a status code means to a transaction.
enum Class {
    Provisional,
    Success,
    Failure,
}

impl Machine {
    /// A new client transaction.
    pub(super) fn send(method: &Method, request: Bytes, context: Context<'_>) -> (Self, Actions) {
        if *method == Method::Invite {
            let (state, actions) = ClientInvite::start(request, context);
            (Self::ClientInvite(state), actions)
        } else {
            let (state, actions) = ClientNonInvite::start(request, context);
            (Self::ClientNonInvite(state), actions)
        }
    }

    /// A new server transaction.
    pub(super) fn receive(method: &Method, context: Context<'_>) -> (Self, Actions) {
        if *method == Method::Invite {
            let (state, actions) = ServerInvite::start(context);
            (Self::ServerInvite(state), actions)
        } else {
            let (state, actions) = ServerNonInvite::start(context);
            (Self::ServerNonInvite(state), actions)
        }
    }

    /// Takes the machine out for a transition; what stays is never looked at.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::ClientNonInvite(ClientNonInvite::Terminated))
    }

    /// A request that matches this server transaction: the same one again, or the ACK of an INVITE.
    pub(super) fn request_again(self, is_ack: bool, context: Context<'_>) -> (Self, Actions) {
        match self {
            Self::ServerInvite(state) => {
                let input = if is_ack {
                    server_invite::Input::Ack
                } else {
                    server_invite::Input::Request
                };
                let (state, actions) = state.step(input, context);
                (Self::ServerInvite(state), actions)
            }
            Self::ServerNonInvite(state) => {
                let (state, actions) = state.step(server_non_invite::Input::Request, context);
                (Self::ServerNonInvite(state), actions)
            }
            client => (client, Actions::new()),
        }
    }

    /// A response that matches this client transaction.
    pub(super) fn response(
        self,
        status: StatusCode,
        build_ack: impl FnOnce(&Bytes) -> Option<Bytes>,
        context: Context<'_>,
    ) -> (Self, Actions) {
        match self {
            Self::ClientInvite(state) => {
                let input = match Class::of(status) {
                    Class::Provisional if status == StatusCode::TRYING => Some(client_invite::Input::Trying),
                    Class::Provisional => Some(client_invite::Input::Provisional),
                    Class::Success => Some(client_invite::Input::Success),
                    Class::Failure => match state.request() {
                        Some(request) => build_ack(request).map(|ack| client_invite::Input::Failure { ack }),
                        // Completed resends the ACK it has; the one in the input is not looked at.
                        None => Some(client_invite::Input::Failure { ack: Bytes::new() }),
                    },
                };
                let (state, actions) = match input {
                    Some(input) => state.step(input, context),
                    None => (state, Actions::new()),
                };
                (Self::ClientInvite(state), actions)
            }
            Self::ClientNonInvite(state) => {
                let input = match Class::of(status) {
                    Class::Provisional => client_non_invite::Input::Provisional,
                    Class::Success | Class::Failure => client_non_invite::Input::Final,
                };
                let (state, actions) = state.step(input, context);
                (Self::ClientNonInvite(state), actions)
            }
            server => (server, Actions::new()),
        }
    }

    /// Whether the transaction user may send this status now.
    pub(super) fn may_respond(&self, status: StatusCode) -> Result<(), RespondError> {
        match (self, Class::of(status)) {
            (Self::ServerInvite(ServerInvite::Received | ServerInvite::Proceeding { .. }), _)
            | (Self::ServerInvite(ServerInvite::Accepted), Class::Success) => Ok(()),
            (Self::ServerInvite(_), _) => Err(RespondError::AlreadyFinal),

            (Self::ServerNonInvite(ServerNonInvite::Completed { .. } | ServerNonInvite::Terminated), _) => {
                Err(RespondError::AlreadyFinal)
            }
            (Self::ServerNonInvite(state), Class::Provisional) => {
                let due = !matches!(state, ServerNonInvite::Trying { hundred_due: false });
                if due && status == StatusCode::TRYING {
                    Ok(())
                } else {
                    Err(RespondError::Provisional)
                }
            }
            (Self::ServerNonInvite(_), Class::Failure) if status == StatusCode::REQUEST_TIMEOUT => {
                Err(RespondError::RequestTimeout)
            }
            (Self::ServerNonInvite(_), Class::Success | Class::Failure) => Ok(()),

            (Self::ClientInvite(_) | Self::ClientNonInvite(_), _) => Err(RespondError::Gone),
        }
    }

    /// The transaction user responds; [`Machine::may_respond`] said that it may.
    pub(super) fn respond(self, status: StatusCode, response: Bytes, context: Context<'_>) -> (Self, Actions) {
        match self {
            Self::ServerInvite(state) => {
                let input = match Class::of(status) {
                    Class::Provisional => server_invite::Input::Provisional(response),
                    Class::Success => server_invite::Input::Success(response),
                    Class::Failure => server_invite::Input::Failure(response),
                };
                let (state, actions) = state.step(input, context);
                (Self::ServerInvite(state), actions)
            }
            Self::ServerNonInvite(state) => {
                let input = match Class::of(status) {
                    Class::Provisional => server_non_invite::Input::Provisional(response),
                    Class::Success | Class::Failure => server_non_invite::Input::Final(response),
                };
                let (state, actions) = state.step(input, context);
                (Self::ServerNonInvite(state), actions)
            }
            client => (client, Actions::new()),
        }
    }

    pub(super) fn timer(self, timer: Timer, context: Context<'_>) -> (Self, Actions) {
        match self {
            Self::ClientInvite(state) => {
                let (state, actions) = state.step(client_invite::Input::Timer(timer), context);
                (Self::ClientInvite(state), actions)
            }
            Self::ClientNonInvite(state) => {
                let (state, actions) = state.step(client_non_invite::Input::Timer(timer), context);
                (Self::ClientNonInvite(state), actions)
            }
            Self::ServerInvite(state) => {
                let (state, actions) = state.step(server_invite::Input::Timer(timer), context);
                (Self::ServerInvite(state), actions)
            }
            Self::ServerNonInvite(state) => {
                let (state, actions) = state.step(server_non_invite::Input::Timer(timer), context);
                (Self::ServerNonInvite(state), actions)
            }
        }
    }

    pub(super) fn transport_error(self, context: Context<'_>) -> (Self, Actions) {
        match self {
            Self::ClientInvite(state) => {
                let (state, actions) = state.step(client_invite::Input::TransportError, context);
                (Self::ClientInvite(state), actions)
            }
            Self::ClientNonInvite(state) => {
                let (state, actions) = state.step(client_non_invite::Input::TransportError, context);
                (Self::ClientNonInvite(state), actions)
            }
            Self::ServerInvite(state) => {
                let (state, actions) = state.step(server_invite::Input::TransportError, context);
                (Self::ServerInvite(state), actions)
            }
            Self::ServerNonInvite(state) => {
                let (state, actions) = state.step(server_non_invite::Input::TransportError, context);
                (Self::ServerNonInvite(state), actions)
            }
        }
    }

    /// What cancelling would come to in this state.
    pub(super) fn cancel_decision(&self) -> Cancel {
        match self {
            Self::ClientInvite(ClientInvite::Proceeding { request }) => Cancel::Now(request.clone()),
            Self::ClientInvite(ClientInvite::Calling { .. } | ClientInvite::CancelPending { .. }) => {
                Cancel::AfterProvisional
            }
            _ => Cancel::NotPossible,
        }
    }

    pub(super) fn cancel(self, context: Context<'_>) -> (Self, Actions) {
        match self {
            Self::ClientInvite(state) => {
                let (state, actions) = state.step(client_invite::Input::Cancel, context);
                (Self::ClientInvite(state), actions)
            }
            other => (other, Actions::new()),
        }
    }

    pub(super) fn request(&self) -> Option<&Bytes> {
        match self {
            Self::ClientInvite(state) => state.request(),
            _ => None,
        }
    }

    pub(super) fn is_client(&self) -> bool {
        matches!(self, Self::ClientInvite(_) | Self::ClientNonInvite(_))
    }

    /// A server transaction that waits for its final response.
    pub(super) fn is_pending(&self) -> bool {
        matches!(
            self,
            Self::ServerInvite(ServerInvite::Received | ServerInvite::Proceeding { .. })
                | Self::ServerNonInvite(ServerNonInvite::Trying { .. } | ServerNonInvite::Proceeding { .. })
        )
    }

    /// What this machine sends again is a request, not a response or an ACK.
    pub(super) fn retransmits_request(&self) -> bool {
        match self {
            Self::ClientInvite(state) => state.request().is_some(),
            Self::ClientNonInvite(_) => true,
            Self::ServerInvite(_) | Self::ServerNonInvite(_) => false,
        }
    }

    /// A request other than INVITE that has its final response, kept for retransmissions.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self, Self::ServerNonInvite(ServerNonInvite::Completed { .. }))
    }

    pub(super) fn is_terminated(&self) -> bool {
        match self {
            Self::ClientInvite(state) => state.is_terminated(),
            Self::ClientNonInvite(state) => state.is_terminated(),
            Self::ServerInvite(state) => state.is_terminated(),
            Self::ServerNonInvite(state) => state.is_terminated(),
        }
    }
}

impl Class {
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            ..=199 => Self::Provisional,
            200..=299 => Self::Success,
            300.. => Self::Failure,
        }
    }
}
