//! Directories that are complete only when all they hold is, whichever thread does that last.

use std::sync::Arc;

/// A directory that is not complete yet. Whatever is being made in it holds a reference; who
/// releases the last one completes it, with `T` in hand.
pub(crate) struct OpenDirectory<T> {
    done: Option<T>,
    parent: Option<Arc<Self>>,
}

impl<T> OpenDirectory<T> {
    /// A directory in `parent`.
    pub(crate) fn new(done: Option<T>, parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { done, parent })
    }

    /// Gives up a reference; completes each directory whose last one it was, the innermost
    /// first.
    pub(crate) fn release<E>(
        directory: Option<Arc<Self>>,
        mut complete: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut next = directory;
        while let Some(mut directory) = next.and_then(Arc::into_inner) {
            if let Some(done) = directory.done.take() {
                complete(done)?;
            }
            next = directory.parent.take();
        }
        Ok(())
    }
}

impl<T> Drop for OpenDirectory<T> {
    /// Not by recursion: trees can be deeper than the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(directory) = next {
            next = Arc::into_inner(directory).and_then(|mut directory| directory.parent.take());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn chain(depth: u32) -> Arc<OpenDirectory<u32>> {
        let top = OpenDirectory::new(Some(0), None);
        (1..depth).fold(top, |parent, number| OpenDirectory::new(Some(number), Some(parent)))
    }

    #[test]
    fn the_innermost_is_completed_first() {
        let mut done = Vec::new();
        let inner = chain(3);
        let held = Arc::clone(&inner);
        let mut complete = |number| {
            done.push(number);
            Ok::<_, ()>(())
        };
        OpenDirectory::release(Some(inner), &mut complete).unwrap();
        OpenDirectory::release(Some(held), &mut complete).unwrap();
        assert_eq!(done, [2, 1, 0]);
    }

    #[test]
    fn depth_takes_no_stack() {
        drop(chain(1_000_000));
        let mut count = 0;
        OpenDirectory::release(Some(chain(1_000_000)), |_| {
            count += 1;
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(count, 1_000_000);
        let fail = OpenDirectory::release(Some(chain(1_000_000)), |_| Err(()));
        assert_eq!(fail, Err(()));
    }
}
