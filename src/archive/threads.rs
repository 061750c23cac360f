//! Threads that archives are written and read with. Where the system gives none, that is an error like
//! another. Must know nothing of what they do.

use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use super::error::{Error, Result};
pub(super) use crate::tree::threads::start_some;

/// Starts a thread.
///
/// # Errors
/// [`Error::NoThread`]; `work` is dropped then, with all that it holds.
pub(super) fn start<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    Builder::new().spawn(work).map_err(Error::NoThread)
}

/// The same, of a thread that ends with `scope`.
///
/// # Errors
/// [`Error::NoThread`].
pub(super) fn start_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).map_err(Error::NoThread)
}
