#![no_main]

libfuzzer_sys::fuzz_target!(
    init: strongroom_fuzz::begin("vault_sealed"),
    |bytes: &[u8]| strongroom::fuzzing::run("vault_sealed", bytes)
);
