//! SIP sockets: listeners, connections, TLS and marks. What is said over them is the engine's affair.

pub mod address;
pub mod connection;
pub mod connections;
pub mod listener;
pub mod mark;
pub mod option;
pub mod tcp;
pub mod tls;
pub mod udp;
