//! The stream framer: the same messages come out however the bytes were cut, and what is held back is bounded.

use trunkline_sip::parse::Limits;
use trunkline_sip::stream::{Frame, Framer, StreamError};

/// Small, so that inputs of the size fuzzers make reach it.
const LIMITS: Limits = Limits {
    message: 2_048,
    start_line: 256,
    headers: 32,
    header_line: 512,
    vias: 8,
};

/// The first octet says how the rest, the stream, is cut into reads.
pub fn run(data: &[u8]) {
    let Some((&step, stream)) = data.split_first() else {
        return;
    };
    let whole = read(stream, stream.len().max(1));
    let cut = read(stream, usize::from(step % 64) + 1);
    assert_eq!(whole, cut);
}

/// What came out of a stream: its messages, and the error that ended it.
fn read(stream: &[u8], step: usize) -> (Vec<Vec<u8>>, Option<StreamError>) {
    let mut framer = Framer::new(LIMITS);
    let mut messages = Vec::new();
    for read in stream.chunks(step) {
        framer.push(read);
        loop {
            match framer.poll() {
                Ok(Some(Frame::Message(bytes))) => {
                    assert!(bytes.len() <= LIMITS.message);
                    messages.push(bytes.to_vec());
                }
                Ok(Some(Frame::Ping | Frame::Pong)) => {}
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(framer.buffered(), 0);
                    assert_eq!(framer.poll(), Err(error), "an error stays");
                    return (messages, Some(error));
                }
            }
        }
        assert!(framer.buffered() <= LIMITS.message + read.len());
    }
    (messages, None)
}
