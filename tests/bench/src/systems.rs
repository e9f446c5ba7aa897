//! The two sides, started afresh for each measurement and ended after it.

pub mod credentials;
pub mod kamailio;
pub mod ours;
pub mod rtpengine;
