//! What the entries of the tree hold, blocks aside: sizes and headers, targets, attributes, and
//! what in the overflow directory belongs to them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::finding::{Finding, Location, Problem, Remedy, Severity};
use super::mend;
use super::session::{CheckError, Doubt, Observer, Session, Totals};
use super::walk::{Folder, Item, Visitor, list, open_path, unreadable};
use crate::backing::{Access, Directory, File, FileKind, Stat};
use crate::format::directory::RECORD_NAME;
use crate::format::header::{FileId, HEADER_LEN};
use crate::format::layout::{BLOCK_OVERHEAD, CIPHER_BLOCK_SIZE, cipher_size, plain_size};
use crate::format::symlink::split_overflow;
use crate::format::xattr::{Classified, StoredValue, parse_value};
use crate::vault::{Codecs, OVERFLOW_NAME};

/// The longest sealed value, in bytes, with room to spare.
const VALUE_MAX: usize = 65536 + 1024;
const CIPHER_BLOCK: u64 = CIPHER_BLOCK_SIZE as u64;
const HEADER: u64 = HEADER_LEN as u64;
const OVERHEAD: u64 = BLOCK_OVERHEAD as u64;

/// What a file's header is.
pub(super) enum Header {
    /// The file is too short to have content.
    None,
    /// Authentic.
    Authentic(FileId),
    /// Not authentic, but what it was is known.
    Mended(FileId),
    /// Not authentic.
    Lost,
}

/// Reads the header of a regular file of `size` bytes on disk.
pub(super) fn read_header(codecs: &Codecs, file: &dyn File, size: u64) -> io::Result<Header> {
    if size < HEADER {
        return Ok(Header::None);
    }
    let mut header = [0u8; HEADER_LEN];
    if file.read_at(&mut header, 0)? < HEADER_LEN {
        return Ok(Header::None);
    }
    if let Ok(id) = codecs.headers.decode(&header) {
        return Ok(Header::Authentic(id));
    }
    Ok(mend::file_id(codecs, &header, file)?.map_or(Header::Lost, Header::Mended))
}

/// The size on disk of what is whole blocks in a file of `size` bytes; `None` when all of it is.
pub(super) fn whole_size(size: u64) -> Option<u64> {
    let Some(blocks) = size.checked_sub(HEADER) else { return (size > 0).then_some(0) };
    let rest = blocks % CIPHER_BLOCK;
    match (blocks, rest) {
        (0, _) => Some(0),
        (_, 1..=OVERHEAD) => Some(cipher_size(plain_size(size))),
        _ => None,
    }
}

/// The visitor that checks all but the blocks.
pub(super) struct Structure<'a> {
    codecs: &'a Codecs,
    vault: &'a dyn Directory,
    doubt: &'a Doubt,
    observer: &'a dyn Observer,
    findings: Vec<Finding>,
    totals: Totals,
    overflow: Option<Box<dyn Directory>>,
    /// What nothing has referred to so far.
    unreferred: HashSet<Vec<u8>>,
    /// Inodes with several names that were seen.
    linked: HashSet<u64>,
}

impl<'a> Structure<'a> {
    pub(super) fn new(
        session: &'a Session,
        doubt: &'a Doubt,
        observer: &'a dyn Observer,
        findings: Vec<Finding>,
    ) -> Result<Self, CheckError> {
        let overflow = open_path(&*session.vault, OVERFLOW_NAME.as_bytes()).ok();
        let unreferred = match &overflow {
            Some(directory) => list(&**directory)?.into_iter().collect(),
            None => HashSet::new(),
        };
        Ok(Self {
            codecs: &session.codecs,
            vault: &*session.vault,
            doubt,
            observer,
            findings,
            totals: Totals::default(),
            overflow,
            unreferred,
            linked: HashSet::new(),
        })
    }

    /// Everything found.
    pub(super) fn finish(mut self) -> Result<(Vec<Finding>, Totals), CheckError> {
        // A piece may belong to something that could not be read: then it is kept.
        let all_read = !self.findings.iter().any(|finding| {
            finding.problem.severity() == Severity::Damage
                || matches!(
                    finding.problem,
                    Problem::UncleanEnd | Problem::ForeignFilesystem | Problem::UnknownReserved
                )
        });
        let mut orphans: Vec<Vec<u8>> = self.unreferred.drain().collect();
        orphans.sort_unstable();
        for orphan in orphans {
            let stored = [OVERFLOW_NAME.as_bytes(), b"/", &orphan].concat();
            let is_directory =
                self.vault.open_directory(OVERFLOW_NAME.as_bytes())?.stat(&orphan)?.kind
                    == FileKind::Directory;
            let finding = Finding::new(Location { stored, plain: None }, Problem::OrphanOverflow);
            self.found(if all_read && !is_directory {
                finding.remedy(Remedy::Remove)
            } else {
                finding
            });
        }
        Ok((self.findings, self.totals))
    }

    fn regular(&mut self, item: &Item) -> io::Result<()> {
        self.totals.files += 1;
        let file = item.folder.directory.open_file(&item.entry, Access::Read)?;
        let stat = file.stat()?;
        if stat.size == 0 {
            return Ok(());
        }
        self.totals.data += stat.size.min(stat.blocks.saturating_mul(512));
        let suspect = self.doubt.suspects(&stat);
        let header = read_header(self.codecs, &*file, stat.size)?;
        let location = item.location();
        let lost = 0..plain_size(stat.size);
        match header {
            Header::Mended(file) => {
                let finding = Finding::new(location.clone(), Problem::Header);
                self.found(finding.remedy(Remedy::WriteHeader { file }));
            }
            Header::Lost if suspect && stat.size > HEADER => {
                let finding = Finding::new(location.clone(), Problem::TornHeader);
                self.found(finding.range(lost).remedy(Remedy::ClearContent));
            }
            Header::Lost if stat.size > HEADER => {
                self.found(Finding::new(location.clone(), Problem::Header).range(lost));
            }
            Header::Authentic(id) if self.doubt.survey.concerns(id) => return Ok(()),
            Header::None | Header::Authentic(_) | Header::Lost => {}
        }
        if let Some(len) = whole_size(stat.size) {
            let end = plain_size(stat.size);
            self.found(if suspect {
                Finding::new(location, Problem::TornSize).remedy(Remedy::Truncate { len })
            } else {
                // It is not known how far the file went on.
                Finding::new(location, Problem::Size).range(end..end)
            });
        }
        Ok(())
    }

    fn symlink(&mut self, item: &Item) -> io::Result<()> {
        let text = item.folder.directory.read_link(&item.entry)?;
        let whole = match split_overflow(&text) {
            Some((id, first)) => {
                self.unreferred.remove(id.as_bytes());
                self.overflow
                    .as_ref()
                    .and_then(|overflow| overflow.read_link(id.as_bytes()).ok())
                    .map(|rest| [first, &rest].concat())
            }
            None => Some(text),
        };
        if whole.is_none_or(|text| self.codecs.symlinks.open(&text).is_err()) {
            self.found(Finding::new(item.location(), Problem::Symlink));
        }
        Ok(())
    }

    fn attributes(
        &mut self,
        directory: &dyn Directory,
        entry: &[u8],
        location: &Location,
    ) -> io::Result<()> {
        let stored = match directory.list_xattr(entry) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
            outcome => outcome?,
        };
        for name in stored {
            let ours = match self.codecs.xattrs.classify(&name) {
                Classified::PassThrough => continue,
                Classified::Plain(_) | Classified::Long => true,
                // What others leave on the vault's files is no business of ours.
                Classified::Foreign if !is_stored_name(&name) => continue,
                Classified::Foreign => false,
            };
            let value = directory.get_xattr(entry, &name)?;
            let sealed = match parse_value(&value) {
                Some(StoredValue::Inline(sealed)) => Some(sealed.to_vec()),
                Some(StoredValue::Overflow(id)) => {
                    self.unreferred.remove(id.as_bytes());
                    self.overflow_value(id)
                }
                None => None,
            };
            let opens =
                sealed.is_some_and(|sealed| self.codecs.xattrs.open_value(&name, &sealed).is_ok());
            if !ours || !opens {
                let stored_name = String::from_utf8_lossy(&name).into_owned();
                self.found(Finding::new(location.clone(), Problem::Attribute { stored_name }));
            }
        }
        Ok(())
    }

    fn overflow_value(&self, id: &str) -> Option<Vec<u8>> {
        let file = self.overflow.as_ref()?.open_file(id.as_bytes(), Access::Read).ok()?;
        let mut sealed = vec![0; VALUE_MAX];
        let read = file.read_at(&mut sealed, 0).ok()?;
        sealed.truncate(read);
        Some(sealed)
    }
}

/// Whether an attribute's name is of the form that ours have.
fn is_stored_name(name: &[u8]) -> bool {
    [&b"user.sr."[..], b"trusted.sr."].iter().any(|prefix| name.starts_with(prefix))
}

impl Visitor for Structure<'_> {
    fn found(&mut self, finding: Finding) {
        self.observer.found(&finding);
        self.findings.push(finding);
    }

    fn folder(&mut self, folder: &Arc<Folder>) -> Result<(), CheckError> {
        self.totals.directories += 1;
        let location = folder.own_location();
        if let Err(error) = self.attributes(&*folder.directory, b".", &location) {
            self.found(unreadable(location, &error));
        }
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<(), CheckError> {
        if self.observer.cancelled() {
            return Err(CheckError::Cancelled);
        }
        self.observer.advance(1);
        if item.stat.kind == FileKind::Directory {
            return Ok(());
        }
        self.totals.entries += 1;
        if item.stat.links > 1 && !self.linked.insert(item.stat.ino) {
            return Ok(());
        }
        let checked = match item.stat.kind {
            FileKind::Regular => self.regular(&item),
            FileKind::Symlink => self.symlink(&item),
            _ => Ok(()),
        };
        let checked = match (checked, item.stat.kind) {
            (Ok(()), FileKind::Symlink) => Ok(()),
            (Ok(()), _) => self.attributes(&*item.folder.directory, &item.entry, &item.location()),
            (failed, _) => failed,
        };
        if let Err(error) = checked {
            self.found(unreadable(item.location(), &error));
        }
        Ok(())
    }

    fn is_ours(&self, folder: &Folder, entry: &[u8], stat: &Stat) -> bool {
        let directory = &*folder.directory;
        match stat.kind {
            FileKind::Regular => directory
                .open_file(entry, Access::Read)
                .and_then(|file| read_header(self.codecs, &*file, stat.size))
                .is_ok_and(|header| matches!(header, Header::Authentic(_))),
            FileKind::Directory => directory
                .open_directory(entry)
                .and_then(|below| below.read_link(RECORD_NAME))
                .is_ok_and(|record| self.codecs.directories.decode(&record).is_ok()),
            FileKind::Symlink => directory
                .read_link(entry)
                .is_ok_and(|text| self.codecs.symlinks.open(&text).is_ok()),
            _ => false,
        }
    }
}
