//! What is logged and not in the tables yet: the last word on each call and each address of record.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use prost::{Message as _, bytes::Bytes};
use tracing::{debug, error};
use trunkline_proto::{dataplane::v1 as dataplane, v1};

use super::scan::Event;
use crate::store::{
    StoreError, WriteTx,
    call::{self, CallRow},
    registration, report,
};

/// Rows written in one transaction of some milliseconds: reports get their turn in between.
const CHUNK: usize = 1000;

/// Where a batch of reports comes from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Id of the worker.
    pub(super) worker: Arc<str>,
    /// The process that reports.
    pub(super) boot_id: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    calls: HashMap<u128, PendingCall>,
    /// By trunk and user.
    registrations: HashMap<Box<str>, PendingRegistration>,
    failures: Vec<Failure>,
    /// Workers and their processes that began.
    pub(super) booted: Vec<(Arc<str>, String)>,
    octets: usize,
}

#[derive(Debug)]
struct PendingCall {
    source: Source,
    ended: bool,
    message: Box<[u8]>,
}

#[derive(Debug)]
struct PendingRegistration {
    change_time_ms: i64,
    message: Box<[u8]>,
}

#[derive(Debug)]
struct Failure {
    worker: Arc<str>,
    time_ms: i64,
    message: Box<[u8]>,
}

/// Some of what is pending, on its way into the tables.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    calls: Vec<(u128, PendingCall)>,
    registrations: Vec<(Box<str>, PendingRegistration)>,
    failures: Vec<Failure>,
}

impl Pending {
    /// Takes one event. Answers the encoded bindings of an address of record when they are to be told to the workers.
    pub(super) fn take(
        &mut self,
        source: &Source,
        time_ms: i64,
        event: Event,
        is_known: &dyn Fn(&str) -> bool,
    ) -> Option<Bytes> {
        match event {
            Event::Call { id, ended, message } => {
                self.take_call(id, source, ended, &message);
                None
            }
            Event::Registration {
                trunk,
                user,
                change_time_ms,
                placed,
                message,
            } => {
                let (Ok(trunk), Ok(user)) = (std::str::from_utf8(&trunk), std::str::from_utf8(&user)) else {
                    return None;
                };
                if !is_known(trunk) {
                    // A trunk that was deleted meanwhile has no phones.
                    debug!(worker = &*source.worker, trunk, "a registration that cannot be kept");
                    return None;
                }
                let message = if placed {
                    message
                } else {
                    place(&message, &source.worker)?
                };
                self.take_registration(trunk, user, change_time_ms, &message)
                    .then_some(message)
            }
            Event::Booted(boot_id) => {
                self.booted.push((Arc::clone(&source.worker), boot_id));
                None
            }
            Event::Failure(message) => {
                self.octets += message.len();
                self.failures.push(Failure {
                    worker: Arc::clone(&source.worker),
                    time_ms,
                    message: Box::from(&*message),
                });
                None
            }
        }
    }

    /// The last word counts, but a call that ended does not come back.
    fn take_call(&mut self, id: u128, source: &Source, ended: bool, message: &[u8]) {
        let call = PendingCall {
            source: source.clone(),
            ended,
            message: Box::from(message),
        };
        self.octets += message.len();
        match self.calls.entry(id) {
            Entry::Occupied(entry) if entry.get().ended => self.octets -= message.len(),
            Entry::Occupied(mut entry) => self.octets -= entry.insert(call).message.len(),
            Entry::Vacant(entry) => drop(entry.insert(call)),
        }
    }

    /// The later change wins, and of two in the same millisecond the one that arrives last.
    fn take_registration(&mut self, trunk: &str, user: &str, change_time_ms: i64, message: &[u8]) -> bool {
        let registration = PendingRegistration {
            change_time_ms,
            message: Box::from(message),
        };
        let key = [trunk, "\n", user].concat().into_boxed_str();
        self.octets += message.len();
        match self.registrations.entry(key) {
            Entry::Occupied(entry) if entry.get().change_time_ms > change_time_ms => {
                self.octets -= message.len();
                return false;
            }
            Entry::Occupied(mut entry) => self.octets -= entry.insert(registration).message.len(),
            Entry::Vacant(entry) => drop(entry.insert(registration)),
        }
        true
    }

    /// Calls, and whether each is over.
    pub(super) fn calls(&self) -> impl Iterator<Item = (u128, bool)> {
        self.calls.iter().map(|(id, call)| (*id, call.ended))
    }

    /// Octets of the messages it holds.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    /// Some of it, in the order of the tables; `None` when nothing is left but the processes that began.
    pub(super) fn chunk(&mut self) -> Option<Chunk> {
        if self.calls.is_empty() && self.registrations.is_empty() && self.failures.is_empty() {
            return None;
        }
        let mut chunk = Chunk {
            calls: self.calls.extract_if(|_, _| true).take(CHUNK).collect(),
            ..Chunk::default()
        };
        let room = CHUNK - chunk.calls.len();
        chunk.registrations = self.registrations.extract_if(|_, _| true).take(room).collect();
        let room = room - chunk.registrations.len();
        chunk.failures = self.failures.drain(..room.min(self.failures.len())).collect();
        chunk.registrations.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        self.octets = self.octets.saturating_sub(chunk.octets());
        Some(chunk)
    }

    /// Takes back what could not be written.
    pub(super) fn put_back(&mut self, chunk: Chunk) {
        self.octets += chunk.octets();
        self.calls.extend(chunk.calls);
        self.registrations.extend(chunk.registrations);
        self.failures.extend(chunk.failures);
    }
}

impl Chunk {
    fn octets(&self) -> usize {
        let calls = self.calls.iter().map(|(_, call)| call.message.len());
        let registrations = self.registrations.iter().map(|(_, bindings)| bindings.message.len());
        let failures = self.failures.iter().map(|failure| failure.message.len());
        calls.chain(registrations).chain(failures).sum()
    }

    /// Writes it to the tables. What does not decode is logged and counts as written: it would never decode.
    pub(super) async fn write(&self, tx: &mut WriteTx) -> Result<(), StoreError> {
        let mut calls: Vec<CallRow> = self.calls.iter().filter_map(|(_, call)| call.row()).collect();
        // By start: most of the indexes are in that order.
        calls.sort_unstable_by_key(CallRow::start_ms);
        call::upsert_many(tx, &calls).await?;
        let bindings: Vec<_> = self
            .registrations
            .iter()
            .filter_map(|(_, registration)| decode("registration", &registration.message))
            .collect();
        registration::upsert_many(tx, &bindings).await?;
        for failure in &self.failures {
            if let Some(message) = decode("authentication failure", &failure.message) {
                report::insert_authentication_failure(tx, &failure.worker, failure.time_ms, &message).await?;
            }
        }
        Ok(())
    }
}

impl PendingCall {
    fn row(&self) -> Option<CallRow> {
        let call = decode("call", &self.message)?;
        Some(CallRow::new(of_worker(call, &self.source.worker), &self.source.boot_id))
    }
}

/// Who reports a call has it, whatever the report says.
pub(super) fn of_worker(call: v1::Call, worker: &str) -> v1::Call {
    v1::Call {
        worker: format!("workers/{worker}"),
        ..call
    }
}

/// Bindings that do not say their worker are of the one that reports them.
fn place(message: &Bytes, worker: &str) -> Option<Bytes> {
    let mut bindings: dataplane::AorBindings = decode("registration", message)?;
    for binding in bindings.bindings.iter_mut().filter(|binding| binding.worker.is_empty()) {
        binding.worker = format!("workers/{worker}");
    }
    Some(bindings.encode_to_vec().into())
}

pub(super) fn decode<M: prost::Message + Default>(kind: &'static str, message: &[u8]) -> Option<M> {
    M::decode(message)
        .inspect_err(|error| {
            error!(
                kind,
                error = error as &dyn std::error::Error,
                "a report cannot be decoded"
            )
        })
        .ok()
}
