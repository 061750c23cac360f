//! Opening regular files: by the name that an inode is known by, and again by it after their
//! descriptor was given up.
//!
//! Names are resolved and opened while none can change ([`Core::paths`]), and what was opened is
//! compared with the inode, so that a file is never taken for another.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::content::{Content, OpenFile};
use super::core::Core;
use super::error::{Error, Result};
use super::inode::{Inode, Open, USED};
use crate::backing::{Access, Directory, File, FileKind, Stat};
use crate::format::header::HEADER_LEN;
use crate::format::layout::plain_size;

/// Who answers for it that a file may be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// The file's mode, as the filesystem below judges it.
    Mode,
    /// Somebody has the file open, so that a mode which forbids it now does not matter: only our
    /// descriptor was given up.
    Held,
}

impl Core {
    /// The inode's open file, opened where it is not, if its mode allows that.
    pub(super) fn open_content(&self, inode: &Arc<Inode>) -> Result<Arc<OpenFile>> {
        self.open_content_by(inode, Permission::Mode)
    }

    /// The open file of an inode that somebody has open.
    pub(super) fn held_content(&self, inode: &Arc<Inode>) -> Result<Arc<OpenFile>> {
        self.open_content_by(inode, Permission::Held)
    }

    pub(super) fn open_content_by(
        &self,
        inode: &Arc<Inode>,
        permission: Permission,
    ) -> Result<Arc<OpenFile>> {
        match inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid),
        }
        if let Some(file) = inode.open_file() {
            inode.set_flag(USED);
            return Ok(file);
        }
        let _paths = self.paths.read();
        let opened = self.open_by_name(inode, permission);
        let file = {
            let mut open = inode.open.lock();
            if let Some(Open::File(known)) = &*open {
                // Perhaps before its last name went.
                return Ok(known.clone());
            }
            let file = Arc::new(OpenFile::new(opened?));
            *open = Some(Open::File(file.clone()));
            file
        };
        self.descriptors.opened(inode);
        Ok(file)
    }

    /// Opens a file by its name, which the caller keeps from changing.
    fn open_by_name(&self, inode: &Arc<Inode>, permission: Permission) -> Result<Content> {
        let (holder, entry) = self.holder(inode)?;
        let directory = &*holder.directory;
        let (handle, access) = match open_handle(directory, &entry, self.options.read_only) {
            Err(error)
                if permission == Permission::Held
                    && !self.options.read_only
                    && is_refused(&error) =>
            {
                self.check_is(inode, &directory.stat(&entry)?)?;
                let access = Access::ReadWrite;
                let _nobody_else = self.modes.write();
                (open_against_mode(directory, &entry, access)?, access)
            }
            outcome => outcome?,
        };
        self.load_content(inode, Arc::from(handle), access)
    }

    /// Makes sure that what was reached by an inode's name is that inode.
    pub(super) fn check_is(&self, inode: &Inode, stat: &Stat) -> Result<()> {
        if self.number(stat.ino) == inode.number && stat.device == self.device {
            Ok(())
        } else {
            Err(Error::Stale)
        }
    }

    /// Reads size and header of a file that was just opened. Everything in it counts as durable.
    fn load_content(
        &self,
        inode: &Inode,
        handle: Arc<dyn File>,
        access: Access,
    ) -> Result<Content> {
        let stat = handle.stat()?;
        self.check_is(inode, &stat)?;
        let mut content = Content::new(handle, access);
        content.size = plain_size(stat.size);
        content.modified = self.options.kernel_keeps_times.then_some(stat.modified);
        content.placed = content.size;
        content.durable = content.size;
        content.sparse = stat.blocks * 512 < stat.size;
        content.suspect = self.is_suspect(&stat);
        if content.size > 0 {
            let mut header = [0u8; HEADER_LEN];
            let read = content.handle.read_at(&mut header, 0)?;
            let decoded =
                if read == HEADER_LEN { self.codecs.headers.decode(&header).ok() } else { None };
            match decoded {
                Some(id) => content.keyed = Some(self.key_file(id)),
                None if content.suspect => {
                    // Without a header that ever was durable, nothing in the file was.
                    content.durable = 0;
                }
                None => return Err(Error::Damaged { what: "a file header" }),
            }
        }
        Ok(content)
    }

    /// Opens a regular file for an application: whether it can be opened so.
    pub(super) fn open_for(&self, inode: &Arc<Inode>, access: Access) -> Result<()> {
        let file = self.open_content(inode)?;
        if access == Access::ReadWrite {
            if self.options.read_only {
                return Err(Error::ReadOnly);
            }
            self.with_content(&file, |content| {
                Ok(self.writable(inode, content, Permission::Mode)?)
            })?;
        }
        inode.opens.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes sure that the file's descriptor can be written through. The caller keeps its names
    /// from changing; but the last one may go.
    pub(super) fn writable(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        permission: Permission,
    ) -> Result<()> {
        if content.access == Access::ReadWrite {
            return Ok(());
        }
        let handle = match self.open_to_write(inode, permission) {
            Err(error) if matches!(error.errno(), libc::ENOENT | libc::ESTALE) => {
                self.reopen_to_write(&*content.handle, permission)?
            }
            outcome => outcome?,
        };
        content.handle = Arc::from(handle);
        content.access = Access::ReadWrite;
        Ok(())
    }

    /// Opens a file by its name to write to it.
    fn open_to_write(&self, inode: &Arc<Inode>, permission: Permission) -> Result<Box<dyn File>> {
        let (holder, entry) = self.holder(inode)?;
        let directory = &*holder.directory;
        let handle = match directory.open_file(&entry, Access::ReadWrite) {
            Err(error) if permission == Permission::Held && is_refused(&error) => {
                self.check_is(inode, &directory.stat(&entry)?)?;
                let _nobody_else = self.modes.write();
                open_against_mode(directory, &entry, Access::ReadWrite)?
            }
            outcome => outcome?,
        };
        self.check_is(inode, &handle.stat()?)?;
        Ok(handle)
    }

    /// Opens a file that is open for reading to write to it, without a name.
    fn reopen_to_write(
        &self,
        handle: &dyn File,
        permission: Permission,
    ) -> io::Result<Box<dyn File>> {
        match handle.reopen() {
            Err(error) if permission == Permission::Held && is_refused(&error) => {
                let _nobody_else = self.modes.write();
                with_mode_lifted(|| handle.stat(), |mode| handle.set_mode(mode), || handle.reopen())
            }
            outcome => outcome,
        }
    }
}

/// Opens for reading and writing where that is allowed, else for reading.
fn open_handle(
    directory: &dyn Directory,
    entry: &[u8],
    read_only: bool,
) -> io::Result<(Box<dyn File>, Access)> {
    if !read_only {
        match directory.open_file(entry, Access::ReadWrite) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY)
                ) => {}
            outcome => return Ok((outcome?, Access::ReadWrite)),
        }
    }
    Ok((directory.open_file(entry, Access::Read)?, Access::Read))
}

/// Whether an error of the filesystem below means that a mode forbids something.
fn is_refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EACCES)
}

/// Opens a file of which the owner may have taken the permission from itself; it is given for that
/// moment.
pub(super) fn open_against_mode(
    directory: &dyn Directory,
    entry: &[u8],
    access: Access,
) -> io::Result<Box<dyn File>> {
    with_mode_lifted(
        || directory.stat(entry),
        |mode| directory.set_mode(entry, mode),
        || directory.open_file(entry, access),
    )
}

/// What the core's own threads do to the mode meanwhile would be lost ([`Core::modes`]).
fn with_mode_lifted(
    stat: impl FnOnce() -> io::Result<Stat>,
    set_mode: impl Fn(u32) -> io::Result<()>,
    open: impl FnOnce() -> io::Result<Box<dyn File>>,
) -> io::Result<Box<dyn File>> {
    let refused = || io::Error::from_raw_os_error(libc::EACCES);
    let mode = stat()?.mode;
    set_mode(mode | 0o600).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => refused(),
        _ => error,
    })?;
    let opened = open();
    match &opened {
        // Its name may have gone.
        Ok(file) => file.set_mode(mode)?,
        Err(_) => set_mode(mode)?,
    }
    opened
}
