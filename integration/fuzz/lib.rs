//! What all targets share.

use std::io;
use std::path::Path;

use strongroom::fuzzing::TARGETS;

/// Puts a target's examples where cargo-fuzz has its corpus, for the fuzzer to begin with.
pub fn begin(name: &str) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let target = TARGETS.iter().find(|target| target.name == name);
    let examples = (target.expect("the table knows every target").examples)();
    let written = examples.iter().enumerate().try_for_each(|(number, example)| {
        std::fs::create_dir_all(&corpus)?;
        std::fs::write(corpus.join(format!("example-{number}")), example)
    });
    written.unwrap_or_else(|error: io::Error| panic!("{}: {error}", corpus.display()));
}
