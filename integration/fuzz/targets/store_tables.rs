#![no_main]

libfuzzer_sys::fuzz_target!(
    init: strongroom_fuzz::begin("store_tables"),
    |bytes: &[u8]| strongroom::fuzzing::run("store_tables", bytes)
);
