#![no_main]

libfuzzer_sys::fuzz_target!(
    init: strongroom_fuzz::begin("profile"),
    |bytes: &[u8]| strongroom::fuzzing::run("profile", bytes)
);
