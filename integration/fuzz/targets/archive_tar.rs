#![no_main]

libfuzzer_sys::fuzz_target!(
    init: strongroom_fuzz::begin("archive_tar"),
    |bytes: &[u8]| strongroom::fuzzing::run("archive_tar", bytes)
);
