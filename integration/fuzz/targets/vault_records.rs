#![no_main]

libfuzzer_sys::fuzz_target!(
    init: strongroom_fuzz::begin("vault_records"),
    |bytes: &[u8]| strongroom::fuzzing::run("vault_records", bytes)
);
