//! Explores [`trunkline_fuzz::sip_stream`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::sip_stream::run(data));
