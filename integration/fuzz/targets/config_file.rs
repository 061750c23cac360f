#![no_main]

libfuzzer_sys::fuzz_target!(
    init: strongroom_fuzz::begin("config_file"),
    |bytes: &[u8]| strongroom::fuzzing::run("config_file", bytes)
);
