//! Explores [`trunkline_fuzz::srtp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::srtp::run(data));
