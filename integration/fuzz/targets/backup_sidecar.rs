#![no_main]

libfuzzer_sys::fuzz_target!(
    init: strongroom_fuzz::begin("backup_sidecar"),
    |bytes: &[u8]| strongroom::fuzzing::run("backup_sidecar", bytes)
);
