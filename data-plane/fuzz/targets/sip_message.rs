//! Explores [`trunkline_fuzz::sip_message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::sip_message::run(data));
