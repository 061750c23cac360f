//! Threads that trees are copied and compared with. Where the system gives none, that is an error like
//! another. Must know nothing of what they do.

use std::thread::{Builder, Scope};

use super::error::{Error, Result};

/// Starts as many of the wanted threads as the system gives, one at least; each does what `work` gives
/// for it, and ends with `scope`.
///
/// # Errors
/// [`Error::NoThread`] where there is none at all.
pub(super) fn start_some<'scope, W: FnOnce() + Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    wanted: usize,
    mut work: impl FnMut() -> W,
) -> Result<()> {
    for started in 0..wanted.max(1) {
        match Builder::new().spawn_scoped(scope, work()) {
            Err(error) if started == 0 => return Err(Error::NoThread(error)),
            Err(_) => break,
            Ok(_) => {}
        }
    }
    Ok(())
}
