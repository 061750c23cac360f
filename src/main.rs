//! The `strongroom` binary: parse, run, exit code; nothing else.

fn main() -> std::process::ExitCode {
    strongroom::cli::main()
}
