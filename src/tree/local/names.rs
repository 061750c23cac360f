//! A directory's names, sorted, in one allocation.

use std::os::fd::BorrowedFd;

use rustix::fs::RawDir;

/// Names of one directory but `.` and `..`, sorted by their bytes: some 12 bytes a name beside
/// the name itself.
#[derive(Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    spans: Vec<(usize, u8)>,
}

impl Names {
    /// Lists an open directory.
    pub(super) fn list(directory: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let mut names = Self::default();
        let mut buffer = Vec::<u8>::with_capacity(64 * 1024);
        let mut reader = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = reader.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name)?;
            }
        }
        let Self { bytes, spans } = &mut names;
        let slice = |&(start, length): &(usize, u8)| &bytes[start..start + usize::from(length)];
        spans.sort_unstable_by(|left, right| slice(left).cmp(slice(right)));
        Ok(names)
    }

    fn push(&mut self, name: &[u8]) -> rustix::io::Result<()> {
        // Filesystems with longer names exist; nothing we write to could take them.
        let length = u8::try_from(name.len()).map_err(|_| rustix::io::Errno::NAMETOOLONG)?;
        self.spans.push((self.bytes.len(), length));
        self.bytes.extend_from_slice(name);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..).map_while(|index| self.get(index))
    }

    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let (start, length) = *self.spans.get(index)?;
        self.bytes.get(start..start + usize::from(length))
    }
}
