//! Explores [`trunkline_fuzz::negotiation`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::negotiation::run(data));
