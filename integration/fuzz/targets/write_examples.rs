//! Writes every target's examples, for the fuzzer to begin with: DIRECTORY/TARGET/NUMBER. The
//! directory is the last argument: cargo-fuzz puts its own before.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().skip(1).last().map(PathBuf::from);
    let directory = directory.ok_or_else(|| std::io::Error::other("in which directory?"))?;
    for target in strongroom::fuzzing::TARGETS {
        let corpus = directory.join(target.name);
        std::fs::create_dir_all(&corpus)?;
        for (number, example) in (target.examples)().iter().enumerate() {
            std::fs::write(corpus.join(format!("example-{number}")), example)?;
        }
    }
    Ok(())
}
