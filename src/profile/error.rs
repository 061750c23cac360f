//! What reading profiles can fail with.

use std::io;
use std::path::PathBuf;

/// A profile that can't be used. Nothing was run or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is not TOML, or has keys or types that profiles don't have.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The profile.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value makes no sense.
    #[error("{}:{line}: {key}: {message}", path.display())]
    Invalid {
        /// The profile.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// What is wrong.
        message: String,
    },
    /// There is no profile of that name.
    #[error("there is no profile {name:?} in {}", list(searched))]
    NotFound {
        /// The name.
        name: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
        /// A profile with a name like it.
        similar: Option<String>,
    },
    /// The operating system failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let texts: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    texts.join(", ")
}
