//! Threads that trees are copied and compared with, and archives written and read. Where the system gives
//! none, that is an error like another. Must know nothing of what they do.

use std::thread::{Builder, Scope, ScopedJoinHandle};

use super::error::{Error, Result};

/// Starts a thread that ends with `scope`.
///
/// # Errors
/// [`Error::NoThread`]; `work` is dropped then, with all that it holds.
pub(super) fn start_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).map_err(Error::NoThread)
}

/// Starts as many of the wanted threads as the system gives.
///
/// # Errors
/// That of the first, if there is none.
pub(crate) fn start_some<T, E>(
    wanted: usize,
    mut start: impl FnMut() -> std::result::Result<T, E>,
) -> std::result::Result<(), E> {
    start()?;
    for _ in 1..wanted {
        if start().is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_enough() {
        for (given, wanted, expected) in [(0, 4, None), (1, 4, Some(1)), (4, 4, Some(4))] {
            let mut started = 0;
            let outcome = start_some(wanted, || {
                if started == given {
                    return Err(Error::Worker);
                }
                started += 1;
                Ok(())
            });
            assert_eq!(outcome.ok().map(|()| started), expected);
        }
    }
}
