#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| talaria_fuzz::check(
    talaria_fuzz::Kind::ChatCompletions,
    bytes
));
