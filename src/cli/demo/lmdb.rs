//! The demo's LMDB environment. The one place that opens one: LMDB maps its file into memory, and
//! its binding therefore leaves to the caller the promise that nobody else changes that file.

use std::path::Path;

use heed::types::Str;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;

const MAP_SIZE: usize = 4 << 20;

fn failed(error: heed::Error) -> Failure {
    Failure::new(ExitCode::Failure, format!("LMDB: {error}"))
}

fn open(path: &Path) -> Result<Env, Failure> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_SIZE);
    // SAFETY: the environment lies in the demo's own directory, which only this process uses, and
    // it is closed before anything but LMDB touches its files.
    #[allow(unsafe_code)]
    unsafe { options.open(path) }.map_err(failed)
}

/// Adds `count` entries.
pub(super) fn write(path: &Path, first: usize, count: usize, text: &str) -> Result<(), Failure> {
    let environment = open(path)?;
    let transaction = environment.write_txn().map_err(failed)?;
    environment
        .create_databases_and_commit(transaction, |opener, transaction| {
            let database: Database<'_, Str, Str> = opener.create_database(transaction, None)?;
            for number in first..first + count {
                let (key, value) = (format!("key {number:06}"), format!("{text} {number}"));
                database.put(transaction, &key, &value)?;
            }
            Ok(CommitOrAbort::<_, ()>::Commit(database))
        })
        .map_err(failed)?;
    environment.prepare_for_closing().wait();
    Ok(())
}

/// How many entries there are.
pub(super) fn count(path: &Path) -> Result<u64, Failure> {
    let environment = open(path)?;
    let transaction = environment.read_txn().map_err(failed)?;
    let database: Option<Database<'_, Str, Str>> = environment
        .open_databases_and_commit(transaction, |opener, transaction| {
            opener.open_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
        })
        .map_err(failed)?
        .unwrap_commit();
    let count = match database {
        Some(database) => {
            let transaction = environment.read_txn().map_err(failed)?;
            database.len(&transaction).map_err(failed)?
        }
        None => 0,
    };
    environment.prepare_for_closing().wait();
    Ok(count)
}
