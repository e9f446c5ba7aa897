//! What is measured about a stream: loss and jitter by RFC 3550, an estimate of quality by ITU-T G.107.

mod quality;
mod receive;

pub use quality::{CodecImpairment, Quality};
pub use receive::ReceiveStats;
