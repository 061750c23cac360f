//! Owns the command line: arguments, prompts, output and exit codes. The only module that
//! prints, prompts or exits.

use std::process::ExitCode;

/// Parses the arguments, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
