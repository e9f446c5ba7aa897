//! Callers and callees for the media workloads: they agree on streams by SIP over UDP as phones do, and hang up.
//!
//! Only what a call through a proxy that is there needs: INVITE, 200, ACK, BYE, and sending again what was not answered.

pub mod phones;
pub mod session;
